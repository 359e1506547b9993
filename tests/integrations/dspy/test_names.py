"""Modules with the same name are told apart where something certain tells them apart: their owner, or their fields."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import dspy
import pytest

from tokenscope import record_tokens, token_scope
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        yield provider


class Step(dspy.Module):
    def forward(self) -> None:
        record_tokens("m", "o", "model", "provider", 1, 0)

    async def aforward(self) -> None:
        self.forward()


class Other(Step):
    """A module with another name."""


class Pipeline:
    """An object that is no module, and holds modules."""

    shared = Step()

    def __init__(self) -> None:
        self.draft = Step()
        self.judge = Step()
        self.other = Other()
        self.steps = [Step(), Step()]
        self.tools = {"search": Step()}
        self._module = Holding()

    def run(self, call: Callable[[Pipeline], Any]) -> None:
        call(self)

    def one(self) -> None:
        self.draft()

    def all_steps(self) -> None:
        for step in self.steps:
            step()
        [step() for step in self.tools.values()]
        for call in (lambda: self.judge(),):  # noqa: PLW0108 - a function of the method
            call()
        self.shared()
        self.other()
        Step()()

    async def at_once(self) -> None:
        await self.draft.acall()
        await self.judge.acall()

    def inside(self) -> None:
        self._module.step()


class Holding(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = Step()
        self.pipeline: Any = None

    def forward(self) -> None:
        self.pipeline.one()


def names(run: Callable[[], Any]) -> list[str]:
    with token_scope("run") as scope:
        run()
    return sorted(node.name for node in scope.report().tree().children)


def test_modules_of_a_plain_object() -> None:
    """Modules of one class, held by one object, are named by its attributes; all others keep their names."""
    pipeline = Pipeline()
    told_apart = [
        "Pipeline.judge",
        "Pipeline.shared",
        "Pipeline.steps[0]",
        "Pipeline.steps[1]",
        "Pipeline.tools['search']",
    ]
    for _ in range(2):
        assert ["Other", *told_apart, "Step"] == names(pipeline.all_steps)
        assert ["Pipeline.draft"] == names(pipeline.one)
    assert ["Pipeline.draft", "Pipeline.judge"] == names(lambda: asyncio.run(pipeline.at_once()))


def test_a_module_that_is_called_from_elsewhere() -> None:
    """A module whose first caller does not hold it keeps its class's name, and keeps it from then on."""
    pipeline = Pipeline()
    assert ["Step"] == names(pipeline.draft)
    assert ["Step"] == names(pipeline.one)
    assert ["Step"] == names(pipeline.inside)


def test_one_module_of_its_name() -> None:
    """The only module of its name that an object holds has the name that it has always had."""

    class Service:
        def __init__(self) -> None:
            self.program = Step()
            self.other = Other()

        def serve(self) -> None:
            self.program()

    assert ["Step"] == names(Service().serve)


def test_a_plain_object_inside_a_module() -> None:
    """The modules of an object that a module holds are told apart below that module."""
    module = Holding()
    module.pipeline = Pipeline()
    with token_scope("run") as scope:
        module()
    assert {"Holding.Pipeline.draft"} == set(scope.report().predictors())


def test_predictors_of_a_plain_object(provider: LoopbackProvider) -> None:
    """Each of two predictors with one signature is charged with its own calls."""

    class Writer:
        def __init__(self) -> None:
            self.draft = dspy.Predict("question -> answer")
            self.judge = dspy.Predict("question -> answer")
            self.other = dspy.Predict("text -> summary")

        def write(self) -> None:
            self.draft(question="<<bill draft>>")
            self.judge(question="<<bill judge>> or not?")
            self.judge(question="<<bill judge>> once more")

    with token_scope("run") as scope:
        Writer().write()
    predictors = scope.report().predictors()
    bill = {f"Writer.{tag}": usage.total_tokens for tag, usage in provider.bill.items()}
    assert bill == {name: usage.total_tokens for name, usage in predictors.items()}


def test_signatures_with_one_name(provider: LoopbackProvider) -> None:
    """Two signatures with one name and other fields are told apart. With equal fields, they are one."""

    def judges(*fields: str) -> list[Any]:
        return [
            dspy.Predict(type("TheJudge", (dspy.Signature,), {"__doc__": "Judge.", **made(each)})) for each in fields
        ]

    def made(name: str) -> dict[str, Any]:
        return {"__annotations__": {name: str, "grade": str}, name: dspy.InputField(), "grade": dspy.OutputField()}

    first, second, third = judges("text", "speech", "text")
    with token_scope("run") as scope:
        first(text="<<bill first>>")
        second(speech="<<bill second>>")
        third(text="<<bill first>>")
        second(speech="<<bill second>>")
    predictors = scope.report().predictors()
    assert {"Predict(TheJudge)": 2, "Predict(TheJudge: speech -> grade)": 2} == {
        name: usage.calls for name, usage in predictors.items()
    }
    assert provider.bill["first"].total_tokens == predictors["Predict(TheJudge)"].total_tokens


def test_a_module_that_is_there_after_another_one() -> None:
    """A name goes with its module: the next one, which may have its place in memory, has a name of its own."""
    for _ in range(100):
        assert ["Pipeline.draft"] == names(Pipeline().one)
        steps = [Step() for _ in range(10)]
        assert ["Step"] == names(lambda steps=steps: [step() for step in steps])


def test_nothing_is_kept() -> None:
    """Neither a module, nor the object that holds it, nor what the calling function holds is kept alive."""

    class Value:
        pass

    class Caller(Pipeline):
        def call(self) -> Any:
            value = Value()
            ref = weakref.ref(value)
            self.draft()
            del value
            return ref()

        def look(self) -> set[str]:
            before = locals()
            after = 1
            self.judge()
            return set(before) - {"after"} if after else set()

    caller = Caller()
    refs = [weakref.ref(caller), weakref.ref(caller.draft)]
    with token_scope("run") as scope:
        assert caller.call() is None
        assert {"self"} == caller.look()
    assert {"Caller.draft", "Step"} == {node.name for node in scope.report().tree().children}
    del caller
    gc.collect()
    assert [None, None] == [ref() for ref in refs]
