"""A scope for each of DSPy's modules, tools and evaluations."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from weakref import ref

from dspy.dsp.utils.settings import thread_local_overrides
from dspy.predict.predict import Predict

from tokenscope._scopes.context import active, entered
from tokenscope._scopes.process import STATE
from tokenscope._scopes.scope import Scope, open_scope, refer_to
from tokenscope._usage.calls import Frame
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.attempts import TRYING, Attempts, is_advice
from tokenscope.integrations.dspy.lm_calls import Args, CallTracker, Kwargs, set_settings_outside
from tokenscope.integrations.dspy.module_names import frames_of
from tokenscope.integrations.dspy.optimizers import phase_of

_generator_scopes: Final = STATE.generator_scopes
_get: Final = dict.get  # of DSPy's settings, whose own `get` is found by a `__getattr__` in Python


class TryingScope(Scope):
    """The scope of a module that makes attempts."""

    __slots__ = ("attempts",)

    attempts: Attempts


class _Entry:
    """One call of a module after which there is more to do than to leave its scope."""

    __slots__ = ("_attempts_around", "_inside", "_is_advice", "_scope", "_settings_token")

    def __init__(self, scope: Scope, module: Any, kwargs: Kwargs, around: Any, inside: Any) -> None:
        self._scope = scope
        self._attempts_around: Attempts | None = None
        self._is_advice = False
        self._inside = inside  # the settings inside an LM call, if the module is called there
        self._settings_token: Any = None
        if isinstance(scope, TryingScope):
            scope.attempts = Attempts(module, kwargs)
        if type(around) is TryingScope:
            refer_to(scope)  # its counts are read when all attempts are made
            if around.attempts.wants(module, kwargs):
                self._attempts_around = around.attempts
                self._is_advice = is_advice(module)

    @staticmethod
    def begin(entry: _Entry) -> None:
        """Enter the scope."""
        if entry._inside is not None:
            entry._settings_token = set_settings_outside(entry._inside)
        entered.set(entry._scope)

    def finish(self, error: BaseException | None, result: Any) -> None:
        """Leave the scope, and note the result if it is an attempt at another one, or if there were attempts at it."""
        if self._settings_token is not None:
            # A coroutine that is finalised in another Context has nothing to restore there.
            with contextlib.suppress(ValueError, RuntimeError):
                thread_local_overrides.reset(self._settings_token)
        self._scope.leave()
        try:
            if isinstance(self._scope, TryingScope):
                self._scope.attempts.conclude(result)
            if self._attempts_around is not None:
                self._attempts_around.note(self._scope, result, is_advice=self._is_advice)
        except Exception:  # noqa: BLE001
            internal_error("reading what attempts have spent")


def call_module(module: Any, args: Args, kwargs: Kwargs) -> Scope | _Entry | None:
    """`Module.__call__`, `.acall`: a scope by the module's name; None if its calls are those of the module around it."""
    around: Any = entered.get()
    if _generator_scopes or (around is not None and around.detour is not None):
        around = active()
    try:
        frames: tuple[Frame, ...] | None = frames_of(module, around)
    except Exception:  # noqa: BLE001
        internal_error("naming a DSPy module")
        frames = (Frame("dspy", type(module).__name__),)
    if frames is None:
        return None
    if around is not None and around.path.is_compile:
        phase = phase_of(around.path.frame.name, module)
        frames = frames if phase is None else (phase, *frames)
    inside = thread_local_overrides.get()
    is_inside_call = isinstance(_get(inside, "usage_tracker"), CallTracker)
    # Not isinstance: DSPy's modules have a `__getattribute__` in Python, which that would call three times.
    kind = Scope if type(module) is Predict or TRYING.isdisjoint(type(module).__mro__) else TryingScope
    scope = open_scope(kind, frames, ref(module))
    if kind is Scope and not is_inside_call and type(around) is not TryingScope:
        return scope  # nearly always
    return _Entry(scope, module, kwargs, around, inside if is_inside_call else None)


def call_tool(tool: Any, args: Args, kwargs: Kwargs) -> Scope:
    """`Tool.__call__`, `.acall`: a scope by the tool's name."""
    return open_scope(Scope, (Frame("tool", str(tool.name or "Tool")),))


def call_evaluate(evaluate: Any, args: Args, kwargs: Kwargs) -> Scope:
    """`Evaluate.__call__`: a scope by its class's name."""
    return open_scope(Scope, (Frame("evaluate", type(evaluate).__name__),))
