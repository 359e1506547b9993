"""Prices are looked up for reports only, so that a known price does not slow down counting a call."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from time import perf_counter

from benchmarks.ratios import Ratios, loop, micros
from tokenscope import record_tokens, report

FRESH = """
import sys
from time import perf_counter
from tokenscope import record_tokens, report
times = []
for _ in range(2_000):
    before = perf_counter()
    record_tokens("module", "operation", "gpt-5-mini", "openai", 90, 10)
    times.append(perf_counter() - before)
loaded = "genai_prices" in sys.modules
before = perf_counter()
assert report().total.cost > 0
print(max(times), perf_counter() - before, loaded)
"""


def test_counting_a_priced_call(ratios: Ratios) -> None:
    """Counting a call with a known price takes at most 1.1 times as long as one with an unknown price."""
    statement = "record_tokens('module', 'operation', model, 'openai', 90, 10)"
    known = loop(statement, 1_000, record_tokens=record_tokens, model="gpt-5-mini")
    unknown = loop(statement, 1_000, record_tokens=record_tokens, model="no-such-model")
    record_tokens("module", "operation", "gpt-5-mini", "openai", 90, 10)
    assert report().total.cost > 0
    ratios.compare("counting a call whose price is known", known, "whose price is not", unknown, at_most=1.1)


def test_the_first_call_waits_for_no_table(ratios: Ratios) -> None:
    """In a fresh interpreter the slowest of 2,000 calls takes at most a fifth of the first report with costs."""

    def fresh() -> tuple[float, float]:
        done = subprocess.run(
            [sys.executable, "-c", FRESH], env={**os.environ}, capture_output=True, text=True, check=True
        )
        slowest, first_look, loaded = done.stdout.split()
        assert "False" == loaded
        return float(slowest), float(first_look)

    runs = ratios.once(lambda: [fresh() for _ in range(5)])
    slowest, first_look = (statistics.median(run[side] for run in runs) for side in (0, 1))
    what = "slowest of the first 2,000 counted calls"
    ratios.line(
        what, micros(slowest), f"the first report with costs, {micros(first_look)}", slowest / first_look, at_most=0.2
    )


def test_asking_again(ratios: Ratios) -> None:
    """Measure a report with costs after the price table is loaded, without a bound."""
    record_tokens("module", "operation", "gpt-5-mini", "openai", 90, 10)
    report()

    def ask() -> float:
        before = perf_counter()
        report()
        return perf_counter() - before

    count = loop("record_tokens('m', 'o', 'gpt-5-mini', 'openai', 90, 10)", 100, record_tokens=record_tokens)
    ratios.compare("a report of one row, its costs included", ask, "record_tokens", count)
