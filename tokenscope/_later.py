"""Counting later: a call that has ended is noted in the host program's time, and read when somebody looks.

Reading a call right where it ends costs two to three times what it costs a little later, among others of its kind: what the
host program has just done is in the processor's caches, and we are not. So a call is left in a list, which needs no lock, and
read together with its neighbours: when counts are asked for, or when many have gathered.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from tokenscope.errors import TokenScopeWarning, warn_once

_MANY: Final = 128
_unread: Final[list[tuple[Callable[..., None], tuple[Any, ...]]]] = []
_untold: Final[list[tuple[str, str]]] = []

lock: Final[Any] = threading.RLock()
"""The one lock, of the ledgers too: calls are read in the order in which they ended, and reading writes to ledgers.

Reentrant, because a garbage collection or a signal inside the lock may run code that counts, leaves scopes, or asks.
"""


def read_later(read: Callable[..., None], *arguments: Any) -> None:
    """Call `read(*arguments)`, which counts a call, before anybody looks at counts."""
    _unread.append((read, arguments))
    if len(_unread) > _MANY:
        read_now()


def read_now() -> None:
    """Count the calls that were left for later. When this returns, all that had ended before are counted."""
    with lock:
        batch = _unread[: len(_unread)]
        del _unread[: len(batch)]
        while batch:
            read, arguments = batch.pop(0)
            try:
                read(*arguments)
            except BaseException:
                _unread[:0] = batch
                raise
    if _untold:
        _tell()


def warn_later(key: str, message: str) -> None:
    """Warn once the lock is released: what shows warnings may have locks of its own."""
    _untold.append((key, message))


def _tell() -> None:
    while _untold:
        key, message = _untold.pop(0)
        try:
            warn_once(key, message)
        except TokenScopeWarning as error:
            # Warnings are errors here; but it is about a call that ended long ago, and not this caller's to bear.
            print(f"tokenscope: {error}", file=sys.stderr)  # noqa: T201


def _forget_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: what is unread is the parent's to count, and the lock may be held by a thread that is not there."""
    lock._at_fork_reinit()
    _unread.clear()
    _untold.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
