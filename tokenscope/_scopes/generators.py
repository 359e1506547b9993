"""Whose `with` statement is it, and is that frame suspended?

A ContextVar set inside a generator stays set while the generator is suspended at a `yield`, so a scope opened in a
generator's body would be charged with what its consumer does between two items. A scope therefore remembers the generator
frame that opened it, and look-ups step over it while that frame is suspended at a `yield`. Suspended at an `await` is not
suspended in this sense: what runs meanwhile in the tasks that the generator waits for is its own.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import sys
from types import FrameType
from typing import Any, Final

GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_RESUME: Final = dis.opmap["RESUME"]
_AFTER_AWAIT: Final = (
    3  # the low two bits of RESUME's argument: 0 start, 1 yield, 2 yield from, 3 await (the dis module)
)
_CONTEXTLIB: Final = contextlib.__name__
PASSING: Final = frozenset({"__enter__", "__aenter__", "__exit__", "__aexit__", "enter_context", "enter_async_context"})
"""Names of the functions that enter and leave on behalf of a `with` statement further up (contextlib's among them)."""
_FIXTURE_DRIVERS: Final = ("_pytest.", "pytest_asyncio", "anyio.", "tokenscope.pytest_plugin")


def suspending_frame(frame: FrameType | None) -> FrameType | None:
    """Return the generator frame whose `with` statement opens a scope called for in `frame`; None where it is no generator.

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


def is_suspended(frame: FrameType) -> bool:
    """Whether a generator's frame stands at a `yield`: nobody has called it, and it waits for no awaitable."""
    if frame.f_back is not None or frame is sys._getframe():
        return False
    code = frame.f_code.co_code
    at = frame.f_lasti
    # Up to 3.12 a suspended frame points at the YIELD_VALUE, from 3.13 at the RESUME behind it.
    if code[at] != _RESUME:  # pragma: no branch
        at += 2
    return not (at + 1 < len(code) and code[at] == _RESUME and code[at + 1] & 3 == _AFTER_AWAIT)


def generator_frame(scope: Any) -> FrameType | None:
    """Return the frame of the generator whose `with` statement opened a scope that is not left yet."""
    return None if scope._twist is None else scope._twist.frame


def is_paused(scope: Any) -> bool:
    """Whether the generator that opened a scope is suspended."""
    frame = generator_frame(scope)
    return frame is not None and is_suspended(frame)


def resumed_inside(paused: tuple[Any, ...]) -> Any:
    """Return the innermost of scopes that were paused when another was entered and whose generators now run inside it."""
    running = [scope for scope in paused if scope.ended is None and not is_paused(scope)]
    running.sort(key=_depth)  # of one generator, the innermost
    resumed = {generator_frame(scope): scope for scope in running}
    frame: FrameType | None = sys._getframe() if resumed else None
    while frame is not None and frame not in resumed:
        frame = frame.f_back
    return None if frame is None else resumed[frame]


def _depth(scope: Any) -> int:
    depth: int = scope.path.depth
    return depth
