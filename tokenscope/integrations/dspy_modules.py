"""A scope for each of DSPy's modules, tools and evaluations."""

from __future__ import annotations

import functools
import threading
from typing import Any

from dspy.dsp.utils.settings import thread_local_overrides

from tokenscope._call import MAX_NAMES, Frame
from tokenscope._purse import Stop, stop_in
from tokenscope._recipes import carry
from tokenscope._scope import Scope, active
from tokenscope.errors import internal_error
from tokenscope.integrations.dspy_calls import Args, CallTracker, Kwargs
from tokenscope.integrations.dspy_names import module_name


def _frames_of(module: Any) -> tuple[Frame] | None:
    try:
        name = module_name(module, active())
    except Exception:  # noqa: BLE001
        internal_error("naming a DSPy module")
        name = type(module).__name__
    return None if name is None else _frames(name)


@functools.lru_cache(maxsize=MAX_NAMES)
def _frames(name: str) -> tuple[Frame]:
    return (Frame("dspy", name),)


def _as_outside() -> Any:
    """Give a module that an LM runs the settings that it would find without us, where nobody tracks usage around the LM."""
    inside = thread_local_overrides.get()
    call = inside.get("usage_tracker")
    if not isinstance(call, CallTracker) or call.behind is not None:
        return None
    settings_outside = type(inside)(inside)
    for name in ("usage_tracker", "track_usage"):
        if name in call.outside:
            settings_outside[name] = call.outside[name]
        else:
            settings_outside.pop(name, None)
    return thread_local_overrides.set(settings_outside)


def _back_inside(token: Any) -> None:
    try:  # noqa: SIM105 - contextlib.suppress costs a microsecond
        thread_local_overrides.reset(token)
    except ValueError:
        pass  # a coroutine that is finalised in another Context


def call_module(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Module.__call__`: a scope by the module's name."""
    frames = _frames_of(instance)
    if frames is None:
        return wrapped(*args, **kwargs)
    scope = Scope(frames, instance)
    token = _as_outside()
    try:
        return wrapped(*args, **kwargs)
    finally:
        if token is not None:
            _back_inside(token)
        scope.leave()


async def acall_module(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Module.acall`: a scope by the module's name."""
    frames = _frames_of(instance)
    if frames is None:
        return await wrapped(*args, **kwargs)
    scope = Scope(frames, instance)
    token = _as_outside()
    try:
        return await wrapped(*args, **kwargs)
    finally:
        if token is not None:
            _back_inside(token)
        scope.leave()


def call_tool(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Tool.__call__`: a scope by the tool's name."""
    scope = Scope((Frame("tool", str(instance.name or "Tool")),), instance)
    try:
        return wrapped(*args, **kwargs)
    finally:
        scope.leave()


async def acall_tool(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Tool.acall`: a scope by the tool's name."""
    scope = Scope((Frame("tool", str(instance.name or "Tool")),), instance)
    try:
        return await wrapped(*args, **kwargs)
    finally:
        scope.leave()


def call_evaluate(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Evaluate.__call__`: a scope by its class's name."""
    scope = Scope((Frame("evaluate", type(instance).__name__),), instance)
    try:
        return wrapped(*args, **kwargs)
    finally:
        scope.leave()


class _Work:
    """What DSPy's workers do, in the scope that called for them."""

    def __init__(self, function: Any) -> None:
        self._function = carry(function)
        self._running = 0
        self._changed = threading.Condition()
        self._stop: Stop | None = None

    def __call__(self, item: Any) -> Any:
        if self._stop is not None:
            raise Stop(self._stop.purse)
        with self._changed:
            self._running += 1
        try:
            return self._function(item)
        except BaseException as error:
            self._stop = self._stop or stop_in(error)
            raise
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def wait(self, seconds: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)


def execute(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`ParallelExecutor.execute`: DSPy's workers run in the scope that called for them, and end when its budget is spent."""
    if args:
        work = _Work(args[0])
        args = (work, *args[1:])
    elif "function" in kwargs:
        work = _Work(kwargs["function"])
        kwargs = {**kwargs, "function": work}
    else:
        return wrapped(*args, **kwargs)
    try:
        return wrapped(*args, **kwargs)
    except BaseException as error:
        # DSPy would leave its workers to themselves. What they are at is waited for, so that all that the run has bought is
        # counted when it ends; but no longer than DSPy itself waits for one of them.
        if stop_in(error) is not None:
            work.wait(getattr(instance, "timeout", None) or None)
        raise
