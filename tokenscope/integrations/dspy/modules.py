"""A scope for each of DSPy's modules, tools and evaluations."""

from __future__ import annotations

import functools
from typing import Any

from dspy.dsp.utils.settings import thread_local_overrides

from tokenscope._scopes.scope import Scope, active
from tokenscope._usage.calls import MAX_NAMES, Frame
from tokenscope.errors import internal_error
from tokenscope.integrations.dspy.attempts import TRYING, Attempts, note_attempt
from tokenscope.integrations.dspy.lm_calls import Args, CallTracker, Kwargs
from tokenscope.integrations.dspy.module_names import module_name
from tokenscope.integrations.dspy.optimizers import phase_of


def _open(module: Any, kwargs: Kwargs) -> Scope | None:
    """Open the scope of a module that is called; None where its calls are those of the module around it."""
    around = active()
    try:
        name = module_name(module, around)
    except Exception:  # noqa: BLE001
        internal_error("naming a DSPy module")
        name = type(module).__name__
    if name is None:
        return None
    frames = _frames(name)
    if around is not None and around.path.frame.kind == "compile":
        phase = phase_of(around.path.frame.name, module)
        frames = frames if phase is None else (phase, *frames)
    scope = Attempts(frames, module, kwargs) if isinstance(module, TRYING) else Scope(frames, module)
    scope.held = type(around) is Attempts
    return scope


@functools.lru_cache(maxsize=MAX_NAMES)
def _frames(name: str) -> tuple[Frame, ...]:
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
    scope = _open(instance, kwargs)
    if scope is None:
        return wrapped(*args, **kwargs)
    token = _as_outside()
    result = None
    try:
        result = wrapped(*args, **kwargs)
    finally:
        if token is not None:
            _back_inside(token)
        scope.leave()
        if type(scope) is Attempts or type(scope.above) is Attempts:
            note_attempt(scope, result, kwargs)
    return result


async def acall_module(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Module.acall`: a scope by the module's name."""
    scope = _open(instance, kwargs)
    if scope is None:
        return await wrapped(*args, **kwargs)
    token = _as_outside()
    result = None
    try:
        result = await wrapped(*args, **kwargs)
    finally:
        if token is not None:
            _back_inside(token)
        scope.leave()
        if type(scope) is Attempts or type(scope.above) is Attempts:
            note_attempt(scope, result, kwargs)
    return result


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
