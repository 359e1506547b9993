"""Ship, Shipment and receive: what a function spends in another process comes home with its result.

What the function raises is in the shipment, too, and `receive` raises it. An exception that came home by itself would leave
behind what was spent, and so would one that is swallowed by a retry of Ray's or Dask's.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pickle
import sys
import traceback
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NoReturn, ParamSpec, Self, TypeVar, overload

from tokenscope._processes.worker_scope import PackedRows, WorkerScope, bring_home, ordinary_error, unpack
from tokenscope._scopes.context import active
from tokenscope._scopes.process import STATE
from tokenscope._scopes.wrapping import what_runs
from tokenscope._usage.calls import ROOT
from tokenscope._usage.warnings import TokenScopeError

if TYPE_CHECKING:
    from tokenscope._report.report import Report

P = ParamSpec("P")
T = TypeVar("T")


class Shipment(Generic[T]):
    """The result of a shipped function: the value it returned, or what it raised, and a report of what it spent.

    Example:
        >>> from tokenscope import record_tokens, ship
        >>> def page(number):
        ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        ...     return number
        >>> shipment = ship(page)(7)
        >>> shipment.value, shipment.report.total.total_tokens
        (7, 1200)
    """

    __slots__ = ("_failure", "_number", "_origin", "_rows", "_value")

    def __init__(self, rows: PackedRows, value: Any, failure: _ShippedError | None) -> None:
        self._rows = rows
        self._value: T = value
        self._failure = failure
        self._origin = STATE.name
        self._number = next(STATE.shipment_numbers)

    @property
    def value(self) -> T:
        """What the function returned.

        Raises:
            Exception: what the function raised, if it did.
        """
        if self._failure is not None:
            self._failure.throw()
        return self._value

    @property
    def report(self) -> Report:
        """What the function spent."""
        from tokenscope._report.report import Report

        return Report.from_table(unpack(self._rows, ROOT), ROOT, scoped=False)

    def _bring_home(self) -> None:
        with STATE.lock:
            is_new = _add_number(_received[self._origin], self._number)
        if is_new:
            bring_home(self._rows, active() or STATE.root, is_own=self._origin == STATE.name)

    def __repr__(self) -> str:
        what = f"of {type(self._value).__name__}" if self._failure is None else f"that failed: {self._failure.summary}"
        return f"<Shipment {what}>"


class _ShippedError(NamedTuple):
    """An exception as it travels. Some cannot be pickled, and others cannot be unpickled."""

    pickled: bytes | None
    summary: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> _ShippedError:
        summary = traceback.format_exception_only(error)[-1].strip()
        return cls(_pickled(error), summary, "".join(traceback.format_exception(error)))

    def throw(self) -> NoReturn:
        there = TokenScopeError(f"in the process where it was raised:\n\n{self.traceback}")
        error: BaseException = TokenScopeError(
            f"the shipped function raised {self.summary}; the exception itself cannot be sent to this process"
        )
        if self.pickled is not None:
            with contextlib.suppress(Exception):  # a class that only the other process has, for example
                error = pickle.loads(self.pickled)  # noqa: S301 - as the shipment around it was
        raise error from there


_PICKLERS: Final = ("pickle", "ray.cloudpickle", "joblib.externals.cloudpickle", "cloudpickle")
"""The modules that may have brought a class from `__main__` to a worker, and can bring it back as the same class."""


def _pickled(error: BaseException) -> bytes | None:
    """Pickle an exception so that it can be unpickled; return None if that is impossible."""
    for pickler in [sys.modules[name] for name in _PICKLERS if name in sys.modules]:
        with contextlib.suppress(Exception):  # its own methods may raise anything
            pickled: bytes = pickler.dumps(error)
            pickle.loads(pickled)  # noqa: S301 - ours
            return pickled
    return None


_received: Final[defaultdict[str, list[int]]] = defaultdict(list)
"""The numbers of the shipments that were received, by the process that has made them.

A list has the edges of ranges of numbers: starts and exclusive ends in turn. There are few: two for each gap.
"""


def _add_number(edges: list[int], number: int) -> bool:
    """Add a number to ranges; return whether it is new."""
    if bisect_right(edges, number) % 2:  # it lies after the start of a range, and before its end
        return False
    for edge in (number, number + 1):
        at = bisect_left(edges, edge)
        if edges[at : at + 1] == [edge]:  # the number joins the range that has this edge
            del edges[at]
        else:
            edges.insert(at, edge)
    return True


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
        self.shipment = Shipment(rows, self.value, None if raised is None else _ShippedError.of(raised))
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
        if name is not None:
            module: Any = sys.modules.get(self.__module__ or "")
            if functools.reduce(lambda found, part: getattr(found, part, None), name.split("."), module) is self:
                return name  # this is the decorated function itself
        return ship, (self._function,)

    def __repr__(self) -> str:
        return f"ship({self._function!r})"


@overload
def ship(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, Shipment[T]]]: ...  # type: ignore[overload-overlap]
@overload
def ship(function: Callable[P, T]) -> Callable[P, Shipment[T]]: ...
def ship(function: Any) -> Any:
    """Return a function for another process. It returns a `Shipment`, which `receive` takes in this process.

    Use it with Ray, Dask, joblib, `multiprocessing.Pool` and the like; `ProcessPoolExecutor` does not need it. What the function
    spends is counted in the scope that receives the shipment, and in no scope of the process that runs it. What it raises travels
    in the shipment, and `receive` raises it. The framework sees a call that succeeded, so retry inside the function.

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


def receive(shipment: Shipment[T]) -> T:
    """Count what a shipped function has spent, in the current scope, and return what it returned.

    A process counts a shipment once, in the scope that receives it first, even if it is received again or was copied.

    Args:
        shipment: What the function from `ship` returned in the other process.

    Raises:
        TypeError: `shipment` is not a `Shipment`.
        Exception: what the function raised, if it did. What it spent before is counted.

    Example:
        >>> from tokenscope import receive, ship
        >>> receive(ship(str.upper)("done"))
        'DONE'
    """
    if not isinstance(shipment, Shipment):
        raise TypeError(
            f"receive takes a Shipment, as a function from ship() returns it, not {type(shipment).__name__} {shipment!r:.200}: "
            "pass ship(function) to the other process in place of the function, and each of its results to receive"
        )
    shipment._bring_home()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it is there for this function
    return shipment.value
