"""Which scope is active here.

One ContextVar holds the scope that was entered last in this Context. asyncio copies it for each task. It is nearly always the
active scope; `innermost` covers the rest: scopes of generators, which stand beside it (see `generators`), and scopes that were
left in another Context than they were entered in.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar, Token
from types import FrameType
from typing import Any, Final

from tokenscope._scopes.generators import running_scope
from tokenscope._scopes.process import STATE

entered: Final[ContextVar[Any]] = ContextVar("tokenscope_scope", default=None)
"""The scope that was entered last here, or an `AttachedScope`, or None."""
_generator_scopes: Final = STATE.generator_scopes


class Detour:
    """Where look-ups go that find a scope on top of a Context which is not simply the active one. Most scopes have none."""

    __slots__ = ("frame", "left_elsewhere", "upon")

    def __init__(self, upon: Any, frame: FrameType | None = None, *, left_elsewhere: bool = False) -> None:
        self.upon = upon  # what was innermost where the scope was entered
        self.frame = frame  # of the generator whose `with` statement has opened it
        self.left_elsewhere = left_elsewhere  # in another Context than it was entered in


class AttachedScope:
    """A scope that another thread, task or step has handed over, attached while a generator's scope was open."""

    __slots__ = ("detour", "scope")

    below = None
    ended = None

    def __init__(self, scope: Any, upon: Any) -> None:
        self.scope = scope
        self.detour = Detour(upon)


def standing(top: Any) -> Any:
    """Return the topmost scope that was not left in another Context."""
    while top is not None and top.detour is not None and top.detour.left_elsewhere:
        top = top.below
    return top


def innermost() -> Any:
    """Return what is innermost here: a scope, an `AttachedScope`, or None."""
    top = standing(entered.get())
    if not _generator_scopes:
        return top
    running = running_scope()
    here = top
    while here is not None and here is not running:
        here = here.below if here.detour is None else here.detour.upon
    return top if here is running else running


def active() -> Any:
    """Return the active scope, or None; its counts are not kept for later."""
    top = entered.get()
    if not _generator_scopes and (top is None or top.detour is None):
        return top
    top = innermost()
    return top.scope if type(top) is AttachedScope else top


class CapturedScope:
    """The scope that was active where it was captured, for threads and tasks. Picklable: empty in the other process."""

    __slots__ = ("scope",)

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    @classmethod
    def capture(cls) -> CapturedScope:
        """Remember the scope that is active here."""
        return cls(active())

    def attach(self) -> Token[Any]:
        """Make the scope active here, until `detach`."""
        scope = self.scope
        if _generator_scopes or (scope is not None and scope.detour is not None):
            scope = AttachedScope(scope, innermost())
        return entered.set(scope)

    @staticmethod
    def detach(token: Token[Any]) -> None:
        """Make active again what was active before `attach`."""
        # A coroutine that is finalised in another Context has nothing to restore there; nor has who was interrupted just now.
        with contextlib.suppress(ValueError, RuntimeError):
            entered.reset(token)

    def __reduce__(self) -> tuple[type[CapturedScope], tuple[None]]:
        return CapturedScope, (None,)
