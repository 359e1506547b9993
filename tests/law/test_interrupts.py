"""Interrupts: an exception, or a handler that counts and reports, at every line that runs while scopes are used."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import dspy
import pytest
from dspy.dsp.utils.settings import thread_local_overrides
from support.spending import spend, spent

import tokenscope
from tokenscope import Budget, BudgetExceeded, carry, current_scope, get_tracker, record_cost, token_scope, track_tokens
from tokenscope._scopes.context import entered
from tokenscope._scopes.event_log import drain
from tokenscope._scopes.lm_calls import lm_call_in_progress
from tokenscope._scopes.process import STATE

HOME = os.path.dirname(tokenscope.__file__)
CORE = tuple(
    os.path.join(HOME, *parts)
    for parts in [("_scopes",), ("_usage",), ("integrations", "dspy"), ("integrations", "patches.py")]
)
IS_CORE: dict[str, bool] = {}
"""Whether a file is one of these."""
LARGE = Budget(tokens=1_000_000, calls=1_000)


class Interrupt(BaseException):
    """What a signal handler raises."""


Step = tuple[int, int, int]
"""A line that runs: the `id` of a core function's code, which call of it (or resumption of a generator), and which line there."""


class Lines:
    """Runs a function, and does something before one of the lines of the core that it runs.

    Tracing takes most of the time: so lines are traced in one call only, unless all of them are wanted.
    """

    def __init__(self, step: Step | None = None, action: Callable[[], Any] = bool) -> None:
        self.seen: list[tuple[str, Step]] = []  # all lines, if no step is given
        self.where = ""
        self._step = step
        self._action = action
        self._calls: dict[int, int] = {}  # by code

    def run(self, function: Callable[[], Any]) -> None:
        """Call the function. An interrupt ends it quietly."""
        before = sys.gettrace()
        gc.disable()
        sys.settrace(self._trace)
        try:
            function()
        except Interrupt:
            pass
        finally:
            sys.settrace(before)
            gc.enable()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        is_core = IS_CORE.get(code.co_filename)
        if is_core is None:
            is_core = IS_CORE[code.co_filename] = code.co_filename.startswith(CORE)
        if is_core and (self._step is None or self._step[0] == id(code)):
            call = self._calls[id(code)] = self._calls.get(id(code), 0) + 1
            if self._step is None or self._step[1] == call:
                return self._lines(id(code), call)
        return None

    def _lines(self, code: int, call: int) -> Any:
        """Return what traces the lines of a call."""
        number = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal number
            if event == "line":
                number += 1
                if self._step is None:
                    self.seen.append((line_of(frame), (code, call, number)))
                elif self._step[2] == number:
                    self.where = line_of(frame)
                    sys.settrace(None)
                    self._action()
            return trace

        return trace


def line_of(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename[len(HOME) + 1 :]}:{frame.f_lineno}"


def interrupt() -> None:
    raise Interrupt


class Program:
    """A program that spends in all ways, and knows what it has spent."""

    with_attribute = "limited"
    """The name of the one scope that has an attribute."""

    def __init__(self) -> None:
        self.spent = 0
        self.begun = 0  # what it was about to spend

    def spend(self, tokens: int) -> None:
        self.begun = tokens
        spend(tokens, module=f"m{tokens}")
        self.spent += tokens
        self.begun = 0

    @track_tokens("program", "step")
    def step(self) -> None:
        self.spend(1)

    @track_tokens("program", "astep", budget=LARGE)
    async def astep(self) -> None:
        async with token_scope("async"):
            self.spend(2)
        async for _ in self.asteps():
            await self.plain_step()

    @track_tokens("program", "plain")
    async def plain_step(self) -> None:
        self.spend(256)

    @track_tokens("program", "asteps")
    async def asteps(self) -> AsyncIterator[int]:
        self.spend(512)
        yield 1

    @track_tokens("program", "fail")
    def fail(self) -> None:
        self.spend(128)
        raise ValueError("on purpose")

    @track_tokens("program", "steps")
    def steps(self) -> Iterator[int]:
        with token_scope("in a generator"):
            self.spend(4)
            yield 1
            self.spend(8)

    def run(self) -> None:
        with token_scope("run") as scope:
            self.step()
            self.step()
            scope.report()
            with token_scope("limited", budget=LARGE, user="u"):
                self.spend(16)
                record_cost("search", "web", cost=0.001)
            for _ in self.steps():
                self.spend(32)
            carry(self.spend)(64)
            list(carry(self.steps)())
            with suppress(ValueError):
                self.fail()
            with suppress(BudgetExceeded), token_scope("small", budget=Budget(calls=1)), token_scope("inside"):
                self.spend(1_024)
                self.spend(2_048)
                with token_scope("kept from beginning"):
                    self.spend(4_096)
            scope.usage  # noqa: B018
        asyncio.run(self.astep())
        tokenscope.report()


class Asking(Program):
    """A program that asks an LM through DSPy."""

    with_attribute = "run"

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")
        self.lm = AnsweringLM(self)

    def run(self) -> None:
        with dspy.context(lm=self.lm), token_scope("run", budget=LARGE, user="u"):
            self.predict(question="?")
            with token_scope("inner"):
                self.predict(question="!")
            asyncio.run(self.predict.acall(question="…"))
            with suppress(RuntimeError):
                self.predict(question="fail")
        tokenscope.report()


class AnsweringLM(dspy.BaseLM):
    """An LM that answers at once, and tells the program what it spends."""

    def __init__(self, program: Program) -> None:
        super().__init__(model="test/answering", cache=False)
        self._program = program

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.forward(prompt, messages, **kwargs)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self._program.spent += self._program.begun
        self._program.begun = 0 if "fail" in str(messages) else 100
        if not self._program.begun:
            raise RuntimeError("on purpose")
        message = type(
            "Message", (), {"content": "[[ ## answer ## ]]\nx\n\n[[ ## completed ## ]]", "tool_calls": None}
        )()
        choice = type("Choice", (), {"message": message, "finish_reason": "stop"})()
        usage = {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100}
        return type("Response", (), {"choices": [choice], "usage": usage, "model": "test/answering"})()


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of LMs of a program's own
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # coroutines that an interrupt has kept from being awaited
]
PROGRAMS = {"scopes": Program, "LM calls": Asking}


def steps_of(program: type[Program], most: int) -> list[Step]:
    """Return the steps at which a program runs a line of the core, each line so many times at most."""
    program().run()  # once before, as some lines run but once
    get_tracker().reset()
    lines = Lines()
    lines.run(program().run)
    times: Counter[str] = Counter()
    found = []
    for where, step in lines.seen:
        times[where] += 1
        if times[where] <= most:
            found.append(step)
    assert len(found) > 300
    return found


def runs(kind: type[Program], most: int, action: Callable[[], Any]) -> Iterator[tuple[Program, str]]:
    """Run a program once for each of these steps, and act there; yield the program and the line."""
    steps, missed = steps_of(kind, most), 0
    for step in steps:
        get_tracker().reset()
        program, lines = kind(), Lines(step, action)
        lines.run(program.run)
        missed += not lines.where  # a loop was shorter this time
        yield program, lines.where
    assert missed < len(steps) / 100


def miscounted(report: tokenscope.Report, program: Program, where: str) -> list[str]:
    """Return what is wrong with the counts by attribute."""
    nodes = [node for _, node in report.tree().walk() if node.name == program.with_attribute]
    values = report.by_attribute("user")
    there, here = (
        sum(node.usage.input_tokens for node in nodes),
        sum(values[name].input_tokens for name in values if name == "u"),
    )
    return [] if there == here else [f"{where}: {here} tokens by attribute instead of {there}"]


def state_outside() -> tuple[Any, ...]:
    """Return all that a program could leave behind."""
    drain()
    return (
        current_scope(),
        entered.get(),
        lm_call_in_progress(),
        dict(thread_local_overrides.get()),
        dict(STATE.generator_scopes),
        list(STATE.counting),
        set(STATE.batches),
        dict(STATE.open_scopes),
        list(STATE.log),
        STATE.lock._is_owned(),
    )


@pytest.mark.parametrize("most", [1, pytest.param(1_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exception_at_every_line(name, most):
    """An interrupt loses nothing that was counted, counts nothing twice, and leaves nothing behind."""
    outside, problems = state_outside(), []
    for program, where in runs(PROGRAMS[name], most, interrupt):
        report = tokenscope.report()
        found = spent(report)
        problems += miscounted(report, program, where)
        after = state_outside()
        if after != outside:
            gc.collect()  # closes generators that the interrupt has left suspended
            after = state_outside()
        if found not in (program.spent, program.spent + program.begun):
            problems.append(f"{where}: {found} tokens instead of {program.spent} (+ {program.begun})")
        if after != outside:
            problems.append(f"{where}: {[(a, b) for a, b in zip(after, outside, strict=True) if a != b]}")
            entered.set(None)
            thread_local_overrides.set(outside[3])
            STATE.generator_scopes.clear()
            STATE.open_scopes.clear()
        with token_scope("afterwards") as scope:
            spend(7)
        if spent(scope) != 7:
            problems.append(f"{where}: afterwards {spent(scope)} instead of 7")
    assert not problems, f"{len(problems)}\n" + "\n".join(dict.fromkeys(problems))


def count_and_report() -> None:
    """What a signal handler may do."""
    with token_scope("handler"):
        spend(100_000)
    tokenscope.report()


@pytest.mark.parametrize("most", [1, pytest.param(1_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_handler_at_every_line(name, most):
    """What a handler counts and reads changes nothing else."""
    outside, problems = state_outside(), []
    for program, where in runs(PROGRAMS[name], most, count_and_report):
        report = tokenscope.report()
        found = spent(report)
        problems += miscounted(report, program, where)
        handled = 100_000 if where else 0
        if found != program.spent + program.begun + handled or state_outside() != outside:
            problems.append(f"{where}: {found} tokens instead of {program.spent + handled}")
    assert not problems, f"{len(problems)}\n" + "\n".join(dict.fromkeys(problems))
