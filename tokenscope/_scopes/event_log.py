"""Counting later: a call that has ended is noted in the host program's time, and read when somebody looks.

Reading a call right where it ends costs two to three times what it costs a little later, among others of its kind: what the
host program has just done is in the processor's caches, and we are not. So a call is left in a list, which needs no lock, and
read together with its neighbours: when counts are asked for, or when many have gathered.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from tokenscope.errors import TokenScopeWarning, warn_once

_MANY: Final = 128
_unread: Final[list[tuple[Callable[..., None], tuple[Any, ...]]]] = []
_afterwards: Final[deque[tuple[Callable[..., None], tuple[Any, ...]]]] = deque()
_prompt = False

lock: Final[Any] = threading.RLock()
"""The one lock, of the ledgers too: calls are read in the order in which they ended, and reading writes to ledgers.

Reentrant, because a garbage collection or a signal inside the lock may run code that counts, leaves scopes, or asks.
"""


def read_later(read: Callable[..., None], *arguments: Any) -> None:
    """Call `read(*arguments)`, which counts a call, before anybody looks at counts."""
    _unread.append((read, arguments))
    if _prompt or len(_unread) > _MANY:
        read_now()


def read_promptly(prompt: bool) -> None:
    """Read each call when it ends, for those who want to be told at once; or when many have gathered."""
    global _prompt  # noqa: PLW0603
    _prompt = prompt
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
    if _afterwards and not lock._is_owned():
        _run_afterwards()


def afterwards(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` outside of the lock: now, or when it is released. What is called may have locks of its own."""
    if lock._is_owned():
        _afterwards.append((function, arguments))
    else:
        function(*arguments)


def _run_afterwards() -> None:
    while True:
        try:
            function, arguments = _afterwards.popleft()
        except IndexError:  # another thread may have taken the last one
            return
        function(*arguments)


def warn_later(key: str, message: str) -> None:
    """Warn outside of the lock, about a call that has ended."""
    afterwards(_tell, key, message)


def _tell(key: str, message: str) -> None:
    try:
        warn_once(key, message)
    except TokenScopeWarning as error:
        # Warnings are errors here; but it is about a call that ended long ago, and not this caller's to bear.
        print(f"tokenscope: {error}", file=sys.stderr)  # noqa: T201


def _forget_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: what is unread is the parent's to count, and the lock may be held by a thread that is not there."""
    if not lock._is_owned():  # by this thread, where a signal that came in the midst of a change forks
        lock._at_fork_reinit()
    _unread.clear()
    _afterwards.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
