"""What is counted in a worker process for another process, and how it travels there.

It is counted in the worker's own scope for the task, and in no other place. When the task ends, its counts are handed over. Calls
that arrive later, from threads that outlive the task, are the worker process's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter_ns

from tokenscope._scopes.context import entered
from tokenscope._scopes.event_log import add_table, hand_over
from tokenscope._scopes.process import STATE, Counted, ScopeRoot
from tokenscope._scopes.scope import Scope
from tokenscope._usage.calls import NO_SCOPE, ROOT, Frame, ScopePath
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts

PackedRows = tuple[tuple[int, Frame, int, int, dict[UsageKey, Counts]], ...]
"""A table as it travels, rows above before rows below: the index of the row above or -1, frame, entries, nanoseconds, counts."""


class WorkerScope(Scope):
    """Stands for the scope, or for no scope, in which another process has submitted a task."""

    __slots__ = ()

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        path = ROOT
        for frame in frames:
            path = path.child(frame)
        self.path = path
        self.above = ScopeRoot(path.parent or ROOT)
        self.above.budgets = STATE.root.budgets  # a fork has inherited those of the program
        self.below = entered.get()
        self.detour = None
        self.opened_by = None
        self.table = None
        self.ended = None
        self.is_referenced = False
        self.budgets = self.above.budgets
        self.started = perf_counter_ns()
        entered.set(self)

    def finish(self) -> PackedRows:
        """Leave it, and return what was counted in it."""
        self.leave()
        return pack(self._hand_over(), self.path)

    def abandon(self) -> None:
        """Leave it; what was counted in it is this process's."""
        self.leave()
        add_table(STATE.root, self._hand_over())

    def _hand_over(self) -> UsageTable:
        assert isinstance(self.above, ScopeRoot)
        return hand_over(self.above)


def pack(table: UsageTable, base: ScopePath) -> PackedRows:
    """Return rows that lie at or below a path, as seen from there; what was counted at the path itself is in no scope."""
    packed: list[tuple[int, Frame, int, int, dict[UsageKey, Counts]]] = []
    places = {base: -1}
    for path in sorted(table.rows, key=lambda path: path.depth):
        if path.depth < base.depth:
            continue
        row = table.rows[path]
        counts = {key: Counts(*sums) for key, sums in row.counts.items()}
        if path is base:
            if counts:
                packed.append((-1, NO_SCOPE, 0, 0, counts))
            continue
        missing: list[ScopePath] = []
        here = path
        while here not in places and here.parent is not None:
            missing.append(here)
            here = here.parent
        for step in reversed(missing):
            own = step is path
            above = places[step.parent or base]
            packed.append(
                (
                    above,
                    step.frame,
                    row.entries if own else 0,
                    row.nanoseconds if own else 0,
                    counts if own else {},
                )
            )
            places[step] = len(packed) - 1
    return tuple(packed)


def unpack(packed: PackedRows, base: ScopePath) -> UsageTable:
    """Return a table of packed rows, below a path."""
    table = UsageTable(base)
    paths: list[ScopePath] = []
    for parent, frame, entries, nanoseconds, counts in packed:
        if parent < 0 and frame == NO_SCOPE and base.parent is not None:
            path = base
        else:
            path = (paths[parent] if parent >= 0 else base).child(frame)
        paths.append(path)
        row = table.row(path)
        row.entries += entries
        row.nanoseconds += nanoseconds
        for key, sums in counts.items():
            row.add(key, sums)
    return table


def bring_home(packed: PackedRows, scope: Counted, *, is_own: bool = False) -> None:
    """Count packed rows in a scope, and charge its budgets; not the program's again if this process has made the rows itself."""
    table = unpack(packed, scope.path)
    add_table(scope, table)
    with STATE.lock:
        for account in scope.budgets:
            if is_own and account in STATE.root.budgets:
                continue
            for row in table.rows.values():
                for key, sums in row.counts.items():
                    account.charge(key, Counts(*sums), reserved=False)
