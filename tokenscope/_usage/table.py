"""Rows: what was counted, by path, with a limit to the names of one level."""

from __future__ import annotations

from typing import Any, Final

from tokenscope._usage.calls import MAX_NAMES, OTHER, Path
from tokenscope._usage.keys import Key
from tokenscope._usage.usage import NOTHING, Counts
from tokenscope.errors import warn_once

crowded: Final[dict[Path, None]] = {}
"""Paths below which there are too many names, and nobody was warned yet."""


class Row:
    """What was counted at one path itself, by model, and how often and for how long the path was entered."""

    __slots__ = ("entries", "models", "nanoseconds", "width")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.width = 0  # distinct names one level below
        self.models: dict[Key, list[Any]] = {}

    def add(self, key: Key, values: Counts | list[Any]) -> None:
        """Add counts in place: a collection or a signal between two additions then finds nothing half-done."""
        tally = self.models.get(key)
        if tally is None:
            tally = self.models.setdefault(key, list(NOTHING))
        for index, value in enumerate(values):
            if value:
                tally[index] += value

    def absorb(self, other: Row) -> None:
        """Add everything that another row of the same path holds."""
        self.entries += other.entries
        self.nanoseconds += other.nanoseconds
        for key, values in list(other.models.items()):
            self.add(key, values)


def row_at(rows: dict[Path, Row], base: Path, path: Path) -> Row:
    """Return the row of a path, making it and those between, or the row under `(other)` where names are too many."""
    found = rows.get(path)
    if found is not None:
        return found
    missing: list[Path] = []
    here = path
    while here not in rows and here.depth > base.depth and here.parent is not None:
        missing.append(here)
        here = here.parent
    row = rows.setdefault(here, Row())
    for step in reversed(missing):
        below = step if step.parent is here else here.child(step.frame)
        if below not in rows:
            if row.width >= MAX_NAMES and step.frame != OTHER:
                below = here.child(OTHER)
                crowded[here] = None
            if below not in rows:
                row.width += 1
        row = rows.setdefault(below, Row())
        here = below
    return row


def note_entries(rows: dict[Path, Row], path: Path, stop: Path, entries: int, nanoseconds: int) -> None:
    """Count entries of every path from `path` up to, and without, `stop`."""
    while path is not stop and path.parent is not None:
        row = rows.get(path) or row_at(rows, stop, path)
        row.entries += entries
        row.nanoseconds += nanoseconds
        path = path.parent


def warn_of_crowds() -> None:
    """Warn outside of the lock: what shows warnings may have locks of its own."""
    for path in list(crowded):
        crowded.pop(path, None)
        warn_once(
            f"names:{path!r}",
            f"more than {MAX_NAMES:,} distinct names below {'/'.join(path.names[-8:]) or 'the top level'!r}: the tokens "
            "of further ones are added up under '(other)'. Use fewer names, and put what differs from call to call "
            "(ids, urls) into attributes: token_scope('request', id=...).",
        )
