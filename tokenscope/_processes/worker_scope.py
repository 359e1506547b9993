"""Counting in a worker process for the process that has submitted a task, and bringing the counts home.

What a task spends is counted in a `WorkerScope`, and in no other place of the worker. When the task ends, the counts are packed,
travel beside its result (in a `Shipment` or a `ResultEnvelope`), and are counted in the scope that submitted the task. What
threads spend after their task has ended belongs to the worker process.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter_ns

from tokenscope._scopes.context import entered
from tokenscope._scopes.enforcement import stop_in
from tokenscope._scopes.event_log import add_table, hand_over
from tokenscope._scopes.process import STATE, Counted, ScopeRoot
from tokenscope._scopes.scope import Scope
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import ATTRIBUTES, NO_ATTRIBUTES, NO_SCOPE, ROOT, Frame, ScopePath
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts

PackedRow = tuple[int, Frame, int, int, dict[UsageKey, Counts], CallSizes | None]
PackedRows = tuple[PackedRow, ...]
"""A table as it travels, upper rows first: the index of the row above or -1, frame, entries, nanoseconds, counts, sizes."""


class WorkerScope(Scope):
    """Stands for the scope in which another process has submitted a task; that may be none."""

    __slots__ = ()

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        path = ROOT
        for frame in frames:
            path = path.child(frame)
        self.path = path
        self.above = ScopeRoot(path.parent or ROOT)
        self.all_attributes = NO_ATTRIBUTES
        self.above.budgets = STATE.root.budgets  # a forked worker has inherited the budget of the program
        self.below = entered.get()
        self.detour = self.opened_by = self.table = self.ended = None
        self.is_referenced = False
        self.budgets = self.above.budgets
        self.started = perf_counter_ns()
        entered.set(self)

    def end_task(self) -> PackedRows:
        """Leave the scope, and return its counts."""
        return pack(self._end(), self.path)

    def abandon(self) -> None:
        """Leave the scope. Its counts belong to this process."""
        add_table(STATE.root, self._end())

    def _end(self) -> UsageTable:
        self.leave()
        assert isinstance(self.above, ScopeRoot)
        return hand_over(self.above)


def ordinary_error(error: BaseException) -> BaseException:
    """Return what a task raises at home: a stop by a budget that a fork has inherited cannot end another process."""
    stop = stop_in(error)
    return error if stop is None else stop.account.error()


def pack(table: UsageTable, base: ScopePath) -> PackedRows:
    """Return the rows at and below a path, as seen from there. What was counted at the path itself is in no scope."""
    packed: list[PackedRow] = []
    index = {base: -1}
    rows = table.all_rows
    for path in sorted(rows, key=lambda path: path.depth):
        row = rows[path]
        counts = dict(row.counts)
        if path is base and counts:
            packed.append((-1, NO_SCOPE, 0, 0, counts, row.sizes))
        elif path.parent in index or path is ATTRIBUTES:
            index[path] = len(packed)
            above = -1 if path.parent is None else index[path.parent]
            packed.append((above, path.frame, row.entries, row.nanoseconds, counts, row.sizes))
    return tuple(packed)


def unpack(packed: PackedRows, base: ScopePath) -> UsageTable:
    """Return a table of packed rows, below a path."""
    table = UsageTable(base)
    paths: list[ScopePath] = []
    for parent, frame, entries, nanoseconds, counts, sizes in packed:
        is_base = parent < 0 and frame == NO_SCOPE and base.parent is not None
        above = paths[parent] if parent >= 0 else base
        paths.append(base if is_base else ATTRIBUTES if frame == ATTRIBUTES.frame else above.child(frame))
        row = table.row(paths[-1])
        row.entries += entries
        row.nanoseconds += nanoseconds
        row.add_sizes(sizes)
        for key, spent in counts.items():
            row.add(key, spent)
    return table


def bring_home(packed: PackedRows, scope: Counted, *, is_own: bool = False) -> None:
    """Count packed rows in a scope, and charge its budgets: not the program's if this process has packed them (`is_own`)."""
    table = unpack(packed, scope.path)
    add_table(scope, table, [each for each in scope.budgets if not (is_own and each in STATE.root.budgets)])
