"""ship: a function that pickles as the one it is made of does, and returns what that one spends along with its result."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, overload

from tokenscope._processes.shipment import Shipment, ShippedError
from tokenscope._processes.worker_scope import WorkerScope
from tokenscope._scopes.enforcement import stop_in
from tokenscope._scopes.wrapping import what_runs

P = ParamSpec("P")
T = TypeVar("T")


class _Trip:
    """One call of a shipped function."""

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        self._scope = WorkerScope()

    def ended(self, value: Any) -> Shipment[Any]:
        return Shipment(self._scope.finish(), value)

    def failed(self, error: BaseException) -> Shipment[Any] | None:
        """Return the shipment of what was raised; None where that is to end more than the call: an exit, a cancellation."""
        stop = stop_in(error)
        if stop is not None:  # by the budget of the whole program, which this process has inherited by a fork
            error = stop.account.error()
        if not isinstance(error, Exception):
            self._scope.abandon()
            return None
        return Shipment(self._scope.finish(), None, ShippedError.of(error))


class _Shipped:
    """A function that pickles wherever the one it was made of does.

    To those who look it is a plain function: Ray takes no other callables. But pickle takes functions by name alone, and the
    name is the other one's, so to pickle it is an object. cloudpickle sees a function, and copies the one inside.
    """

    __slots__ = ("__dict__", "_function", "_inside")

    def __init__(self, function: Any, inside: Any) -> None:
        self._function = function
        self._inside = inside
        functools.update_wrapper(self, function, updated=())

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return FunctionType

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._inside(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self._inside.__get__(instance, owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_inside"), name)

    def __reduce__(self) -> str | tuple[Any, ...]:
        name: str | None = getattr(self, "__qualname__", None)
        if name is not None and _found(self.__module__, name) is self:
            return name  # it is the decorated function itself
        return ship, (self._function,)

    def __repr__(self) -> str:
        return f"ship({self._function!r})"


def _found(module: str | None, name: str) -> Any:
    """Return what a name means in a module."""
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


@overload
def ship(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, Shipment[T]]]: ...  # type: ignore[overload-overlap]
@overload
def ship(function: Callable[P, T]) -> Callable[P, Shipment[T]]: ...
def ship(function: Any) -> Any:
    """Return a function to hand to another process: it returns a `Shipment`, for `receive` to take in this one.

    For Ray, Dask, joblib, `multiprocessing.Pool` and the like; `ProcessPoolExecutor` needs none of this. What the function spends
    is counted in no scope of the process that runs it, but where its shipment is received. What it raises travels in the
    shipment and is raised by `receive`: to the framework the call has succeeded, so retry inside the function.

    Args:
        function: A function or coroutine function, or anything that can be called and pickled. Can decorate functions, too.

    Raises:
        TypeError: it cannot be called, or is a generator: those spend while they are read, and do not travel.

    Example:
        >>> from multiprocessing.pool import ThreadPool    # as well as multiprocessing.Pool
        >>> from tokenscope import receive, record_tokens, ship, token_scope
        >>> def page(number):
        ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        ...     return number
        >>> with token_scope("ingest") as scope, ThreadPool(2) as pool:
        ...     numbers = [receive(shipment) for shipment in pool.map(ship(page), range(3))]
        >>> numbers, scope.usage.total_tokens
        ([0, 1, 2], 3600)
    """
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise TypeError(f"ship takes a function, not {kind}: {function!r}")
    kind = what_runs(function)
    if inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind):
        raise TypeError(
            f"ship takes no generator function, and {function!r} is one: what it yields is made where it is read. "
            "Ship a function that returns a list."
        )
    return _Shipped(function, _inside(function, is_async=inspect.iscoroutinefunction(kind)))


def _inside(function: Any, *, is_async: bool) -> Any:
    """Return a function that returns shipments. It names nothing but arguments and closure, so that cloudpickle can copy it."""
    trip_of = _Trip
    if is_async:

        @functools.wraps(function, updated=())
        async def shipped(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
            trip = trip_of()
            try:
                value = await function(*args, **kwargs)
            except BaseException as error:
                shipment = trip.failed(error)
                if shipment is None:
                    raise
                return shipment
            return trip.ended(value)

    else:

        @functools.wraps(function, updated=())
        def shipped(*args: Any, **kwargs: Any) -> Any:
            trip = trip_of()
            try:
                value = function(*args, **kwargs)
            except BaseException as error:
                shipment = trip.failed(error)
                if shipment is None:
                    raise
                return shipment
            return trip.ended(value)

    return shipped
