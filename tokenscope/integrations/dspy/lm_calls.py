"""LM calls: one call, one fresh usage tracker, one `Call`.

Around each LM call, DSPy's settings get a usage tracker of ours. What it holds when the call ends is what the call spent,
however many others run: nobody else writes to it. Each entry is passed on at once to the tracker that would have been there,
so `prediction.get_lm_usage()` and `dspy.track_usage()` see what they always saw.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from contextvars import ContextVar
from typing import Any, Final

from dspy.dsp.utils.settings import settings, thread_local_overrides
from dspy.utils.usage_tracker import UsageTracker

from tokenscope._providers.openai_usage import own_cost
from tokenscope._scopes.enforcement import admit, release, stop_in
from tokenscope._scopes.event_log import read_later
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._scopes.lm_calls import lm_call_here
from tokenscope._scopes.recording import count
from tokenscope._scopes.scope import Scope, active
from tokenscope._scopes.wasted import discard
from tokenscope._usage.calls import Call
from tokenscope._usage.keys import FREE
from tokenscope._usage.usage import COST, NOTHING, Usage, counts
from tokenscope.errors import internal_error
from tokenscope.integrations import usage_watchers as _entries
from tokenscope.integrations.dspy.optimizers import phase_of_call
from tokenscope.integrations.dspy.usage import read_counts, read_entries

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_calling: Final[ContextVar[Any]] = ContextVar("tokenscope_lm_call", default=None)
"""The LM call on its way here: DSPy's settings may hold another tracker by then, where an LM tracks usage itself."""
answered: Final[ContextVar[Any]] = ContextVar("tokenscope_answered", default=None)
"""The LM call that ended last, whose answer is about to be read."""


def call_here() -> Any:
    """Return the LM call that is on its way here; a task that was started inside one may outlive it."""
    call = _calling.get()
    return None if call is None or call.ended else call


class CallTracker(UsageTracker):  # type: ignore[misc]
    """One LM call on its way: a usage tracker, with the one that it stands in for behind it."""

    def __init__(self, lm: Any, *, reserved: bool) -> None:
        overrides = thread_local_overrides.get()
        behind = overrides["usage_tracker"] if "usage_tracker" in overrides else settings.usage_tracker  # noqa: SIM401
        # A tracker of ours, of an LM call around this one, is stepped over: that call's own entries are not these.
        ours: CallTracker | None = behind if isinstance(behind, CallTracker) else None
        self.around: CallTracker | None = call_here() or ours
        self.behind: Any = behind if ours is None else ours.behind
        self.unclaimed: Any = None
        self.outside = overrides
        self.ended = False
        self.kind = type(lm)
        self.reserved = reserved
        self.refused = False
        self.entries: list[Any] = []
        self.inner: list[Usage] = []  # what LM calls inside this one spent: an LM may ask another
        self.counted: list[tuple[Ledger, Call]] = []  # this call, or those whose answers it only handed on
        self.repeats = 0  # requests that DSPy sent again, because the one before failed
        self.hit = False
        self.saved: Any = None  # what a cached answer once cost, where the cache still tells
        self.model = str(getattr(lm, "model", None) or type(lm).__name__)
        self.scope: Scope | None = active()
        self.phase: Scope | None = None
        if self.scope is not None and self.scope.path.frame.kind == "compile":
            frame = phase_of_call(self.scope.path.frame.name)
            if frame is not None:
                self.scope = self.phase = Scope((frame,))
        # Not dspy.context(): that would also freeze the global settings for the time of the call.
        inside = type(overrides)(overrides)
        inside["usage_tracker"] = self
        inside["track_usage"] = True
        self.token = thread_local_overrides.set(inside)
        self.calling = _calling.set(self)
        self.started = time.time()
        self.since = time.perf_counter()

    def add_usage(self, lm: str, usage_entry: Any) -> None:
        """Keep the entry and pass it on."""
        if usage_entry:
            self.keep(usage_entry)
        if self.behind is not None:
            self.behind.add_usage(lm, usage_entry)

    def keep(self, usage_entry: Any) -> None:
        """Keep an entry of this call."""
        self.entries.append(usage_entry)
        if _entries.watchers:
            _entries.tell(self.model, usage_entry)

    @property
    def usage_data(self) -> Any:
        """What the tracker behind holds, for whoever reads the settings inside an LM call."""
        if self.behind is not None:
            return self.behind.usage_data
        if self.unclaimed is None:
            self.unclaimed = defaultdict(list)
        return self.unclaimed

    def __getattr__(self, name: str) -> Any:
        """Whatever else the tracker behind has, where it is one of the user's own making."""
        return getattr(self.__dict__.get("behind"), name)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallTracker:
        """Copy as DSPy's executor does for each worker: what is behind is copied, the call stays the same one."""
        twin = copy.copy(self)
        twin.behind = copy.deepcopy(self.behind, memo)
        return twin

    def end(self, error: BaseException | None) -> None:
        """Restore the settings, and leave the call to be counted."""
        self.ended = True
        seconds = time.perf_counter() - self.since
        try:
            thread_local_overrides.reset(self.token)
            _calling.reset(self.calling)
        except ValueError:
            pass  # a coroutine that is finalised in another Context, which never saw these settings
        if self.phase is not None:
            self.phase.leave()
        self.refused = error is not None and stop_in(error) is not None
        read_later(self.count, seconds, None if error is None else type(error).__name__)

    def count(self, seconds: float, error: str | None) -> None:
        """Count the call by what the entries say."""
        try:
            self._count(seconds, error)
        except Exception:  # noqa: BLE001
            internal_error("counting an LM call")

    def _count(self, seconds: float, error: str | None) -> None:
        entries = self.entries
        if self.refused and not entries and not self.inner:
            if self.reserved:
                release(self.scope)
            return  # the LM that it asked was kept from it, and it bought nothing itself
        # Nearly always there is one entry, and no need to add anything up.
        spent = read_counts(self.model, entries[0]) if len(entries) == 1 else counts(read_entries(self.model, entries))
        if self.inner or self.around is not None:
            usage = Usage.from_counts(spent)
            relayed = bool(self.inner) and (not usage or _is_relayed(usage, self.inner))
            if self.around is not None:
                self.around.inner.append(sum(self.inner, Usage()) if relayed else usage)
            if relayed:
                if self.reserved:
                    release(self.scope)
                if self.around is not None:
                    self.around.counted += self.counted
                return  # it only handed on what another LM, counted already, has spent
        cached = self.hit and error is None and not entries
        values = (1, int(cached), int(error is not None), *spent[3:])
        saved = read_counts(self.model, self.saved) if cached and self.saved else None
        call = count(
            self.scope,
            self.model,
            values,
            own_price=spent[COST] > 0 or bool(entries and all(map(_is_free, entries))),
            saved=saved,
            started=self.started,
            seconds=seconds,
            error=error,
            reserved=self.reserved,
        )
        if call is None:
            return
        ledger = self.scope or PROCESS
        if error is None:
            self.counted.append((ledger, call))
        if self.around is not None:
            self.around.counted += self.counted
        if self.repeats:
            discard(ledger, call.path, (self.model, FREE), (self.repeats, 0, self.repeats, *NOTHING[3:]), "retries")

    def was_useless(self) -> None:
        """Tell that nobody could read its answer."""
        for ledger, call in self.counted:
            discard(ledger, call.path, call.key, call.values, "failed_parses")
        self.counted = []


def _is_free(entry: Any) -> bool:
    """Whether a provider says that a call cost nothing, as OpenRouter does of free models."""
    return (type(entry) is not dict or "cost" in entry) and own_cost(entry) == 0


def _is_relayed(spent: Usage, inner: list[Usage]) -> bool:
    return spent in inner or spent == sum(inner, Usage())


def _may_relay(kind: Any) -> bool:
    """Whether an LM's class has code that is not DSPy's, and may hand on what it is asked to another LM."""
    methods = (getattr(kind, "forward", None), getattr(kind, "aforward", None))
    return any(str(getattr(method, "__module__", None)).partition(".")[0] != "dspy" for method in methods)


def _begin(lm: Any) -> CallTracker | None:
    around = call_here()
    reserved = admit(around if around is not None and _may_relay(around.kind) else None)
    try:
        return CallTracker(lm, reserved=reserved)
    except Exception:  # noqa: BLE001
        if reserved:
            release(active())
        internal_error("preparing to count an LM call")
        return None


def call_lm(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`BaseLM.__call__`: count what the call spends, also where it fails."""
    call = _begin(instance)
    if call is None:
        return wrapped(*args, **kwargs)
    try:
        result = wrapped(*args, **kwargs)
    except BaseException as error:
        call.end(error)
        raise
    call.end(None)
    answered.set(call)
    return result


async def acall_lm(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`BaseLM.acall`: the same for coroutines; a cancelled call is a failed one."""
    call = _begin(instance)
    if call is None:
        return await wrapped(*args, **kwargs)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        call.end(error)
        raise
    call.end(None)
    answered.set(call)
    return result


def read_response(response: Any) -> None:
    """Keep the usage that a response tells, where DSPy itself did not hand it to the tracker."""
    tracker = call_here()
    if tracker is not None and not tracker.entries and not tracker.hit:
        usage = getattr(response, "usage", None)
        if usage:
            tracker.keep(usage)


lm_call_here.append(call_here)


def stems_from_lm_call() -> bool:
    """Whether this was started inside an LM call, which may have ended since: what is logged about a call is logged late."""
    return _calling.get() is not None
