"""ship: a function for another process that returns its result together with what it spends there."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import Any, ParamSpec, Self, TypeVar, overload

from tokenscope._processes.shipment import Shipment, ShippedError
from tokenscope._processes.worker_scope import WorkerScope, ordinary_error
from tokenscope._scopes.wrapping import what_runs

P = ParamSpec("P")
T = TypeVar("T")


class _ShippedCall:
    """One call of a shipped function, in a scope of its own. Its `value`, or what it raises, becomes a shipment."""

    shipment: Shipment[Any]

    def __enter__(self) -> Self:
        self.value: Any = None
        self._scope = WorkerScope()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        raised = None if error is None else ordinary_error(error)
        if not isinstance(raised, Exception | None):  # it ends more than the call: an exit, a cancellation
            self._scope.abandon()
            return False
        rows = self._scope.end_task()
        self.shipment = Shipment(rows, self.value, None if raised is None else ShippedError.of(raised))
        return True


class _Shipped:
    """A function that can be pickled wherever the shipped one can.

    It claims to be a plain function, because Ray accepts no other callables. But pickle stores functions by name alone, and the
    name is the shipped function's, so pickle sees an object. cloudpickle sees a function, and copies the one inside.
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
            return name  # this is the decorated function itself
        return ship, (self._function,)

    def __repr__(self) -> str:
        return f"ship({self._function!r})"


def _found(module: str | None, name: str) -> Any:
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


@overload
def ship(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, Shipment[T]]]: ...  # type: ignore[overload-overlap]
@overload
def ship(function: Callable[P, T]) -> Callable[P, Shipment[T]]: ...
def ship(function: Any) -> Any:
    """Return a function for another process. It returns a `Shipment`, which `receive` takes in this process.

    Use it with Ray, Dask, joblib, `multiprocessing.Pool` and the like; `ProcessPoolExecutor` does not need it. What the function
    spends is counted in the scope that receives the shipment, and in no scope of the process that runs the function. What it
    raises travels in the shipment, and `receive` raises it. The framework sees a call that succeeded, so retry inside the
    function.

    Args:
        function: A function or coroutine function, or anything that can be called and pickled. `ship` is a decorator, too.

    Raises:
        TypeError: the function cannot be called, or is a generator: it spends while it is read, and cannot be sent.

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
            f"ship takes no generator function, and {function!r} is one: it spends where its items are read. "
            "Ship a function that returns a list."
        )
    return _Shipped(function, _inside(function, is_async=inspect.iscoroutinefunction(kind)))


def _inside(function: Any, *, is_async: bool) -> Any:
    """Return a function that returns shipments. It uses only arguments and closure, so that cloudpickle can copy it."""
    call_of = _ShippedCall
    if is_async:

        @functools.wraps(function, updated=())
        async def shipped(*args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportRedeclaration]
            with call_of() as call:
                call.value = await function(*args, **kwargs)
            return call.shipment

    else:

        @functools.wraps(function, updated=())
        def shipped(*args: Any, **kwargs: Any) -> Any:
            with call_of() as call:
                call.value = function(*args, **kwargs)
            return call.shipment

    return shipped
