"""What a DSPy module is called: the attribute of the enclosing module that holds it, as a person would write it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from dspy.predict.predict import Predict
from dspy.primitives.module import Module

from tokenscope._ledger import Ledger
from tokenscope._scope import Scope

_OWN_STATE = frozenset({"history", "callbacks", "lm", "demos", "traces", "train", "signature"})


def module_name(module: Any, scope: Ledger | None) -> str | None:
    """Return the name of a module that is called inside `scope`; None where its calls are those of the module around it.

    The first module is its class name. One below is the attribute that holds it (`planner`, `steps[0]`, `tools['search']`),
    looked for in the nearest module that is active, then in those around it. One that no attribute holds is its class name,
    a bare Predict with its signature. A bare Predict inside one of DSPy's own modules (ChainOfThought, ReAct) is a detail of
    that module.
    """
    while isinstance(scope, Scope):
        around = scope.opener
        if isinstance(around, Module):
            name = _attribute(around, module)
            if name is not None:
                return None if type(module) is Predict and _is_dspys(around) else name
        scope = scope.above
    return _class_name(module)


def _class_name(module: Any) -> str:
    name = type(module).__name__
    if type(module) is not Predict:
        return name
    signature: Any = module.signature
    return f"{name}({_signature_name(signature)})"


@functools.lru_cache(maxsize=1_000)
def _signature_name(signature: Any) -> str:
    own_name = getattr(signature, "__name__", "StringSignature")
    return str(signature.signature) if own_name == "StringSignature" else own_name


def _is_dspys(module: Any) -> bool:
    return type(module).__module__.partition(".")[0] == "dspy"


def _attribute(around: Any, module: Any) -> str | None:
    """Return how `module` is reached from `around`, by the shortest way."""
    attributes: dict[str, Any] = vars(around)
    for name, value in attributes.items():  # nearly always: self.planner(...)
        if value is module:
            return name
    seen = {id(around)}
    level: list[tuple[str, Any]] = [(name, value) for name, value in attributes.items() if name not in _OWN_STATE]
    while level:
        below: list[tuple[str, Any]] = []
        for name, value in level:
            if value is module:
                return name
            if id(value) not in seen:
                seen.add(id(value))
                below.extend(_inside(name, value))
        level = below
    return None


def _inside(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Module):
        for key, item in vars(value).items():
            if key not in _OWN_STATE:
                yield f"{name}.{key}", item
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{name}[{index}]", item
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{name}[{key!r}]", item
