"""Freight: what was counted in one process, as it travels to another, and the scope in which a worker counts it.

What a worker spends for another process is counted there, and nowhere else: a task's ledger stands alone, and is handed over
when the task ends. Calls that arrive later (from threads that outlive it) are the worker's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter_ns

from tokenscope._scopes import scope as _scope
from tokenscope._scopes.event_log import lock
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._scopes.scope import Scope, _current
from tokenscope._usage.calls import NO_SCOPE, ROOT, Frame, Path
from tokenscope._usage.keys import Key
from tokenscope._usage.table import Row
from tokenscope._usage.usage import Counts

Freight = tuple[tuple[int, Frame, int, int, dict[Key, Counts]], ...]
"""Rows, those above before those below: the row above or -1, the frame, entries, nanoseconds, and counts by key."""


class Task(Scope):
    """Stand in for the scope, or for none, in which another process has handed a task over."""

    __slots__ = ()

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        path = ROOT
        for frame in frames:
            path = path.child(frame)
        self._below = _current.get()
        self._twist = None
        self.path = path
        self.above = Ledger(path.parent or ROOT)
        self.opener = None
        self.books = None
        self.ended = None
        self.held = False
        _current.set(self)
        self.started = perf_counter_ns()

    def end(self) -> Freight:
        """Leave it, and return what was counted in it."""
        self.leave()
        return pack(self.above.hand_over(), self.path)

    def abandon(self) -> None:
        """Leave it; what was counted in it is this process's."""
        self.leave()
        PROCESS.add_rows(self.above.hand_over())


def pack(rows: dict[Path, Row], base: Path) -> Freight:
    """Return rows that lie at or below a path, as seen from there; what was counted at the path itself is in no scope."""
    packed: list[tuple[int, Frame, int, int, dict[Key, Counts]]] = []
    places = {base: -1}
    for path in sorted(rows, key=_depth):
        if path.depth < base.depth:
            continue
        row = rows[path]
        models = {key: tuple(values) for key, values in row.models.items()}
        if path == base:
            if models:
                packed.append((-1, NO_SCOPE, 0, 0, models))
            continue
        missing: list[Path] = []
        here = path
        while here not in places and here.parent is not None:
            missing.append(here)
            here = here.parent
        for step in reversed(missing):
            own = step is path
            packed.append(
                (
                    places[step.parent or base],
                    step.frame,
                    row.entries if own else 0,
                    row.nanoseconds if own else 0,
                    models if own else {},
                )
            )
            places[step] = len(packed) - 1
    return tuple(packed)


def _depth(path: Path) -> int:
    return path.depth


def unpack(freight: Freight, base: Path) -> dict[Path, Row]:
    """Return the rows of freight, below a path."""
    rows: dict[Path, Row] = {}
    paths: list[Path] = []
    for parent, frame, entries, nanoseconds, models in freight:
        if parent < 0 and frame == NO_SCOPE and base.parent is not None:
            path = base
        else:
            path = (paths[parent] if parent >= 0 else base).child(frame)
        paths.append(path)
        row = rows.setdefault(path, Row())
        row.entries += entries
        row.nanoseconds += nanoseconds
        for key, values in models.items():
            row.add(key, values)
    return rows


def unload(freight: Freight, ledger: Ledger, *, is_own: bool = False) -> None:
    """Add freight to a ledger, and take it out of the enclosing budgets; out of the process's not again if it is its own."""
    rows = unpack(freight, ledger.path)
    ledger.add_rows(rows)
    guard = _scope.guard
    if guard is not None:
        with lock:
            for purse in guard._purses(ledger):
                if is_own and purse is guard.process:
                    continue
                for row in rows.values():
                    for key, values in row.models.items():
                        purse.spend(key, values, reserved=False)
