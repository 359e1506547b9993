"""Reports of 50,000 paths: how long they take, and how long others wait meanwhile."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import pytest

import tokenscope
from benchmarks.ratios import Ratios
from tokenscope import record_tokens, token_scope
from tokenscope._scopes.event_log import clear

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = 50  # paths


@pytest.fixture
def process() -> Iterator[None]:
    """Have a process with 50,000 paths, half of which have usage."""
    clear()
    fill(49_900)  # and some more in each test
    tokenscope.report().total.cost  # noqa: B018 - loads the prices
    yield
    clear()


def fill(paths: int) -> None:
    """Count calls at so many paths."""
    for scope in range(paths // 50):
        with token_scope(f"scope {scope}"):
            for module in range(24):
                record_tokens(f"module {module}", "operation", "gpt-5-mini", "openai", 90 + scope, 10 + module)
            record_tokens("module 0", "other operation", "gpt-5-mini", "openai", 90, 10)


@pytest.mark.parametrize("what", ["report()", "str(report)"])
def test_a_large_report(ratios: Ratios, process: None, what: str) -> None:
    """A report of 50,000 paths takes at most twice as long for each path as one of 50 paths."""
    with token_scope("small") as small:
        fill(SMALL)
    large_report, small_report = tokenscope.report(), small.report()
    assert 49_900 + SMALL < len(large_report.rows) <= 50_000

    def of_large() -> float:
        before = process_time()
        tokenscope.report() if what == "report()" else str(large_report)
        return process_time() - before

    def of_small() -> float:
        before = process_time()
        for _ in range(200):
            small.report() if what == "report()" else str(small_report)
        return (process_time() - before) * 50_000 / SMALL / 200

    large, several = ratios.side_by_side(of_large, of_small, rounds=7, warmup=1)
    seconds = min(large)
    ratios.line(
        f"{what} of 50,000 paths",
        f"{seconds:.2f} s",
        f"1,000 of 50 paths, {min(several):.2f} s",
        seconds / min(several),
        at_most=2,
    )


@pytest.mark.parametrize("what", ["report()", "str(report)"])
def test_waiting_for_a_large_report(ratios: Ratios, process: None, what: str) -> None:
    """While another thread reads 50,000 paths, one that records every millisecond waits for at most an eighth of that time.

    One that does nothing but record waits for collections of the garbage that it makes itself, and keeps the reader waiting.
    """
    report = tokenscope.report()
    str(report)
    gc.collect()
    longest: list[float] = []
    reads: list[float] = []

    def read() -> None:
        before = perf_counter()
        tokenscope.report() if what == "report()" else str(report)
        reads.append(perf_counter() - before)

    def record_meanwhile() -> None:
        thread = threading.Thread(target=read)
        thread.start()
        waits: list[float] = []
        with token_scope("meanwhile"):
            while thread.is_alive():
                before = perf_counter()
                time.sleep(0.001)
                record_tokens("module", "operation", "gpt-5-mini", "openai", 90, 10)
                waits.append(perf_counter() - before - 0.001)
        longest.append(max(waits))

    ratios.once(lambda: [record_meanwhile() for _ in range(9)])
    wait, reading = statistics.median(longest), statistics.median(reads)
    ratios.line(
        f"longest wait of a recorder meanwhile: {what}",
        f"{wait * 1e3:.0f} ms",
        f"{what} of 50,000 paths, {reading:.2f} s",
        wait / reading,
        at_most=0.125,
    )
