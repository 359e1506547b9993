"""The event log: what happens is noted in one append, and counted later, all at once.

    a call ends                        log.append(call)
    a scope is left                    log.append((scope above, its path, nanoseconds))
    somebody asks, or many wait        drain(): one lock, one loop, one commit

Counting a call right where it ends costs two to three times as much as counting it among others a little later: the caches of
the processor are then full of what the program has just done. So a call is left in a list, which needs no lock.

Draining makes a `Batch` of what waits. For each event it walks from the event's scope up through the scopes above, and adds to
the table of each that is open or that somebody refers to, and to the process's. Most scopes (DSPy's modules, decorated functions)
are left and forgotten by then, so the walk touches one to three tables. Adding is commutative: order and re-entry do no harm, and
what a late task spends after its scope has ended takes the same road.

A signal, Ctrl-C or a finaliser may come at any line. So a batch changes nothing but its own drafts, until `Batch.commit` puts
them in their places, and takes the events out of the log, in one step. What is interrupted before is done again by the next
draining.
"""

from __future__ import annotations

import operator
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, compress, islice, repeat, starmap
from time import perf_counter_ns
from typing import Any, Final

from tokenscope._scopes.process import MANY_EVENTS, STATE, Account, Counted, Observer, ScopeRoot
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import ATTRIBUTES, NO_ATTRIBUTES, ROOT, Call, ScopePath, is_failure, value_path
from tokenscope._usage.keys import UsageKey, WasteReason
from tokenscope._usage.price_dates import MANY_MOMENTS, noted_moments
from tokenscope._usage.prompt_parts import is_measured, sizes_of, sum_parts
from tokenscope._usage.table import UsageRow, UsageTable
from tokenscope._usage.usage import Counts, sum_counts
from tokenscope._usage.warnings import TokenScopeWarning, internal_error, warn_once

_log: Final = STATE.log
_lock: Final = STATE.lock
_MOST: Final = 64
"""How many calls are counted at once: what they refer to should not fill the processor's caches."""
_DEEP: Final = 1_000
"""How many levels a scope's table reaches down."""


class Event:
    """What waits in the log: subclasses are counted in two steps, so that an interrupt between them does no harm."""

    __slots__ = ()
    found: Any = ()
    """What `count` has found; None before that."""

    def count(self) -> None:
        """Find out what was spent, and keep it as `found`. It may run other programs' code."""

    def put(self, batch: Batch) -> None:
        """Add what was found to a batch."""


class EndedCall(Event):
    """A call has ended, of which all is known. `reserved`: budgets had taken it before it began."""

    __slots__ = ("_call", "_reserved", "_scope")

    def __init__(self, scope: Counted, call: Call, *, reserved: bool = False) -> None:
        self._scope = scope
        self._call = call
        self._reserved = reserved

    def put(self, batch: Batch) -> None:
        """Add the call."""
        batch.add(self._scope, self._call, reserved=self._reserved)


class Wasted(Event):
    """What counted calls spent, at one path, was wasted."""

    __slots__ = ("_what",)

    def __init__(self, *what: Any) -> None:
        self._what = what  # as `Batch.mark_wasted` takes it

    def put(self, batch: Batch) -> None:
        """Mark it."""
        batch.mark_wasted(*self._what)


class _Arrival(Event):
    """A table has come that was counted elsewhere."""

    __slots__ = ("_accounts", "_scope", "_table")

    def __init__(self, scope: Counted, table: UsageTable, accounts: Iterable[Account]) -> None:
        self._scope = scope
        self._table = table
        self._accounts = accounts

    def put(self, batch: Batch) -> None:
        batch.merge(self._scope, self._table)
        for account in self._accounts:
            for row in self._table.rows.values():
                for key, counts in row.counts.items():
                    batch.charge(account, key, counts, reserved=False)


def append(event: Event) -> None:
    """Note an event."""
    _log.append(event)
    if len(_log) > STATE.most_events:
        drain()


def drain() -> None:
    """Count what waits in the log. When this returns, all that had ended before is counted."""
    is_nested = _lock._is_owned()  # within another draining, if a finaliser or a signal asks
    with _lock: _count_all(is_nested)  # fmt: skip
    if len(noted_moments) > MANY_MOMENTS:
        outside_lock(_load_prices)
    if STATE.notices and not _lock._is_owned():
        _give_notice()


def _count_all(is_nested: bool) -> None:
    if not is_nested:
        STATE.counting.clear()  # what an interrupt may have left
    while _log and _count_some():
        pass


def _count_some() -> bool:
    """Count some events; return whether there may be more.

    One that is nested leaves alone the event that the outer one is in the middle of: it would ask for itself again and again.
    """
    batch, counting = Batch(), STATE.counting
    try:  # after the batch is made, which is outdated if others are counted from now on
        events = tuple(islice(_log, 8 * _MOST))
    except RuntimeError:  # a signal came between the two, and has appended an event
        return True
    waiting: list[Any] = []
    path = above = None
    entries = nanoseconds = 0
    rest = iter(events)
    for event in rest:
        if type(event) is tuple:
            here, below, taken = event
            if here is above and below is path:  # another entry of the same scope
                entries += 1
                nanoseconds += taken
                continue
            if entries:
                batch.add_entries(above, path, entries, nanoseconds)
            above, path, entries, nanoseconds = here, below, 1, taken
            continue
        if event.found is None:
            if counting and event in counting:
                waiting.append(event)
                continue
            counting.append(event)
            try:
                event.count()
            except Exception:  # noqa: BLE001
                event.found = ()
                internal_error("counting a call")
            finally:
                counting.pop()
        event.put(batch)
        if len(batch.calls) >= _MOST:
            break
    if entries:
        batch.add_entries(above, path, entries, nanoseconds)
    number = len(events) - operator.length_hint(rest)
    return not batch.commit(number, waiting) or number > len(waiting)


class Batch:
    """Events that are counted together: what each table and each budget will hold after them."""

    __slots__ = (
        "_accounts",
        "_changes",
        "_drafts",
        "_first",
        "_here",
        "_kept",
        "_key",
        "_new",
        "_path",
        "_pending",
        "_prompts",
        "calls",
        "ended",
    )

    def __init__(self) -> None:
        STATE.batches.clear()  # an outer one is outdated now
        STATE.batches.add(self)
        self._drafts: dict[Counted, UsageTable] = {}
        self._new: dict[Counted, UsageTable] = {}  # those of scopes that have no table yet
        self._kept: list[dict[ScopePath, UsageRow]] = []  # the rows of the others' tables
        self._changes: list[dict[ScopePath, UsageRow]] = []
        self._pending: list[UsageRow] = []
        self._here: Any = None
        self._path: Any = None
        self._key: Any = None
        self._first = 0  # where in `calls` those begin that follow each other in one scope, with one key
        self._prompts: dict[tuple[Counted, ScopePath], list[Call]] = {}  # calls whose prompts were measured
        self._accounts: dict[Account, dict[str, Any]] = {}
        self.calls: list[Call] = []
        self.ended: list[Any] = []
        """Scopes that have ended, and in which something was counted while they were open."""

    def add(self, scope: Counted, call: Call, *, reserved: bool) -> None:
        """Add a call that was made in a scope."""
        path, key, counts, _, _, error, _, _, attributes, prompt = call
        here: Any = scope
        while here.ended is not None and not here.is_referenced:  # left and forgotten, as most are
            here = here.above
        if path is not self._path or key is not self._key or here is not self._here:  # else as the call before
            self._add_similar()
            self._here, self._path, self._key, self._first = here, path, key, len(self.calls)
        if prompt is not None and is_measured(call):
            self._prompts.setdefault((here, path), []).append(call)
        if attributes:
            self._add_values(scope, attributes, key, counts)
        if error is not None and is_failure(error):
            self.mark_wasted(scope, path, key, counts, "provider_errors", attributes)
        self.calls.append(call)
        for account in scope.budgets:
            self.charge(account, key, counts, reserved=reserved)

    def mark_wasted(
        self,
        scope: Counted,
        path: ScopePath,
        key: UsageKey,
        counts: Counts,
        reason: WasteReason,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> None:
        """Mark what a call with some attributes spent as wasted. An answer from DSPy's cache cost nothing, so wastes nothing."""
        if not counts.cached_calls:
            key = key._replace(wasted=reason)
            self._add_counts(scope, path, key, counts)
            self._add_values(scope, attributes, key, counts)

    def _add_values(self, scope: Counted, attributes: Mapping[str, Any], key: UsageKey, counts: Counts) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._add_counts(scope, value_path(name, value), key, counts)

    def _add_similar(self) -> None:
        several = self.calls[self._first :]
        if several:
            counts = several[0].counts if len(several) == 1 else sum_counts(map(_counts, several))
            self._add_counts(self._here, self._path, self._key, counts)

    def _add_prompts(self) -> None:
        for (scope, path), calls in self._prompts.items():
            try:
                sizes: CallSizes | None = CallSizes.of(map(sizes_of, calls))
                parts = sum_parts(calls)
            except Exception:  # noqa: BLE001 - the calls themselves are counted nevertheless
                internal_error("dividing input among parts of prompts")
                continue
            for key, counts in parts.items():
                self._add_counts(scope, path, key, counts, sizes)
                sizes = None  # once for all parts

    def _add_counts(
        self, scope: Any, path: ScopePath, key: UsageKey, counts: Counts, sizes: CallSizes | None = None
    ) -> None:
        drafts, place, here = self._drafts, path, scope
        while here is not None:
            if here.ended is None or here.is_referenced:
                draft = drafts.get(here) or self._draft(here)
                if path.depth > _DEEP:
                    place = _place(draft, path, place)
                row = draft.changes.get(place) or draft.row(place)
                if key not in row.counts:
                    row.add(key, counts)
                elif row.pending is not None:
                    row.pending.append((key, counts))
                else:
                    row.pending = [(key, counts)]
                    self._pending.append(row)
                if sizes is not None:
                    row.add_sizes(sizes)
            here = here.above

    def add_entries(self, above: Any, path: Any, entries: int, nanoseconds: int) -> None:
        """Add entries of a path, from a scope above."""
        drafts, place, here, top = self._drafts, path, above, above.path
        if path is top:  # runs in the same scope
            return
        while here is not None:
            if here.ended is None or here.is_referenced:
                draft = drafts.get(here) or self._draft(here)
                if path.depth > _DEEP:
                    place = _place(draft, path, place)
                if path.parent is top or place is not path:  # nearly always
                    row = draft.changes.get(place) or draft.row(place)
                    row.entries += entries
                    row.nanoseconds += nanoseconds
                else:
                    draft.add_entries(place, top, entries, nanoseconds)
            here = here.above

    def merge(self, scope: Counted, table: UsageTable) -> None:
        """Add what was counted elsewhere, at or below the path of a scope."""
        here: Counted | None = scope
        while here is not None:
            if here.ended is None or here.is_referenced:
                (self._drafts.get(here) or self._draft(here)).merge(table)
            here = here.above
        for name, value in scope.all_attributes.items():
            for key, counts in table.without(name).items():
                self._add_values(scope, {name: value}, key, counts)

    def charge(self, account: Account, key: UsageKey, counts: Counts, *, reserved: bool) -> None:
        """Charge a budget."""
        spent = self._accounts.get(account)
        if spent is None:
            spent = self._accounts[account] = dict(account.spent)
        try:
            account.charge(spent, key, counts, reserved=reserved)
        except Exception:  # noqa: BLE001
            internal_error("charging a budget")

    def _draft(self, scope: Counted) -> UsageTable:
        table = scope.table
        if table is None:
            draft = self._new[scope] = UsageTable(scope.path)
        else:
            draft = table.draft()
            self._kept.append(draft.kept)
            self._changes.append(draft.changes)
        self._drafts[scope] = draft
        return draft

    def commit(self, number: int, waiting: list[Any]) -> bool:
        """Make all changes, or none; return False if something was counted meanwhile, so that the drafts are outdated.

        Args:
            number: How many events at the beginning of the log these are.
            waiting: Those of them that stay there.
        """
        self._add_similar()
        self._add_prompts()
        for row in self._pending:
            row.settle()
        steps: list[Iterable[Any]] = [
            map(STATE.batches.remove, (self,)),  # raises a KeyError
            map(dict.update, self._kept, self._changes),
            starmap(_log.popleft, repeat((), number)),
        ]
        if self._new:
            new = self._new
            is_open = map(operator.is_, map(_ended, new), repeat(None))  # not one that another thread is just leaving
            steps.append(map(setattr, new, repeat("table"), new.values()))
            steps.append(map(STATE.open_scopes.setdefault, compress(new, is_open)))
        if self._accounts:
            steps.append(map(dict.update, map(_spent, self._accounts), self._accounts.values()))
        if self.ended:
            steps.append(map(STATE.open_scopes.pop, self.ended, repeat(None)))
        if waiting:
            steps.append(map(_log.appendleft, reversed(waiting)))
        for observer in STATE.observers:
            notices = [(observer, (call,)) for call in self.calls]
            steps.append(map(STATE.notices.append, notices))
        steps.append(map(STATE.records.append, self.calls))  # last: an old one may be finalised
        try:
            _run(chain.from_iterable(steps))
        except KeyError:
            return False
        return True


_run: Final = deque[Any](maxlen=0).extend
"""Runs an iterator to its end. If all of it is C code, as in `commit`, Python handles no signal and switches no thread until
then; nor does it collect garbage, since nothing is made that it tracks."""
_ended: Final = operator.attrgetter("ended")
_spent: Final = operator.attrgetter("spent")
_counts: Final = operator.attrgetter("counts")


def _place(table: UsageTable, path: ScopePath, place: ScopePath) -> ScopePath:
    """Return the path at which something at a deep `path` stands in a table, given where it stands in one further down.

    A table reaches only 1,000 levels down, and what lies deeper is counted at the lowest of these: or 10,000 nested scopes, each
    with a row in all above, would fill the memory. The process's own table reaches down to all.
    """
    if table.base.parent is None:
        return path
    while place.depth - table.base.depth > _DEEP and place.parent is not None:
        place = place.parent
    return place


def add_table(scope: Counted, table: UsageTable, accounts: Iterable[Account] = ()) -> None:
    """Add what was counted elsewhere, entries and times included, at or below a scope's path, and charge budgets."""
    append(_Arrival(scope, table, accounts))
    drain()


def collect(scope: Counted) -> UsageTable:
    """Return what was counted in a scope until now, entries and times of scopes that are still open included.

    The lock is taken to copy the table, which is quick. Others count on while its rows are read.
    """
    drain()
    with _lock: table, entries = scope.table and scope.table.copy(), _open_entries(scope)  # fmt: skip
    found = table or UsageTable(scope.path)
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
    table = scope.table
    rows = [] if table is None else list(table.rows.values())
    return [item for row in rows for item in row.counts.items()]


def elapsed(scope: Any) -> int:
    """Return the nanoseconds from a scope's start to its end, or to now."""
    ended: int | None = scope.ended
    return perf_counter_ns() - scope.started if ended is None else ended


def clear() -> None:
    """Forget what was counted in the process so far, and its records. Scopes that are open keep what they hold."""
    drain()
    before = STATE.root.table
    with _lock: _clear()  # fmt: skip
    del before  # a large one is not destroyed while the lock is taken


def _clear() -> None:
    STATE.root.table = UsageTable(ROOT)
    STATE.open_scopes.clear()
    STATE.records.clear()
    ROOT.forget_children()
    ATTRIBUTES.forget_children()


def hand_over(root: ScopeRoot) -> UsageTable:
    """Return what was counted below a root until now, and forget it. What a task's root still gets is the process's."""
    with _lock: found, entries = _take_out(root)  # fmt: skip
    for path, above, nanoseconds in entries:
        found.add_entries(path, above, 1, nanoseconds)
    drain()  # for the notices, which wait while the lock is taken
    warn_of_overflow()
    return found


def _take_out(root: ScopeRoot) -> tuple[UsageTable, list[tuple[ScopePath, ScopePath, int]]]:
    drain()
    entries = _open_entries(root)
    found, root.table = root.table or UsageTable(root.path), UsageTable(root.path)
    if root is not STATE.root:
        root.above = STATE.root
    return found, entries


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
    from tokenscope._usage.prices import load_table

    noted_moments.clear()
    try:
        STATE.loading(load_table)
    except Exception:  # noqa: BLE001 - the host program has asked for no price
        internal_error("loading the table of prices")


def _give_notice() -> None:
    while True:
        try:
            function, arguments = STATE.notices.popleft()
        except IndexError:  # another thread may have taken the last one
            return
        function(*arguments)


# -- scopes that are open -----------------------------------------------------------------------------------------------


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
