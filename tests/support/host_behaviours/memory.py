"""Programs that forget what they have used."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy

from support.host_behaviours.subjects import (
    Answering,
    OwnError,
    Rag,
    asked,
    fails_with,
    joined,
    model,
)
from support.host_behaviours.table import program, told


@program
def objects_are_freed() -> Any:
    gc.collect()
    gc.disable()
    try:
        with dspy.context(disable_history=True):
            refs = used_and_forgotten()
        at_once = {name: ref() is None for name, ref in refs.items()}
    finally:
        gc.enable()
    gc.collect()
    return at_once, {name: ref() is None for name, ref in refs.items()}


def used_and_forgotten() -> dict[str, Any]:
    class Kept:
        """What a program passes."""

    rag, error, given = Rag(), OwnError("no"), Kept()
    with model() as lm:
        prediction = rag(question="Why?")
        thread = joined(threading.Thread(target=lambda given: None, args=(given,)))
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(lambda given: None, given)
            future.result()
    failing = Rag()
    with model(fails_with(error)):
        told(lambda: failing(question="Why?"))
    error.__traceback__ = None
    kept = {
        "module": rag,
        "lm": lm,
        "prediction": prediction,
        "error": error,
        "thread": thread,
        "future": future,
        "given": given,
    }
    return {name: weakref.ref(each) for name, each in {**kept, "failing": failing}.items()}


@program
def objects_that_failed_async_calls_hold() -> Any:
    async def run() -> dict[str, Any]:
        rag = Rag()
        with model(fails_with(OwnError("no"))) as lm:
            try:
                await rag.acall(question="Why?")
            except OwnError as error:
                error.__traceback__ = error.__context__ = None
            task = asyncio.create_task(asyncio.sleep(0))
            await task
        return {name: weakref.ref(each) for name, each in {"module": rag, "lm": lm, "task": task}.items()}

    with dspy.context(disable_history=True):
        refs = asyncio.run(run())
    gc.collect()
    return {name: ref() is None for name, ref in refs.items()}, len(gc.garbage)


@program
def what_several_attempts_hold_is_freed() -> Any:
    class Text(str):
        """What a program passes."""

        __slots__ = ("__weakref__",)

    def run() -> list[Any]:
        given, rag = Text("Why?"), Rag()
        best = dspy.BestOfN(rag, N=2, reward_fn=lambda inputs, found: 1.0, threshold=2.0)
        with model(), dspy.context(disable_history=True, trace=[]):
            best(question=given)
        return [weakref.ref(each) for each in (given, rag, best)]

    refs = run()
    gc.collect()
    return [ref() is None for ref in refs]


@program
def calls_make_no_garbage() -> Any:
    """What a call has made is freed without a garbage collection, except in older versions of DSPy, which keep callers."""
    with model(), dspy.context(disable_history=True):
        for ask in (asked, lambda: asyncio.run(Rag().acall(question="Why?"))):
            ask()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                asked()
            return gc.collect() > 0
        finally:
            gc.enable()


@program
def classes_are_freed() -> Any:
    def used() -> list[Any]:
        class Own(dspy.Module):
            def forward(self, question: str) -> Any:
                return asked()

        class Optimizer(dspy.teleprompt.Teleprompter):
            def compile(self, student: Any) -> Any:
                return student(question="Why?")

        class Lm(Answering):
            pass

        with dspy.context(lm=Lm(), adapter=dspy.ChatAdapter(), disable_history=True):
            Optimizer().compile(Own())
        return [weakref.ref(each) for each in (Own, Optimizer, Lm)]

    refs = used()
    gc.collect()
    return [ref() is None for ref in refs]
