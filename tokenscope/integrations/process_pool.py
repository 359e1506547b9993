"""`ProcessPoolExecutor`: what a task spends in its worker comes home with its result, or with what it raised.

The result travels in an *envelope*: counts first, then the pickled result. Unpickling one in the process that submitted the task
counts the former and returns the latter. So nothing is done to the future, and what was spent is counted before anybody sees the
result, also if that cannot be unpickled and the pool breaks.
"""

from __future__ import annotations

import itertools
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final
from weakref import WeakValueDictionary

from tokenscope._processes.worker_scope import PackedRows, WorkerScope, bring_home, pack
from tokenscope._scopes.context import CapturedScope, active
from tokenscope._scopes.enforcement import stop_in
from tokenscope._scopes.event_log import hand_over
from tokenscope._scopes.process import STATE, Counted
from tokenscope._usage.calls import ROOT, Frame
from tokenscope._usage.warnings import internal_error

_numbers: Final = itertools.count()
_pending: Final[WeakValueDictionary[int, PendingTask]] = WeakValueDictionary()
"""The tasks whose results are awaited; each lives as long as its work item does."""


class PendingTask:
    """A task that was submitted, and the scope in which its counts belong. Pickled for the worker: a number and a path."""

    __slots__ = ("__weakref__", "number", "scope")

    def __init__(self, scope: Counted) -> None:
        self.scope = scope
        self.number = next(_numbers)
        _pending[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ((self.number, *self.scope.path),)


def submit(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`ProcessPoolExecutor.submit`: the counts of the task come home to the submitting scope, also if that is no scope."""
    if not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    task = PendingTask(active() or STATE.root)
    # The pool's own thread and workers are started now, and are not of this scope: others will submit tasks, too.
    captured = CapturedScope(None)
    token = captured.attach()
    try:
        return wrapped(run, task, function, *rest, **kwargs)
    finally:
        captured.detach(token)


def run(task: tuple[int, *tuple[Frame, ...]], function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """In the worker: call the function, and send home what it spends."""
    number, *frames = task
    scope = WorkerScope(frames)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        # A fork may have inherited a budget of the whole program. A stop of it cannot end another process.
        stop = stop_in(error)
        raised = error if stop is None else stop.account.error()
        ResultEnvelope(raised, number, scope.finish(), _counted_outside_tasks()).travel_with_error()
        if raised is error:
            raise
        raise raised from None
    rows, others = scope.finish(), _counted_outside_tasks()
    return ResultEnvelope(result, number, rows, others) if rows or others else result


def _counted_outside_tasks() -> PackedRows:
    """Return what this worker has counted in no task since the last one: in its initializer, or in threads left behind."""
    table = hand_over(STATE.root)
    for path in [path for path, row in table.rows.items() if not row.counts]:
        del table.rows[path]
    for row in table.rows.values():
        row.entries = row.nanoseconds = 0  # of scopes that a fork has inherited, which the parent counts
    return pack(table, ROOT)


class ResultEnvelope:
    """A result, or an exception, and what was spent for it: pickled, the counts come first."""

    __slots__ = ("_number", "_others", "_rows", "_value")

    def __init__(self, value: Any, number: int, rows: PackedRows, others: PackedRows) -> None:
        self._value = value
        self._number = number
        self._rows = rows
        self._others = others

    def travel_with_error(self) -> None:
        """Be pickled in place of the exception: pickle asks an object, not its type, for `__reduce_ex__`."""
        if self._rows or self._others:
            vars(self._value)["__reduce_ex__"] = self

    def __call__(self, protocol: int) -> tuple[Any, ...]:
        """Stand for the exception's `__reduce_ex__`."""
        return self.__reduce__()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._value, BaseException):
            vars(self._value).pop("__reduce_ex__", None)
        try:
            pickled = bytes(ForkingPickler.dumps(self._value))
        except BaseException as error:
            # The pool sends this one in its place.
            ResultEnvelope(error, self._number, self._rows, self._others).travel_with_error()
            raise
        return _open_envelope, (self._number, self._rows, self._others, pickled)


def _open_envelope(number: int, rows: PackedRows, others: PackedRows, pickled: bytes) -> Any:
    """In the process that submitted the task, when its result is unpickled: count, and return the result."""
    try:
        task = _pending.get(number)
        if task is not None:
            bring_home(rows, task.scope)
            bring_home(others, STATE.root)
    except Exception:  # noqa: BLE001
        internal_error("bringing calls home from a process")
    return pickle.loads(pickled)  # noqa: S301 - as the pool itself does
