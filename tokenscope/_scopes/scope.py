"""Scopes: which one is current, entering and leaving one, and counting a call in it.

One ContextVar holds the scope entered last in this context. Usually that is the current scope; `_resolve` covers the rest:
generators that are suspended while their scope is still on top, and scopes left in another context than they were entered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from time import perf_counter_ns
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from tokenscope._scopes.generators import is_paused, is_suspended, resumed_inside
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import is_saved, is_waste
from tokenscope._usage.usage import Usage

if TYPE_CHECKING:
    from tokenscope._report.report import Report

DISABLED: Final = os.environ.get("TOKENSCOPE_DISABLED", "") not in ("", "0")
"""Whether TOKENSCOPE_DISABLED is set: scopes can be entered and left, and count nothing."""


guard: Any = None
"""What is asked where a scope is entered, and told of each call, once there is a budget; see `_purse`."""


class Scope(Ledger):
    """One entry of a `token_scope`, of a decorated function, or of a DSPy module; made by entering one of these.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("pipeline") as scope:
        ...     record_tokens("search", "rerank", "rerank-3", "cohere", input_tokens=90, output_tokens=0)
        >>> scope.usage.total_tokens
        90
    """

    __slots__ = ("__weakref__", "_below", "_twist", "opener")

    above: Ledger

    def __init__(self, frames: tuple[Frame, ...], opener: object = None, frame: FrameType | None = None) -> None:
        below: Any = _current.get()
        self._below: Scope | _Pin | None = below
        self._twist: _Twist | None = None
        generator: Scope | _Pin | None = None
        if frame is None and (below is None or below._twist is None):
            above: Ledger = below or PROCESS
        else:
            above, generator = self._lie_upon(below, frame)
        if guard is not None:
            guard.enter(above)
        path = above.path
        for frame_below in frames:
            path = path.children.get(frame_below) or path.child(frame_below)
        self.path = path
        self.above = above  # pyright: ignore[reportIncompatibleVariableOverride]
        self.opener = opener
        self.books = None
        self.ended = None
        self.held = False
        _current.set(self)
        if generator is not None:
            self._pass_over(generator)
        self.started = perf_counter_ns()

    def _lie_upon(self, below: Scope | _Pin | None, frame: FrameType | None) -> tuple[Ledger, Scope | _Pin | None]:
        """Enter in a generator, or upon one that may be paused; return the active scope, and the one that lies below."""
        self._below = below = _standing(below)
        generator = below if below is not None and below.ended is None else None
        active = _resolve(below)
        paused = _paused_above(below, active)
        if frame is not None or paused:
            self._twist = _Twist(frame, paused)
        return active or PROCESS, generator

    def _pass_over(self, generator: Scope | _Pin | None) -> None:
        """Pass over generators that a collection has finalised since, and whose scopes were left before this lay upon them."""
        while generator is not None and generator.ended is not None:
            self._below = generator = generator._below

    # -- for users ------------------------------------------------------------------------------------------------------

    @property
    def parent(self) -> Scope | None:
        """The scope that was active where this one was entered."""
        above = self.above
        return _held(above) if isinstance(above, Scope) else None

    @property
    def name(self) -> str:
        """The innermost name of this scope's path."""
        return self.path.frame.name

    @property
    def kind(self) -> str:
        """What opened it: `scope`, `operation` (a decorated function), `dspy`, `tool`, `evaluate`, `compile` or `phase`."""
        return self.path.frame.kind

    @property
    def usage(self) -> Usage:
        """What was spent in this entry of the scope until now, everything inside it included."""
        from tokenscope._usage.model_usage import Tally, total
        from tokenscope._usage.prices import priced

        tallies = [each for row in self.view().values() for each in row.models.items()]
        return total(Tally(*key, priced(*key, values)) for key, values in tallies)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What `token_scope(name, **attributes)` was given."""
        return getattr(self.opener, "attributes", None) or {} if self.kind == "scope" else {}

    @property
    def budget_exceeded(self) -> bool:
        """Whether the scope has a budget that ended its block, or more is spent in it than its budget holds."""
        return False

    @property
    def seconds(self) -> float:
        """How long it has been open, or was, in seconds."""
        return self.elapsed() / 1e9

    def report(self) -> Report:
        """Return a frozen report of this entry of the scope, its own name first; at any moment, from any thread."""
        from tokenscope._report.report import Report

        return Report.from_rows(self.view(), self.above.path, scoped=True)

    def __str__(self) -> str:
        """Draw the tree of this scope: in colour where standard output is a terminal."""
        return str(self.report())

    def __rich__(self) -> object:
        """Let rich print the tree."""
        return self.report().__rich__()

    def _repr_html_(self) -> str:
        """Show the tree in a notebook."""
        return self.report()._repr_html_()

    def __repr__(self) -> str:
        state = "open" if self.ended is None else "closed"
        # Without a price: that would load the table of prices.
        tallies = [each for row in self.view().values() for each in row.models.items()]
        spent = [values for (_, bracket), values in tallies if not is_saved(bracket) and not is_waste(bracket)]
        tokens = sum(values[3] + values[4] for values in spent)
        return f"<Scope {'/'.join(self.path.names[-8:])!r}, {state}, {tokens:,} tokens>"

    # -- for whatever opens scopes --------------------------------------------------------------------------------------

    def leave(self) -> None:
        """End this entry. Never raises, in whatever order and Context scopes are left."""
        top = _current.get()
        if top is self:
            below = self._below
            _current.set(below)
            if below is not self._below:  # a collection while it was set has taken away what lay below
                _current.set(self._below)  # pragma: no cover - tested, but tracing lines shifts the collection
        else:
            self._leave_out_of_order(top)
        if self._twist is not None:
            self._twist.frame = None
            self._twist.paused = ()
        self.close(perf_counter_ns() - self.started)

    def _leave_out_of_order(self, top: Any) -> None:
        while top is not None and top._below is not self:
            top = top._below
        if top is not None:
            top._below = self._below
            _current.set(_standing(_current.get()))
        else:
            # Entered in another Context, which still has it on top: look-ups there step over it from now on.
            self._twist = _Twist(None, (), dropped=True)

    if DISABLED:

        def close(self, nanoseconds: int) -> None:
            """Count nothing."""


class _Twist:
    """Why a scope may be on top and yet not the one that is active."""

    __slots__ = ("dropped", "frame", "paused")

    def __init__(self, frame: FrameType | None, paused: tuple[Scope, ...], *, dropped: bool = False) -> None:
        self.frame = frame  # of the generator whose `with` statement opened it
        self.paused = paused  # scopes of generators that were suspended when it was entered
        self.dropped = dropped  # left in a Context that never saw it


class _Pin:
    """A scope that was inherited by a thread or a task while it was active: pausing its generator no longer concerns it."""

    __slots__ = ("_below", "_twist", "scope")

    ended = None

    def __init__(self, scope: Scope, paused: tuple[Scope, ...]) -> None:
        self.scope = scope
        self._below = None
        self._twist = _Twist(None, paused)


_current: Final[ContextVar[Any]] = ContextVar("tokenscope_scope", default=None)


def current_scope() -> Scope | None:
    """Return the innermost scope that is active here, or None.

    Example:
        >>> from tokenscope import current_scope, token_scope
        >>> with token_scope("outer"):
        ...     current_scope().name
        'outer'
    """
    scope = active()
    return None if scope is None else _held(scope)


def _held(scope: Scope) -> Scope | None:
    """Return a scope that somebody will ask for its counts; None where it only stands for none."""
    while isinstance(scope.above, Scope) and scope.path is scope.above.path:  # one of several runs in that scope
        scope = scope.above
    if scope.path.parent is None:  # what a worker does for another process, in no scope of its own
        return None
    scope.held = True
    return scope


def active() -> Scope | None:
    """Return the current scope, for whom it is only a place: nobody will ask it for its counts."""
    top: Any = _current.get()
    return top if top is None or top._twist is None else _resolve(top)


def _standing(top: Scope | _Pin | None) -> Scope | _Pin | None:
    """Return the topmost scope that was not left in another Context, and forget such right below: they would pile up."""
    while _is_dropped(top):
        top = top._below  # type: ignore[union-attr]
    while top is not None and _is_dropped(top._below):
        top._below = top._below._below  # type: ignore[union-attr]
    return top


def _is_dropped(scope: Scope | _Pin | None) -> bool:
    return scope is not None and scope._twist is not None and scope._twist.dropped


def _resolve(top: Scope | _Pin | None) -> Scope | None:
    """Find the scope that is active, where the one on top may be paused, left, or older than a resumed one below it."""
    while top is not None:
        if isinstance(top, _Pin):
            return resumed_inside(top._twist.paused) or top.scope
        twist = top._twist
        if twist is None:
            return top
        if not twist.dropped and (twist.frame is None or not is_suspended(twist.frame)):
            return resumed_inside(twist.paused) or top
        top = top._below
    return None


def _paused_above(top: Scope | _Pin | None, active: Scope | None) -> tuple[Scope, ...]:
    """Return the scopes of suspended generators that lie above the active one, or were suspended when it was entered."""
    found: dict[Scope, None] = {}
    for scope in (top, active):
        if scope is not None and scope._twist is not None:
            found.update(dict.fromkeys(scope._twist.paused))
    while top is not None and top is not active and not isinstance(top, _Pin):
        found[top] = None
        top = top._below
    return tuple(scope for scope in found if is_paused(scope))
