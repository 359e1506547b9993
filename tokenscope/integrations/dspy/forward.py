"""`LM.forward`: part of an LM call, or a call by itself if a program calls it directly."""

from __future__ import annotations

from typing import Any

from tokenscope._providers.openai_usage import read_counts
from tokenscope._scopes.enforcement import reserve_again
from tokenscope._scopes.event_log import drain
from tokenscope._scopes.lm_calls import lm_call_in_progress, mark_counted
from tokenscope._scopes.recording import record
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.lm_calls import Args, CallTracker, Kwargs, call_lm


class _DirectCall:
    """A direct call of `LM.forward`: its usage is in the response, which DSPy itself does not read."""

    __slots__ = ("_call",)

    def __init__(self, call: CallTracker) -> None:
        self._call = call

    @staticmethod
    def begin(entry: _DirectCall) -> None:
        entry._call.begin(entry._call)

    def finish(self, error: BaseException | None, result: Any) -> None:
        if error is None:
            self._call.answer = result
            mark_counted(result)
        self._call.finish(error, result)
        drain()  # read what it spent before the caller, who has the response, may add up in it


class _Request:
    """A call of `LM.forward` within an LM call: an LM of a user's own may make several."""

    __slots__ = ("_call", "_is_own", "_was_hit")

    def __init__(self, call: CallTracker, lm: Any) -> None:
        self._call = call
        self._is_own = call.lm is lm
        self._was_hit = call.cache_hit
        call.cache_hit = False

    @staticmethod
    def begin(entry: _Request) -> None:
        pass

    def finish(self, error: BaseException | None, result: Any) -> None:
        """Note what this request spent: nothing if the cache answered it, for DSPy clears the usage then."""
        call = self._call
        if error is not None:
            call.cache_hit = self._was_hit
            return
        usage = getattr(result, "usage", None) or None
        if call.ended:  # without waiting for this request
            if usage:
                _count_late(call, usage)
            return
        call.add_request(usage, result, is_own=self._is_own)
        call.cache_hit = call.cache_hit and (self._was_hit or len(call.requests) == 1)


def _count_late(call: CallTracker, usage: Any) -> None:
    try:
        record(call.scope, call.model, read_counts(call.model, usage, calls=1), call.started)
    except Exception:  # noqa: BLE001
        internal_error("counting a request that outlived its LM call")


def forward(lm: Any, args: Args, kwargs: Kwargs) -> _DirectCall | _Request | None:
    """`LM.forward`, `.aforward`: count a direct call; one inside an LM call is that call's."""
    call = lm_call_in_progress()
    if call is None:
        direct = call_lm(lm, args, kwargs)
        return None if direct is None else _DirectCall(direct)
    reserve_again(call)
    return _Request(call, lm)
