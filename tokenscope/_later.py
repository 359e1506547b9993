"""Counting later: a call that has ended is noted in the host program's time, and read when somebody looks.

Reading a call right where it ends costs two to three times what it costs a little later, among others of its kind: what the
host program has just done is in the processor's caches, and we are not. So a call is left in a list, which needs no lock, and
read together with its neighbours: when counts are asked for, or when many have gathered.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

_MANY: Final = 128
_unread: Final[list[tuple[Callable[..., None], tuple[Any, ...]]]] = []
_reading = threading.RLock()  # calls are read in the order in which they ended


def read_later(read: Callable[..., None], *arguments: Any) -> None:
    """Call `read(*arguments)`, which counts a call, before anybody looks at counts."""
    _unread.append((read, arguments))
    if len(_unread) > _MANY:
        read_now()


def read_now() -> None:
    """Count the calls that were left for later. When this returns, all that had ended before are counted."""
    with _reading:
        batch = _unread[: len(_unread)]
        del _unread[: len(batch)]
        while batch:
            read, arguments = batch.pop(0)
            try:
                read(*arguments)
            except BaseException:
                _unread[:0] = batch
                raise


def _forget_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: what is unread is the parent's to count, and the lock may be held by a thread that is not there."""
    global _reading  # noqa: PLW0603
    _reading = threading.RLock()
    _unread.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
