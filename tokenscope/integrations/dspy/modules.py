"""A scope for each of DSPy's modules, tools and evaluations."""

from __future__ import annotations

import functools
from typing import Any, Final

from dspy.dsp.utils.settings import thread_local_overrides

from tokenscope._scopes.context import active, entered
from tokenscope._scopes.process import STATE
from tokenscope._scopes.scope import Scope
from tokenscope._scopes.wrapping import FunctionScope
from tokenscope._usage.calls import MAX_NAMES, Frame
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.attempts import TRYING, Attempts
from tokenscope.integrations.dspy.lm_calls import Args, CallTracker, Kwargs
from tokenscope.integrations.dspy.module_names import module_name
from tokenscope.integrations.dspy.optimizers import phase_of

_generator_scopes: Final = STATE.generator_scopes


class ModuleScope(Scope):
    """The scope of one call of a DSPy module."""

    __slots__ = ("attempts", "attempts_around", "settings_token")

    attempts: Attempts | None
    attempts_around: Attempts | None
    settings_token: Any

    def finish(self, error: BaseException | None, result: Any) -> None:
        """Leave it, and note its result if it is an attempt at another one, or has made attempts."""
        if self.settings_token is not None:
            try:  # noqa: SIM105 - contextlib.suppress costs a microsecond
                thread_local_overrides.reset(self.settings_token)
            except ValueError:
                pass  # a coroutine that is finalised in another Context
        self.leave()
        if self.attempts is not None or self.attempts_around is not None:
            self._note_attempt(result)

    def _note_attempt(self, result: Any) -> None:
        try:
            if self.attempts is not None:
                self.attempts.conclude(result)
            if self.attempts_around is not None:
                self.attempts_around.note(self, result)
        except Exception:  # noqa: BLE001
            internal_error("reading what attempts have spent")


def call_module(module: Any, args: Args, kwargs: Kwargs) -> ModuleScope | None:
    """`Module.__call__`, `.acall`: a scope by the module's name; None if its calls are those of the module around it."""
    around: Any = entered.get()
    if _generator_scopes or (around is not None and around.detour is not None):
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
    scope = ModuleScope(frames, module)
    scope.attempts = Attempts(module, kwargs) if isinstance(module, TRYING) else None
    scope.attempts_around = None
    if type(around) is ModuleScope and around.attempts is not None:
        scope.is_referenced = True  # its counts are read when all attempts are made
        if around.attempts.wants(module, kwargs):
            scope.attempts_around = around.attempts
    inside = thread_local_overrides.get()
    scope.settings_token = None
    if type(inside.get("usage_tracker")) is CallTracker:
        scope.settings_token = _set_settings_outside(inside)
    return scope


@functools.lru_cache(maxsize=MAX_NAMES)
def _frames(name: str) -> tuple[Frame, ...]:
    return (Frame("dspy", name),)


def _set_settings_outside(inside: Any) -> Any:
    """Give a module that an LM runs the settings that it would find without us, unless usage is tracked around the LM."""
    call: CallTracker = inside["usage_tracker"]
    if call.wrapped_tracker is not None or call.settings_outside is None:
        return None
    outside = type(inside)(inside)
    for name in ("usage_tracker", "track_usage"):
        if name in call.settings_outside:
            outside[name] = call.settings_outside[name]
        else:
            outside.pop(name, None)
    return thread_local_overrides.set(outside)


def call_tool(tool: Any, args: Args, kwargs: Kwargs) -> FunctionScope:
    """`Tool.__call__`, `.acall`: a scope by the tool's name."""
    return FunctionScope((Frame("tool", str(tool.name or "Tool")),), tool)


def call_evaluate(evaluate: Any, args: Args, kwargs: Kwargs) -> FunctionScope:
    """`Evaluate.__call__`: a scope by its class's name."""
    return FunctionScope((Frame("evaluate", type(evaluate).__name__),), evaluate)
