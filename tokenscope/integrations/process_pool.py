"""`ProcessPoolExecutor`: what a task spends in its worker comes home with its result, or with what it raised.

The result travels as *arrival*: counts first, then the pickled result. Unpickling one in the process that submitted the task
counts the former and returns the latter. So nothing is done to the future, and what is spent is home before anybody sees the
result, also where that cannot be unpickled and the pool breaks.
"""

from __future__ import annotations

import itertools
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final
from weakref import WeakValueDictionary

from tokenscope._processes.worker_scope import Freight, Task, pack, unload
from tokenscope._scopes.context import Visit
from tokenscope._scopes.enforcement import stop_in
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._scopes.scope import active
from tokenscope._usage.calls import ROOT, Frame
from tokenscope.errors import internal_error

_numbers: Final = itertools.count()
_errands: Final[WeakValueDictionary[int, Errand]] = WeakValueDictionary()
"""The tasks whose results are awaited; each lives as long as its work item does."""


class Errand:
    """A task on its way to a worker, and the scope to which its counts come home."""

    __slots__ = ("__weakref__", "ledger", "number")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.number = next(_numbers)
        _errands[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ((self.number, *self.ledger.path),)


def submit(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`ProcessPoolExecutor.submit`: run the task so that its counts come home to the submitting scope, be it none at all."""
    if not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    errand = Errand(active() or PROCESS)
    # The pool's own thread and workers are started now, and are not of this scope: others will submit tasks, too.
    stay = Visit(None).enter()
    try:
        return wrapped(run, errand, function, *rest, **kwargs)
    finally:
        stay.leave()


def run(errand: tuple[int, *tuple[Frame, ...]], function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """In the worker: call the function, and send home what it spends."""
    number, *frames = errand
    task = Task(frames)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        # What has spent the budget of the whole program, inherited by a fork: another process cannot be ended by that.
        stop = stop_in(error)
        raised = error if stop is None else stop.purse.error()
        _Arrival(raised, number, task.end(), _strays()).ride()
        if raised is error:
            raise
        raise raised from None
    freight, strays = task.end(), _strays()
    return _Arrival(result, number, freight, strays) if freight or strays else result


def _strays() -> Freight:
    """Return what was counted in this worker in no task, since the last one: by its initializer, or by threads left behind."""
    rows = PROCESS.hand_over()
    for path in [path for path, row in rows.items() if not row.models]:
        del rows[path]
    for row in rows.values():
        row.entries = row.nanoseconds = 0  # of scopes that a fork has inherited, which the parent counts
    return pack(rows, ROOT)


class _Arrival:
    """A result, or an exception, and what was spent for it: pickled, the counts come first."""

    __slots__ = ("_freight", "_number", "_strays", "_thing")

    def __init__(self, thing: Any, number: int, freight: Freight, strays: Freight) -> None:
        self._thing = thing
        self._number = number
        self._freight = freight
        self._strays = strays

    def ride(self) -> None:
        """Be pickled where the thing, an exception, is: pickle asks an object, not its type, for `__reduce_ex__`."""
        if self._freight or self._strays:
            vars(self._thing)["__reduce_ex__"] = self

    def __call__(self, protocol: int) -> tuple[Any, ...]:
        return self.__reduce__()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._thing, BaseException):
            vars(self._thing).pop("__reduce_ex__", None)
        try:
            pickled = bytes(ForkingPickler.dumps(self._thing))
        except BaseException as error:
            # The pool sends this one in its place.
            _Arrival(error, self._number, self._freight, self._strays).ride()
            raise
        return _arrive, (self._number, self._freight, self._strays, pickled)


def _arrive(number: int, freight: Freight, strays: Freight, pickled: bytes) -> Any:
    """In the process that submitted the task, when its result is unpickled: count, and return the result."""
    try:
        errand = _errands.get(number)
        if errand is not None:
            unload(freight, errand.ledger)
            unload(strays, PROCESS)
    except Exception:  # noqa: BLE001
        internal_error("bringing calls home from a process")
    return pickle.loads(pickled)  # noqa: S301 - as the pool itself does
