"""Views: reports made of a report, flat by a breakdown or cut at a depth, so that every format can show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tokenscope._report.attribution import Attribution
from tokenscope._report.report import Report, build
from tokenscope._report.rows import RowInput
from tokenscope._usage.calls import NO_SCOPE, Frame

_NAMES: Final[dict[str, tuple[str, Callable[[Attribution], str | None]]]] = {
    "module": ("module", lambda place: place.module or place.predictor or place.scope or NO_SCOPE.name),
    "predictor": ("dspy", lambda place: place.predictor),
    "operation": (
        "module",
        lambda place: place.operation or place.module or place.predictor or place.scope or NO_SCOPE.name,
    ),
}
"""By what a report can be flat, besides by model: the kind of its rows, and whose calls a place holds, as `Report` tells it."""


def pivot(report: Report, by: str) -> Report:
    """Return a flat report: a top-level row a name of a breakdown, the costliest first.

    It adds up to the report's total; by `predictor`, to what DSPy's modules spent. Its rows have no times and entries: what was
    open at once, within each other, has no time that could be parted.

    Args:
        report: What to break down.
        by: `model`, `module`, `predictor` or `operation`.

    Raises:
        ValueError: there is no such breakdown.
    """
    if by == "model":
        lines = [
            RowInput(-1, Frame("scope", tally.key.model), 0, 0, [tally]) for row in report.rows for tally in row.tallies
        ]
    elif by in _NAMES:
        lines = list(_named(report, *_NAMES[by]))
    else:
        raise ValueError(f"there is no breakdown by {by!r}; there are model, {', '.join(_NAMES)}")
    return build(lines, scoped=not lines)


def cut(report: Report, depth: int) -> Report:
    """Return the report with so many levels at most: what lies deeper is added up in the level above.

    Args:
        report: What to cut.
        depth: How many levels to keep, 1 or more.

    Raises:
        ValueError: not one level would be left.
    """
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, but is {depth!r}")
    return build(_cut(report, depth), scoped=report.scoped)


def _named(report: Report, kind: str, name_of: Callable[[Attribution], str | None]) -> Iterator[RowInput]:
    attributions: list[Attribution] = []
    for row in report.rows:
        place = Attribution(attributions[row.parent] if row.parent >= 0 else None, row.frame)
        attributions.append(place)
        if row.tallies and (name := name_of(place)) is not None:
            yield RowInput(-1, Frame(kind, name), 0, 0, row.tallies)


def _cut(report: Report, depth: int) -> Iterator[RowInput]:
    holders: list[tuple[int, RowInput]] = []  # of each row: its level, and the line that holds what it spent
    for row in report.rows:
        level, holder = holders[row.parent] if row.parent >= 0 else (0, None)
        if holder is None or level < depth:
            holder = RowInput(row.parent, row.frame, row.entries, row.nanoseconds, row.tallies)
            yield holder
        else:
            yield RowInput(holder.parent, holder.frame, 0, 0, row.tallies)
        holders.append((level + 1, holder))
