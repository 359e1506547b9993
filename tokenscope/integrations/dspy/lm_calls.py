"""LM calls: one call, one fresh usage tracker, one `Call`.

Around each LM call, DSPy's settings get a usage tracker of ours. Only this call writes to it, so what it holds at the end is
what the call spent, however many others run. Each entry is passed on at once to the tracker that would have been there, so
`prediction.get_lm_usage()` and `dspy.track_usage()` see what they always saw.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from time import perf_counter_ns, time
from typing import Any, Final
from weakref import WeakSet

from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.usage_tracker import UsageTracker

from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._scopes.context import active, entered
from tokenscope._scopes.enforcement import release, reserve, stop_in
from tokenscope._scopes.event_log import Batch, EndedCall, Event, drain
from tokenscope._scopes.lm_calls import current_lm_call
from tokenscope._scopes.process import STATE, Counted
from tokenscope._scopes.recording import path_of
from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._usage.calls import Call
from tokenscope._usage.keys import Terms, UsageKey, key_of
from tokenscope._usage.prompts import Prompt
from tokenscope._usage.usage import ZERO_COUNTS, Counts, sum_counts
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations import usage_watchers
from tokenscope.integrations.dspy.nested_calls import (
    InnerCall,
    Request,
    evidence,
    hands_on,
    latest_in_history,
    spent_in_requests,
)
from tokenscope.integrations.dspy.optimizers import phase_of_call
from tokenscope.integrations.dspy.service import read_service

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_get: Final = dict.get  # of DSPy's settings, whose own `get` is found by a `__getattr__` in Python
_new: Any = object.__new__
_new_tuple: Any = tuple.__new__  # a named tuple's own constructor costs as much again
_log: Final = STATE.log
_root: Final = STATE.root
_generator_scopes: Final = STATE.generator_scopes
answered_call: Final[ContextVar[Any]] = ContextVar("tokenscope_answered_call", default=None)
"""The LM call that ended last here, whose answer is about to be parsed."""
_spenders: Final[WeakSet[Any]] = WeakSet()
"""Classes that have asked another LM and spent something themselves where no patch sees it: nothing can be lent to those."""


class CallTracker(UsageTracker):  # type: ignore[misc]
    """One LM call in progress: a usage tracker, which passes on what it gets to the tracker that it replaces."""

    # Those that `call_lm` sets. There is no `__init__`, which would cost another call.
    lm: Any
    model: str
    scope: Counted
    reserved: bool  # whether budgets have taken it
    entries: list[Any]  # of usage
    wrapped_tracker: Any  # the tracker that it replaces
    settings_outside: Any
    settings_inside: Any  # None when the call is noted
    call_outside: Any  # what was the call in progress

    # Only some calls have these of their own.
    outer_call: CallTracker | None = None  # the call that this one is inside of
    phase: Scope | None = None
    cache_hit = False
    is_parsed = False  # whether an adapter has begun to parse the answer
    ended = False
    nanoseconds = 0
    started: float  # when it has begun, in seconds since 1970
    since = 0  # the same, by the clock that measures how long it takes
    found: Call | tuple[()] | None = None  # this call, when it is counted
    relayed: tuple[tuple[Counted, Call], ...] | None = None  # those whose answers it only relayed
    answer: Any = None  # what the LM has returned, until the call ends
    inner_calls: Sequence[InnerCall] = ()  # the LM calls that have ended inside this one: an LM may ask another
    is_nested = False  # whether it is inside another call, or others may be inside of it
    error: str | None = None  # the name of the exception with which it has failed
    own_data: Any = None
    refused = False
    # What the program has recorded by hand inside this call: the LM may report the same.
    recorded: Sequence[Counts] = ()
    requests: Sequence[Request] = ()
    prompt: Prompt | None = None  # what was asked, measured by parts, if a program wants to know
    saved: Any = None  # the usage of a cached answer, if the cache still has it
    terms: Terms = ()  # which service was used, if not the usual one
    lifetimes: Mapping[int, tuple[int, Any]] = {}  # by id, how many tokens of each response are kept for an hour
    kept_for_an_hour = 0  # how many tokens the provider keeps for an hour in its cache, when the call has ended

    @staticmethod
    def begin(call: CallTracker) -> None:
        """Let what the LM spends come here."""
        call.started = time()
        call.since = perf_counter_ns()
        if call.phase is not None:
            call.phase.begin(call.phase)
        thread_local_overrides.set(call.settings_inside)
        current_lm_call.set(call)

    def add_usage(self, lm: str, usage_entry: Any) -> None:
        """Keep the entry and pass it on."""
        if usage_entry:
            self.entries.append(usage_entry)
            if usage_watchers.watchers:
                usage_watchers.notify(self.model, usage_entry)
        if self.wrapped_tracker is not None:
            self.wrapped_tracker.add_usage(lm, usage_entry)

    @property
    def usage_data(self) -> Any:
        """What the replaced tracker holds, for code inside an LM call that reads the settings."""
        if self.wrapped_tracker is not None:
            return self.wrapped_tracker.usage_data
        if self.own_data is None:
            self.own_data = defaultdict(list)
        return self.own_data

    def __deepcopy__(self, memo: dict[int, Any]) -> CallTracker:
        """Copy as DSPy's executor does for each worker: the replaced tracker is copied, the call stays the same one."""
        self.is_nested = True  # others may be inside of the copy
        for name in ("inner_calls", "recorded"):
            self.__dict__.setdefault(name, [])  # which both share
        twin = copy.copy(self)
        twin.wrapped_tracker = copy.deepcopy(self.wrapped_tracker, memo)
        return twin

    def add_inner_usage(self, counts: Counts) -> None:
        """Note what the program has recorded by hand inside this call, in whatever thread."""
        self.is_nested = True
        self.__dict__.setdefault("recorded", []).append(counts)

    def add_inner_call(self, call: InnerCall) -> None:
        """Note an LM call that has ended inside this one, in whatever thread."""
        self.is_nested = True
        self.__dict__.setdefault("inner_calls", []).append(call)

    def add_request(self, usage: Any, response: Any, *, is_own: bool) -> None:
        """Note what a request has spent. If there are several, read them before the LM may add up its responses in one."""
        requests = self.__dict__.setdefault("requests", [])
        requests.append(Request(usage) if is_own else Request(usage, evidence([response])))
        if self.is_nested or len(requests) > 1 or not is_own:
            self.is_nested = True
            for index, request in enumerate(requests):
                requests[index] = request._replace(usage=self._read_request(request.usage))

    def _read_request(self, usage: Any) -> Counts | None:
        if not usage or type(usage) is Counts:
            return usage or None
        try:
            return read_counts(self.model, usage)
        except Exception:  # noqa: BLE001
            internal_error("reading what a request has spent")
            return None

    def finish(self, error: BaseException | None, result: Any) -> None:
        """Restore the settings, and leave the call to be counted. If this was interrupted, it is called again."""
        inside = self.settings_inside
        if inside is None:  # it is noted already
            return
        if not self.ended:
            self.nanoseconds = perf_counter_ns() - self.since
            self.ended = True
        # A coroutine that is finalised in another Context never saw these settings there.
        if thread_local_overrides.get() is inside:
            thread_local_overrides.set(self.settings_outside)
        if current_lm_call.get() is self:
            current_lm_call.set(self.call_outside)
        if self.phase is not None:
            self.phase.leave()
        if error is None:
            answered_call.set(self)
        else:
            self.refused = stop_in(error) is not None
            self.error = type(error).__name__
        if self.answer is not None:
            read_service(self, self.answer)
            if not self.entries:
                self._read_answer()
        if self.lifetimes:
            self.kept_for_an_hour = sum(tokens for tokens, _ in list(self.lifetimes.values()))
            self.lifetimes = {}
        if not self.since or (self.refused and not self.entries and not self.is_nested):
            self._release()  # it has not begun, or the LM that it asked was kept from it
        elif self.is_nested:
            self._finish_nested(result)
        else:
            self.settings_inside = None; _log.append(self)  # fmt: skip
        self.settings_inside = self.settings_outside = self.call_outside = self.lm = self.answer = None
        if self.requests:
            self.requests = ()
        if len(_log) > STATE.most_events:
            drain()

    def _read_answer(self) -> None:
        """Keep the usage of what the LM has returned, if DSPy did not hand it over, as 3.0 does not for an LM of a user's own."""
        usage = None if self.cache_hit else getattr(self.answer, "usage", None)
        if usage:
            self.entries.append(usage)
            if usage_watchers.watchers:
                usage_watchers.notify(self.model, usage)

    def put(self, batch: Batch) -> None:
        """Add the call to a batch."""
        if self.found:
            batch.add(self.scope, self.found, reserved=self.reserved)

    @property
    def counted(self) -> tuple[tuple[Counted, Call], ...]:
        """This call, when it is counted, or those whose answers it only relayed."""
        if self.relayed is not None:
            return self.relayed
        return ((self.scope, self.found),) if self.found and self.error is None else ()

    def count(self, summed: tuple[UsageKey, Counts] | None = None) -> Call:
        """Return, and keep, the call as its entries (or `summed`) tell it. Called when the log is drained."""
        entries, error, scope = self.entries, self.error, self.scope
        failed = 0 if error is None else 1
        if summed is not None:
            key, counts = summed
        elif len(entries) == 1:
            entry = entries[0]  # nearly always: there is nothing to add up
            counts = read_counts(self.model, entry, 1, failed)
            is_told = (type(entry) is not dict or "cost" in entry) and _are_free(entries)
            if self.kept_for_an_hour:
                counts = self._with_lifetimes(counts)
            key = key_of(self.model, counts, self.started, self.terms, source="provider" if is_told else None)
        else:
            key, counts = self._add_up(sum_counts(read_counts(self.model, entry) for entry in entries), failed)
        path = path_of(scope) if scope.path.parent is None else scope.path
        seconds = self.nanoseconds / 1e9
        call: Call = _new_tuple(
            Call, (path, key, counts, self.started, seconds, error, None, False, scope.all_attributes, self.prompt)
        )
        self.found = call
        return call

    def _add_up(self, counts: Counts, failed: int) -> tuple[UsageKey, Counts]:
        """Return the key and the counts of one call that spent so much, in however many requests."""
        entries = self.entries
        cached = self.cache_hit and not failed and not counts.tokens and not entries
        if cached and self.saved:
            counts = read_counts(self.model, self.saved)
            key = key_of(self.model, counts._replace(cost=ZERO_COUNTS.cost), self.started, self.terms, source="cache")
        else:
            if self.kept_for_an_hour:
                counts = self._with_lifetimes(counts)
            key = key_of(
                self.model, counts, self.started, self.terms, source="provider" if _are_free(entries) else None
            )
        return key, counts._replace(calls=1, cached_calls=int(cached), failed_calls=failed)

    def _with_lifetimes(self, counts: Counts) -> Counts:
        kept = min(self.kept_for_an_hour, counts.cache_write_tokens)
        return counts._replace(cache_write_1h_tokens=kept)

    def _release(self) -> None:
        if self.reserved:
            release(self.scope)

    def _finish_nested(self, result: Any) -> None:
        """Count a call that is inside another one, or has others inside, at once: while all that they return is there."""
        try:
            call = self._count_nested(result)
        except Exception:  # noqa: BLE001
            internal_error("counting a call")
            return
        if call is not None:
            _log.append(EndedCall(self.scope, call, reserved=self.reserved))

    def _count_nested(self, result: Any) -> Call | None:
        inner, entries = self.inner_calls, self.entries
        if self.refused and not (entries or inner or self.recorded):
            self._release()  # the LM that it asked was kept from it
            return None
        known = evidence([*entries, self.answer, result, *latest_in_history(self.lm, self.answer, entries)])
        ids = frozenset(map(id, known))
        counts = sum_counts(read_counts(self.model, entry) for entry in entries)
        requests = [request._replace(usage=self._read_request(request.usage)) for request in self.requests]
        if requests:
            counts = spent_in_requests(counts, requests, ids)
        is_own = any(request.usage and not request.evidence for request in requests)
        code = _own_code(self.lm)
        if not is_own and hands_on(counts, inner, self.recorded, ids, may_add_up=code is not None):
            call = None
            counts = sum_counts([*self.recorded, *(each.counts for each in inner)])
            self.relayed = tuple(counted for each in inner for counted in each.counted)
            self._release()
        else:
            call = self.count(self._add_up(counts, 0 if self.error is None else 1))
            if inner and code is not None and any(counts) and not is_own:
                _spenders.add(code)
        outer = self.outer_call
        if outer is not None and not outer.ended:
            is_tracked = self.wrapped_tracker is not None and self.wrapped_tracker is not outer.wrapped_tracker
            known += (each for call_inside in inner for each in call_inside.evidence)
            outer.add_inner_call(InnerCall(counts, known, is_tracked, self.counted))
        self.inner_calls = ()
        return call


class ReplacingTracker(CallTracker):
    """One LM call in progress, where the program itself tracks usage, perhaps with a tracker of its own class.

    A class of its own, because each look-up of an attribute is slower in a class that has `__getattr__`.
    """

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the replaced tracker."""
        if "wrapped_tracker" not in vars(self):  # a copy that is being made
            raise AttributeError(name)
        return getattr(self.wrapped_tracker, name)


class UnparsedAnswer(Event):
    """No adapter could parse the answer of an LM call: what it spent is wasted."""

    __slots__ = ("_call",)

    def __init__(self, call: CallTracker) -> None:
        self._call = call

    def put(self, batch: Batch) -> None:
        """Mark it."""
        for scope, call in self._call.counted:
            batch.mark_wasted(scope, call.path, call.key, call.counts, "failed_parses", call.attributes)


def _are_free(entries: list[Any]) -> bool:
    """Whether a provider says that a call cost nothing, as OpenRouter does of free models."""
    for entry in entries:
        if (type(entry) is dict and "cost" not in entry) or reported_cost(entry) != 0:
            return False
    return bool(entries)


def _own_code(lm: Any) -> type | None:
    """Return the class of an LM, or of its engine, that is not DSPy's: it may ask other LMs, and hand on what they answer."""
    kind = type(lm)
    for method in (getattr(kind, "forward", None), getattr(kind, "aforward", None)):
        if not _is_dspys(method):
            return kind
    try:
        engine = lm.engine
    except Exception:  # noqa: BLE001 - none before DSPy 3.4; or a property of the program's own
        return None
    return None if engine is None or isinstance(engine, str) or _is_dspys(type(engine)) else type(engine)


def _is_dspys(code: Any) -> bool:
    return str(getattr(code, "__module__", None)).partition(".")[0] == "dspy"


def _lender(outer: CallTracker | None) -> CallTracker | None:
    """Return the call around if it may do no more than to hand on what the call inside spends."""
    if outer is None:
        return None
    code = _own_code(outer.lm)
    return None if code is None or code in _spenders else outer


def call_lm(lm: Any, args: Args, kwargs: Kwargs) -> CallTracker | None:
    """`BaseLM.__call__`, `.acall`: count what the call spends, also if it fails or is cancelled."""
    scope: Any = entered.get()
    if _generator_scopes or (scope is not None and scope.detour is not None):
        scope = active()
    if scope is None:
        scope = _root
    around: Any = current_lm_call.get()
    outer = None if around is None or around.ended else around
    # Before a budget takes the call: what is interrupted here is taken by none.
    prompt = None if STATE.read_prompt is None else STATE.read_prompt(lm, args, kwargs, scope)
    reserved = reserve(scope, _lender(outer)) if scope.budgets else False
    try:
        overrides = thread_local_overrides.get()
        # As `settings.usage_tracker`, without its look-up in Python.
        replaced = _get(overrides if "usage_tracker" in overrides else main_thread_config, "usage_tracker")
        call: CallTracker = _new(CallTracker if replaced is None or type(replaced) is CallTracker else ReplacingTracker)
        if replaced is not None and isinstance(replaced, CallTracker):
            # A tracker of ours, of an LM call around this one, is stepped over: that call's own entries are not these.
            outer = outer or replaced
            replaced = replaced.wrapped_tracker
        call.wrapped_tracker = replaced
        if outer is not None:
            call.outer_call = outer
            call.is_nested = True
        call.lm = lm
        call.model = str(getattr(lm, "model", None) or type(lm).__name__)
        call.scope = scope
        call.reserved = reserved
        call.entries = []
        if scope.path.is_compile and (frame := phase_of_call(scope.path.frame.name)) is not None:
            call.scope = call.phase = open_scope(Scope, (frame,))
        if prompt is not None:
            call.prompt = prompt
        # Not dspy.context(): that would also freeze the global settings for the time of the call. A plain dict, as DSPy sets
        # one for its workers, is made in half the time.
        inside = {**overrides, "usage_tracker": call}
        if inside.get("send_stream") is not None:
            inside["track_usage"] = True  # so that DSPy asks for usage on a stream
        call.settings_inside = inside
        call.settings_outside = overrides
        call.call_outside = around
        return call
    except Exception:  # noqa: BLE001
        if reserved:
            release(scope)
        internal_error("preparing to count an LM call")
        return None


def set_settings_outside(inside: Any) -> Any:
    """Give what an LM runs the settings that it would find without us, unless usage is tracked around the LM.

    Return the token to reset them, or None where they are left.
    """
    call: CallTracker = inside["usage_tracker"]
    if call.wrapped_tracker is not None or call.settings_outside is None:
        return None
    outside = type(inside)(inside)
    for name in ("usage_tracker", "track_usage"):
        if name in call.settings_outside:
            outside[name] = call.settings_outside[name]
        else:
            outside.pop(name, None)
    return thread_local_overrides.set(outside)
