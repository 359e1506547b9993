"""The event log: what happens is noted in one append, and counted later, all at once.

    a call ends                        log.append(call)
    a scope is left                    log.append((scope above, its path, nanoseconds))
    somebody asks, or many wait        drain(): one lock, one loop

Counting a call right where it ends costs two to three times as much as counting it among others a little later: the caches of
the processor are then full of what the program has just done. So a call is left in a list, which needs no lock.

Draining walks from an event's scope up through the scopes above it. It adds to the table of each that is open or that somebody
refers to, and to the process's. Most scopes (DSPy's modules, decorated functions) are left and forgotten by then, so the walk
touches one to three tables. Calls of one model that follow each other in one scope are added up first. Adding is commutative:
order and re-entry do no harm, and what a late task spends after its scope has ended takes the same road.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any, Final

from tokenscope._scopes.process import MANY_EVENTS, STATE, Counted, Observer, ScopeRoot
from tokenscope._usage.calls import ROOT, Call, ScopePath, is_failure
from tokenscope._usage.keys import UsageKey, WasteReason
from tokenscope._usage.price_dates import MANY_MOMENTS, noted_moments
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts, sum_counts
from tokenscope._usage.warnings import TokenScopeWarning, internal_error, warn_once

_log: Final = STATE.log
_lock: Final = STATE.lock
_DEEP: Final = 1_000
"""How many levels a scope's table reaches down."""


class EndedCall:
    """An event: a call has ended, of which all is known. `reserved`: budgets had taken it before it began."""

    __slots__ = ("_call", "reserved", "scope")

    def __init__(self, scope: Counted, call: Call, *, reserved: bool = False) -> None:
        self.scope = scope
        self._call = call
        self.reserved = reserved

    def count(self) -> Call:
        """Return the call, to be counted."""
        return self._call


def append(event: Any) -> None:
    """Note an event: its `count()` counts it and returns None, or returns a `Call`; then `scope` and `reserved` tell the rest."""
    _log.append(event)
    if len(_log) > STATE.most_events:
        drain()


def drain() -> None:
    """Count what waits in the log. When this returns, all that had ended before is counted."""
    with _lock:
        outer = STATE.batch
        if outer is not None:  # a finaliser or a signal asks in the middle of draining
            outer.count_calls()
        batch = _Batch()
        path: ScopePath | None = None
        above: Any = None
        entries = nanoseconds = 0
        try:
            STATE.batch = batch
            while _log:
                try:
                    event = _log.popleft()
                except IndexError:  # pragma: no cover - a finaliser has counted the last one
                    break
                if type(event) is not tuple:
                    try:
                        call = event.count()
                        if call is not None:
                            batch.add(event.scope, call, reserved=event.reserved)
                    except Exception:  # noqa: BLE001
                        internal_error("counting a call")
                elif event[0] is above and event[1] is path:  # another entry of the same scope
                    entries += 1
                    nanoseconds += event[2]
                else:
                    if entries:
                        _count_entries(path, above, entries, nanoseconds)
                    above, path, nanoseconds = event
                    entries = 1
        finally:
            STATE.batch = outer
            if entries and batch.process is STATE.name:
                _count_entries(path, above, entries, nanoseconds)
            batch.count_calls()
    if len(noted_moments) > MANY_MOMENTS:
        outside_lock(_load_prices)
    if STATE.notices and not _lock._is_owned():
        _give_notice()


class _Batch:
    """Calls of one key that follow each other in one scope: they are added up first, and counted together.

    Each draining has its own. Another one, of a finaliser or a signal, may come at any point, and counts what is here first.
    """

    __slots__ = ("counts", "key", "path", "process", "scope")

    def __init__(self) -> None:
        self.process = STATE.name
        self.scope: Any = None
        self.path: Any = None
        self.key: Any = None
        self.counts: list[Counts] = []

    def add(self, scope: Any, call: Call, *, reserved: bool) -> None:
        path, key, counts, _, _, error, _, _ = call
        here = scope
        while here.ended is not None and not here.is_referenced:  # a module's, left and forgotten
            here = here.above
        if here is not self.scope or path is not self.path or key is not self.key:
            self.count_calls()
            self.scope, self.path, self.key = here, path, key
        self.counts.append(counts)
        if error is not None and is_failure(error):
            mark_wasted(scope, path, key, counts, "provider_errors")
        STATE.records.append(call)
        for observer in STATE.observers:
            STATE.notices.append((observer, (call,)))
        for account in scope.budgets:  # last, as it may load prices
            account.charge(key, counts, reserved=reserved)

    def count_calls(self) -> None:
        rest: list[Counts] = []
        several, self.counts = self.counts, rest
        if not several or self.process is not STATE.name:  # a signal has forked meanwhile, and the parent counts these
            return
        path, key, here = self.path, self.key, self.scope
        counts = several[0] if len(several) == 1 else sum_counts(several)
        if path.depth > _DEEP:
            for table, place in _places(here, path):
                table.add(place, key, counts)
            return
        while here is not None:
            if here.ended is None or here.is_referenced:
                table = here.table or _open_table(here)
                row = table.changing.get(path) or table.row(path)
                (row.counts.get(key) or row.sum_of(key)).add(counts)
            here = here.above


def mark_wasted(scope: Counted, path: ScopePath, key: UsageKey, counts: Counts, reason: WasteReason) -> None:
    """Mark what a counted call spent as wasted, at its path. An answer from DSPy's cache cost nothing, so wastes nothing."""
    if counts.cached_calls:
        return
    key = key._replace(wasted=reason)
    with _lock:
        for table, place in _places(scope, path):
            table.add(place, key, counts)


def add_table(scope: Counted, table: UsageTable) -> None:
    """Add what was counted elsewhere, entries and times included, at or below a scope's path."""
    with _lock:
        for place, _ in _places(scope, scope.path):
            place.merge(table)


def collect(scope: Counted) -> UsageTable:
    """Return what was counted in a scope until now, entries and times of scopes that are still open included.

    The lock is taken to freeze the table, which is quick. Others count on while its rows are read.
    """
    drain()
    is_free = not _lock._is_owned()
    with _lock:
        found = _copy(scope, is_free)
        entries = _open_entries(scope)
    for path, above, nanoseconds in entries:
        found.add_entries(path, above, 1, nanoseconds)
    warn_of_overflow()
    return found


def warn_of_overflow() -> None:
    """Warn of too many names."""
    table = STATE.root.table
    if table is not None and table.overflowed and not _lock._is_owned():
        table.warn_of_overflow()


def counted_in(scope: Counted) -> list[tuple[UsageKey, Counts]]:
    """Return the counts of a scope, those of all paths: what `collect` holds, without its rows."""
    drain()
    is_free = not _lock._is_owned()
    with _lock:
        found = _copy(scope, is_free)
    return [(key, spent.counts()) for row in found.rows.values() for key, spent in row.counts.items()]


def elapsed(scope: Any) -> int:
    """Return the nanoseconds from a scope's start to its end, or to now."""
    ended: int | None = scope.ended
    return perf_counter_ns() - scope.started if ended is None else ended


def clear() -> None:
    """Forget what was counted in the process so far, and its records. Scopes that are open keep what they hold."""
    drain()
    before = STATE.root.table  # a large one is not destroyed while the lock is taken
    with _lock:
        STATE.root.table = UsageTable(ROOT)
        STATE.open_scopes.clear()
        STATE.records.clear()
        ROOT.forget_children()
    del before


def hand_over(root: ScopeRoot) -> UsageTable:
    """Return what was counted below a root until now, and forget it. What a task's root still gets is the process's."""
    with _lock:
        drain()
        entries = _open_entries(root)
        found, root.table = root.table or UsageTable(root.path), UsageTable(root.path)
        if root is not STATE.root:
            root.above = STATE.root
    for path, above, nanoseconds in entries:
        found.add_entries(path, above, 1, nanoseconds)
    drain()  # for the notices, which wait while the lock is taken
    warn_of_overflow()
    return found


# -- the latest calls ---------------------------------------------------------------------------------------------------


def records() -> tuple[Call, ...]:
    """Return the latest calls, in the order in which they ended."""
    drain()
    return tuple(sorted(STATE.records, key=lambda call: call.started + call.seconds))


def keep_records(number: int) -> None:
    """Keep so many calls from now on, of those that are there the newest."""
    latest = records()
    STATE.records = type(STATE.records)(latest, maxlen=number)


def observe(observer: Observer) -> None:
    """Tell a function of each call from now on, when it ends, in whatever thread counts it; it must not raise."""
    drain()  # what has ended until now is not told
    STATE.observers = (*STATE.observers, observer)
    STATE.most_events = 0


def unobserve(observer: Observer) -> None:
    """Tell it of no more calls."""
    drain()
    STATE.observers = tuple(each for each in STATE.observers if each is not observer)
    STATE.most_events = 0 if STATE.observers else MANY_EVENTS


# -- outside of the lock ------------------------------------------------------------------------------------------------


def outside_lock(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function now, or when the lock is released: what it calls may have locks of its own."""
    if _lock._is_owned():
        STATE.notices.append((function, arguments))
    else:
        function(*arguments)


def warn_later(key: str, message: str) -> None:
    """Warn once about a call that has ended; outside of the lock."""
    outside_lock(_warn, key, message)


def _warn(key: str, message: str) -> None:
    try:
        warn_once(key, message)
    except TokenScopeWarning as error:
        # Warnings are errors here. But this one is about a call that ended long ago: its caller is not to blame.
        print(f"tokenscope: {error}", file=sys.stderr)  # noqa: T201


def _load_prices() -> None:
    noted_moments.clear()
    try:
        with STATE.loading:
            from tokenscope._usage.prices import load_table

            load_table()
    except Exception:  # noqa: BLE001 - the host program has asked for no price
        internal_error("loading the table of prices")


def _give_notice() -> None:
    while True:
        try:
            function, arguments = STATE.notices.popleft()
        except IndexError:  # another thread may have taken the last one
            return
        function(*arguments)


# -- tables -------------------------------------------------------------------------------------------------------------


def count_entry(scope: Any) -> None:
    """Count the entry of a scope in which something was counted while it was open. Only to be called while the lock is taken."""
    STATE.open_scopes.pop(scope, None)
    _count_entries(scope.path, scope.above, 1, scope.ended)


def _count_entries(path: Any, above: Counted, entries: int, nanoseconds: int) -> None:
    """Count entries of a path in the scope above and in all above that; of scopes that were entered one after the other."""
    if path is above.path:  # runs in the same scope
        return
    if path.depth > _DEEP:
        for table, place in _places(above, path):
            table.add_entries(place, above.path if place is path else place.parent or ROOT, entries, nanoseconds)
        return
    single = path.parent is above.path
    here: Counted | None = above
    while here is not None:
        if here.ended is None or here.is_referenced:
            table = here.table or _open_table(here)
            if single:
                row = table.changing.get(path) or table.row(path)
                row.entries += entries
                row.nanoseconds += nanoseconds
            else:
                table.add_entries(path, above.path, entries, nanoseconds)
        here = here.above


def _places(scope: Counted, path: ScopePath) -> Iterator[tuple[UsageTable, ScopePath]]:
    """Yield the tables of a scope and of those above, each with the path at which something at `path` is counted there.

    That is `path` itself. But a table reaches only 1,000 levels down, and what lies deeper is counted at the lowest of these: or
    10,000 nested scopes, each with a row in all above, would fill the memory. The process's own table reaches down to all.
    """
    lowest = path
    here: Counted | None = scope
    while here is not None:
        while lowest.depth - here.path.depth > _DEEP and lowest.parent is not None:
            lowest = lowest.parent
        if here.ended is None or here.is_referenced:
            yield here.table or _open_table(here), path if here.above is None else lowest
        here = here.above


def _open_table(scope: Counted) -> UsageTable:
    table = scope.table = UsageTable(scope.path)
    if scope.ended is None:
        STATE.open_scopes[scope] = None
        if scope.ended is not None:  # pragma: no cover - left in another thread just now, as one without a table
            STATE.open_scopes.pop(scope, None)
    return table


def _copy(scope: Counted, is_free: bool) -> UsageTable:
    """Return a copy of a scope's table. `is_free`: this thread is not in the midst of a change, in which no row may be frozen."""
    found = UsageTable(scope.path)
    if scope.table is not None:
        if is_free:
            return scope.table.copy()
        found.merge(scope.table)
    return found


def _open_entries(scope: Counted) -> list[tuple[ScopePath, ScopePath, int]]:
    """Return the path of a scope and of each open one inside it, the path above, and the nanoseconds until now."""
    entered = [each for each in _open_inside(scope) if each.path.depth - scope.path.depth <= _DEEP]
    return [(each.path, each.above.path, elapsed(each)) for each in (scope, *entered) if each.above is not None]


def _open_inside(scope: Counted) -> list[Counted]:
    """Return the open scopes inside a scope in which anything was counted."""
    inside: dict[Any, bool] = {scope: True}
    open_scopes = list(STATE.open_scopes)  # a finaliser may leave one of them meanwhile
    for each in open_scopes:
        chain: list[Counted] = []
        here: Counted | None = each
        while here is not None and here not in inside:
            chain.append(here)
            here = here.above
        found = here is not None and inside[here]
        inside.update(dict.fromkeys(chain, found))
    return [each for each in open_scopes if each is not scope and inside[each]]
