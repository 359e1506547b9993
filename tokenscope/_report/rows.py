"""Rows: what was counted at each path of a report, in one canonical order, and how they are built.

Parents come before children, siblings in the order of their names. So equal reports have equal rows, and no walk is recursive.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

from tokenscope._usage.calls import ROOT, Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage, by_model
from tokenscope._usage.usage import Usage

_ONLY_WITH_CALLS: Final = frozenset({"tool", "evaluate", "compile", "phase"})
"""Kinds of scopes that a report leaves out unless a call was made below them."""
_RANK: Final = attrgetter("rank")
_NAME_AND_KIND: Final = itemgetter(1, 0)  # of a frame


class Row(NamedTuple):
    """What was counted at one path itself."""

    parent: int  # the index of the row above; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    usages: tuple[ModelUsage, ...]  # what was spent, as finely as prices need it, and what was saved and wasted

    @property
    def models(self) -> tuple[tuple[str, Usage], ...]:
        """What was spent, by model."""
        return by_model(self.usages) if self.usages else ()


class RowInput(NamedTuple):
    """A row before it is put in order. Several may have one path; they are added up."""

    parent: int  # the index of the input above, which comes before this one; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    usages: Iterable[ModelUsage]


class RowBuilder:
    """A tree to which counts are added, path by path, until its rows are frozen.

    Garbage collections look at every dictionary. So those that would be empty are not made.
    """

    __slots__ = ("children", "entries", "nanoseconds", "usages")
    children: dict[Frame, RowBuilder]
    usages: dict[UsageKey, Usage]

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.usages = _NO_USAGES
        self.children = _NO_CHILDREN

    def child(self, frame: Frame) -> RowBuilder:
        """Return the builder one level further down."""
        if (found := self.children.get(frame)) is None:
            if self.children is _NO_CHILDREN:
                self.children = {}
            found = self.children[frame] = RowBuilder()
        return found

    def add(self, key: UsageKey, usage: Usage) -> None:
        """Add what calls of one key spent at this path."""
        found = self.usages.get(key)
        if self.usages is _NO_USAGES:
            self.usages = {}
        self.usages[key] = usage if found is None else found + usage

    def add_rows(self, inputs: Iterable[RowInput | Row]) -> RowBuilder:
        """Add rows below this path, and return this builder."""
        builders: list[RowBuilder] = []
        for each in inputs:
            builder = (builders[each.parent] if each.parent >= 0 else self).child(each.frame)
            builder.entries += each.entries
            builder.nanoseconds += each.nanoseconds
            for key, usage in each.usages:
                builder.add(key, usage)
            builders.append(builder)
        return self

    def prune(self) -> None:
        """Remove tools, evaluations and optimizers below which no call was made."""
        order: list[RowBuilder] = [self]
        for builder in order:  # the list grows meanwhile: parents come before children
            order.extend(builder.children.values())
        with_calls: set[RowBuilder] = set()
        for above in reversed(order):
            for frame, builder in list(above.children.items()):
                if builder.usages or builder in with_calls:
                    with_calls.add(above)
                elif frame.kind in _ONLY_WITH_CALLS:
                    del above.children[frame]

    def freeze(self) -> tuple[Row, ...]:
        """Return the rows below this path, in canonical order. The builders below are given up, and nothing is to be added."""
        rows: list[Row] = []
        stack = [(-1, ROOT.frame, self)]
        while stack:
            parent, frame, builder = stack.pop()
            usages, children = builder.usages, builder.children
            builder.children = _NO_CHILDREN
            if builder is not self:
                keys = sorted(usages, key=_RANK) if len(usages) > 1 else usages
                own = tuple([ModelUsage(key, usages[key]) for key in keys])
                rows.append(Row(parent, frame, builder.entries, builder.nanoseconds, own))
            if children:
                index = len(rows) - 1
                stack += [(index, each, children[each]) for each in sorted(children, key=_NAME_AND_KIND, reverse=True)]
        return tuple(rows)


_NO_USAGES: Final[dict[UsageKey, Usage]] = {}
_NO_CHILDREN: Final[dict[Frame, RowBuilder]] = {}
