"""DSPy's worker threads: they run in the scope that called the executor, and end when a budget is spent."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from dspy.dsp.utils.settings import thread_local_overrides

from tokenscope._scopes.context import CapturedScope
from tokenscope._scopes.enforcement import BudgetStop, stop_in
from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._scopes.wasted import mark_all_wasted
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.lm_calls import Args, CallTracker, Kwargs, set_settings_outside
from tokenscope.integrations.threads import run_in


class _ParallelWork:
    """The function that DSPy's workers call with each item, in the scope that called the executor."""

    def __init__(self, function: Any, items: Any) -> None:
        self._function = function
        self._items = items
        self._captured = CapturedScope.capture()
        self._started = 0
        self._running = 0
        self._done: Counter[int] = Counter()  # how often each item was worked through, by its identity
        self._changed = threading.Condition()
        self._stop: BudgetStop | None = None

    def __call__(self, item: Any) -> Any:
        if self._stop is not None:
            raise BudgetStop(self._stop.account)
        with self._changed:
            self._started += 1
            self._running += 1
        try:
            return run_in(self._captured, self._run, item)
        except BaseException as error:
            self._stop = self._stop or stop_in(error)
            raise
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _run(self, item: Any) -> Any:
        run = open_scope(Scope, ())  # apart, in the same scope: what this run spends may turn out to be wasted
        run.is_referenced = True
        try:
            run.begin(run)
            result = self._function(item)
        finally:
            run.leave()
        self._note(run, item)
        return result

    def _note(self, run: Scope, item: Any) -> None:
        """Mark the run as wasted if another run of the same item finished first: DSPy had taken this one for stuck."""
        with self._changed:
            self._done[id(item)] += 1
            if self._started <= len(self._items):
                return
            times = sum(each is item for each in self._items)  # 0 if the collection makes new items each time
            if not 0 < times < self._done[id(item)]:
                return
        try:
            mark_all_wasted(run, "stragglers")
        except Exception:  # noqa: BLE001
            internal_error("reading what a straggler has spent")

    def wait(self, seconds: float | None) -> None:
        """Wait until no worker runs an item."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)


def execute(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`ParallelExecutor.execute`: wrap what the workers do."""
    if args:
        work = _ParallelWork(args[0], args[1] if len(args) > 1 else kwargs.get("data"))
        args = (work, *args[1:])
    elif "function" in kwargs:
        work = _ParallelWork(kwargs["function"], kwargs.get("data"))
        kwargs = {**kwargs, "function": work}
    else:
        return wrapped(*args, **kwargs)
    inside = thread_local_overrides.get()
    token = set_settings_outside(inside) if isinstance(inside.get("usage_tracker"), CallTracker) else None
    try:
        return wrapped(*args, **kwargs)
    except BaseException as error:
        # DSPy does not wait for its workers here. Wait for the calls in flight, so that all that the run has spent is counted
        # when it ends; but no longer than DSPy itself waits for a worker.
        if stop_in(error) is not None:
            work.wait(getattr(instance, "timeout", None) or None)
        raise
    finally:
        if token is not None:
            thread_local_overrides.reset(token)
