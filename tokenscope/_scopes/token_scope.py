"""token_scope, track_tokens, carry: what opens scopes around blocks and functions."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, TypeVar, overload

from tokenscope._scopes.budget import Budget, check_budget
from tokenscope._scopes.context import Visit
from tokenscope._scopes.enforcement import BudgetedScope, settle
from tokenscope._scopes.generators import GENERATOR, PASSING, generator_frame, suspending_frame
from tokenscope._scopes.scope import DISABLED, Scope, _current, active
from tokenscope._scopes.wrapping import Recipe, wrap
from tokenscope._usage.calls import MAX_NAMES, Frame, check_name

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", "classmethod[Any, Any, Any]", "staticmethod[Any, Any]")
_getframe: Final = sys._getframe


class Decorator(Protocol):
    """What `track_tokens("module")` and `token_scope("name")` are to type checkers: a decorator that changes no type."""

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...


def _decorate(what: str, function: Any, recipe_for: Callable[[Any], Recipe]) -> Any:
    """Wrap whatever can be decorated, and say what to do about what cannot."""
    if isinstance(function, classmethod | staticmethod):
        return type(function)(_decorate(what, function.__func__, recipe_for))
    if isinstance(function, type):
        raise TypeError(
            f"{what} decorates functions and methods, not classes: decorate the methods of {function.__name__} that "
            "make the calls (for a dspy.Module nothing is needed, modules become scopes by themselves)"
        )
    if isinstance(function, property):
        raise TypeError(f"{what} cannot decorate a property: put it below @property, on the function itself")
    if not callable(function):
        raise TypeError(f"{what} decorates functions and methods, not {type(function).__name__} {function!r}")
    recipe = recipe_for(function)
    return function if DISABLED else wrap(function, recipe)


@functools.lru_cache(maxsize=MAX_NAMES)
def _frames(name: str) -> tuple[Frame]:
    return (Frame("scope", check_name("the name of a token_scope", name)),)


class token_scope:  # noqa: N801 - used like a function, as contextlib's own context managers are
    """A named scope: what is spent inside is counted under its name.

    A recipe, for `with`, `async with` and as a decorator. Each entry makes a `Scope` with counts of its own, so one recipe
    can be entered again and again, and concurrently.

    Args:
        name: The name in the tree.
        budget: How much each entry may spend.
        **attributes: What differs from entry to entry (an id, a url); kept on the scope, never part of its path.

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
        frame = suspending_frame(caller) if code.co_flags & GENERATOR or code.co_name in PASSING else None
        scope = (
            Scope(self.frames, self, frame)
            if self.budget is None
            else BudgetedScope(self.frames, self.budget, self, frame)
        )
        scope.held = True
        if self._scope is None:
            self._scope = scope
            self._caller = caller
        else:
            self._note(scope, caller)
        return scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        scope = self._scope
        if scope is not None and scope is _current.get() and scope._twist is None and not self._more:
            self._scope = self._caller = None
            scope.leave()
        else:
            scope = self._leave(_getframe(1))
        return None if self.budget is None else _settle(scope, error)

    async def __aenter__(self) -> Scope:
        scope = self.__enter__()
        if self._scope is scope:
            self._caller = _getframe(1)
        else:
            self._note(scope, _getframe(1))
        return scope

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        scope = self._leave(_getframe(1))
        return None if self.budget is None else _settle(scope, error)

    def _note(self, scope: Scope, caller: FrameType) -> None:
        if self._more is None:
            self._more = {}
        self._more[scope] = caller

    def _leave(self, caller: FrameType) -> Scope | None:
        """Leave and return which of several entries is meant: its own generator's, function's, Context's, or else the last."""
        more = self._more or {}
        found: Scope | None = _current.get()
        if found is None or more.get(found) is not caller or found._twist is not None:
            frame = suspending_frame(caller)
            # Taken in one go, keys alone: other threads, and generators that are collected, enter and leave meanwhile.
            entered = [(scope, more.get(scope)) for scope in list(more)]
            if self._scope is not None:
                entered.insert(0, (self._scope, self._caller))
            top = active()
            if top is not None and top.opener is self and all(scope is not top for scope, _ in entered):
                entered.append((top, caller))  # another thread entered at the very same time
            found, best = None, (False, False, False)
            for scope, opener in entered:
                likeness = (generator_frame(scope) is frame, opener is caller, _is_below(scope))
                if likeness >= best:
                    found, best = scope, likeness
        if found is None:
            return None
        if found is self._scope:
            self._scope = self._caller = None
        more.pop(found, None)
        found.leave()
        return found

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...
    def __call__(self, function: Any, /) -> Any:
        """Decorate a function: each call is one entry."""
        return _decorate("token_scope", function, lambda _: Recipe(self.frames, self.attributes, self.budget))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the recipe alone: who has entered it is no part of it."""
        return _remake, (self.name, self.budget, dict(self.attributes))

    def __repr__(self) -> str:
        return f"token_scope({self.name!r})"


def _settle(scope: Scope | None, error: BaseException | None) -> bool | None:
    return settle(scope.purse, error) if isinstance(scope, BudgetedScope) else None


def _remake(name: str, budget: Budget | None, attributes: dict[str, Any]) -> token_scope:
    return token_scope(name, budget=budget, **attributes)


def _is_below(scope: Scope) -> bool:
    """Whether a scope was entered in this Context and is still there."""
    top = _current.get()
    while top is not None and top is not scope:
        top = top._below
    return top is not None


@overload
def track_tokens(function: F, /) -> F: ...
@overload
def track_tokens(function: M, /) -> M: ...
@overload
def track_tokens(
    module: str | None = None, operation: str | None = None, *, budget: Budget | None = None
) -> Decorator: ...
def track_tokens(module: Any = None, operation: str | None = None, *, budget: Budget | None = None) -> Any:
    """Count what a function spends under a module and an operation, two levels of the tree.

    Decorates functions, coroutine functions, generators, async generators, methods, class methods and static methods, and
    leaves their kind, signature, types and picklability as they are. A generator is in its scope while its body runs.

    Args:
        module: The upper level; the last part of the defining module's name where it is left out.
        operation: The lower level; the function's name where it is left out.
        budget: How much each call may spend. One that ends quietly ends in None.

    Raises:
        TypeError: a name is not a str, the budget no `Budget`, or what is decorated no function (a class, a property).
        ValueError: a name is empty.
        BudgetExceeded: out of a call, where its budget is spent.

    Example:
        >>> from tokenscope import record_tokens, report, track_tokens
        >>> @track_tokens("persona_formulation", "formulate_prompt")
        ... def formulate(persona):
        ...     record_tokens("persona_formulation", "draft", "gpt-5-mini", "openai", input_tokens=12, output_tokens=3)
        ...     return f"You are {persona}."
        >>> formulate("a baker")
        'You are a baker.'
    """
    function: Any = None
    if module is not None and not isinstance(module, str):
        if operation is not None or not (callable(module) or isinstance(module, classmethod | staticmethod | property)):
            check_name("the module of track_tokens", module)
        function, module = module, None
    if module is not None:
        check_name("the module of track_tokens", module)
    if operation is not None:
        check_name("the operation of track_tokens", operation)
    if budget is not None:
        check_budget("track_tokens", budget)

    def recipe_for(function: Any) -> Recipe:
        inner: Any = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        name: Any = operation or getattr(inner, "__name__", type(inner).__name__)
        home = module or (getattr(inner, "__module__", None) or "__main__").rpartition(".")[2]
        return Recipe((Frame("module", home), Frame("operation", name)), budget=budget)

    def decorate(function: Any) -> Any:
        return _decorate("track_tokens", function, recipe_for)

    return decorate if function is None else decorate(function)


def carry(function: F) -> F:
    """Return a function that runs in the scope that is active now, wherever it is called: for pools of another make.

    `threading.Thread`, `ThreadPoolExecutor` (so `map` and `run_in_executor`), asyncio's tasks and DSPy's own workers need
    none of this. In another process the scope is not to be had, and the function runs as it is.

    Raises:
        TypeError: what is passed cannot be called.

    Example:
        >>> from multiprocessing.pool import ThreadPool
        >>> from tokenscope import carry, record_tokens, token_scope
        >>> def work(n):
        ...     record_tokens("worker", "step", "gpt-5-mini", "openai", input_tokens=n, output_tokens=0)
        >>> with token_scope("pipeline") as scope, ThreadPool(2) as pool:
        ...     _ = pool.map(carry(work), [1, 2, 3])
        >>> scope.usage.input_tokens
        6
    """
    if not callable(function):
        raise TypeError(f"carry takes a function, not {type(function).__name__} {function!r}")
    return wrap(function, Visit.here())  # type: ignore[no-any-return]
