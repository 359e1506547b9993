"""Rows: what was counted at each path of a report, in one canonical order, and how they are built.

Parents come before children, siblings in the order of their names. So equal reports have equal rows, and no walk is recursive.

Rows are kept in columns, as plain numbers, and a `Row` is made when somebody looks at it. Python's garbage collection visits
neither numbers nor tuples of them: with an object or more for each path, a large report would begin several collections of
everything that the process holds, for each of which all threads wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.prices import repriced, settle
from tokenscope._usage.usage import ARITHMETIC, FIELDS, MONEY, ZERO, Usage, unchecked, values_of

_ONLY_WITH_CALLS: Final = frozenset({"tool", "evaluate", "compile", "phase"})
"""Kinds of scopes that a report leaves out unless a call was made below them."""
_RANK: Final = attrgetter("rank")


class Row(NamedTuple):
    """What was counted at one path itself. Rows that a report is built of may be in any order, several of one path."""

    parent: int  # the index of the row above, which comes before this one; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    usages: Sequence[ModelUsage]  # what was spent, as finely as prices need it, and what was saved and wasted
    sizes: CallSizes | None = None  # how its calls' sizes are distributed


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a report, in columns: frozen, and equal to rows with the same numbers."""

    parents: tuple[int, ...] = ()
    frames: tuple[Frame, ...] = ()
    entries: tuple[int, ...] = ()
    nanoseconds: tuple[int, ...] = ()
    starts: tuple[int, ...] = (0,)
    """Where the usages of each row begin, and where those of the last one end."""
    keys: tuple[UsageKey, ...] = ()
    values: tuple[tuple[Any, ...], ...] = ()
    """Of all usages: their keys, and the values of their fields."""
    sizes: tuple[tuple[int, CallSizes], ...] = ()
    """Of the rows whose calls' prompts were measured, which are few: their indexes, and their sizes."""

    def __len__(self) -> int:
        return len(self.parents)

    def __iter__(self) -> Iterator[Row]:
        usages = map(self._usages, self.starts, self.starts[1:])
        sizes = map(dict(self.sizes).get, range(len(self)))
        return map(Row, self.parents, self.frames, self.entries, self.nanoseconds, usages, sizes)

    def usages(self, start: int = 0, end: int | None = None) -> Iterator[ModelUsage]:
        """Yield the usages of all rows, or some of them."""
        return map(ModelUsage, self.keys[start:end], map(unchecked, self.values[start:end]))

    def spent(self, start: int, end: int) -> list[tuple[Any, ...]]:
        """Return what some usages count in totals, as `ModelUsage.spent` says, as the values of usages."""
        return [
            values if key.source != "cache" else values_of(ModelUsage(key, unchecked(values)).spent)
            for key, values in zip(self.keys[start:end], self.values[start:end], strict=True)
            if not key.is_repeated
        ]

    def _usages(self, start: int, end: int) -> tuple[ModelUsage, ...]:
        return tuple(self.usages(start, end)) if start < end else ()


NO_ROWS: Final = Rows()


class RowBuilder:
    """A tree, in columns, to which counts are added until its rows are frozen."""

    __slots__ = ("_entries", "_frames", "_indexes", "_nanoseconds", "_numbers", "_parents", "_sizes", "_values")

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._frames: list[Frame] = []
        self._entries: list[int] = []
        self._nanoseconds: list[int] = []
        self._indexes: dict[tuple[int, str, str], int] = {}  # of rows, by the row above and the frame
        self._numbers: dict[UsageKey, int] = {}
        self._values: dict[tuple[int, int], tuple[Any, ...]] = {}  # of usages, by the row and the number of the key
        self._sizes: dict[int, CallSizes] = {}

    @property
    def keys(self) -> Iterable[UsageKey]:
        """The keys of all usages."""
        return self._numbers

    def row(self, parent: int, frame: Frame) -> int:
        """Return the index of a row, which is made if there is none, given that of the row above, or -1 at the top level."""
        place = (parent, frame.name, frame.kind)
        if (index := self._indexes.get(place)) is None:
            index = self._indexes[place] = len(self._parents)
            self._parents.append(parent)
            self._frames.append(frame)
            self._entries.append(0)
            self._nanoseconds.append(0)
        return index

    def add_entries(self, index: int, entries: int, nanoseconds: int) -> None:
        """Add to how often a row was entered, and for how long."""
        self._entries[index] += entries
        self._nanoseconds[index] += nanoseconds

    def add_sizes(self, index: int, sizes: CallSizes | None) -> None:
        """Add how further calls' sizes at a row are distributed."""
        if sizes is not None:
            before = self._sizes.get(index)
            self._sizes[index] = sizes if before is None else before + sizes

    def number(self, key: UsageKey) -> int:
        """Return the number of a key, to add usages by."""
        return self._numbers.setdefault(key, len(self._numbers))

    def add(self, index: int, number: int, usage: Usage) -> None:
        """Add what calls of one key spent at a row."""
        place = (index, number)
        before = self._values.get(place)
        self._values[place] = values_of(usage if before is None else unchecked(before) + usage)

    def add_rows(self, inputs: Iterable[Row]) -> RowBuilder:
        """Add rows, and return this builder."""
        indexes: list[int] = []
        for parent, frame, entries, nanoseconds, usages, sizes in inputs:
            index = self.row(indexes[parent] if parent >= 0 else -1, frame)
            indexes.append(index)
            self.add_entries(index, entries, nanoseconds)
            self.add_sizes(index, sizes)
            for key, usage in usages:
                self.add(index, self.number(key), usage)
        return self

    def freeze(self, *, prune: bool = False) -> Rows:
        """Return the rows in canonical order; if asked, without tools, evaluations and optimizers that made no call."""
        order = self._order(prune=prune)
        places = [-1] * (len(self._parents) + 1)  # the last one is of the index -1
        for place, index in enumerate(order):
            places[index] = place
        keys = sorted(self._numbers, key=_RANK)
        ranks = {self._numbers[key]: rank for rank, key in enumerate(keys)}
        usages = sorted([(places[index], ranks[number], each) for (index, number), each in self._values.items()])
        widths = [0] * len(order)
        for place, _, _ in usages:
            widths[place] += 1
        return Rows(
            tuple([places[self._parents[index]] for index in order]),
            tuple([self._frames[index] for index in order]),
            tuple([self._entries[index] for index in order]),
            tuple([self._nanoseconds[index] for index in order]),
            tuple(accumulate(widths, initial=0)),
            tuple([keys[rank] for _, rank, _ in usages]),
            tuple([each for _, _, each in usages]),
            tuple(sorted([(places[index], sizes) for index, sizes in self._sizes.items()], key=itemgetter(0))),
        )

    def _order(self, *, prune: bool) -> list[int]:
        """Return the indexes of the rows in canonical order."""
        parents, frames = self._parents, self._frames
        has_calls = bytearray(len(parents) + 1)  # the last one is of the index -1, as below
        for index, _ in self._values:
            has_calls[index] = True
        for index in reversed(range(len(parents))):
            has_calls[parents[index]] |= has_calls[index]
        first, following = [-1] * (len(parents) + 1), [-1] * len(parents)  # row below; row beside
        for index in sorted(range(len(parents)), key=lambda i: (frames[i].name, frames[i].kind), reverse=True):
            if has_calls[index] or not prune or frames[index].kind not in _ONLY_WITH_CALLS:
                following[index], first[parents[index]] = first[parents[index]], index
        order: list[int] = []
        here = first[-1]
        while here >= 0:
            order.append(here)
            then = first[here]
            while then < 0 <= here:
                here, then = parents[here], following[here]
            here = then
        return order


def rows_since(newer: Rows, older: Rows) -> Iterator[Row]:
    """Yield the rows of what was counted since the older ones, without those where nothing was.

    Raises:
        ValueError: a path is gone or has fewer counts. The message names it.
    """
    places = {(row.parent, row.frame): index for index, row in enumerate(newer)}
    befores: dict[int, Row] = {}
    indexes = {-1: -1}
    for number, row in enumerate(older):
        index = places.get((indexes[row.parent], row.frame))
        if index is None:
            raise _shrank(older, number, "is gone")
        indexes[number] = index
        befores[index] = row
    rows = [_since(newer, index, row, befores.get(index)) for index, row in enumerate(newer)]
    kept = bytearray(len(rows) + 1)  # the last one is of the index -1
    for index in reversed(range(len(rows))):
        kept[index] |= index not in befores or any(rows[index][2:])
        kept[rows[index].parent] |= kept[index]
    indexes = dict(zip([-1, *compress(range(len(rows)), kept)], range(-1, len(rows)), strict=False))
    for row in compress(rows, kept):
        yield row._replace(parent=indexes[row.parent])


def _since(newer: Rows, index: int, row: Row, before: Row | None) -> Row:
    if before is None:
        return row
    if row.entries < before.entries or row.nanoseconds < before.nanoseconds:
        raise _shrank(newer, index, "was entered less often, or for less time,")
    olds, news = _settled(before.usages), _settled(row.usages)
    usages: list[ModelUsage] = []
    for key in {**news, **olds}:
        old, new = olds.get(key, ZERO), news.get(key, ZERO)
        if old.cost is None and not new.unpriced_calls:
            old = repriced(key, old)  # a price was set meanwhile, which the newer report has for all calls
        parts: list[Any] = []
        for name, less, more in zip(FIELDS, values_of(old), values_of(new), strict=True):
            parts.append(ARITHMETIC.subtract(more or 0, less or 0) if name in MONEY else more - less)
            if parts[-1] < 0:
                raise _shrank(newer, index, f"has less {name} of {key.model} ({more or 0:,}, before {less or 0:,})")
        if any(parts):
            usages.append(ModelUsage(key, unchecked(parts)))
    sizes = row.sizes
    if sizes is not None and before.sizes is not None:
        sizes = sizes - before.sizes
    return Row(
        row.parent,
        row.frame,
        row.entries - before.entries,
        row.nanoseconds - before.nanoseconds,
        usages,
        sizes or None,
    )


def _settled(usages: Iterable[ModelUsage]) -> dict[UsageKey, Usage]:
    """Return usages by keys that are equal in a report that was made before the prices were loaded, and in one made after."""
    found: dict[UsageKey, Usage] = {}
    for key, usage in usages:
        found[settle(key)] = found.get(settle(key), ZERO) + usage
    return found


def _shrank(rows: Rows, index: int, what: str) -> ValueError:
    names: list[str] = []
    while index >= 0:
        names.append(rows.frames[index].name)
        index = rows.parents[index]
    path = "/".join(reversed(names))
    return ValueError(
        f"{path!r} {what} in the newer report; only a later report of the same run has more than an earlier one"
    )
