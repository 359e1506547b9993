"""Ratios: a subject and its references run in turn, in the same process and the same minutes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

Run = Callable[[], float]
"""A function that repeats its work and returns the seconds per repetition."""


class Line(NamedTuple):
    """One line of the table at the end: the subject, its reference, the result and its bound."""

    what: str
    measured: str
    reference: str
    result: str
    bound: str
    kept: bool


def loop(statement: str, number: int, **names: Any) -> Run:
    """Return a run of a statement. The loop contains the statement itself, so that no call is added to it."""
    source = f"def run():\n for _ in range({number}):\n  {statement}"
    exec(source, names)
    run = names["run"]

    def timed() -> float:
        before = perf_counter()
        run()
        return (perf_counter() - before) / number

    return timed


class Ratios:
    """Runs subjects and references in turn, and checks their ratios against bounds."""

    def __init__(self, benchmark: Any, lines: list[Line]) -> None:
        self._benchmark = benchmark
        self._lines = lines

    def side_by_side(self, subject: Run, *references: Run, rounds: int = 60, warmup: int = 2) -> list[list[float]]:
        """Return a list of seconds, one per round, for the subject and for each reference."""
        times: list[list[float]] = [[] for _ in (subject, *references)]

        def run_references() -> None:
            gc.collect(0)
            for times_of_one, reference in zip(times[1:], references, strict=True):
                times_of_one.append(reference())

        def run_subject() -> None:
            times[0].append(subject())

        self._benchmark.pedantic(run_subject, setup=run_references, rounds=rounds, warmup_rounds=warmup)
        return [each[warmup:] for each in times]

    def once(self, run: Callable[[], Any]) -> Any:
        """Return the result of a single run, for measurements that need no repetition."""
        return self._benchmark.pedantic(run, rounds=1)

    def line(
        self,
        what: str,
        measured: str,
        reference: str,
        result: float,
        *,
        at_most: float | None = None,
        form: str = "{:.3f} times",
    ) -> None:
        """Add a line to the table, and fail if the result exceeds its bound."""
        bound = "" if at_most is None else form.format(at_most)
        shown = form.format(result)
        kept = at_most is None or result <= at_most
        self._lines.append(Line(what, measured, reference, shown, bound, kept))
        self._benchmark.extra_info[f"{what} / {reference}"] = shown
        assert kept, f"{what}: {shown}, at most {bound} is allowed ({reference})"

    def compare(self, what: str, subject: Run, against: str, reference: Run, *, at_most: float | None = None) -> None:
        """Compare a quiet round of each, because other work on the machine only makes rounds slower."""
        ours, theirs = map(quiet, self.side_by_side(subject, reference))
        self.line(what, micros(ours), f"{against}, {micros(theirs)}", ours / theirs, at_most=at_most)


def quiet(times: list[float]) -> float:
    """Return the time at the fastest tenth of the rounds, which varies less than the fastest round."""
    return sorted(times)[len(times) // 10]


def micros(seconds: float) -> str:
    """Return a time as text, in microseconds."""
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-4 else f"{seconds * 1e6:,.0f} µs"
