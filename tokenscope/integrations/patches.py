"""The patches: which functions of other packages are wrapped, when, and how that is undone.

A patch is applied when the module it concerns is imported (or at once, where it already is) and checked on the spot: where a
name is missing, that patch is left out with one warning, and the host program goes on.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Final, NamedTuple

from tokenscope.errors import internal_error, warn_once
from tokenscope.integrations import import_hooks as _imports

Wrapper = Callable[..., Any]


class Patch(NamedTuple):
    """One function to wrap: `module` and `name` say which, `hook` with what (`module:attribute`, loaded when needed)."""

    module: str
    name: str
    hook: str
    optional: bool = False  # not in every supported version
    plain: bool = False  # wrapped in a plain function rather than a wrapt proxy
    inherited: bool = False  # usually: wrapped only where somebody else has put a wrapper into the class


_CALLS: Final = "tokenscope.integrations.dspy.lm_calls"
_FORWARD: Final = "tokenscope.integrations.dspy.forward"
_ANSWERS: Final = "tokenscope.integrations.dspy.lm_answers"
_MODULES: Final = "tokenscope.integrations.dspy.modules"
_WORKERS: Final = "tokenscope.integrations.dspy.parallel"
_OPTIMIZERS: Final = "tokenscope.integrations.dspy.optimizers"
_CARRIERS: Final = "tokenscope.integrations.threads"
_PROCESSES: Final = "tokenscope.integrations.process_pool"
_LITELLM: Final = "tokenscope.integrations.litellm"

PATCHES: Final = (
    # From wrapt 2.2 on, wrapt loads asyncio, which not all programs need.
    Patch("threading", "Thread.start", f"{_CARRIERS}:start_thread", plain=True),
    Patch("concurrent.futures.thread", "ThreadPoolExecutor.submit", f"{_CARRIERS}:submit", plain=True),
    Patch("concurrent.futures.process", "ProcessPoolExecutor.submit", f"{_PROCESSES}:submit", plain=True),
    Patch("asyncio.base_events", "BaseEventLoop.create_task", f"{_CARRIERS}:create_task", plain=True),
    Patch("dspy.clients.base_lm", "BaseLM.__call__", f"{_CALLS}:call_lm"),
    Patch("dspy.clients.base_lm", "BaseLM.acall", f"{_CALLS}:acall_lm"),
    # Instrumentors that came first have wrapped BaseLM's original in LM, where a patch of BaseLM is passed by.
    Patch("dspy.clients.lm", "LM.__call__", f"{_CALLS}:call_lm", inherited=True),
    Patch("dspy.clients.lm", "LM.acall", f"{_CALLS}:acall_lm", inherited=True),
    Patch("dspy.clients.base_lm", "BaseLM._process_lm_response", f"{_ANSWERS}:process_response"),
    # DSPy asks whether `type(lm).forward is LM.forward`; a wrapt proxy is another object at each look.
    Patch("dspy.clients.lm", "LM.forward", f"{_FORWARD}:forward", plain=True),
    Patch("dspy.clients.lm", "LM.aforward", f"{_FORWARD}:aforward", plain=True),
    Patch("dspy.clients.typesafe", "TypeSafe.__call__", f"{_CALLS}:call_lm", optional=True),
    Patch("dspy.clients.typesafe", "TypeSafe.acall", f"{_CALLS}:acall_lm", optional=True),
    Patch("dspy.clients.cache", "Cache.get", f"{_ANSWERS}:get_cached"),
    Patch("dspy.primitives.module", "Module.__call__", f"{_MODULES}:call_module"),
    Patch("dspy.primitives.module", "Module.acall", f"{_MODULES}:acall_module"),
    Patch("dspy.adapters.types.tool", "Tool.__call__", f"{_MODULES}:call_tool"),
    Patch("dspy.adapters.types.tool", "Tool.acall", f"{_MODULES}:acall_tool"),
    Patch("dspy.evaluate.evaluate", "Evaluate.__call__", f"{_MODULES}:call_evaluate"),
    Patch("dspy.utils.parallelizer", "ParallelExecutor.execute", f"{_WORKERS}:execute"),
    Patch("dspy.adapters.base", "Adapter._call_postprocess", f"{_ANSWERS}:read_answer"),
    Patch("dspy.clients.execution", "_delay", f"{_ANSWERS}:repeat", optional=True),
    Patch(
        "dspy.teleprompt.gepa.gepa_utils", "DspyAdapter.evaluate", f"{_OPTIMIZERS}:evaluate_candidate", optional=True
    ),
    Patch(
        "dspy.teleprompt.gepa.gepa_utils",
        "DspyAdapter.make_reflective_dataset",
        f"{_OPTIMIZERS}:judge_candidate",
        optional=True,
    ),
    Patch("litellm", "completion_with_retries", f"{_LITELLM}:repeat", optional=True),
    Patch("litellm", "acompletion_with_retries", f"{_LITELLM}:repeat", optional=True),
    Patch("openai._base_client", "SyncAPIClient._sleep_for_retry", f"{_LITELLM}:repeat_soon", optional=True),
    Patch("openai._base_client", "AsyncAPIClient._sleep_for_retry", f"{_LITELLM}:repeat_soon", optional=True),
    Patch("litellm", "embedding", f"{_LITELLM}:embed"),
    Patch("litellm", "aembedding", f"{_LITELLM}:aembed"),
)
COMPILE: Final = "dspy.teleprompt.teleprompt"
"""Where the optimizers' base class is: `compile` is wrapped in each of its subclasses, also in those to come."""


class _Applied(NamedTuple):
    owner: Any
    attribute: str
    original: Any  # as it stood in the owner's own __dict__, or `_INHERITED`
    ours: Any
    switch: list[bool]  # emptied to make the wrapper a mere passage


_INHERITED: Final = object()
_applied: dict[Patch, _Applied] = {}
_complete: Final[set[str]] = set()  # packages whose code has run to its end
_active = False


def instrument() -> None:
    """Apply every patch whose module is imported, now or later. Done by `import tokenscope`; does nothing a second time.

    Example:
        >>> import tokenscope
        >>> tokenscope.uninstrument()
        >>> tokenscope.instrument()
    """
    global _active  # noqa: PLW0603
    _active = True
    for module in dict.fromkeys(["dspy", *(patch.module for patch in PATCHES), COMPILE]):
        if module in sys.modules:
            _on_import(sys.modules[module])
        _imports.after(module, _on_import)


def uninstrument() -> None:
    """Undo every patch: the host program is as it was without tokenscope. `instrument()` applies them again.

    Calls that are on their way are still counted when they end.
    """
    global _active  # noqa: PLW0603
    _active = False
    while _applied:
        _, applied = _applied.popitem()
        _undo(applied)
    if _OPTIMIZERS in sys.modules and COMPILE in sys.modules:
        sys.modules[_OPTIMIZERS].release_optimizers(sys.modules[COMPILE])


def is_active() -> bool:
    """Return whether the patches are to be in place: `instrument()` was called, and not `uninstrument()` since."""
    return _active


def applied() -> tuple[Patch, ...]:
    """Return the patches that are in place."""
    return tuple(_applied)


def covered() -> tuple[Patch, ...]:
    """Return the applied patches over which another package has put something of its own."""
    return tuple(patch for patch, done in _applied.items() if vars(done.owner).get(done.attribute) is not done.ours)


def _on_import(module: ModuleType) -> None:
    """Patch a module that was just imported. Whatever goes wrong here must not break the user's import."""
    if not _active or not isinstance(module, ModuleType):
        return  # what stands in for a module that is not there, None or a mock, is none to patch
    name = module.__name__
    if name.startswith("dspy.") and _is_importing("dspy") and "dspy" not in _complete:
        return  # DSPy's modules are patched when all of it is there: the hooks import from it
    try:
        if name == "dspy":
            _complete.add(name)
            for each in dict.fromkeys([*(patch.module for patch in PATCHES), COMPILE]):
                if each.startswith("dspy.") and each in sys.modules:
                    _on_import(sys.modules[each])
        for patch in PATCHES:
            if patch.module == name and patch not in _applied:
                _apply(patch, module)
        if name == COMPILE:
            import_module(_OPTIMIZERS).adopt_optimizers(module)
    except Exception:  # noqa: BLE001
        internal_error(f"patching {name}")


def _is_importing(name: str) -> bool:
    """Whether a module's code is running for the first time."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def _apply(patch: Patch, module: ModuleType) -> None:
    owner: Any = module
    *path, attribute = patch.name.split(".")
    try:
        for step in path:
            owner = getattr(owner, step)
        getattr(owner, attribute)
    except AttributeError:
        if not patch.optional:
            warn_once(
                f"patch:{patch.module}.{patch.name}",
                f"this version of {patch.module.partition('.')[0]} has no {patch.module}.{patch.name}: tokenscope leaves "
                "that out, and reports may lack what it would tell. 'pip install -U dspy-tokenscope' may help.",
            )
        return
    original = vars(owner).get(attribute, _INHERITED)
    if original is _INHERITED and patch.inherited:
        return
    where, _, name = patch.hook.partition(":")
    wrapped = getattr(owner, attribute) if original is _INHERITED else original
    switch = [True]
    ours = (_plain if patch.plain else _proxy)(wrapped, getattr(import_module(where), name), switch)
    setattr(owner, attribute, ours)
    _applied[patch] = _Applied(owner, attribute, original, ours, switch)


def _plain(wrapped: Any, hook: Wrapper, switch: list[bool]) -> Any:
    """Wrap a method in a function of the same kind."""

    @functools.wraps(wrapped)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = wrapped.__get__(self)
        return hook(bound, self, args, kwargs) if switch else bound(*args, **kwargs)

    @functools.wraps(wrapped)
    async def acall(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await call(self, *args, **kwargs)

    return acall if inspect.iscoroutinefunction(wrapped) else call


def _proxy(wrapped: Any, hook: Wrapper, switch: list[bool]) -> Any:
    """Wrap a function so that it keeps its kind, signature and identity checks."""
    import wrapt

    # Any object will do as `enabled`; looking whether a list is empty costs nothing.
    return wrapt.FunctionWrapper(wrapped, hook, enabled=switch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def _undo(applied: _Applied) -> None:
    applied.switch.clear()  # somebody may have wrapped it since: what is inside theirs becomes a mere passage
    if vars(applied.owner).get(applied.attribute) is not applied.ours:
        return
    if applied.original is _INHERITED:
        delattr(applied.owner, applied.attribute)
    else:
        setattr(applied.owner, applied.attribute, applied.original)
