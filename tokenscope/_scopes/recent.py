"""The calls counted last, and those who are told of each call when it has been counted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final

from tokenscope._scopes.event_log import afterwards, read_promptly
from tokenscope._usage.calls import Call

KEPT: Final = 10_000
"""How many calls are kept unless somebody says otherwise: as many as DSPy keeps in its history."""

_recent: deque[Call] = deque(maxlen=KEPT)
_observers: tuple[Callable[[Call], None], ...] = ()


def keep(call: Call) -> None:
    """Keep a call that has been counted, in place of the oldest, and tell the observers."""
    _recent.append(call)
    for observer in _observers:
        afterwards(observer, call)


def recent() -> tuple[Call, ...]:
    """Return the calls that are kept, in the order in which they ended: those of DSPy may be read later than others."""
    return tuple(sorted(_recent, key=_end))


def _end(call: Call) -> float:
    return call.started + call.seconds


def limit() -> int:
    """Return how many calls are kept."""
    return _recent.maxlen or 0


def set_limit(number: int) -> None:
    """Keep so many calls from now on, of those that are there the newest."""
    global _recent  # noqa: PLW0603
    _recent = deque(recent(), maxlen=number)


def forget() -> None:
    """Keep none of the calls that are there."""
    _recent.clear()


def _forget_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: they are the parent's. Who is told of calls there is told of the child's."""
    forget()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_forget_in_child)


def observe(observer: Callable[[Call], None]) -> None:
    """Tell a function of each call from now on, at once, in whatever thread counts it; it must not raise."""
    global _observers  # noqa: PLW0603
    read_promptly(True)  # what has ended until now is not told
    _observers = (*_observers, observer)


def unobserve(observer: Callable[[Call], None]) -> None:
    """Tell it no more."""
    global _observers  # noqa: PLW0603
    _observers = tuple(each for each in _observers if each is not observer)
    read_promptly(bool(_observers))
