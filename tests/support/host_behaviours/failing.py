"""Programs that fail, are interrupted, or are warned."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import signal
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShot

from support.host_behaviours.subjects import (
    DEVSET,
    Answering,
    OwnError,
    OwnInterrupt,
    Rag,
    asked,
    fails_with,
    model,
)
from support.host_behaviours.table import OURS, own_frames, program, told


@program
def exceptions_in_a_model() -> Any:
    found = []
    for cause in (None, KeyError("cause")):
        error = OwnError("no", 7)
        error.add_note("a note")
        with model(fails_with(error, cause)) as lm:
            found += [
                told(asked),
                told(lambda lm=lm: lm("Why?")),
                told(lambda: asyncio.run(Rag().acall(question="Why?"))),
            ]
    return found


@program
def exceptions_are_the_very_object() -> Any:
    error = OwnError("no")
    with model(fails_with(error)) as lm:
        try:
            lm("Why?")
        except OwnError as found:
            return found is error, own_frames(found)
    return None


@program
def interrupts_through_a_program() -> Any:
    found = []
    for error in (
        KeyboardInterrupt("stop"),
        SystemExit(3),
        OwnInterrupt("out"),
        GeneratorExit(),
        asyncio.CancelledError("off"),
    ):
        with model(fails_with(error)):
            seen = [told(asked), told(lambda: asyncio.run(Rag().acall(question="Why?")))]
            found += [(each["type"], each["args"], each["frames"], each["context"]) for each in seen]
    return found


@program
def signals_through_a_program() -> Any:
    def handler(number: int, frame: Any) -> None:
        raise OwnError(number)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with model(lambda: signal.raise_signal(signal.SIGUSR1)) as lm:
            return [told(lambda: lm("Why?"))]
    finally:
        signal.signal(signal.SIGUSR1, before)


@program
async def cancelled_calls() -> Any:
    class Waiting(Answering):
        async def aforward(self, *args: Any, **kwargs: Any) -> Any:
            started.set()
            await asyncio.Event().wait()

    with dspy.context(lm=Waiting(), adapter=dspy.ChatAdapter()):
        found = []
        for _ in range(2):
            started = asyncio.Event()
            task = asyncio.create_task(Rag().acall(question="Why?"), name="asks")
            await started.wait()
            task.cancel("enough")
            try:
                await task
            except asyncio.CancelledError as error:
                found.append((error.args, task.cancelled(), own_frames(error), task.get_name(), task.cancelling()))
        try:
            await asyncio.wait_for(Rag().acall(question="Why?"), 0.01)
        except TimeoutError as error:
            found.append((type(error).__name__, error.args, type(error.__cause__).__name__))
        return found


@program
def stop_iteration_through_a_program() -> Any:
    with model(fails_with(StopIteration("end"))) as lm:
        return told(lambda: lm("Why?")), told(asked), told(lambda: asyncio.run(lm.acall("Why?")))


@program
def tracebacks_as_printed() -> Any:
    with model(fails_with(OwnError("no"))) as lm:
        try:
            lm("Why?")
        except OwnError as error:
            lines = [line for line in traceback.format_exception(error) if OURS not in line]
            return [re.sub(r'".*/', '"', line) for line in lines]
    return None


@program
def warnings_and_where_they_point() -> Any:
    def ask(question: str) -> Any:
        return lm(question)

    with warnings.catch_warnings(record=True) as found, model() as lm:
        warnings.simplefilter("always")
        lm("Why?")
        lm(messages=[{"role": "user", "content": "Why?"}])
        asked()
        asyncio.run(lm.acall("Why?"))
        asyncio.run(Rag().acall(question="Why?"))
        dspy.Evaluate(devset=DEVSET[:1], metric=lambda *_: bool(lm("Why?")), display_progress=False)(Rag())
        dspy.Tool(ask)(question="Why?")
        BootstrapFewShot(max_bootstrapped_demos=1, max_labeled_demos=0).compile(Rag(), trainset=DEVSET[:1])
    return [(each.category.__name__, str(each.message)[:60], Path(each.filename).name, each.lineno) for each in found]


@program
def warnings_are_shown_where_the_program_is_main() -> Any:
    """By default, Python shows a DeprecationWarning only if it points to `__main__`."""
    names: dict[str, Any] = {"__name__": "__main__", "asked": asked, "Rag": Rag}
    with warnings.catch_warnings(record=True) as found, model() as lm:
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("always", category=DeprecationWarning, module="__main__")
        exec(compile("lm('Why?')\nRag()(question='Why?')", "<main>", "exec"), {**names, "lm": lm})
    return [(each.category.__name__, each.filename, each.lineno) for each in found]


@program
def warnings_as_errors() -> Any:
    with warnings.catch_warnings(), model() as lm:
        warnings.simplefilter("error")
        found = [told(asked), told(lambda: lm("Why?")), told(lambda: asyncio.run(Rag().acall(question="Why?")))]
        warnings.simplefilter("error", DeprecationWarning)
        return found, told(lambda: threading.Thread(target=len, args=("",)).start()), told(DEVSET[0].toDict)


@program
def coroutines_that_nobody_awaits() -> Any:
    with warnings.catch_warnings(record=True) as found, model() as lm:
        warnings.simplefilter("always")
        for coroutine in (lm.acall("Why?"), Rag().acall(question="Why?"), dspy.Tool(len).acall(obj="a")):
            names = (
                coroutine.__name__,
                coroutine.__qualname__,
                type(coroutine).__name__,
                inspect.getcoroutinestate(coroutine),
            )
            found.append(names)
            del coroutine
        gc.collect()
    return [each if isinstance(each, tuple) else str(each.message) for each in found]
