"""A table of counts: what was spent at each path, by key, with a limit to the names of one level and to all paths."""

from __future__ import annotations

from typing import Final

from tokenscope._usage.calls import MAX_NAMES, MAX_PATHS, OTHER, Frame, ScopePath
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.usage import Counts, CountsSum
from tokenscope._usage.warnings import warn_once

_NO_COUNTS: Final[dict[UsageKey, CountsSum]] = {}
"""Most rows only have entries, and share this."""


class UsageRow:
    """What was counted at one path itself, and how often and for how long the path was entered."""

    __slots__ = ("counts", "entries", "nanoseconds", "width")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.width = 0  # rows one level below
        self.counts: dict[UsageKey, CountsSum] = _NO_COUNTS

    def sum_of(self, key: UsageKey) -> CountsSum:
        """Return the sum of one key, to add to."""
        if self.counts is _NO_COUNTS:
            self.counts = {}
        return self.counts.get(key) or self.counts.setdefault(key, CountsSum())

    def copy(self) -> UsageRow:
        """Return a row with the same numbers."""
        copy = UsageRow()
        copy.entries, copy.nanoseconds, copy.width = self.entries, self.nanoseconds, self.width
        for key, spent in self.counts.items():
            copy.sum_of(key).add(spent.counts())
        return copy


class UsageTable:
    """Rows of counts, for paths at or below one path.

    Reading a large table takes a while, in which others count. So it is copied on write: `freeze` hands out the rows that there
    are, and a row that is added to later is copied first. Handing out takes as long as copying a dictionary.
    """

    __slots__ = ("_frozen", "_renamed", "_size", "base", "changing", "overflowed")

    def __init__(self, base: ScopePath) -> None:
        self.base = base
        self.changing: dict[ScopePath, UsageRow] = {}
        """The rows that may be added to: those that are new, or were added to, since the table was frozen."""
        self._frozen: dict[ScopePath, UsageRow] = {}
        """The rows that may not. Where a path has two, the other one counts."""
        self._size = 0  # rows below the base
        self.overflowed: dict[ScopePath | None, None] = {}
        """Paths below which there are too many names, of which no warning has told yet; None if the table has too many in all."""
        self._renamed: dict[tuple[ScopePath, Frame], ScopePath] = {}
        """The rows of paths that are not the one object of their name, as a level with many names makes them."""

    @property
    def rows(self) -> dict[ScopePath, UsageRow]:
        """All rows, to be read. `row` returns one to add to."""
        return {**self._frozen, **self.changing}

    def freeze(self) -> dict[ScopePath, UsageRow]:
        """Return all rows. They change no more: what is added from now on is added to copies."""
        if self.changing:
            # One step: a finaliser or a signal that counts comes before or after it, and finds each row in its place.
            self.changing, self._frozen = {}, {**self._frozen, **self.changing}
        return self._frozen

    def copy(self) -> UsageTable:
        """Return a copy. Both share their rows, until one is added to."""
        copy = UsageTable(self.base)
        copy._frozen = self.freeze()
        copy._renamed = dict(self._renamed)
        copy._size = self._size
        return copy

    def row(self, path: ScopePath) -> UsageRow:
        """Return the row of a path, to add to; where there are too many names, the row `(other)` of the level where it begins."""
        missing: list[ScopePath] = []
        here = path
        while (row := self.changing.get(here)) is None:
            if here in self._frozen:
                row = self.changing.setdefault(here, self._frozen[here].copy())
                break
            if here.depth <= self.base.depth or here.parent is None:
                row = self.changing.setdefault(here, UsageRow())
                break
            missing.append(here)
            here = here.parent
        for step in reversed(missing):
            is_kept = here.children.get(step.frame) is step
            if is_kept and not self._renamed and row.width < MAX_NAMES and self._size < MAX_PATHS:  # nearly always
                here = step
                row.width += 1
                self._size += 1
                row = self.changing.setdefault(here, UsageRow())
                continue
            below = self._below(here, step.frame)
            if below is None and self._size >= MAX_PATHS:
                return self._rest(here)
            here = below or self._add_below(here, row, step)
            row = self.row(here)
        return row

    def _below(self, here: ScopePath, frame: Frame) -> ScopePath | None:
        """Return the path of the row one level below `here` that has a name, if there is one."""
        for below in (here.children.get(frame), self._renamed.get((here, frame))):
            if below is not None and (below in self.changing or below in self._frozen):
                return below
        return None

    def _add_below(self, here: ScopePath, row: UsageRow, step: ScopePath) -> ScopePath:
        """Add a row one level below `here` with the name of a step, or `(other)` if there are many; return its path."""
        if row.width >= MAX_NAMES and step.frame != OTHER:
            self.overflowed[here] = None
            return self._below(here, OTHER) or self._add_below(here, row, here.child(OTHER))
        below = here.children.get(step.frame)
        if below is None:
            own = step if step.parent is here else here.child(step.frame)
            below = self._renamed.setdefault((here, step.frame), own)
        row.width += 1
        self._size += 1
        self.changing.setdefault(below, UsageRow())
        return below

    def _rest(self, here: ScopePath) -> UsageRow:
        """Return the row `(other)` below a path; if there are too many of these, too, the next one further up."""
        self.overflowed[None] = None
        while here.frame != OTHER:
            is_top = here.parent is None or here is self.base
            rest = self._below(here, OTHER)
            if rest is None and (is_top or self._size < MAX_PATHS + MAX_NAMES):
                rest = self._add_below(here, self.row(here), here.child(OTHER))
            here = rest or here.parent or here
        return self.row(here)

    def add(self, path: ScopePath, key: UsageKey, counts: Counts) -> None:
        """Add counts at a path."""
        self.row(path).sum_of(key).add(counts)

    def add_entries(self, path: ScopePath, above: ScopePath, entries: int, nanoseconds: int) -> None:
        """Count entries of every path from `path` up to, and without, `above`."""
        while path is not above and path.parent is not None:
            row = self.row(path)
            row.entries += entries
            row.nanoseconds += nanoseconds
            path = path.parent

    def merge(self, other: UsageTable) -> None:
        """Add everything that another table holds, of the same base or of one below."""
        for path, row in other.rows.items():
            mine = self.row(path)
            mine.entries += row.entries
            mine.nanoseconds += row.nanoseconds
            for key in list(row.counts):  # a collection may finalise what counts into the other table meanwhile
                mine.sum_of(key).add(row.counts[key].counts())

    def warn_of_overflow(self) -> None:
        """Warn once of too many names. Not to be called with a lock: filters of warnings may have some."""
        for path in list(self.overflowed):
            self.overflowed.pop(path, None)
            if path is None:
                too_many = f"more than {MAX_PATHS:,} distinct paths of names"
            else:
                where = "/".join(path.names[-8:]) or "the top level"
                too_many = f"more than {MAX_NAMES:,} distinct names below {where!r}"
            warn_once(
                f"names:{path!r}",
                f"{too_many}: the tokens of further ones are added up under '(other)'. Use fewer names, and put what differs "
                "from call to call (ids, urls) into attributes: token_scope('request', id=...).",
            )
