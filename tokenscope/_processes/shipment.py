"""Shipment and receive: what a function spends in another process comes home with its result.

What the function raises is in the shipment, too, and `receive` raises it. An exception that came home by itself would leave
behind what was spent, and so would one that is swallowed by a retry of Ray's or Dask's.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import traceback
from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NoReturn, TypeVar, cast

from tokenscope._processes.worker_scope import PackedRows, bring_home, unpack
from tokenscope._scopes.context import active
from tokenscope._scopes.process import STATE
from tokenscope._usage.calls import ROOT
from tokenscope._usage.warnings import TokenScopeError

if TYPE_CHECKING:
    from tokenscope._report.report import Report

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

    def __init__(self, rows: PackedRows, value: Any, failure: ShippedError | None = None) -> None:
        self._rows = rows
        self._value = value
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
        return cast("T", self._value)

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


class ShippedError(NamedTuple):
    """An exception as it travels. Some cannot be pickled, and others cannot be unpickled."""

    pickled: bytes | None
    summary: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> ShippedError:
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
