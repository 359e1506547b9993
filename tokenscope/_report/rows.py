"""Rows: what was counted at each path of a report, in one canonical order, and how they are built.

Parents come before their children, siblings in the order of their names. So equal reports have equal rows, and a tree of any
depth is walked without recursion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import Final, NamedTuple

from tokenscope._usage.calls import ROOT, Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage, by_model
from tokenscope._usage.usage import Usage

_ONLY_WITH_CALLS: Final = frozenset({"tool", "evaluate", "compile", "phase"})
"""Kinds of scopes that a report leaves out unless a call was made below them."""
_RANK: Final = attrgetter("rank")


class Row(NamedTuple):
    """What was counted at one path itself."""

    parent: int  # the index of the row above; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    models: tuple[tuple[str, Usage], ...]  # what was spent, by model
    usages: tuple[ModelUsage, ...]  # the same as finely as prices need it, and what was saved and wasted


class RowInput(NamedTuple):
    """A row before it is put in order. Several may have one path; they are added up."""

    parent: int  # the index of the input above, which comes before this one; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    usages: Iterable[ModelUsage]


class RowBuilder:
    """A tree to which counts are added, path by path, until its rows are frozen."""

    __slots__ = ("children", "entries", "nanoseconds", "usages")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.usages: dict[UsageKey, Usage] = {}
        self.children: defaultdict[Frame, RowBuilder] = defaultdict(RowBuilder)

    def add(self, key: UsageKey, usage: Usage) -> None:
        """Add what calls of one key spent at this path."""
        found = self.usages.get(key)
        self.usages[key] = usage if found is None else found + usage

    def add_rows(self, inputs: Iterable[RowInput | Row]) -> RowBuilder:
        """Add rows below this path, and return this builder."""
        builders: list[RowBuilder] = []
        for each in inputs:
            builder = (builders[each.parent] if each.parent >= 0 else self).children[each.frame]
            builder.entries += each.entries
            builder.nanoseconds += each.nanoseconds
            for key, usage in each.usages:
                builder.add(key, usage)
            builders.append(builder)
        return self

    def prune(self) -> None:
        """Remove tools, evaluations and optimizers below which no call was made."""
        order: list[tuple[RowBuilder, Frame, RowBuilder]] = [(self, ROOT.frame, self)]
        for _, _, above in order:  # the list grows meanwhile: parents come before children
            order.extend((above, frame, builder) for frame, builder in above.children.items())
        with_calls: set[RowBuilder] = set()
        for above, frame, builder in reversed(order):
            if builder.usages or builder in with_calls:
                with_calls.add(above)
            elif frame.kind in _ONLY_WITH_CALLS:
                del above.children[frame]

    def freeze(self) -> tuple[Row, ...]:
        """Return the rows below this path, in canonical order."""
        rows: list[Row] = []
        stack = [(-1, ROOT.frame, self)]
        while stack:
            parent, frame, builder = stack.pop()
            if builder is not self:
                usages = tuple(ModelUsage(key, builder.usages[key]) for key in sorted(builder.usages, key=_RANK))
                rows.append(Row(parent, frame, builder.entries, builder.nanoseconds, by_model(usages), usages))
            index = len(rows) - 1
            children = sorted(builder.children.items(), key=lambda item: (item[0].name, item[0].kind), reverse=True)
            stack += [(index, frame, child) for frame, child in children]
        return tuple(rows)
