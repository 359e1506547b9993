"""Programs that put something of their own in a method's place."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import dspy

from support.host_behaviours.subjects import (
    Answering,
    Rag,
    asked,
    model,
)
from support.host_behaviours.table import Program, program, told


@program
def subclasses_that_override_methods() -> Any:
    seen = []

    class Own(Rag):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("call")
            return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("acall")
            return await super().acall(*args, **kwargs)

        def forward(self, question: str) -> Any:
            seen.append("forward")
            return super().forward(question)

    class OwnModel(Answering):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("lm")
            return super().__call__(*args, **kwargs)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("lm's forward")
            return super().forward(*args, **kwargs)

    with dspy.context(lm=OwnModel(), adapter=dspy.ChatAdapter()):
        return asked(Own()), asyncio.run(Own().acall(question="Why?")).answer, seen


@program
def subclasses_that_set_methods() -> Any:
    class Set(dspy.Module):
        __call__ = lambda self, question: ("set", question)  # noqa: E731
        acall = dspy.Module.__call__

        def forward(self, question: str) -> Any:
            return "forward", question

    Later = type("Later", (Rag,), {})
    Later.__call__ = lambda self, question: ("later", question)
    return Set()("Why?"), Set().acall("Why?"), Later()("Why?"), Set.__call__.__name__, Set.acall.__qualname__


@program
def classmethods_and_descriptors_in_a_methods_place() -> Any:
    class Static(dspy.Module):
        __call__ = staticmethod(lambda question: ("static", question))

    class Partial(dspy.Module):
        acall = functools.partialmethod(dspy.Module.__call__, question="partial")

        def forward(self, question: str) -> Any:
            return question

    return Static()("Why?"), Partial().acall()


@program
def mocked_methods_and_their_restoring() -> Any:
    before = dspy.LM.__call__, dspy.BaseLM.__call__, vars(dspy.BaseLM)["acall"], "__call__" in vars(dspy.LM)
    with mock.patch.object(dspy.LM, "__call__", return_value=["mocked"]) as mocked:
        found = dspy.LM("openai/none")("Why?"), mocked.call_args
    with mock.patch.object(dspy.BaseLM, "__call__", autospec=True, return_value=["autospec"]) as mocked:
        found += (Answering()("Why?"), str(inspect.signature(mocked)), mocked.call_count)
    with mock.patch("dspy.BaseLM.acall", new_callable=mock.AsyncMock, return_value=["async"]):
        found += (asyncio.run(Answering().acall("Why?")),)
    after = dspy.LM.__call__, dspy.BaseLM.__call__, vars(dspy.BaseLM)["acall"], "__call__" in vars(dspy.LM)
    with model():
        return found, [one is two for one, two in zip(before, after, strict=True)], asked()


@program
def specified_mocks() -> Any:
    lm = mock.create_autospec(dspy.LM, instance=True)
    lm.return_value = ["mocked"]
    spec = mock.create_autospec(dspy.Module.__call__)
    return (
        lm("Why?"),
        told(lambda: lm(1, 2, 3, 4)),
        type(spec).__name__,
        type(mock.create_autospec(dspy.BaseLM.acall)).__name__,
    )


@program
def a_method_that_the_program_wraps_itself() -> Any:
    seen, original = [], dspy.Module.__call__

    @functools.wraps(original)
    def own(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(self).__name__)
        return original(self, *args, **kwargs)

    dspy.Module.__call__ = own
    try:
        with model():
            found = asked()
    finally:
        dspy.Module.__call__ = original
    return found, seen, own.__name__, str(inspect.signature(own)), dspy.Module.__call__ is original


@program
def optimizers_of_the_programs_own() -> Any:
    class Base(dspy.teleprompt.Teleprompter):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__()
            cls.given = kwargs

        def compile(self, student: Any, *, trainset: Any = None) -> Any:
            """Compile."""
            return "base", student

    class Own(Base, option=1):
        def compile(self, student: Any, *, trainset: Any = None) -> Any:
            return "own", super().compile(student, trainset=trainset)

    refused = told(lambda: type("Refused", (dspy.teleprompt.Teleprompter,), {}, option=1))
    return Own().compile(1), Own.given, str(inspect.signature(Own.compile)), Base.compile.__doc__, refused["args"]


@program
def wrong_arguments() -> Any:
    with model() as lm:
        calls: list[Program] = [
            lambda: Rag()("Why?", "how?"),
            lambda: dspy.Predict("question -> answer")("Why?"),
            Rag(),
            lambda: lm(1, 2, 3, 4),
            lambda: asyncio.run(Rag().acall()),
            lambda: dspy.Tool(len)(1, 2),
            lambda: threading.Thread(target=len).start(1),
            lambda: ThreadPoolExecutor(1).submit(),
            lambda: ThreadPoolExecutor(1).submit(fn=len),
            dspy.Evaluate(devset=[]),
        ]
        return [(found["type"], found["args"]) for found in map(told, calls)]
