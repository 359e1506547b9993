"""Wrapping functions of every kind, so that their bodies run in a scope.

A wrapped function is a plain function of the same kind, not a proxy: it keeps its signature and types, pickles by reference,
and cloudpickle takes it by value. For that, the wrappers below may name nothing but their arguments and closure.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, Protocol, TypeVar, overload

from tokenscope._scopes.budget import Budget
from tokenscope._scopes.context import CapturedScope, entered
from tokenscope._scopes.enforcement import conclude
from tokenscope._scopes.generators import keep
from tokenscope._scopes.process import DISABLED
from tokenscope._scopes.scope import Scope, open_scope, with_attributes
from tokenscope._usage.calls import Frame

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", "classmethod[Any, Any, Any]", "staticmethod[Any, Any]")


class ScopeSpec:
    """How a decorated function opens its scope."""

    __slots__ = ("attributes", "budget", "frames")

    def __init__(
        self, frames: tuple[Frame, ...], attributes: Mapping[str, Any] | None = None, budget: Budget | None = None
    ) -> None:
        self.frames = frames
        self.attributes = attributes
        self.budget = budget

    def open(self, frame: FrameType | None = None) -> Scope:
        """Return a scope of it, which is about to begin; `frame` is that of a generator's body."""
        scope = open_scope(Scope, self.frames, self, self.budget, frame)
        return with_attributes(scope, self.attributes) if self.attributes else scope


def _open_with_attributes(_kind: type[Scope], _frames: tuple[Frame, ...], spec: ScopeSpec) -> Scope:
    return spec.open()


class BudgetedCall:
    """One call of a decorated function whose scope has a budget, which may end the call."""

    __slots__ = ("_scope", "_spec")

    def __init__(self, spec: ScopeSpec) -> None:
        self._spec = spec

    def __enter__(self) -> None:
        self._scope = self._spec.open()
        Scope.begin(self._scope)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try: self._scope.leave()  # fmt: skip
        except BaseException:
            self._scope.leave()  # again, if that was interrupted
            raise
        account = self._scope.account
        return account is not None and conclude(account, error)


class AttachedCall:
    """One call of a function that `carry` has made: it runs in the scope that was captured."""

    __slots__ = ("_captured", "_token")

    def __init__(self, captured: CapturedScope) -> None:
        self._captured = captured

    def __enter__(self) -> None:
        self._token = self._captured.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try: self._captured.detach(self._token)  # fmt: skip
        except BaseException:
            self._captured.detach(self._token)  # again, if that was interrupted
            raise


class GeneratorSteps:
    """The scope of a decorated generator: it belongs to the frame of the generator's body, and its time is that of the steps."""

    __slots__ = ("_frame", "_is_async", "_nanoseconds", "_scope", "_since", "_spec")

    def __init__(self, spec: ScopeSpec, body: Any, *, is_async: bool) -> None:
        self._spec = spec
        self._frame = body.ag_frame if is_async else body.gi_frame
        self._is_async = is_async
        self._scope: Scope | None = None
        self._nanoseconds = 0

    def __enter__(self) -> None:
        self._since = time.perf_counter_ns()
        if self._scope is None:
            self._scope = self._spec.open(self._frame)
            keep(self._scope, self._frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._nanoseconds += time.perf_counter_ns() - self._since
        account = None if self._scope is None or not self._scope.budgets else self._scope.account
        if error is not None and account is not None:
            ended = isinstance(error, StopIteration | StopAsyncIteration)
            if conclude(account, None if ended else error) and not ended:
                raise (StopAsyncIteration if self._is_async else StopIteration) from None

    def end(self) -> None:
        """Leave the scope."""
        if self._scope is not None:  # pragma: no branch - None only if an interrupt came while it was entered
            self._scope.started = time.perf_counter_ns() - self._nanoseconds
            self._scope.leave()


class CarriedSteps:
    """The steps of a generator that `carry` has made: each runs in the scope that was captured."""

    __slots__ = ("_captured", "_token", "_top")

    def __init__(self, captured: CapturedScope, body: Any, *, is_async: bool) -> None:
        self._captured = captured
        self._top: Any = None  # what the body has left on top when it was suspended, if that was another scope

    def __enter__(self) -> None:
        self._token = self._captured.attach() if self._top is None else entered.set(self._top)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try: self._detach()  # fmt: skip
        except BaseException:
            self._detach()  # again, if that was interrupted
            raise

    def _detach(self) -> None:
        top, own = entered.get(), self._captured.scope
        self._top = None if top is own or getattr(top, "scope", None) is own else top
        self._captured.detach(self._token)

    def end(self) -> None:
        """Do nothing: the scope is open elsewhere."""


def what_runs(function: Any) -> Any:
    """Return the function whose kind counts: of a partial the one inside, of an object its `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.iscoroutinefunction(function):
        return function
    return type(function).__call__


def wrap(function: Any, spec: ScopeSpec | CapturedScope) -> Any:
    """Return a function of the same kind whose body runs in the scope that `spec` opens, or in a captured one."""
    steps_of: Any = GeneratorSteps if isinstance(spec, ScopeSpec) else CarriedSteps
    kind = what_runs(function)
    if inspect.isasyncgenfunction(kind):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
            body = function(*args, **kwargs)
            steps = steps_of(spec, body, is_async=True)
            try:
                try:
                    with steps: item = await body.__anext__()  # fmt: skip
                    while True:
                        try: sent = yield item  # fmt: skip
                        except BaseException as error:
                            with steps: item = await body.athrow(error)  # fmt: skip
                        else:
                            with steps: item = await body.asend(sent)  # fmt: skip
                except StopAsyncIteration:
                    return
                finally:
                    steps.end()
            except BaseException:
                steps.end()  # again, if that was interrupted
                raise

    elif inspect.isgeneratorfunction(kind):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            body = function(*args, **kwargs)
            steps = steps_of(spec, body, is_async=False)
            try:
                try:
                    with steps: item = next(body)  # fmt: skip
                    while True:
                        try: sent = yield item  # fmt: skip
                        except BaseException as error:
                            with steps: item = body.throw(error)  # fmt: skip
                        else:
                            with steps: item = body.send(sent)  # fmt: skip
                except StopIteration as stop:
                    return stop.value
                finally:
                    steps.end()
            except BaseException:
                steps.end()  # again, if that was interrupted
                raise

    elif isinstance(spec, CapturedScope) or spec.budget is not None:
        call_of: Any = AttachedCall if isinstance(spec, CapturedScope) else BudgetedCall
        if inspect.iscoroutinefunction(kind):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
                with call_of(spec): return await function(*args, **kwargs)  # fmt: skip

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with call_of(spec): return function(*args, **kwargs)  # fmt: skip

    else:  # nearly always; a context manager around the call would cost a quarter more
        frames, kind_of_scope = spec.frames, Scope
        open = _open_with_attributes if spec.attributes else open_scope  # noqa: A001
        if inspect.iscoroutinefunction(kind):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
                scope = open(kind_of_scope, frames, spec)
                try:
                    try:
                        kind_of_scope.begin(scope)
                        return await function(*args, **kwargs)
                    finally:
                        scope.leave()
                except BaseException:
                    scope.leave()  # again, if that was interrupted
                    raise

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                scope = open(kind_of_scope, frames, spec)
                try:
                    try:
                        kind_of_scope.begin(scope)
                        return function(*args, **kwargs)
                    finally:
                        scope.leave()
                except BaseException:
                    scope.leave()  # again, if that was interrupted
                    raise

    return wrapper


class Decorator(Protocol):
    """What `track_tokens("module")` and `token_scope("name")` are to type checkers: a decorator that changes no type."""

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: M, /) -> M: ...


def decorate(what: str, function: Any, spec_for: Callable[[Any], ScopeSpec]) -> Any:
    """Wrap what can be decorated; raise for the rest, and say what to do instead."""
    if isinstance(function, classmethod | staticmethod):
        return type(function)(decorate(what, function.__func__, spec_for))
    if isinstance(function, type):
        raise TypeError(
            f"{what} decorates functions and methods, not classes: decorate the methods of {function.__name__} that "
            "make the calls (for a dspy.Module nothing is needed, modules become scopes by themselves)"
        )
    if isinstance(function, property):
        raise TypeError(f"{what} cannot decorate a property: put it below @property, on the function itself")
    if not callable(function):
        raise TypeError(f"{what} decorates functions and methods, not {type(function).__name__} {function!r}")
    spec = spec_for(function)
    return function if DISABLED else wrap(function, spec)


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
    return wrap(function, CapturedScope.capture())  # type: ignore[no-any-return]
