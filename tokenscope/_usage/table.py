"""A table of counts: what was spent at each path, by key, with a limit to the names of one level."""

from __future__ import annotations

from typing import Final

from tokenscope._usage.calls import MAX_NAMES, OTHER, Frame, ScopePath
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


class UsageTable:
    """Rows of counts, for paths at or below one path."""

    __slots__ = ("_renamed", "base", "overflowed", "rows")

    def __init__(self, base: ScopePath) -> None:
        self.base = base
        self.rows: dict[ScopePath, UsageRow] = {}
        self.overflowed: dict[ScopePath, None] = {}
        """Paths below which there are too many names, of which no warning has told yet."""
        self._renamed: dict[tuple[ScopePath, Frame], ScopePath] | None = None
        """The rows of paths that are not the one object of their name, as a level with many names makes them."""

    def row(self, path: ScopePath) -> UsageRow:
        """Return the row of a path; where a level has too many names, the row `(other)` of that level."""
        found = self.rows.get(path)
        if found is not None:
            return found
        above = path.parent
        row = None if above is None else self.rows.get(above)
        if row is not None and row.width < MAX_NAMES and above is not None and above.children.get(path.frame) is path:
            row.width += 1  # nearly always: one level below a row that there is
            return self.rows.setdefault(path, UsageRow())
        missing: list[ScopePath] = []
        here = path
        while here not in self.rows and here.depth > self.base.depth and here.parent is not None:
            missing.append(here)
            here = here.parent
        row = self.rows.setdefault(here, UsageRow())
        for step in reversed(missing):
            here = self._below(here, row, step)
            row = self.rows.setdefault(here, UsageRow())
        return row

    def _below(self, here: ScopePath, row: UsageRow, step: ScopePath) -> ScopePath:
        """Return the path of the row one level below `here` that has the name of a step."""
        below = here.children.get(step.frame)
        if below is not None and below in self.rows:
            return below
        if below is None:
            self._renamed = self._renamed or {}
            below = self._renamed.get((here, step.frame))
            if below is not None:
                return below
        if row.width >= MAX_NAMES and step.frame != OTHER:
            self.overflowed[here] = None
            return self._below(here, row, here.child(OTHER))
        row.width += 1
        if below is None:
            assert self._renamed is not None
            below = self._renamed.setdefault(
                (here, step.frame), step if step.parent is here else here.child(step.frame)
            )
        return below

    def add(self, path: ScopePath, key: UsageKey, counts: Counts) -> None:
        """Add counts at a path."""
        self.row(path).sum_of(key).add(counts)

    def add_entries(self, path: ScopePath, above: ScopePath, entries: int, nanoseconds: int) -> None:
        """Count entries of every path from `path` up to, and without, `above`."""
        while path is not above and path.parent is not None:
            row = self.rows.get(path) or self.row(path)
            row.entries += entries
            row.nanoseconds += nanoseconds
            path = path.parent

    def merge(self, other: UsageTable) -> None:
        """Add everything that another table holds, of the same base or of one below."""
        # A collection may finalise what counts into the other table meanwhile. list(dict) is one step; of items() it is not.
        for path in list(other.rows):
            row = other.rows[path]
            mine = self.row(path)
            mine.entries += row.entries
            mine.nanoseconds += row.nanoseconds
            for key in list(row.counts):
                mine.sum_of(key).add(row.counts[key].counts())

    def warn_of_overflow(self) -> None:
        """Warn once of each level that has too many names. Not to be called with a lock: filters of warnings may have some."""
        for path in list(self.overflowed):
            self.overflowed.pop(path, None)
            warn_once(
                f"names:{path!r}",
                f"more than {MAX_NAMES:,} distinct names below {'/'.join(path.names[-8:]) or 'the top level'!r}: the tokens "
                "of further ones are added up under '(other)'. Use fewer names, and put what differs from call to call "
                "(ids, urls) into attributes: token_scope('request', id=...).",
            )
