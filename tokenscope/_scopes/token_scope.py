"""token_scope: a scope around a block of code, or around each call of a function."""

from __future__ import annotations

import functools
import sys
from time import perf_counter_ns
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, overload

from tokenscope._scopes.budget import Budget, check_budget
from tokenscope._scopes.context import active, entered
from tokenscope._scopes.enforcement import conclude
from tokenscope._scopes.event_log import drain
from tokenscope._scopes.generators import GENERATOR, PASSING, generator_frame, keep
from tokenscope._scopes.process import STATE
from tokenscope._scopes.scope import Scope, open_scope, refer_to, with_attributes
from tokenscope._scopes.wrapping import F, M, ScopeSpec, decorate
from tokenscope._usage.calls import MAX_NAMES, Frame, check_name

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # what an exit returns: bool if it may swallow
    E_co = TypeVar("E_co", bound=bool | None, covariant=True, default=bool | None)
else:
    from typing import TypeVar

    E_co = TypeVar("E_co", covariant=True)

_getframe: Final = sys._getframe  # pyright: ignore[reportPrivateUsage]
_top: Final = entered.get
_set_top: Final = entered.set
_log: Final = STATE.log


@functools.lru_cache(maxsize=MAX_NAMES)
def _frames(name: str) -> tuple[Frame]:
    return (Frame("scope", check_name("the name of a token_scope", name)),)


class token_scope(Generic[E_co]):  # noqa: N801 - used like a function, as contextlib's own context managers are
    """A named scope: what is spent inside is counted under its name.

    For `with`, `async with` and as a decorator. Each entry makes a `Scope` with counts of its own, so one `token_scope` can be
    entered again and again, and concurrently.

    Args:
        name: The name in the tree.
        budget: How much each entry may spend.
        **attributes: What differs from entry to entry (a user, an id); never part of the scope's path. Records have the
            attributes of all scopes around a call, and `Report.by_attribute` partitions the total by one. If two scopes have
            one of the same name, that of the inner scope counts.

    Raises:
        TypeError: the name is not a str, or the budget no `Budget`.
        ValueError: the name is empty.
        BudgetExceeded: out of the block, where its budget is spent.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("pipeline", run=7) as scope:
        ...     with token_scope("search"):
        ...         record_tokens("rerank", "score", "rerank-3", "cohere", input_tokens=90, output_tokens=0)
        >>> scope.report().find("pipeline/search").usage.input_tokens
        90
    """

    __slots__ = ("_caller", "_more", "_scope", "attributes", "budget", "frames")

    @overload
    def __init__(self: token_scope[bool], name: str, *, budget: Budget[Literal["stop"]], **attributes: Any) -> None: ...
    @overload
    def __init__(self: token_scope[None], name: str, *, budget: Budget | None = None, **attributes: Any) -> None: ...
    def __init__(self, name: str, *, budget: Budget | None = None, **attributes: Any) -> None:
        try:
            self.frames = _frames(name)
        except TypeError:
            check_name("the name of a token_scope", name)
            raise
        self.budget = None if budget is None else check_budget("token_scope", budget)
        self.attributes = attributes
        # Who has entered, and where: an exit may come in a Context that never saw the entry. Nearly always it is but one.
        self._scope: Scope | None = None
        self._caller: FrameType | None = None
        self._more: dict[Scope, FrameType] | None = None

    @property
    def name(self) -> str:
        """The name in the tree."""
        return self.frames[0].name

    def __enter__(self) -> Scope:
        caller = _getframe(1)
        code = caller.f_code
        frame = generator_frame(caller) if code.co_flags & GENERATOR or code.co_name in PASSING else None
        scope = open_scope(Scope, self.frames, self, self.budget, frame)
        if self.attributes:
            with_attributes(scope, self.attributes)
        scope.is_referenced = True  # `as scope` may be asked for its counts later, and for its parents
        if not scope.above.is_referenced:
            refer_to(scope.above)
        try:
            if self._scope is None:
                self._scope = scope
                self._caller = caller
            else:
                self._note(scope, caller)
            if frame is None:
                _set_top(scope)
            else:
                keep(scope, frame)
            return scope
        except BaseException:
            scope.leave()
            self._forget(scope)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> E_co:
        # In one line: before the first line of a `try` over several, an interrupt could come that it does not see.
        try: scope = self._exit()  # fmt: skip
        except BaseException:
            self._exit()  # again, if that was interrupted
            raise
        account = None if scope is None or not scope.budgets else scope.account
        return None if account is None else conclude(account, error)  # type: ignore[return-value]

    def _exit(self) -> Scope | None:
        scope = self._scope
        if scope is None or self._more is not None or _top() is not scope:
            return self._leave(_getframe(2))
        _set_top(scope.below)
        taken = perf_counter_ns() - scope.started
        scope.ended = taken; _log.append((scope.above, scope.path, taken) if scope.table is None else scope)  # fmt: skip
        self._scope = self._caller = None
        if len(_log) > STATE.most_events:
            drain()
        return scope

    async def __aenter__(self) -> Scope:
        scope: Scope | None = None
        try:
            scope = self.__enter__()
            if self._scope is scope:
                self._caller = _getframe(1)
            else:
                self._note(scope, _getframe(1))
            return scope
        except BaseException:
            if scope is not None:
                scope.leave()
                self._forget(scope)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> E_co:
        try: scope = self._leave(_getframe(1))  # fmt: skip
        except BaseException:
            self._leave(_getframe(1))
            raise
        account = None if scope is None or not scope.budgets else scope.account
        return None if account is None else conclude(account, error)  # type: ignore[return-value]

    def _note(self, scope: Scope, caller: FrameType) -> None:
        if self._more is None:
            self._more = {}
        self._more[scope] = caller

    def _leave(self, caller: FrameType) -> Scope | None:
        """Leave and return which of several entries is meant: its own generator's, function's, Context's, or else the last."""
        more = self._more or {}
        found: Scope | None = entered.get()
        if found is None or more.get(found) is not caller or found.detour is not None:
            frame = generator_frame(caller)
            # Taken in one go, keys alone: other threads, and generators that are collected, enter and leave meanwhile.
            entries = [(scope, more.get(scope)) for scope in list(more)]
            if self._scope is not None:
                entries.insert(0, (self._scope, self._caller))
            top = active()
            if top is not None and top.opened_by is self and all(scope is not top for scope, _ in entries):
                entries.append((top, caller))  # another thread entered at the very same time
            found, best = None, (False, False, False)
            for scope, opener in entries:
                own = None if scope.detour is None else scope.detour.frame
                likeness = (own is frame, opener is caller, _is_below(scope))
                if likeness >= best:
                    found, best = scope, likeness
        if found is None:
            return None
        found.leave()
        self._forget(found)
        return found

    def _forget(self, scope: Scope) -> None:
        if scope is self._scope:
            self._scope = self._caller = None
        if self._more is not None:
            self._more.pop(scope, None)
            if not self._more:
                self._more = None

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function: each call is one entry."""
        return decorate("token_scope", function, lambda _: ScopeSpec(self.frames, self.attributes, self.budget))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the recipe alone: who has entered it is no part of it."""
        return _remake, (self.name, self.budget, dict(self.attributes))

    def __repr__(self) -> str:
        return f"token_scope({self.name!r})"


def _remake(name: str, budget: Budget | None, attributes: dict[str, Any]) -> token_scope:
    return token_scope(name, budget=budget, **attributes)


def _is_below(scope: Scope) -> bool:
    """Whether a scope was entered in this Context and is still there."""
    top = entered.get()
    while top is not None and top is not scope:
        top = top.below
    return top is not None
