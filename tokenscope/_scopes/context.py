"""Visits: staying in a scope that is open elsewhere."""

from __future__ import annotations

import contextlib

from tokenscope._scopes.scope import Scope, _current, _paused_above, _Pin, _resolve


class Visit:
    """Stay in a scope that is open elsewhere: how threads and tasks get theirs. Picklable, and empty in the other process."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope | _Pin | None) -> None:
        self.scope = scope

    @classmethod
    def here(cls) -> Visit:
        """Remember the scope that is active here."""
        top = _current.get()
        if top is None or top._twist is None:
            return cls(top)
        scope = _resolve(top)
        return cls(None if scope is None else _Pin(scope, _paused_above(top, scope)))

    def enter(self) -> _Stay:
        """Make the scope current until `leave`."""
        return _Stay(self.scope)

    def __reduce__(self) -> tuple[type[Visit], tuple[None]]:
        return Visit, (None,)


class _Stay:
    __slots__ = ("_token",)

    def __init__(self, scope: Scope | _Pin | None) -> None:
        self._token = _current.set(scope)

    def leave(self) -> None:
        # A coroutine that is finalised in another Context has nothing to restore there.
        with contextlib.suppress(ValueError):
            _current.reset(self._token)

    def close(self, nanoseconds: int) -> None:
        """Nothing ends with a visit."""
