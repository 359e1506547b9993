"""Wrapping functions of every kind, so that their bodies run in a scope.

A wrapped function is a plain function of the same kind, not a proxy: it keeps its signature and types, pickles by reference,
and cloudpickle takes it by value. For that, the wrappers below may name nothing but their arguments and closure.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tokenscope._scopes.budget import Budget
from tokenscope._scopes.context import Visit
from tokenscope._scopes.enforcement import BudgetedScope, settle
from tokenscope._scopes.scope import Scope, _current
from tokenscope._usage.calls import Frame


class Recipe:
    """How a decorated function opens its scope."""

    __slots__ = ("attributes", "budget", "frames")

    def __init__(
        self, frames: tuple[Frame, ...], attributes: Mapping[str, Any] | None = None, budget: Budget | None = None
    ) -> None:
        self.frames = frames
        self.attributes = attributes
        self.budget = budget

    def enter(self) -> Scope:
        """Open one entry, and make it current."""
        return Scope(self.frames, self) if self.budget is None else BudgetedScope(self.frames, self.budget, self)


class Entry:
    """An entry of a recipe with a budget, which may end what runs in it."""

    __slots__ = ("_recipe", "_scope")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def __enter__(self) -> None:
        self._scope: Any = self._recipe.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._scope.leave()
        return settle(self._scope.purse, error)


class Steps:
    """A generator's scope: entered for each step of its body, left while it is suspended."""

    __slots__ = ("_inside", "_is_async", "_recipe", "_scope", "_since", "_spent", "_token")

    def __init__(self, recipe: Recipe | Visit, *, is_async: bool) -> None:
        self._recipe = recipe
        self._is_async = is_async
        self._scope: Any = None
        self._spent = 0

    def __enter__(self) -> None:
        self._token = _current.set(_current.get() if self._scope is None else self._inside)
        self._since = time.perf_counter_ns()
        if self._scope is None:
            self._scope = self._recipe.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._spent += time.perf_counter_ns() - self._since
        self._inside: Any = _current.get()  # the body may be suspended inside scopes of its own
        # A step that is finalised in another Context has nothing to restore there.
        with contextlib.suppress(ValueError):
            _current.reset(self._token)
        if error is not None and isinstance(self._scope, BudgetedScope):
            ended = isinstance(error, StopIteration | StopAsyncIteration)
            if settle(self._scope.purse, None if ended else error) and not ended:
                raise (StopAsyncIteration if self._is_async else StopIteration) from None

    def end(self) -> None:
        """Close the scope; its time is that of the steps."""
        if self._scope is not None:  # pragma: no branch - None only where an interrupt came while it was entered
            self._scope.close(self._spent)


def what_runs(function: Any) -> Any:
    """Return the function whose kind counts: of a partial the one inside, of an object its `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.iscoroutinefunction(function):
        return function
    return type(function).__call__


def wrap(function: Any, recipe: Recipe | Visit) -> Any:
    """Return a function of the same kind whose body runs in the recipe's scope."""
    steps_of, entry_of = Steps, Entry
    kind = what_runs(function)
    if inspect.isasyncgenfunction(kind):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
            body = function(*args, **kwargs)
            steps = steps_of(recipe, is_async=True)
            try:
                with steps:
                    item = await body.__anext__()
                while True:
                    try:
                        sent = yield item
                    except BaseException as error:
                        with steps:
                            item = await body.athrow(error)
                    else:
                        with steps:
                            item = await body.asend(sent)
            except StopAsyncIteration:
                return
            finally:
                steps.end()

    elif inspect.isgeneratorfunction(kind):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            body = function(*args, **kwargs)
            steps = steps_of(recipe, is_async=False)
            try:
                with steps:
                    item = next(body)
                while True:
                    try:
                        sent = yield item
                    except BaseException as error:
                        with steps:
                            item = body.throw(error)
                    else:
                        with steps:
                            item = body.send(sent)
            except StopIteration as stop:
                return stop.value
            finally:
                steps.end()

    elif isinstance(recipe, Recipe) and recipe.budget is not None:
        if inspect.iscoroutinefunction(kind):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
                with entry_of(recipe):
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with entry_of(recipe):
                    return function(*args, **kwargs)

    elif inspect.iscoroutinefunction(kind):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
            scope = recipe.enter()
            try:
                return await function(*args, **kwargs)
            finally:
                scope.leave()

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            scope = recipe.enter()
            try:
                return function(*args, **kwargs)
            finally:
                scope.leave()

    return wrapper
