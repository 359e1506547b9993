"""A scope for each optimizer's run, and for the phases of it.

Each optimizer overrides `compile`, so `compile` is wrapped in each, also in those to come. Most optimizers have a method for each
phase. What runs in `compile` itself is told apart by what it is: DSPy's own programs write instructions, and what GEPA asks
without a program goes to its reflection model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._scopes.wrapping import ScopeSpec, wrap
from tokenscope._usage.calls import Frame
from tokenscope.integrations.patches import stand_in

_BOOTSTRAP: Final = Frame("phase", "bootstrap")
_EVALUATE: Final = Frame("phase", "evaluate")
_PROPOSE: Final = Frame("phase", "propose")
_PHASES: Final = {  # methods of optimizers, and the phases that they are
    "_bootstrap": _BOOTSTRAP,  # BootstrapFewShot: a teacher makes demonstrations
    "_bootstrap_fewshot_examples": _BOOTSTRAP,  # MIPROv2
    "_propose_instructions": _PROPOSE,  # MIPROv2: its prompt model writes instructions
    "_optimize_prompt_parameters": Frame("phase", "search"),  # MIPROv2: candidates are evaluated
    "induce_natural_language_rules": _PROPOSE,  # InferRules
}
_WRAPPED: Final = frozenset({"compile", *_PHASES})
_OTHERWISE: Final = {"GEPA": Frame("phase", "reflect"), "COPRO": _PROPOSE}
"""The phase of an optimizer in `compile` itself, whatever runs there."""
_RUNS: Final = {"SIMBA": _EVALUATE, "AvatarOptimizer": _EVALUATE}
"""The phase of an optimizer while it runs the program that it optimizes in `compile` itself."""
_PROPOSERS: Final = ("dspy.teleprompt.", "dspy.propose.")
"""Where DSPy keeps the programs and signatures that write instructions."""

_ADOPTED: Final = "__tokenscope_adopted__"  # marks methods that are wrapped


def adopt_optimizers(module: ModuleType) -> Callable[[], None]:
    """Wrap `compile` of every optimizer there is, and of those to come; return a function that undoes this."""
    base = module.Teleprompter
    original = vars(base).get("__init_subclass__")
    for optimizer in _subclasses(base):
        _adopt(optimizer)

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:  # noqa: N807 - what it becomes
        super(base, cls).__init_subclass__(**kwargs) if original is None else original.__get__(None, cls)(**kwargs)
        _adopt(cls)

    def release() -> None:
        if original is None:
            del base.__init_subclass__
        else:
            base.__init_subclass__ = original
        for optimizer in _subclasses(base):
            for name in _WRAPPED & vars(optimizer).keys():
                own: Any = vars(optimizer)[name]
                ours: Any = getattr(own, "__func__", own)
                if hasattr(ours, _ADOPTED):
                    setattr(optimizer, name, ours.__wrapped__ if ours is own else type(own)(ours.__wrapped__))

    base.__init_subclass__ = classmethod(__init_subclass__)
    return release


def _adopt(optimizer: Any) -> None:
    for name in _WRAPPED & vars(optimizer).keys():
        frame = _PHASES.get(name) or Frame("compile", optimizer.__name__)
        own = vars(optimizer)[name]
        wrapped = _in_scope if optimizer.__module__.startswith("dspy.") else _in_scope_if_there
        if isinstance(own, staticmethod | classmethod):
            if not hasattr(own.__func__, _ADOPTED):
                setattr(optimizer, name, type(own)(wrapped(own.__func__, frame)))
        elif inspect.isfunction(own) and not hasattr(own, _ADOPTED):
            setattr(optimizer, name, wrapped(own, frame))


@functools.lru_cache(maxsize=256)
def _in_scope(method: Any, frame: Frame) -> Any:
    """Return what runs a method of DSPy's in a scope; the same again, when patches are undone and applied again."""
    ours = stand_in(wrap(method, ScopeSpec((frame,))), method)
    setattr(ours, _ADOPTED, True)
    return ours


def _in_scope_if_there(method: Any, frame: Frame) -> Any:
    """Return what runs a program's own method in a scope. It is not kept, as it would keep the program's classes alive.

    A class from `__main__` is pickled with its methods, and may be loaded where tokenscope is not installed.
    """
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        return _in_scope.__wrapped__(method, frame)
    kind, name = frame

    @functools.wraps(method)
    def ours(*args: Any, **kwargs: Any) -> Any:
        try:
            from tokenscope.integrations.dspy.optimizers import run_in_scope
        except ImportError:
            return method(*args, **kwargs)
        return run_in_scope(method, kind, name, *args, **kwargs)

    setattr(ours, _ADOPTED, True)
    return ours


def run_in_scope(method: Any, kind: str, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method in a scope."""
    return wrap(method, ScopeSpec((Frame(kind, name),)))(*args, **kwargs)


def _subclasses(base: Any) -> Iterator[Any]:
    for each in base.__subclasses__():
        yield each
        yield from _subclasses(each)


def evaluate_candidate(adapter: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scope:
    """`DspyAdapter.evaluate`: GEPA runs a candidate, either to learn from how it goes, or to score it."""
    learns = kwargs.get("capture_traces", args[2] if len(args) > 2 else False)
    return open_scope(Scope, (Frame("phase", "sample") if learns else _EVALUATE,))


def judge_candidate(adapter: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scope:
    """`DspyAdapter.make_reflective_dataset`: GEPA asks the metric for feedback, which may ask a judge of its own."""
    return open_scope(Scope, (Frame("phase", "feedback"),))


def phase_of(optimizer: str, module: Any) -> Frame | None:
    """Return the phase of an optimizer when a module is called in `compile` itself; None if it is not known."""
    if optimizer in _OTHERWISE:
        return _OTHERWISE[optimizer]
    known: tuple[Any, ...] = (getattr(module, "signature", None), type(module))
    its_own = any(str(getattr(each, "__module__", None)).startswith(_PROPOSERS) for each in known)
    return _PROPOSE if its_own else _RUNS.get(optimizer)


def phase_of_call(optimizer: str) -> Frame | None:
    """Return the phase of an optimizer when it calls an LM in `compile` itself."""
    return _OTHERWISE.get(optimizer)
