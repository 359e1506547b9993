"""Carrying scopes to threads and tasks: a ContextVar alone does not reach threads, nor tell who is paused from who is not."""

from __future__ import annotations

from typing import Any

from tokenscope._scopes import scope as _scope
from tokenscope._scopes.context import Visit
from tokenscope._scopes.enforcement import stop_in
from tokenscope._scopes.scope import _current, active


def run_in(visit: Visit, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function in the scope in which it was handed over."""
    stay = visit.enter()
    try:
        return function(*args, **kwargs)
    finally:
        stay.leave()


class _Run:
    """A thread's `run`, in the scope in which the thread was started."""

    def __init__(self, thread: Any, visit: Visit) -> None:
        self._thread = thread
        self._visit = visit
        self._own = vars(thread).get("run")

    def put_in(self) -> None:
        vars(self._thread)["run"] = self

    def put_back(self) -> None:
        if self._own is None:
            vars(self._thread).pop("run", None)
        else:
            vars(self._thread)["run"] = self._own

    def __call__(self) -> None:
        self.put_back()
        stay = self._visit.enter()
        try:
            self._thread.run()
        except BaseException as error:
            if stop_in(error) is None:
                raise
            # Else the budget's scope knows; a thread has nobody to tell.
        finally:
            stay.leave()


def start_thread(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`threading.Thread.start`: the thread inherits the scope in which it is started."""
    if (active() is None and _scope.guard is None) or not instance._initialized or instance.ident is not None:
        return wrapped(*args, **kwargs)
    run = _Run(instance, Visit.here())
    run.put_in()
    try:
        return wrapped(*args, **kwargs)
    except BaseException:
        run.put_back()
        raise


def submit(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`ThreadPoolExecutor.submit`: the work item runs in the submitting scope, be it none at all."""
    if not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    return wrapped(run_in, Visit.here(), function, *rest, **kwargs)


def create_task(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`loop.create_task`: a task takes along the scope that is active, not one that is on top but paused."""
    top = _current.get()
    if top is None or top._twist is None or kwargs.get("context") is not None:
        return wrapped(*args, **kwargs)
    stay = Visit.here().enter()
    try:
        return wrapped(*args, **kwargs)
    finally:
        stay.leave()
