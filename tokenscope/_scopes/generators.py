"""Scopes in generators: a scope that a generator's `with` statement opens belongs to the generator's frame.

A ContextVar that is set in a generator's body stays set while the generator is suspended, so that what its consumer does would be
charged to the generator. Such a scope is therefore kept with the generator's frame, and is active where that frame is on the
stack that asks: while its body runs or waits for an awaitable, in whatever task and Context it is resumed. While no such scope
is open, the stack is not walked.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from types import FrameType
from typing import Any, Final

from tokenscope._scopes.process import STATE

GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
PASSING: Final = frozenset({"__enter__", "__aenter__", "__exit__", "__aexit__", "enter_context", "enter_async_context"})
"""Names of the functions that enter and leave on behalf of a `with` statement further up (contextlib's among them)."""
_CONTEXTLIB: Final = contextlib.__name__
_FIXTURE_DRIVERS: Final = ("_pytest.", "pytest_asyncio", "anyio.", "tokenscope.pytest_plugin")


def generator_frame(frame: FrameType | None) -> FrameType | None:
    """Return the generator's frame whose `with` statement enters or leaves a scope in `frame`; None if it is no generator's.

    Frames that only pass the call on are stepped through: `__enter__` and `__exit__` methods, `ExitStack`, and generators
    that contextlib drives. A generator that a test framework drives as a fixture does not count: the test runs while it is
    suspended.
    """
    while frame is not None:
        if frame.f_code.co_flags & GENERATOR:
            driver = frame.f_back
            name = "" if driver is None else str(driver.f_globals.get("__name__"))
            if name == _CONTEXTLIB:
                frame = driver
                continue
            return None if name.startswith(_FIXTURE_DRIVERS) else frame
        if frame.f_code.co_name not in PASSING and frame.f_globals.get("__name__") != _CONTEXTLIB:
            return None
        frame = frame.f_back
    return None


def running_scope() -> Any:
    """Return the innermost scope that was opened in the body of a generator that is on the stack here, or None."""
    scopes_of = STATE.generator_scopes.get
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        scopes = scopes_of(frame)
        if scopes:
            return scopes[-1]
        frame = frame.f_back
    return None


def keep(scope: Any, frame: FrameType) -> None:
    """Keep an open scope with the frame of the generator that has opened it."""
    STATE.generator_scopes.setdefault(frame, []).append(scope)


def forget(scope: Any, frame: FrameType) -> None:
    """Forget a scope that is left."""
    scopes = [each for each in STATE.generator_scopes.get(frame, ()) if each is not scope]
    if scopes:
        STATE.generator_scopes[frame] = scopes
    else:
        STATE.generator_scopes.pop(frame, None)
