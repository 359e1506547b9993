"""What a DSPy module is called: the attribute of the enclosing module that holds it, as a person would write it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import islice
from typing import Any
from weakref import ref

from dspy.predict.predict import Predict
from dspy.primitives.module import Module

from tokenscope._scopes.process import Counted
from tokenscope._scopes.scope import Scope

_OWN_STATE = frozenset({"history", "callbacks", "lm", "demos", "traces", "train", "signature"})
_MOST = 1_000  # things that are looked at, and in one collection
_Way = tuple[Any, str]  # how a thing is reached: the way to what holds it, and the last step


def module_name(module: Any, scope: Counted | None) -> str | None:
    """Return the name of a module that is called inside `scope`; None where its calls are those of the module around it.

    The first module is its class name. One below is the attribute that holds it (`planner`, `steps[0]`, `tools['search']`),
    looked for in the nearest module that is active, then in those around it. One that no attribute holds is its class name,
    a bare Predict with its signature. A bare Predict inside one of DSPy's own modules (ChainOfThought, ReAct) is a detail of
    that module.
    """
    while isinstance(scope, Scope):
        opened_by = scope.opened_by
        around = opened_by() if type(opened_by) is ref else None
        if isinstance(around, Module):
            name = _attribute(around, module)
            if name is not None:
                is_detail = type(module) is Predict and type(around).__module__.partition(".")[0] == "dspy"
                return None if is_detail else name
        scope = scope.above
    return _class_name(module)


def _class_name(module: Any) -> str:
    if type(module) is not Predict:
        return type(module).__name__
    # Not `module.signature`, which calls a `__getattribute__` in Python, if it is found where it nearly always is.
    signature: Any = object.__getattribute__(module, "__dict__").get("signature") or module.signature
    return _predict_name(signature)


@functools.lru_cache(maxsize=1_000)
def _predict_name(signature: Any) -> str:
    own_name = getattr(signature, "__name__", "StringSignature")
    return f"Predict({signature.signature if own_name == 'StringSignature' else own_name})"


def _attribute(around: Any, module: Any) -> str | None:
    """Return how `module` is reached from `around`, by the shortest way.

    Looks at what is stored, by identity: no code of the user's runs, and a large collection is not searched to its end.
    """
    attributes: dict[str, Any] = dict(vars(around))  # a copy: other threads may set attributes meanwhile
    for name, value in attributes.items():  # nearly always: self.planner(...)
        if value is module:
            return name
    seen = {id(around)}
    level: list[tuple[_Way, Any]] = [
        ((None, name), each) for name, each in attributes.items() if name not in _OWN_STATE
    ]
    while level and len(seen) < _MOST:
        below: list[tuple[_Way, Any]] = []
        for way, value in level:
            if value is module:
                return _spelled(way)
            if id(value) not in seen:
                seen.add(id(value))
                below.extend(_inside(way, value))
        level = below
    return None


def _inside(way: _Way, value: Any) -> Iterator[tuple[_Way, Any]]:
    kinds = type(value).__mro__  # not isinstance, which asks a lazy proxy what it is
    if Module in kinds:
        for key, item in dict(vars(value)).items():
            if key not in _OWN_STATE:
                yield (way, f".{key}"), item
    elif list in kinds or tuple in kinds:
        kind: Any = list if list in kinds else tuple
        for index, item in enumerate(kind.__getitem__(value, slice(_MOST))):
            yield (way, f"[{index}]"), item
    elif dict in kinds:
        for key, item in list(islice(dict.copy(value).items(), _MOST)):
            if type(key) in (str, int):
                yield (way, f"[{key!r}]"), item


def _spelled(way: _Way) -> str:
    spelled = ""
    link: _Way | None = way
    while link is not None:
        link, step = link
        spelled = step + spelled
    return spelled
