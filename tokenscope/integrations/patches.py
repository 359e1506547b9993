"""The patches: which functions of other packages are wrapped, when, and how that is undone.

A patch is applied when the module it concerns is imported (or at once, where it already is) and checked on the spot: where a
name is missing, that patch is left out with one warning, and the host program goes on.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from tokenscope._scopes.process import STATE
from tokenscope._usage.prompts import Prompt
from tokenscope._usage.warnings import internal_error, warn_once
from tokenscope.integrations.import_hooks import after_import
from tokenscope.integrations.patch_table import (
    OPTIMIZERS,
    OPTIMIZERS_HOOK,
    PATCHES,
    PROMPT_PATCHES,
    PROMPTS_HOOK,
    Patch,
)


class _Applied(NamedTuple):
    owner: Any
    attribute: str
    original: Any  # as it stood in the owner's own __dict__, or `_INHERITED`
    wrapped: Any  # what ours calls
    ours: Any
    switch: list[bool]  # emptied to make the patch pass calls on without its hook


_INHERITED: Final = object()
_PATCHES_OF: Final = {  # the patches of each module whose import is waited for; those that measure prompts, outermost
    module: tuple(patch for patch in (*PATCHES, *PROMPT_PATCHES) if patch.module == module)
    for module in dict.fromkeys(["dspy", *(patch.module for patch in PATCHES), OPTIMIZERS])
}


class _Registry:
    """What is patched now."""

    def __init__(self) -> None:
        self.is_active = False
        self.applied: dict[Patch, _Applied] = {}
        self.undone: dict[Patch, _Applied] = {}  # to be applied again as they are
        self.release_optimizers: Callable[[], None] | None = None
        self.complete: set[str] = set()  # packages whose code has run to its end


_registry: Final = _Registry()


def instrument(*, prompt_parts: bool | None = None) -> None:
    """Apply every patch whose module is imported, now or later. Done by `import tokenscope`; does nothing a second time.

    Args:
        prompt_parts: Whether to measure which part of each prompt has how many tokens: instructions, demos, inputs, and so on
            (see `Report.by_part`). It costs a few tenths of a millisecond a call, and making the first `dspy.LM` takes up to
            a second longer: a tokenizer is loaded. None leaves it as it is: off, unless `TOKENSCOPE_PROMPT_PARTS=1` is in
            the environment when tokenscope is imported.

    Example:
        >>> import tokenscope
        >>> tokenscope.uninstrument()
        >>> tokenscope.instrument()
    """
    if prompt_parts is not None:
        _switch_prompt_parts(on=prompt_parts)
    _registry.is_active = True
    for module in _PATCHES_OF:
        if module in sys.modules:
            _on_import(sys.modules[module])
        after_import(module, _on_import)


def uninstrument() -> None:
    """Undo every patch: the host program is as it was without tokenscope. `instrument()` applies them again.

    Calls that are on their way are still counted when they end.
    """
    _registry.is_active = False
    STATE.read_prompt = None
    for patch in reversed(applied()):
        _take_back(patch)
    if _registry.release_optimizers is not None:
        _registry.release_optimizers()
        _registry.release_optimizers = None


def _switch_prompt_parts(*, on: bool) -> None:
    STATE.splits_prompts = on
    STATE.read_sent = _read_sent if on else None
    if not on:
        STATE.read_prompt = None
        for patch in reversed(applied()):
            if patch in PROMPT_PATCHES:
                _take_back(patch)


def _read_sent(sent: Any, model: str) -> Prompt | None:
    from tokenscope._providers.prompts.sent import read_sent

    try:
        return read_sent(sent, model)
    except Exception:  # noqa: BLE001 - the response is counted nevertheless
        internal_error("measuring what was sent")
        return None


def _take_back(patch: Patch) -> None:
    done = _registry.applied.pop(patch)
    _undo(done)
    _registry.undone[patch] = done


def is_active() -> bool:
    """Whether patches are applied where their modules are imported."""
    return _registry.is_active


def applied() -> tuple[Patch, ...]:
    """Return the patches that are in place."""
    return tuple(_registry.applied)


def covered() -> tuple[Patch, ...]:
    """Return the applied patches over which another package has put something of its own."""
    found = _registry.applied.items()
    return tuple(patch for patch, done in found if vars(done.owner).get(done.attribute) is not done.ours)


def are_optimizers_adopted() -> bool:
    """Whether `compile` of every optimizer is wrapped."""
    return _registry.release_optimizers is not None


def _on_import(module: ModuleType) -> None:
    """Patch a module that was just imported. Whatever goes wrong here must not break the user's import."""
    if not _registry.is_active or not isinstance(module, ModuleType):
        return  # None or a mock may stand in for a module that is not there
    name = module.__name__
    is_importing = getattr(getattr(sys.modules.get("dspy"), "__spec__", None), "_initializing", False)
    if name.startswith("dspy.") and is_importing and "dspy" not in _registry.complete:
        return  # DSPy's modules are patched when all of it is there: the hooks import from it
    try:
        if name == "dspy" and name not in _registry.complete:
            _registry.complete.add(name)
            for each in _PATCHES_OF:
                if each.startswith("dspy.") and each in sys.modules:
                    _on_import(sys.modules[each])
        for patch in _PATCHES_OF.get(name, ()):
            if patch not in _registry.applied and (STATE.splits_prompts or patch not in PROMPT_PATCHES):
                _apply(patch, module)
        if name == "dspy" and STATE.splits_prompts and STATE.read_prompt is None:
            prompts = import_module(PROMPTS_HOOK)
            prompts.prepare()
            STATE.read_prompt = prompts.read_prompt
        if name == OPTIMIZERS and _registry.release_optimizers is None:
            _registry.release_optimizers = import_module(OPTIMIZERS_HOOK).adopt_optimizers(module)
    except Exception:  # noqa: BLE001
        internal_error(f"patching {name}")


def _apply(patch: Patch, module: ModuleType) -> None:
    *path, attribute = patch.name.split(".")
    try:
        owner: Any = functools.reduce(getattr, path, module)
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
    wrapped = getattr(owner, attribute) if original is _INHERITED else original
    found = _registry.undone.pop(patch, None)
    if found is not None and found.owner is owner and found.original is original and found.wrapped is wrapped:
        found.switch.append(True)
    else:
        where, _, name = patch.hook.partition(":")
        switch = [True]
        ours = _STYLES[patch.style](wrapped, getattr(import_module(where), name), switch)
        found = _Applied(owner, attribute, original, wrapped, ours, switch)
    setattr(owner, attribute, found.ours)
    _registry.applied[patch] = found


def _around(wrapped: Any, hook: Callable[..., Any], switch: list[bool]) -> Any:
    """Replace a method by a function of the same kind that tells the hook's entry how the call ended."""
    if not inspect.isfunction(wrapped):
        wrapped = _unbound(wrapped)

    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        entry = None
        try:
            if switch:
                entry = hook(self, args, kwargs)
            if entry is None:
                return wrapped(self, *args, **kwargs)
            try:
                entry.begin(entry)
                result = wrapped(self, *args, **kwargs)
            except BaseException as error:
                entry.finish(error, None)
                entry = None
                raise
            entry.finish(None, result)
            return result
        except BaseException as error:
            if entry is not None:
                entry.finish(error, None)  # again, if that was interrupted
            raise

    async def acall(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        entry = None
        try:
            if switch:
                entry = hook(self, args, kwargs)
            if entry is None:
                return await wrapped(self, *args, **kwargs)
            try:
                entry.begin(entry)
                result = await wrapped(self, *args, **kwargs)
            except BaseException as error:
                entry.finish(error, None)
                entry = None
                raise
            entry.finish(None, result)
            return result
        except BaseException as error:
            if entry is not None:
                entry.finish(error, None)  # again, if that was interrupted
            raise

    return stand_in(acall if inspect.iscoroutinefunction(wrapped) else call, wrapped)


def stand_in(function: Any, wrapped: Any) -> Any:
    """Return a function that does what `function` does, and passes as the one that it stands for.

    It has the other's name and signature. Its frames belong to the other's module, since DSPy warns the nearest caller that is
    not DSPy's own code: else Python would not show a DeprecationWarning to the script that it is about.
    """
    variables = {**function.__globals__, "__name__": getattr(wrapped, "__module__", None) or __name__}
    found = FunctionType(function.__code__, variables, closure=function.__closure__)
    functools.update_wrapper(found, wrapped)
    if not hasattr(wrapped, "__wrapped__"):
        with contextlib.suppress(Exception):  # a method without a signature
            found.__signature__ = inspect.signature(wrapped)  # type: ignore[attr-defined]  # what getfullargspec reads
    return found


def _unbound(wrapped: Any) -> Any:
    """Return a function that calls what another package has put in a method's place as the class would, bound."""
    if inspect.iscoroutinefunction(wrapped):

        async def acall(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await wrapped.__get__(self)(*args, **kwargs)

        return stand_in(acall, wrapped)

    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return wrapped.__get__(self)(*args, **kwargs)

    return stand_in(call, wrapped)


def _replace(wrapped: Any, hook: Callable[..., Any], switch: list[bool]) -> Any:
    """Replace a method by a function of the same kind that calls the hook."""

    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = wrapped.__get__(self)
        return hook(bound, self, args, kwargs) if switch else bound(*args, **kwargs)

    return stand_in(call, wrapped)


def _proxy(wrapped: Any, hook: Callable[..., Any], switch: list[bool]) -> Any:
    """Wrap a function of a module so that it keeps its kind, signature and identity checks."""
    import wrapt  # here, as wrapt 2.2 and later load asyncio, which not all programs need

    # Any object will do as `enabled`; looking whether a list is empty costs nothing.
    return wrapt.FunctionWrapper(wrapped, hook, enabled=switch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def _make(wrapped: Any, hook: Callable[..., Any], switch: list[bool]) -> Any:
    """Replace a method by the function that the hook makes."""
    method = wrapped if inspect.isfunction(wrapped) else _unbound(wrapped)
    return stand_in(hook(method, switch), method)


_STYLES: Final[dict[str, Callable[..., Any]]] = {"around": _around, "replace": _replace, "make": _make, "proxy": _proxy}


def _undo(applied: _Applied) -> None:
    applied.switch.clear()  # somebody may have wrapped it since: what is inside theirs becomes a mere passage
    if vars(applied.owner).get(applied.attribute) is not applied.ours:
        return
    if applied.original is _INHERITED:
        delattr(applied.owner, applied.attribute)
    else:
        setattr(applied.owner, applied.attribute, applied.original)


if os.environ.get("TOKENSCOPE_PROMPT_PARTS", "") not in ("", "0"):
    _switch_prompt_parts(on=True)
