"""What `tokenscope doctor` looks at of functions by which LM calls are made: who else wraps them, who stands in their place."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import chain
from typing import Any, Final

from tokenscope import integrations
from tokenscope.cli.doctor.checks import NOTE, PROBLEM, Finding
from tokenscope.integrations import PATCHES

_ELSEWHERE: Final = (
    ("dspy.predict.predict", "Predict.forward"),
    ("dspy.predict.predict", "Predict.aforward"),
    ("litellm", "completion"),
    ("litellm", "acompletion"),
    ("litellm", "responses"),
    ("openai.resources.chat.completions.completions", "Completions.create"),
    ("openai.resources.chat.completions.completions", "AsyncCompletions.create"),
    ("openai.resources.responses.responses", "Responses.create"),
    ("anthropic.resources.messages.messages", "Messages.create"),
)
"""What others wrap, besides what we do ourselves."""
_NOBODY: Final = frozenset({"tokenscope", "dspy", "functools", "builtins", "contextlib"})
_DEEP: Final = 50


def wrappers() -> Iterator[Finding]:
    """Yield who else wraps these functions, and who stands in the place of one of our wrappers."""
    replaced = dict(_replaced())
    found: dict[str, list[str]] = {}
    for module, name in (*((patch.module, patch.name) for patch in PATCHES), *_ELSEWHERE, *_own_calls(_lms())):
        whole, at_home = f"{module}.{name}", _NOBODY | {module.partition(".")[0]}
        for layer in _layers(_lookup(module, name)):
            maker = _maker(layer)
            if maker.partition(".")[0] not in at_home and whole not in replaced:
                found.setdefault(maker, []).append(whole)
    for maker, names in found.items():
        wrapped = ", ".join(dict.fromkeys(names))
        yield Finding("others", NOTE, f"{maker} wraps {wrapped}: that adds nothing to what is counted")
    for maker in dict.fromkeys(replaced.values()):
        names = [name for name, by in replaced.items() if by == maker]
        text = f"{maker} replaced {', '.join(names)}, and nothing shows that what tokenscope put there is still called"
        yield Finding("others", PROBLEM, f"{text}: what passes by it is not counted, or not in its scope")


def _replaced() -> Iterator[tuple[str, str]]:
    """Yield our patches in whose place something else stands, and who made that."""
    for patch, done in integrations._applied.items():
        now = vars(done.owner).get(done.attribute)
        if not _reaches(now, done.ours):
            yield f"{patch.module}.{patch.name}", _maker(now)


def overriding() -> Iterator[Finding]:
    """Yield LMs that are not DSPy's, and whose calls do not go through what is patched."""
    for kind in _lms():
        own = [name for _, name in _own_calls([kind]) if not _is_counted(_lookup(kind.__module__, name))]
        if own and kind.__module__.partition(".")[0] != "dspy":
            names = " and ".join(name.rpartition(".")[2] for name in own)
            text = f"{kind.__module__}.{kind.__qualname__} has its own {names}"
            yield Finding("others", NOTE, f"{text}: its calls are counted where it asks super() or another LM")


def _own_calls(kinds: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for kind in kinds:
        yield from (
            (kind.__module__, f"{kind.__qualname__}.{name}") for name in ("__call__", "acall") if name in vars(kind)
        )


def _is_counted(call: Any) -> bool:
    """Whether what an LM is called by is, or asks, a call of DSPy's LMs as we have wrapped it."""
    applied = integrations._applied.items()
    return any(_reaches(call, done.ours) for patch, done in applied if patch.module.startswith("dspy.clients."))


def _lms() -> Iterator[Any]:
    return subclasses(getattr(sys.modules.get("dspy.clients.base_lm"), "BaseLM", None))


def subclasses(kind: Any) -> Iterator[Any]:
    """Yield all subclasses of a class, at any depth."""
    found: dict[Any, None] = {}
    level: list[Any] = [] if kind is None else kind.__subclasses__()
    while level:
        found.update(dict.fromkeys(level))
        level = [below for each in level for below in each.__subclasses__() if below not in found]
    return iter(found)


def _lookup(module: str, name: str) -> Any:
    """Return what stands in a class's or module's own namespace; None where nothing does, or it is not loaded."""
    *path, attribute = name.split(".")
    owner = reduce(lambda above, step: getattr(above, step, None), path, sys.modules.get(module))
    return vars(owner).get(attribute) if hasattr(owner, "__dict__") else None


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function, what it wraps, what that wraps, and so on."""
    for _ in range(_DEEP):
        if function is None:
            return
        yield function
        # What wrapt's wrapper gives out when it is looked up in a class is another object, which names it.
        function = getattr(function, "_self_parent", None) or getattr(function, "__wrapped__", None)


def _reaches(function: Any, ours: Any) -> bool:
    """Whether a function is our wrapper, or wraps it: says so, or holds it in its closure, its globals or its object."""
    layers = list(_layers(function))
    held = (below for layer in layers for each in _held(layer) for below in _layers(each))
    return any(each is ours for each in chain(layers, held))


def _held(layer: Any) -> Iterator[Any]:
    """Yield what a function may call."""
    function = getattr(layer, "__func__", layer)
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty one
            yield cell.cell_contents
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    yield from (getattr(function, "__globals__", {}).get(name) for name in names)
    holder = getattr(layer, "__self__", None)
    for owner in (holder, type(holder)):
        for each in vars(owner).values() if hasattr(owner, "__dict__") and holder is not None else ():
            yield from each.values() if isinstance(each, dict) else (each,)


def _maker(layer: Any) -> str:
    """Return the module that made a wrapper. What it says of itself is the wrapped function's, so its globals are asked."""
    layer = getattr(layer, "_self_wrapper", layer)
    layer = getattr(layer, "__func__", layer)
    return str(getattr(layer, "__globals__", {}).get("__name__") or type(layer).__module__)
