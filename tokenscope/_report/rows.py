"""Rows of a report, and drafts: rows in the making, from which the canonical order is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import Key
from tokenscope._usage.model_usage import Tally, by_key, by_model
from tokenscope._usage.usage import Usage

_SHOWN_WHERE_SPENT: Final = frozenset({"tool", "evaluate", "compile", "phase"})


class Row(NamedTuple):
    """One path of a report: what was counted at that path itself."""

    parent: int  # the index of the row above; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    models: tuple[tuple[str, Usage], ...]  # what was spent, by model
    tallies: tuple[Tally, ...]  # the same, as finely as prices need it


class Line(NamedTuple):
    """A row to be."""

    parent: int  # the index of the line above it, or -1
    frame: Frame
    entries: int
    nanoseconds: int
    spent: Mapping[str, Usage] | list[Tally] | tuple[Tally, ...]


class Draft:
    """A row in the making."""

    __slots__ = ("children", "entries", "nanoseconds", "tallies")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.tallies: dict[Key, Usage] = {}
        self.children: dict[Frame, Draft] = {}

    def below(self, frame: Frame) -> Draft:
        found = self.children.get(frame)
        if found is None:
            found = self.children[frame] = Draft()
        return found

    def add(self, key: Key, usage: Usage) -> None:
        found = self.tallies.get(key)
        self.tallies[key] = usage if found is None else found + usage

    def prune(self) -> None:
        """Drop tools, evaluations and optimizers below which no call was made."""
        order: list[tuple[Draft, Frame, Draft]] = []
        stack: list[Draft] = [self]
        while stack:
            draft = stack.pop()
            order.extend((draft, frame, child) for frame, child in draft.children.items())
            stack.extend(draft.children.values())
        spent: set[int] = set()
        for above, frame, draft in reversed(order):
            if draft.tallies or id(draft) in spent:
                spent.add(id(above))
            elif frame.kind in _SHOWN_WHERE_SPENT:
                del above.children[frame]

    def freeze(self) -> tuple[Row, ...]:
        """Return the rows below, in canonical order."""
        rows: list[Row] = []
        stack = [(-1, frame, draft) for frame, draft in sorted(self.children.items(), key=_by_name, reverse=True)]
        while stack:
            parent, frame, draft = stack.pop()
            index = len(rows)
            tallies = tuple(Tally(*key, draft.tallies[key]) for key in sorted(draft.tallies))
            rows.append(Row(parent, frame, draft.entries, draft.nanoseconds, by_model(tallies), tallies))
            stack.extend((index, f, d) for f, d in sorted(draft.children.items(), key=_by_name, reverse=True))
        return tuple(rows)


def drafted(
    lines: Iterable[Line | tuple[int, Frame, int, int, Mapping[str, Usage]]], top: Draft | None = None
) -> Draft:
    """Add lines, those above before those below, to what lies below `top`, and return that."""
    top = top or Draft()
    drafts: list[Draft] = []
    for parent, frame, entries, nanoseconds, spent in lines:
        draft = (drafts[parent] if parent >= 0 else top).below(frame)
        draft.entries += entries
        draft.nanoseconds += nanoseconds
        for key, usage in by_key(spent):
            draft.add(key, usage)
        drafts.append(draft)
    return top


def _by_name(item: tuple[Frame, Draft]) -> tuple[str, str]:
    return item[0].name, item[0].kind
