"""Programs that DSPy runs: evaluations, batches, streams, tools, agents."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import threading
from typing import Any

import dspy
from dspy.utils import DummyLM

from support.host_behaviours.subjects import (
    DEVSET,
    Adding,
    Rag,
    asked,
    model,
)
from support.host_behaviours.table import program, told


@program
def evaluation() -> Any:
    with model():
        evaluate = dspy.Evaluate(
            devset=DEVSET, metric=lambda example, answer, trace=None: example.answer == answer.answer
        )
        result = evaluate(Rag(), num_threads=2, display_progress=False)
        return (
            type(result).__name__,
            repr(result),
            result.score,
            [(dict(one), dict(two), score) for one, two, score in result.results],
        )


@program
def evaluation_that_fails() -> Any:
    def metric(example: Any, answer: Any, trace: Any = None) -> Any:
        raise KeyError(example.question)

    with model():
        evaluate = dspy.Evaluate(devset=DEVSET, metric=metric, num_threads=1, max_errors=1, display_progress=False)
        found = told(lambda: evaluate(Rag()))
        return found["type"], found["args"]


@program
def parallel() -> Any:
    def fail() -> None:
        if threading.current_thread() is not threading.main_thread() and len(failed) < 1:
            failed.append(1)
            raise LookupError("no")

    failed: list[int] = []
    with model(fail):
        run = dspy.Parallel(num_threads=2, max_errors=9, return_failed_examples=True, disable_progress_bar=True)
        results, examples, errors = run([(Adding(), {"x": n}) for n in range(4)] + [(Adding(), {"x": "1"})])
    return results, examples, [(type(error).__name__, error.args) for error in errors]


@program
def batches() -> Any:
    with model():
        return [found.answer for found in Rag().batch(DEVSET, num_threads=2, disable_progress_bar=True)]


@program
async def asyncified() -> Any:
    with model():
        call = dspy.asyncify(Rag())
        return (await call(question="Why?")).answer, type(call).__name__, inspect.iscoroutinefunction(call)


@program
async def streamified() -> Any:
    with model():
        stream = dspy.streamify(Rag())(question="Why?")
        return [type(stream).__name__, *[type(item).__name__ async for item in stream]]


@program
def tools() -> Any:
    def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    async def later(a: int) -> int:
        return a

    tool, slow = dspy.Tool(add), dspy.Tool(later)
    found = [
        tool(a=1),
        tool(a=1, b=2),
        asyncio.run(slow.acall(a=3)),
        told(lambda: tool(a="x")),
        told(lambda: tool(c=1)),
    ]
    twins = [twin.func is add for twin in (tool.model_copy(), tool.model_copy(deep=True))]
    fields = sorted(dspy.Tool.model_fields), sorted(tool.model_dump(exclude={"func"}))
    return found, told(lambda: slow(a=3)), tool.name, tool.args, tool.func is add, twins, fields, str(tool)


@program
def agents() -> Any:
    answers = [
        {"next_thought": "look", "next_tool_name": "look_up", "next_tool_args": {"word": "a"}},
        {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "so", "answer": "yes"},
    ]

    def look_up(word: str) -> str:
        raise LookupError(word)

    with dspy.context(lm=DummyLM(answers), adapter=dspy.ChatAdapter()):
        found = dspy.ReAct("question -> answer", tools=[look_up])(question="Why?")
    trajectory = {name: re.sub(r"(?s)Traceback.*", "", str(value)) for name, value in found.trajectory.items()}
    return found.answer, trajectory


@program
def forward_called_directly() -> Any:
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(
        f"{record.levelname} {record.name} {record.funcName} {record.getMessage()}"
    )
    logger = logging.getLogger("dspy")
    logger.addHandler(handler)
    try:
        with model():
            asked()
            asyncio.run(Rag().acall(question="Why?"))
            called = len(records)
            Rag().forward(question="Why?")
    finally:
        logger.removeHandler(handler)
    return called, records


@program
def modules_whose_forward_is_a_generator() -> Any:
    class Counting(dspy.Module):
        def forward(self, n: int) -> Any:
            seen = []
            try:
                for each in range(n):
                    seen.append((yield each, asked()))
            except KeyError as error:
                yield "thrown", error.args, seen
            finally:
                ended.append(True)

    ended: list[bool] = []
    with model():
        steps = Counting()(n=3)
        found = [type(steps).__name__, steps.__name__, next(steps), steps.send("a"), steps.throw(KeyError("b"))]
        steps.close()
        return found, ended, list(Counting()(n=2))
