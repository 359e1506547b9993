"""The time of `import tokenscope` in a program that does not use it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from benchmarks.ratios import Ratios, micros

TIMED = "from time import perf_counter\nbefore = perf_counter()\nimport {}\nprint(perf_counter() - before)"


def seconds(modules: str) -> float:
    """Return how long an import takes in a fresh interpreter."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", TIMED.format(modules)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_import(ratios: Ratios) -> None:
    """`import tokenscope` takes at most 1.5 times as long as importing wrapt and three standard modules."""
    baseline = "wrapt, contextvars, dataclasses, threading"
    ours, theirs = ratios.side_by_side(lambda: seconds("tokenscope"), lambda: seconds(baseline), rounds=25)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    reference = f"import {baseline}, {micros(statistics.median(theirs))}"
    ratios.line("import tokenscope", micros(statistics.median(ours)), reference, ratio, at_most=1.5)
