"""LM calls: one call, one fresh usage tracker, one `Call`.

Around each LM call, DSPy's settings get a usage tracker of ours. Only this call writes to it, so what it holds at the end is
what the call spent, however many others run. Each entry is passed on at once to the tracker that would have been there, so
`prediction.get_lm_usage()` and `dspy.track_usage()` see what they always saw.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides
from dspy.utils.usage_tracker import UsageTracker

from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._scopes.context import active, entered
from tokenscope._scopes.enforcement import release, reserve, stop_in
from tokenscope._scopes.event_log import drain, mark_wasted
from tokenscope._scopes.lm_calls import current_lm_call, lm_call_in_progress
from tokenscope._scopes.process import STATE, Counted
from tokenscope._scopes.recording import path_of
from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._usage.calls import Call
from tokenscope._usage.keys import UsageKey, key_of, usage_key
from tokenscope._usage.price_tiers import tier_of
from tokenscope._usage.usage import Counts, sum_counts
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations import usage_watchers
from tokenscope.integrations.dspy.optimizers import phase_of_call

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_get: Final = dict.get  # of DSPy's settings, whose own `get` is found by a `__getattr__` in Python
_new_tuple: Any = tuple.__new__  # a named tuple's own constructor costs as much again
_log: Final = STATE.log
_generator_scopes: Final = STATE.generator_scopes
answered_call: Final[ContextVar[Any]] = ContextVar("tokenscope_answered_call", default=None)
"""The LM call that ended last here, whose answer is about to be parsed."""


class CallTracker(UsageTracker):  # type: ignore[misc]
    """One LM call in progress: a usage tracker, which passes on what it gets to the tracker that it replaces."""

    # Only some calls have these of their own.
    cache_hit = False
    counted: tuple[tuple[Counted, Call], ...] = ()
    """This call, when it is counted, or those whose answers it only relayed."""
    inner_usages: Sequence[Counts] = ()
    """What LM calls inside this one spent: an LM may ask another."""
    own_data: Any = None
    refused = False
    requests: Sequence[Any] = ()
    """The usage of each `LM.forward` within, read if there are several; None for one that the cache answered."""
    saved: Any = None
    """The usage of a cached answer, if the cache still has it."""

    def __init__(
        self, lm: Any, outer_call: Any, scope: Counted, overrides: Any, replaced: Any, *, reserved: bool
    ) -> None:
        self.wrapped_tracker: Any = replaced
        self.outer_call: CallTracker | None = outer_call
        if replaced is not None and isinstance(replaced, CallTracker):
            # A tracker of ours, of an LM call around this one, is stepped over: that call's own entries are not these.
            self.wrapped_tracker = replaced.wrapped_tracker
            self.outer_call = outer_call or replaced
        self.is_parsed = False  # whether an adapter has begun to parse the answer
        self.settings_outside = overrides
        self.ended = False
        self.lm_class = type(lm)
        self.reserved = reserved
        self.entries: list[Any] = []
        self.model = str(getattr(lm, "model", None) or type(lm).__name__)
        self.scope = scope
        self.phase: Scope | None = None
        if scope.path.is_compile:
            frame = phase_of_call(scope.path.frame.name)
            if frame is not None:
                self.scope = self.phase = open_scope(Scope, (frame,))
        # Not dspy.context(): that would also freeze the global settings for the time of the call.
        inside = type(overrides)(overrides)
        inside["usage_tracker"] = self
        inside["track_usage"] = True
        self.started = time.time()
        self.since = time.perf_counter_ns()
        self.tokens: Any = (thread_local_overrides.set(inside), current_lm_call.set(self))

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
        self.__dict__.setdefault("inner_usages", [])  # which both share
        twin = copy.copy(self)
        twin.wrapped_tracker = copy.deepcopy(self.wrapped_tracker, memo)
        return twin

    def add_inner_usage(self, counts: Counts) -> None:
        """Note what was counted of a call inside this one, in whatever thread."""
        self.__dict__.setdefault("inner_usages", []).append(counts)

    def add_request(self, usage: Any) -> None:
        """Note what a request has spent. If there are several, read them before the LM may add up its responses in one."""
        requests = self.__dict__.setdefault("requests", [])
        requests.append(usage)
        if len(requests) > 1:
            for index, request in enumerate(requests):
                requests[index] = self._read_request(request)

    def _read_request(self, usage: Any) -> Counts | None:
        if not usage or type(usage) is Counts:
            return usage or None
        try:
            return read_counts(self.model, usage)
        except Exception:  # noqa: BLE001
            internal_error("reading what a request has spent")
            return None

    # -- the call -------------------------------------------------------------------------------------------------------

    def finish(self, error: BaseException | None, result: Any) -> None:
        """Restore the settings, and leave the call to be counted."""
        self.ended = True
        nanoseconds = time.perf_counter_ns() - self.since
        overrides_token, call_token = self.tokens
        self.tokens = self.settings_outside = None
        try:
            thread_local_overrides.reset(overrides_token)
            current_lm_call.reset(call_token)
        except ValueError:
            pass  # a coroutine that is finalised in another Context, which never saw these settings
        if self.phase is not None:
            self.phase.leave()
        if error is None:
            answered_call.set(self)
            _log.append((self.scope, self, nanoseconds, None))
        else:
            self.refused = stop_in(error) is not None
            _log.append((self.scope, self, nanoseconds, type(error).__name__))
        if len(_log) > STATE.most_events:
            drain()

    def count(self, nanoseconds: int, error: str | None) -> Call | None:
        """Return the call as the entries tell it, or None if it spent nothing itself. Called when the event log is drained."""
        entries, failed = self.entries, 0 if error is None else 1
        if len(entries) == 1 and self.outer_call is None and not self.inner_usages and len(self.requests) < 2:
            entry = entries[0]  # nearly always: there is nothing to add up
            counts = read_counts(self.model, entry, 1, failed)
            is_told = (type(entry) is not dict or "cost" in entry) and _are_free(entries)
            key = key_of(self.model, counts, cost_is_told=is_told)
        else:
            found = self._add_up(failed)
            if found is None:
                return None
            key, counts = found
        scope = self.scope
        path = scope.path if scope.path.parent is not None else path_of(scope)
        call: Call = _new_tuple(Call, (path, key, counts, self.started, nanoseconds / 1e9, error, None))
        if error is None:
            self.counted = ((scope, call),)
        if self.outer_call is not None:
            self.outer_call.counted += self.counted
        return call

    def _add_up(self, failed: int) -> tuple[UsageKey, Counts] | None:
        """Return what the call spent, in however many requests; None if nothing, or only what is counted already."""
        entries = self.entries
        if self.refused and not entries and not self.inner_usages:
            self._release()
            return None  # the LM that it asked was kept from it
        counts = sum_counts(read_counts(self.model, entry) for entry in entries)
        if len(self.requests) > 1:
            counts = self._with_all_requests(counts)
        if (self.inner_usages or self.outer_call is not None) and self._relays(counts):
            return None
        cached = self.cache_hit and not failed and not counts.tokens and not entries
        if cached and self.saved:
            counts = read_counts(self.model, self.saved)
            key = usage_key(self.model, tier_of(counts.input_tokens), "cache")
        else:
            key = key_of(self.model, counts, cost_is_told=_are_free(entries))
        return key, counts._replace(calls=1, cached_calls=int(cached), failed_calls=failed)

    def _with_all_requests(self, counts: Counts) -> Counts:
        """Return what all requests of the call spent: DSPy only sees the response that the LM returns."""
        spent = [usage for usage in self.requests if usage]
        total = sum_counts(spent)
        return total if not any(counts) or counts in spent or counts == total else sum_counts([total, counts])

    def _relays(self, counts: Counts) -> bool:
        """Whether this call only relays what other LM calls have spent, which are counted already; tell the call around it."""
        inner = self.inner_usages
        relays = bool(inner) and (not any(counts) or counts in inner or counts == sum_counts(inner))
        if self.outer_call is not None:
            self.outer_call.add_inner_usage(sum_counts(inner) if relays else counts)
            if relays:
                self.outer_call.counted += self.counted
        if relays:
            self._release()
        return relays

    def _release(self) -> None:
        if self.reserved:
            release(self.scope)


class ReplacingTracker(CallTracker):
    """One LM call in progress, where the program itself tracks usage, perhaps with a tracker of its own class.

    A class of its own, because each look-up of an attribute is slower in a class that has `__getattr__`.
    """

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the replaced tracker."""
        if "wrapped_tracker" not in vars(self):  # a copy that is being made
            raise AttributeError(name)
        return getattr(self.wrapped_tracker, name)


class UnparsedAnswer:
    """An event: no adapter could parse the answer of an LM call."""

    __slots__ = ("_call",)

    def __init__(self, call: CallTracker) -> None:
        self._call = call

    def count(self, nanoseconds: int, error: str | None) -> None:
        """Mark what the call spent as wasted."""
        for scope, call in self._call.counted:
            mark_wasted(scope, call.path, call.key, call.counts, "failed_parses")
        self._call.counted = ()


def _are_free(entries: list[Any]) -> bool:
    """Whether a provider says that a call cost nothing, as OpenRouter does of free models."""
    for entry in entries:
        if (type(entry) is dict and "cost" not in entry) or reported_cost(entry) != 0:
            return False
    return bool(entries)


def _may_relay(kind: Any) -> bool:
    """Whether an LM's class has code that is not DSPy's, and may relay what it is asked to another LM."""
    methods = (getattr(kind, "forward", None), getattr(kind, "aforward", None))
    return any(str(getattr(method, "__module__", None)).partition(".")[0] != "dspy" for method in methods)


def call_lm(lm: Any, args: Args, kwargs: Kwargs) -> CallTracker | None:
    """`BaseLM.__call__`, `.acall`: count what the call spends, also if it fails or is cancelled."""
    scope: Any = entered.get()
    if _generator_scopes or (scope is not None and scope.detour is not None):
        scope = active()
    if scope is None:
        scope = STATE.root
    outer: Any = current_lm_call.get()
    if outer is not None and outer.ended:
        outer = None
    reserved = False
    if scope.budgets:
        reserved = reserve(scope, outer if outer is not None and _may_relay(outer.lm_class) else None)
    try:
        overrides = thread_local_overrides.get()
        # As `settings.usage_tracker`, without its look-up in Python.
        replaced = _get(overrides if "usage_tracker" in overrides else main_thread_config, "usage_tracker")
        kind = CallTracker if replaced is None or type(replaced) is CallTracker else ReplacingTracker
        return kind(lm, outer, scope, overrides, replaced, reserved=reserved)
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


def read_response(response: Any) -> None:
    """Keep the usage that a response reports, if DSPy itself did not hand it to the tracker."""
    call = lm_call_in_progress()
    if call is not None and not call.entries and not call.cache_hit:
        usage = getattr(response, "usage", None)
        if usage:
            call.entries.append(usage)
            if usage_watchers.watchers:
                usage_watchers.notify(call.model, usage)
