"""The LM call in progress, and what was counted without anybody's help: one thing is not counted twice."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from tokenscope._usage.usage import Counts


class LMCall(Protocol):
    """An LM call that is counted as a whole when it ends."""

    ended: bool

    def add_inner_usage(self, counts: Counts) -> None:
        """Note what the program has recorded by hand inside this call: its own usage may repeat that."""
        ...


current_lm_call: Final[ContextVar[Any]] = ContextVar("tokenscope_lm_call", default=None)
"""The LM call in progress, or one that has ended in the Context from which this one was copied."""
_seen: Final[WeakValueDictionary[int, Any]] = WeakValueDictionary()


def lm_call_in_progress() -> Any:
    """Return the LM call in progress here, or None; a task that was started inside one may outlive it."""
    call = current_lm_call.get()
    return None if call is None or call.ended else call


def note_inner_usage(call: LMCall | None, counts: Counts) -> None:
    """Note what was counted inside an LM call: its provider may report the same usage to DSPy."""
    if call is not None:
        call.add_inner_usage(counts._replace(calls=0, cached_calls=0, failed_calls=0))


def mark_counted(response: object) -> None:
    """Remember that a response was counted already."""
    with contextlib.suppress(TypeError):  # of a kind that cannot be referred to weakly
        _seen[id(response)] = response


def is_counted(response: object) -> bool:
    """Whether a response was counted already."""
    return _seen.get(id(response)) is response
