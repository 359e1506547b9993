"""What is counted by hand (a call, a response, a stream), and what we have counted by ourselves: one thing is not both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from tokenscope._usage import Counts

by_hand: Final[list[Callable[[Counts], None]]] = []
"""Who is told of what is counted by hand, where and when it is: the DSPy bridge, once there is one."""
_seen: Final[WeakValueDictionary[int, Any]] = WeakValueDictionary()


def tell_by_hand(values: Counts) -> None:
    """Tell of a call that is counted by hand."""
    for told in by_hand:
        told(values)


def seen_by_us(response: object) -> None:
    """Remember a response that is counted without anybody's help."""
    with contextlib.suppress(TypeError):  # of a kind that cannot be referred to weakly
        _seen[id(response)] = response


def is_seen(response: object) -> bool:
    """Whether a response was counted without anybody's help."""
    return _seen.get(id(response)) is response
