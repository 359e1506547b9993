"""Ten times as many calls take ten times as long, and no more memory."""

from __future__ import annotations

import gc
import statistics
import tracemalloc
from time import perf_counter
from typing import TYPE_CHECKING, Any

import dspy
import pytest

from benchmarks.ratios import Ratios, micros
from benchmarks.test_dspy import Instant
from tokenscope import record_tokens, token_scope, track_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
KILOBYTES = 16  # the interpreter's own free lists and caches may differ by this much


def record(number: int) -> None:
    for _ in range(number):
        record_tokens("module", "operation", "gpt-5-mini", "openai", 90, 10)


def predict(number: int) -> None:
    prediction = dspy.Predict("question -> answer")
    with dspy.context(lm=Instant("instant"), disable_history=True, trace=None):
        for _ in range(number):
            prediction(question="What is six times seven?")


@pytest.mark.parametrize(("call", "rounds"), [(record, 12), (predict, 3)])
def test_ten_times_the_calls(ratios: Ratios, call: Callable[[int], None], rounds: int) -> None:
    """10,000 calls under one scope take at most 10.5 times as long as 1,000 calls, the mean of ten runs."""

    def under_one_scope(number: int) -> float:
        with token_scope("run") as scope:
            before = perf_counter()
            call(number)
            calls = scope.usage.calls  # counts those that still wait, too
            seconds = perf_counter() - before
        assert number == calls
        return seconds

    call(100)
    many, few = ratios.side_by_side(
        lambda: under_one_scope(10_000),
        lambda: statistics.mean(under_one_scope(1_000) for _ in range(10)),
        rounds=rounds,
        warmup=0,
    )
    ratio = statistics.median(a / b for a, b in zip(many, few, strict=True))
    what = {record: "10,000 record_tokens", predict: "10,000 dspy.Predict"}[call]
    ratios.line(what, micros(statistics.median(many)), f"1,000, {micros(statistics.median(few))}", ratio, at_most=10.5)


def growth(few: int, many: int, run: Callable[[int], Any]) -> float:
    """Return the growth of memory in kB while a run goes on from `few` to `many` repetitions."""
    tracemalloc.start()
    try:
        run(few)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        run(many - few)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / 1024
    finally:
        tracemalloc.stop()


def test_memory_of_calls(ratios: Ratios) -> None:
    """From 10,000 to 100,000 calls under one scope, memory stays flat."""
    with token_scope("run") as scope:
        grown = ratios.once(lambda: growth(10_000, 100_000, record))
    assert scope.usage.calls == 100_000
    ratios.line("memory, 10,000 to 100,000 calls", "", "", grown, at_most=KILOBYTES, form="{:+.1f} kB")


@pytest.mark.parametrize("place", ["at the top level", "inside a scope"])
def test_memory_of_entries(ratios: Ratios, place: str) -> None:
    """From 10,000 to 1,000,000 entries of one scope, memory stays flat."""
    recipe = token_scope("step")

    def enter(number: int) -> None:
        for _ in range(number):
            with recipe:
                pass

    if place == "inside a scope":
        enter = token_scope("run")(enter)
    grown = ratios.once(lambda: growth(10_000, 1_000_000, enter))
    ratios.line(f"memory, 10,000 to 1,000,000 entries {place}", "", "", grown, at_most=KILOBYTES, form="{:+.1f} kB")


def test_memory_of_entries_that_count(ratios: Ratios) -> None:
    """From 10,000 to 100,000 calls of a decorated function that counts something each time, memory stays flat."""

    @track_tokens("module", "operation")
    def step() -> None:
        record(1)

    def enter(number: int) -> None:
        for _ in range(number):
            step()

    with token_scope("run") as scope:
        grown = ratios.once(lambda: growth(10_000, 100_000, enter))
    assert scope.usage.calls == 100_000
    ratios.line("memory, 10,000 to 100,000 entries with a call", "", "", grown, at_most=KILOBYTES, form="{:+.1f} kB")
