"""Ledger: calls added up by (path, model), one ledger for each scope that is entered and one for the process.

A call is written to one ledger only, that of the innermost scope, so recording costs the same at any depth. A ledger sees
what the scopes inside it hold because they are *linked* to it:

    view(ledger)  =  its own rows  +  the view of each ledger in `inner`

When a scope closes, its rows are added to the ledger above and the link is dropped (it is *folded*): memory is bounded by
distinct paths, not by entries. A folded ledger keeps its rows, for its own report; calls that still arrive (from tasks that
outlive their scope) are written to it and then to the ledger it was folded into. A large closed ledger stays linked for a
while, so that closing 10,000 nested scopes does not copy each row 10,000 times.
"""

from __future__ import annotations

import os
import time
from typing import Final

from tokenscope._scopes.changes import write
from tokenscope._scopes.event_log import lock, read_now
from tokenscope._usage.calls import ROOT, Path
from tokenscope._usage.keys import Key
from tokenscope._usage.table import Row, crowded, note_entries, row_at, warn_of_crowds
from tokenscope._usage.usage import Counts

_SMALL: Final = 64  # rows that are cheaper to copy than to keep linked
_BATCH: Final = 128  # scopes closed inside before they are added up
_CROWD: Final = 8  # large closed ledgers that one ledger keeps linked


def _begin_anew_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: what was counted is the parent's."""
    write(PROCESS._begin_anew)


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_begin_anew_in_child)


class Books:
    """What a ledger holds once anything was counted in it. Most scopes need none: they close empty."""

    __slots__ = ("crowd", "folded_into", "inherited", "inner", "notes", "prompt", "rows")

    def __init__(self) -> None:
        self.rows: dict[Path, Row] = {}
        self.inner: dict[Ledger, None] = {}  # linked ledgers: open ones, and large closed ones
        self.crowd = 0  # large ones that closed since they were last compacted
        self.folded_into: Ledger | None = None  # what is written here is written there too
        self.notes: list[tuple[Path, int]] = []  # scopes that closed inside; appending to a list needs no lock
        self.prompt = False  # notes are to be read at once, because nobody may look here again
        self.inherited = False  # by a fork: whose scope this is may be a thread that is not there


class Ledger:
    """Rows below one path, and the ledgers of the scopes inside."""

    __slots__ = ("above", "books", "ended", "held", "path", "started")

    def __init__(self, path: Path) -> None:
        """Make a ledger that stands alone: the process's, or a sum of others."""
        self.path = path
        self.above: Ledger | None = None
        self.started = time.perf_counter_ns()
        self.ended: int | None = None
        self.books: Books | None = Books()
        self.held = True  # whether anybody may ask this very ledger for its counts

    # -- writing --------------------------------------------------------------------------------------------------------

    def add(self, path: Path, key: Key, values: Counts) -> None:
        """Add one call's counts at `path`, which lies at or below this ledger's own."""
        ledger: Ledger | None = self
        while ledger is not None and ledger.ended is not None and ledger.books is None and not ledger.held:
            ledger = ledger.above  # nobody will ever look there, so there need be no books
        write((ledger or self)._add, path, key, values)
        if crowded and not lock._is_owned():  # it is while calls are read; who asked for that warns
            warn_of_crowds()

    def _add(self, path: Path, key: Key, values: Counts) -> None:
        books: Books | None = self.books or self._open_books()
        while books is not None:
            row_at(books.rows, self.path, path).add(key, values)
            books = books.folded_into.books if books.folded_into else None
        if self.ended is not None:
            self._settle()

    def add_rows(self, rows: dict[Path, Row]) -> None:
        """Add what was counted elsewhere, entries and times included, at paths that lie at or below this ledger's own."""
        write(self._add_rows, rows)
        if crowded and not lock._is_owned():
            warn_of_crowds()

    def _add_rows(self, rows: dict[Path, Row]) -> None:
        books: Books | None = self.books or self._open_books()
        while books is not None:
            for path, row in rows.items():
                row_at(books.rows, self.path, path).absorb(row)
            books = books.folded_into.books if books.folded_into else None
        if self.ended is not None:
            self._settle()

    def close(self, nanoseconds: int) -> None:
        """Note the end of this ledger's scope, `nanoseconds` after its start, in the ledger above, and fold into it."""
        above = self.above
        if above is None or self.ended is not None:
            return
        self.ended = nanoseconds
        books = above.books or above._open_books()
        books.notes.append((self.path, nanoseconds))
        if books.prompt or len(books.notes) > _BATCH:
            write(above._catch_up)
        if self.books is not None:
            write(self._settle)

    def clear(self) -> None:
        """Forget what was counted so far. Scopes that are open keep theirs; what they count from now on is seen here."""
        read_now()
        write(self._clear)

    def _clear(self) -> None:
        for inner in _below(self)[1:]:
            inner._read_notes()
            inner._fold_into(self)
        self.books = Books()

    def _begin_anew(self) -> None:  # pragma: no cover - in children, which nothing measures
        for ledger in _below(self):
            if ledger.books is not None:
                ledger.books.rows, ledger.books.notes, ledger.books.crowd = {}, [], 0
                ledger.books.inherited = True

    def hand_over(self) -> dict[Path, Row]:
        """Return what was counted here until now, and forget it. What still arrives is the process's."""
        read_now()
        found: list[dict[Path, Row]] = []
        write(lambda: found.append(self._hand_over()))
        return found[0]

    def _hand_over(self) -> dict[Path, Row]:
        rows = self._look()
        self._clear()
        if self is not PROCESS:
            self._fold_into(PROCESS)
        return rows

    def _open_books(self) -> Books:
        """Begin to count here: from now on the ledger above sees this one, and the one above that, and so on."""
        with lock:
            closed_books: list[Ledger] = []
            ledger: Ledger | None = self
            while ledger is not None and ledger.books is None:
                closed_books.append(ledger)
                ledger = ledger.above
            for each in reversed(closed_books):
                each.books = Books()
                each.books.prompt = each.ended is not None
                above = each.above
                while above is not None and above.books is not None:
                    above.books.inner[each] = None
                    above = above.books.folded_into
            assert self.books is not None
            return self.books

    def _read_notes(self) -> None:
        """Turn the notes into entries and time of their rows."""
        books = self.books
        if books is None or not books.notes:
            return
        batch = books.notes[: len(books.notes)]
        del books.notes[: len(batch)]
        runs: list[tuple[Path, int, int]] = []  # of entries of one path: a row is looked up once for each
        last, entries, total = batch[0][0], 0, 0
        for path, nanoseconds in batch:
            if path is not last:
                runs.append((last, entries, total))
                last, entries, total = path, 0, 0
            entries += 1
            total += nanoseconds
        runs.append((last, entries, total))
        target: Books | None = books
        while target is not None:
            for path, entries, total in runs:
                note_entries(target.rows, path, self.path, entries, total)
            target = target.folded_into.books if target.folded_into else None

    def _catch_up(self) -> None:
        self._read_notes()
        self._settle()

    # -- folding --------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Fold this closed ledger into the one above, and then those above that were only waiting for it."""
        ledger = self
        while ledger.above is not None and ledger.ended is not None:
            books = ledger.books
            if books is None or books.folded_into is not None:
                return
            books.prompt = True
            ledger._read_notes()
            if len(books.inner) > 1:
                ledger._compact()
            if books.inner or len(books.rows) > _SMALL:
                above = _last(ledger.above)
                assert above.books is not None
                above.books.crowd += 1
                if above.books.crowd > _CROWD:
                    above._compact()
                return
            target: Ledger | None = ledger.above
            last = ledger.above
            while target is not None and target.books is not None:
                last = target
                target._absorb(books)
                target.books.inner.pop(ledger, None)
                target = target.books.folded_into
            ledger._fold_into(ledger.above)
            ledger = last

    def _compact(self) -> None:
        """Fold every closed ledger linked here that has no open one inside."""
        assert self.books is not None
        self.books.crowd = 0
        for inner in list(self.books.inner):
            below = _below(inner)
            if all(ledger.ended is not None for ledger in below):
                for ledger in below:
                    ledger._read_notes()
                    assert ledger.books is not None
                    self._absorb(ledger.books)
                    ledger._fold_into(self)
                self.books.inner.pop(inner, None)

    def _fold_into(self, ledger: Ledger) -> None:
        assert self.books is not None
        self.books.prompt = True
        self.books.folded_into = ledger

    def _absorb(self, other: Books) -> None:
        assert self.books is not None
        for path, row in list(other.rows.items()):
            row_at(self.books.rows, self.path, path).absorb(row)

    # -- reading --------------------------------------------------------------------------------------------------------

    def view(self) -> dict[Path, Row]:
        """Return a copy of everything counted here and in the scopes inside, those still open included."""
        read_now()
        found: list[dict[Path, Row]] = []
        write(lambda: found.append(self._look()))
        if crowded:
            warn_of_crowds()
        # Nothing yet where a collection in the midst of a change finalised what asks: then notes must wait.
        return found[0] if found else self._look(notes=False)

    def _look(self, *, notes: bool = True) -> dict[Path, Row]:
        total = Ledger(self.path)
        assert total.books is not None
        for ledger in _below(self):
            if ledger.books is not None:
                if notes:
                    ledger._read_notes()
                total._absorb(ledger.books)
            is_idle = ledger.books is not None and ledger.books.inherited and not ledger.books.rows
            if ledger.above is not None and (ledger is self or (ledger.ended is None and not is_idle)):
                note_entries(total.books.rows, ledger.path, ledger.above.path, 1, ledger.elapsed())
        return total.books.rows

    def elapsed(self) -> int:
        """Return the nanoseconds from start to end, or to now."""
        return self.ended if self.ended is not None else time.perf_counter_ns() - self.started


def _last(ledger: Ledger) -> Ledger:
    while ledger.books is not None and ledger.books.folded_into is not None:
        ledger = ledger.books.folded_into
    return ledger


def _below(ledger: Ledger) -> list[Ledger]:
    """Return a ledger and all that are linked below it, without recursion."""
    found = [ledger]
    for each in found:
        if each.books is not None:
            found.extend(each.books.inner)
    return found


PROCESS: Final = Ledger(ROOT)
