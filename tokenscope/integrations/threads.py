"""Threads and tasks: they run in the scope in which they were started. A ContextVar alone does not reach threads.

A thread that an LM starts during its call also runs within that call, whose usage may repeat what is spent in the thread.
"""

from __future__ import annotations

import functools
from contextvars import Context
from types import MethodType
from typing import Any, Final

from tokenscope._scopes.context import CapturedScope, active, entered
from tokenscope._scopes.enforcement import stop_in
from tokenscope._scopes.lm_calls import current_lm_call, lm_call_in_progress
from tokenscope._scopes.process import STATE
from tokenscope._scopes.wrapping import AttachedCall
from tokenscope.integrations import patches

_generator_scopes: Final = STATE.generator_scopes
_OUR_FILES: Final = (__file__, patches.__file__)


def run_in(captured: CapturedScope, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function in the scope in which it was submitted."""
    with AttachedCall(captured): return function(*args, **kwargs)  # fmt: skip


def _runner() -> Any:
    """Return what `run_in` does, within the LM call that is in progress here."""
    call = lm_call_in_progress()
    return run_in if call is None else functools.partial(_run_within, call)


def _run_within(call: Any, captured: CapturedScope, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    token = current_lm_call.set(call)
    try:
        return run_in(captured, function, *args, **kwargs)
    finally:
        current_lm_call.reset(token)


def start_thread(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`threading.Thread.start`: the thread inherits the scope in which it is started."""
    scope = active()
    is_new = instance._initialized and instance.ident is None  # noqa: SLF001 - there is no public way to ask
    if not is_new or (scope is None and not STATE.root.budgets and lm_call_in_progress() is None):
        return wrapped(*args, **kwargs)
    captured, runner, own_run = CapturedScope(scope), _runner(), vars(instance).get("run")
    ours: Any = None

    def put_back() -> None:
        nonlocal ours
        mine, ours = ours, None  # or it would hold itself, and the thread, until a garbage collection
        if mine is None or vars(instance).get("run") is not mine:
            return  # done, or another tool has wrapped ours since
        if own_run is None:
            del vars(instance)["run"]
        else:
            vars(instance)["run"] = own_run

    def run(thread: Any, /, *args: Any, **kwargs: Any) -> None:
        put_back()
        if vars(thread).get("run") is own_run:
            original = thread.run
        else:
            original = type(thread).run.__get__(thread) if own_run is None else own_run
        try:
            runner(captured, original, *args, **kwargs)
        except BaseException as error:
            if stop_in(error) is None:  # else the scope that owns the budget knows, and nothing waits for this thread
                raise

    # A bound method, as the thread's own is one: sentry-sdk takes the function out of it, and calls that with the thread.
    ours = vars(instance)["run"] = MethodType(run, instance)
    try:
        return wrapped(*args, **kwargs)
    except BaseException:
        put_back()
        raise


def submit(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`ThreadPoolExecutor.submit`: the work item runs in the submitting scope, also if that is no scope."""
    if not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    captured = CapturedScope.capture()
    if _generator_scopes:
        function = _inside_context(captured, function)
    return wrapped(_runner(), captured, function, *rest, **kwargs)


def _inside_context(captured: CapturedScope, function: Any) -> Any:
    """Return a function that runs in the scope also if it is `Context.run`, as `asyncio.to_thread` submits it.

    The Context is a copy of one that knows nothing of the generator whose body submits this.
    """
    if type(function) is functools.partial and isinstance(getattr(function.func, "__self__", None), Context):
        return functools.partial(function.func, run_in, captured, *function.args, **function.keywords)
    if isinstance(getattr(function, "__self__", None), Context):
        return functools.partial(function, run_in, captured)
    return function


async def run_sync(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`anyio.to_thread.run_sync`: the thread of a generator's body runs in the scope of the generator."""
    if not _generator_scopes:
        return await wrapped(*args, **kwargs)
    token = CapturedScope.capture().attach()
    try:
        return await wrapped(*args, **kwargs)
    finally:
        CapturedScope.detach(token)


def create_task(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`loop.create_task`: a task that a generator's body creates takes along the scope of the generator."""
    top = entered.get()
    if (not _generator_scopes and (top is None or top.detour is None)) or kwargs.get("context") is not None:
        task = wrapped(*args, **kwargs)
    else:
        task = run_in(CapturedScope.capture(), wrapped, *args, **kwargs)
    created_at = getattr(task, "_source_traceback", None)
    if isinstance(created_at, list):  # in debug mode, where asyncio says of each task where it was created
        while created_at and created_at[-1].filename in _OUR_FILES:
            del created_at[-1]
    return task
