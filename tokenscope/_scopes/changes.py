"""Changes of ledgers, one after the other.

What a generator writes that a collection finalises in the midst of a change has to wait, or rows would be folded twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from tokenscope._scopes.event_log import lock

_writing = False
_waiting: Final[list[tuple[Callable[..., None], tuple[Any, ...]]]] = []


def write(change: Callable[..., None], *arguments: Any) -> None:
    """Make a change, and those that came up while it was made."""
    global _writing  # noqa: PLW0603
    with lock:
        if _writing:
            _waiting.append((change, arguments))
            return
        _writing = True
        try:
            change(*arguments)
            while _waiting:
                change, arguments = _waiting.pop(0)
                change(*arguments)
        finally:
            _writing = False


def _forget_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: nobody is there who would end another thread's change."""
    global _writing  # noqa: PLW0603
    if not lock._is_owned():
        _waiting.clear()
        _writing = False


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
