"""`ProcessPoolExecutor`: what a task spends in its worker comes home with its result, or with what it raises.

The result travels in a `ResultEnvelope`: counts first, then the pickled result. When the process that submitted the task
unpickles the envelope, it counts what was spent, and gets the result. So nothing is done to the future. The counts are there
before the result is, even if the result cannot be unpickled and the pool breaks.

(A `Shipment` contains what was raised, too. Here, the pool raises that, and adds the worker's traceback.)
"""

from __future__ import annotations

import itertools
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from tokenscope._processes.worker_scope import PackedRows, WorkerScope, bring_home, ordinary_error, pack
from tokenscope._scopes.context import CapturedScope, active
from tokenscope._scopes.event_log import hand_over
from tokenscope._scopes.process import STATE, Counted
from tokenscope._usage.calls import ROOT, Frame
from tokenscope._usage.table import UsageTable
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.threads import run_in

_numbers: Final = itertools.count()
_pending: Final[WeakValueDictionary[int, PendingTask]] = WeakValueDictionary()
"""The tasks whose results are awaited. The pool's work item keeps each alive."""


class PendingTask:
    """A task that was submitted, and the scope that submitted it. The worker unpickles a number and a path in its place."""

    def __init__(self, scope: Counted) -> None:
        self.scope = scope
        self.number = next(_numbers)
        _pending[self.number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ((self.number, *self.scope.path),)


def submit(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrap `ProcessPoolExecutor.submit`: the task's counts come home to the scope that submits it, or to none."""
    if not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    task = PendingTask(active() or STATE.root)
    # The pool may start its thread and its workers now. They do not belong to this scope: others submit tasks, too.
    return run_in(CapturedScope(None), wrapped, run, task, function, *rest, **kwargs)


def run(task: tuple[int, *tuple[Frame, ...]], function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call the function in the worker, and send home what it spends."""
    number, *frames = task
    scope = WorkerScope(frames)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        raised = ordinary_error(error)
        ResultEnvelope(raised, number, scope.end_task(), _pack_others()).attach_to_error()
        if raised is error:
            raise
        raise raised from None
    rows, others = scope.end_task(), _pack_others()
    return ResultEnvelope(result, number, rows, others) if rows or others else result


def _pack_others() -> PackedRows:
    """Return what this worker has counted in no task since the last one: in its initializer, or in threads left behind."""
    table = UsageTable(ROOT)
    for path, row in hand_over(STATE.root).all_rows.items():
        for key, spent in row.counts.items():
            # Without entries: those of scopes that a fork has inherited are the parent's.
            table.add(path, key, spent)
        if row.sizes is not None:
            table.row(path).add_sizes(row.sizes)
    return pack(table, ROOT)


class ResultEnvelope(NamedTuple):
    """A task's result, or the exception it raised, and the counts. Pickled, the counts come first."""

    value: Any
    number: int  # of the task
    rows: PackedRows  # of the task
    others: PackedRows  # what the worker has counted in no task

    def attach_to_error(self) -> None:
        """Let the exception be pickled as this envelope: pickle asks an object, not its type, for `__reduce_ex__`."""
        if self.rows or self.others:
            vars(self.value)["__reduce_ex__"] = self.__reduce_ex__

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.value, BaseException):
            vars(self.value).pop("__reduce_ex__", None)
        try:
            pickled = bytes(ForkingPickler.dumps(self.value))
        except BaseException as error:
            # The pool sends this error in place of the result.
            self._replace(value=error).attach_to_error()
            raise
        return _open_envelope, (self.number, self.rows, self.others, pickled)


def _open_envelope(number: int, rows: PackedRows, others: PackedRows, pickled: bytes) -> Any:
    """Count, and return the result, in the process that submitted the task, when the pool unpickles the envelope."""
    try:
        if (task := _pending.get(number)) is not None:
            bring_home(rows, task.scope)
            bring_home(others, STATE.root)
    except Exception:  # noqa: BLE001
        internal_error("bringing calls home from a process")
    return pickle.loads(pickled)  # noqa: S301 - as the pool itself does
