"""A table of counts: what was spent at each path, by key, with a limit to the names of one level and to all paths."""

from __future__ import annotations

from itertools import filterfalse
from operator import attrgetter
from typing import Final

from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import ATTRIBUTES, MAX_NAMES, MAX_PATHS, OTHER, Frame, ScopePath
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.usage import ZERO_COUNTS, Counts, add_counts, subtract_counts, sum_counts
from tokenscope._usage.warnings import warn_once

_NO_COUNTS: Final[dict[UsageKey, Counts]] = {}
"""Most rows only have entries, and share this."""
_NO_NAMES: Final[dict[tuple[ScopePath, Frame], ScopePath]] = {}
_NO_PATHS: Final[dict[ScopePath | None, None]] = {}
"""Most tables share these."""
_IS_OF_ATTRIBUTE: Final = attrgetter("is_of_attribute")


class UsageRow:
    """What was counted at one path itself, and how often and for how long the path was entered."""

    __slots__ = ("counts", "entries", "nanoseconds", "pending", "sizes", "width")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.width = 0  # rows one level below
        self.counts: dict[UsageKey, Counts] = _NO_COUNTS
        self.sizes: CallSizes | None = None
        """How its calls' sizes are distributed, if their prompts were measured."""
        self.pending: list[tuple[UsageKey, Counts]] | None = None
        """What `settle` adds: counts are added up several times as fast many at once."""

    def add(self, key: UsageKey, counts: Counts) -> None:
        """Add counts of one key."""
        if self.counts is _NO_COUNTS:
            self.counts = {key: counts}
            return
        before = self.counts.get(key)
        self.counts[key] = counts if before is None else add_counts(before, counts)

    def add_sizes(self, sizes: CallSizes | None) -> None:
        """Add how further calls' sizes are distributed."""
        if sizes is not None:
            self.sizes = sizes if self.sizes is None else self.sizes + sizes

    def settle(self) -> None:
        """Add what is pending."""
        found: dict[UsageKey, list[Counts]] = {}
        for key, counts in self.pending or ():
            found.setdefault(key, []).append(counts)
        self.pending = None
        for key, several in found.items():
            self.add(key, several[0] if len(several) == 1 else sum_counts(several))

    def copy(self) -> UsageRow:
        """Return a row with the same numbers."""
        copy = UsageRow()
        copy.entries, copy.nanoseconds, copy.width = self.entries, self.nanoseconds, self.width
        copy.sizes = self.sizes
        if self.counts:
            copy.counts = self.counts.copy()
        return copy


class UsageTable:
    """Rows of counts, for paths at or below one path.

    Reading a large table takes a while, in which others count. So rows change no more once they are kept: who adds to one adds
    to a copy of it, among the changes, and keeping changes is one update of a dictionary. A draft shares the rows that a table
    keeps, and has changes of its own (see `tokenscope._scopes.event_log`).
    """

    __slots__ = ("_added", "_origin", "_renamed", "base", "changes", "kept", "overflowed")

    def __init__(self, base: ScopePath) -> None:
        self.base = base
        self.kept: dict[ScopePath, UsageRow] = {}
        self.changes = self.kept
        """Rows that are new, or that were added to; where a path has two, this one counts. At first, there is no difference."""
        self._added = 0  # rows among the changes that are new
        self._origin = self  # the table that this one is a draft of
        self._renamed: dict[tuple[ScopePath, Frame], ScopePath] = _NO_NAMES
        """The rows of paths that are not the one object of their name, as a level with many names makes them."""
        self.overflowed: dict[ScopePath | None, None] = _NO_PATHS
        """Paths below which there are too many names, of which no warning has told yet; None if the table has too many in all."""

    @property
    def all_rows(self) -> dict[ScopePath, UsageRow]:
        """All rows, to be read. `row` returns one to add to."""
        return self.kept if self.changes is self.kept else {**self.kept, **self.changes}

    @property
    def rows(self) -> dict[ScopePath, UsageRow]:
        """The rows of scopes, to be read."""
        return self._some_rows(of_attributes=False)

    @property
    def attribute_rows(self) -> dict[ScopePath, UsageRow]:
        """The rows of attributes, to be read: nearly always none."""
        return self._some_rows(of_attributes=True)

    def _some_rows(self, *, of_attributes: bool) -> dict[ScopePath, UsageRow]:
        rows = self.all_rows
        if ATTRIBUTES not in rows:
            return {} if of_attributes else rows
        paths = [*(filter if of_attributes else filterfalse)(_IS_OF_ATTRIBUTE, rows)]
        return dict(zip(paths, map(rows.__getitem__, paths), strict=True))

    def draft(self) -> UsageTable:
        """Return a table with the same rows, to which may be added without changing this one."""
        draft = UsageTable(self.base)
        draft.kept, draft.changes, draft._origin, draft._renamed = self.kept, {}, self, self._renamed
        return draft

    def copy(self) -> UsageTable:
        """Return a table with the same rows, which keeps them whatever becomes of this one."""
        copy = UsageTable(self.base)
        copy.kept, copy.changes, copy._renamed = dict(self.all_rows), {}, dict(self._renamed)
        if self.changes is self.kept:
            self.changes = {}
        return copy

    def row(self, path: ScopePath) -> UsageRow:
        """Return the row of a path, to add to; where there are too many names, the row `(other)` of the level where it begins."""
        missing: list[ScopePath] = []
        here = path
        while (row := self.changes.get(here)) is None:
            kept = self.kept.get(here)
            if kept is not None:
                row = self.changes[here] = kept.copy()
                break
            is_base = here is self.base or (here.depth <= self.base.depth and not here.is_of_attribute)
            if is_base or here.parent is None:
                row = self.changes[here] = UsageRow()
                self._added += self.changes is not self.kept
                break
            missing.append(here)
            here = here.parent
        for step in reversed(missing):
            is_kept = here.children.get(step.frame) is step
            is_full = len(self.kept) + self._added > MAX_PATHS  # the base is in it, too
            if is_kept and not self._renamed and row.width < MAX_NAMES and not is_full:  # nearly always
                here = step
                row.width += 1
                row = self.changes[here] = UsageRow()
                self._added += self.changes is not self.kept
                continue
            below = self._below(here, step.frame)
            if below is None and is_full:
                return self._rest(here)
            here = below or self._add_below(here, row, step)
            row = self.row(here)
        return row

    def _below(self, here: ScopePath, frame: Frame) -> ScopePath | None:
        """Return the path of the row one level below `here` that has a name, if there is one."""
        for below in (here.children.get(frame), self._renamed.get((here, frame))):
            if below is not None and (below in self.changes or below in self.kept):
                return below
        return None

    def _add_below(self, here: ScopePath, row: UsageRow, step: ScopePath) -> ScopePath:
        """Add a row one level below `here` with the name of a step, or `(other)` if there are many; return its path."""
        if row.width >= MAX_NAMES and step.frame != OTHER:
            self._note_overflow(here)
            return self._below(here, OTHER) or self._add_below(here, row, here.child(OTHER))
        below = here.children.get(step.frame)
        if below is None:
            own = step if step.parent is here else here.child(step.frame)
            if self._renamed is _NO_NAMES:
                self._renamed = self._origin._renamed = {}  # noqa: SLF001 - another table of this class
            below = self._renamed.setdefault((here, step.frame), own)
        row.width += 1
        self.changes[below] = UsageRow()
        self._added += self.changes is not self.kept
        return below

    def _rest(self, here: ScopePath) -> UsageRow:
        """Return the row `(other)` below a path; if there are too many of these, too, the next one further up."""
        self._note_overflow(None)
        while here.frame != OTHER:
            is_top = here.parent is None or here is self.base
            rest = self._below(here, OTHER)
            if rest is None and (is_top or len(self.kept) + self._added <= MAX_PATHS + MAX_NAMES):
                rest = self._add_below(here, self.row(here), here.child(OTHER))
            here = rest or here.parent or here
        return self.row(here)

    def _note_overflow(self, path: ScopePath | None) -> None:
        table = self._origin
        if table.overflowed is _NO_PATHS:
            table.overflowed = {}
        table.overflowed[path] = None

    def add(self, path: ScopePath, key: UsageKey, counts: Counts) -> None:
        """Add counts at a path."""
        self.row(path).add(key, counts)

    def add_entries(self, path: ScopePath, above: ScopePath, entries: int, nanoseconds: int) -> None:
        """Count entries of every path from `path` up to, and without, `above`."""
        while path is not above and path.parent is not None:
            row = self.row(path)
            row.entries += entries
            row.nanoseconds += nanoseconds
            path = path.parent

    def merge(self, other: UsageTable) -> None:
        """Add everything that another table holds, of the same base or of one below."""
        for path, row in other.all_rows.items():
            mine = self.row(path)
            mine.entries += row.entries
            mine.nanoseconds += row.nanoseconds
            mine.add_sizes(row.sizes)
            for key, counts in row.counts.items():
                mine.add(key, counts)

    def without(self, name: str) -> dict[UsageKey, Counts]:
        """Return what was spent where no scope had an attribute of this name, by key."""
        found: dict[UsageKey, Counts] = {}
        for row in self.rows.values():
            for key, counts in row.counts.items():
                if key.part is None:
                    found[key] = add_counts(found[key], counts) if key in found else counts
        for path, row in self.attribute_rows.items():
            if path.parent is not None and path.parent.frame == ("attribute", name):
                for key, counts in row.counts.items():
                    found[key] = subtract_counts(found.get(key, ZERO_COUNTS), counts)
        return {key: counts for key, counts in found.items() if any(counts)}

    def warn_of_overflow(self) -> None:
        """Warn once of too many names. Not to be called with a lock: filters of warnings may have some."""
        for path in list(self.overflowed):
            self.overflowed.pop(path, None)
            if path is None:
                too_many = f"more than {MAX_PATHS:,} distinct paths of names"
            elif path.is_of_attribute:
                warn_once(
                    f"values:{path!r}",
                    f"more than {MAX_NAMES:,} distinct values of the attribute {path.frame.name!r}: the tokens of further ones "
                    "are added up under '(other)' in by_attribute. Records keep all values.",
                )
                continue
            else:
                where = "/".join(path.names[-8:]) or "the top level"
                too_many = f"more than {MAX_NAMES:,} distinct names below {where!r}"
            warn_once(
                f"names:{path!r}",
                f"{too_many}: the tokens of further ones are added up under '(other)'. Use fewer names, and put what differs "
                "from call to call (ids, urls) into attributes: token_scope('request', id=...).",
            )
