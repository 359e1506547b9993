"""Rows of a report, and drafts: rows in the making, from which the canonical order is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage, by_key, by_model
from tokenscope._usage.usage import Usage

_SHOWN_WHERE_SPENT: Final = frozenset({"tool", "evaluate", "compile", "phase"})


class Row(NamedTuple):
    """One path of a report: what was counted at that path itself."""

    parent: int  # the index of the row above; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    models: tuple[tuple[str, Usage], ...]  # what was spent, by model
    tallies: tuple[ModelUsage, ...]  # the same, as finely as prices need it


class RowInput(NamedTuple):
    """A row to be."""

    parent: int  # the index of the line above it, or -1
    frame: Frame
    entries: int
    nanoseconds: int
    spent: Mapping[str, Usage] | list[ModelUsage] | tuple[ModelUsage, ...]


class RowBuilder:
    """A row in the making."""

    __slots__ = ("children", "entries", "nanoseconds", "tallies")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.tallies: dict[UsageKey, Usage] = {}
        self.children: dict[Frame, RowBuilder] = {}

    def below(self, frame: Frame) -> RowBuilder:
        found = self.children.get(frame)
        if found is None:
            found = self.children[frame] = RowBuilder()
        return found

    def add(self, key: UsageKey, usage: Usage) -> None:
        found = self.tallies.get(key)
        self.tallies[key] = usage if found is None else found + usage

    def prune(self) -> None:
        """Drop tools, evaluations and optimizers below which no call was made."""
        order: list[tuple[RowBuilder, Frame, RowBuilder]] = []
        stack: list[RowBuilder] = [self]
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
            tallies = tuple(ModelUsage(key, draft.tallies[key]) for key in sorted(draft.tallies, key=_rank))
            rows.append(Row(parent, frame, draft.entries, draft.nanoseconds, by_model(tallies), tallies))
            stack.extend((index, f, d) for f, d in sorted(draft.children.items(), key=_by_name, reverse=True))
        return tuple(rows)


def drafted(
    lines: Iterable[RowInput | tuple[int, Frame, int, int, Mapping[str, Usage]]], top: RowBuilder | None = None
) -> RowBuilder:
    """Add lines, those above before those below, to what lies below `top`, and return that."""
    top = top or RowBuilder()
    drafts: list[RowBuilder] = []
    for parent, frame, entries, nanoseconds, spent in lines:
        draft = (drafts[parent] if parent >= 0 else top).below(frame)
        draft.entries += entries
        draft.nanoseconds += nanoseconds
        for key, usage in by_key(spent):
            draft.add(key, usage)
        drafts.append(draft)
    return top


def _rank(key: UsageKey) -> tuple[str, int, int, int]:
    return key.rank


def _by_name(item: tuple[Frame, RowBuilder]) -> tuple[str, str]:
    return item[0].name, item[0].kind
