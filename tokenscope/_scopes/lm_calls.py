"""What is counted by hand (a call, a response, a stream), and what we have counted by ourselves: one thing is not both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from tokenscope._usage.usage import Counts, Usage

lm_call_here: Final[list[Callable[[], Any]]] = []
"""How to find the LM call of DSPy's that is on its way here, once there is a bridge to DSPy."""
_seen: Final[WeakValueDictionary[int, Any]] = WeakValueDictionary()


def lm_call() -> Any:
    """Return the LM call of DSPy's within which something is counted by hand; None where there is none."""
    return lm_call_here[0]() if lm_call_here else None


def counted_within(call: Any, values: Counts) -> None:
    """Take what was counted by hand for a call that was made within that LM call: DSPy may get to see its usage, too."""
    if call is not None:
        call.inner.append(Usage.from_counts((0, 0, 0, *values[3:])))


def seen_by_us(response: object) -> None:
    """Remember a response that is counted without anybody's help."""
    with contextlib.suppress(TypeError):  # of a kind that cannot be referred to weakly
        _seen[id(response)] = response


def is_seen(response: object) -> bool:
    """Whether a response was counted without anybody's help."""
    return _seen.get(id(response)) is response
