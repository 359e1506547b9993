"""What a DSPy module is called: the attribute of the enclosing module that holds it, as a person would write it."""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import Any, Final, NamedTuple

from dspy.predict.predict import Predict
from dspy.primitives.module import Module

from tokenscope._scopes.process import Counted
from tokenscope._scopes.scope import Scope
from tokenscope._usage.calls import MAX_NAMES, Frame

_OWN_STATE = frozenset({"history", "callbacks", "lm", "demos", "traces", "train", "signature"})
_MOST = 1_000  # things that are looked at, and in one collection
_Way = tuple[Any, str]  # how a thing is reached: the way to what holds it, and the last step
_RLM: Final = "dspy.predict.rlm"  # whose predictors are steps, each with a bill of its own
_get_own: Any = object.__getattribute__
_READS_LOCALS: Final = frozenset({"locals", "vars", "dir", "eval", "exec"})
_names_by_owner: Final[dict[int, tuple[weakref.ref[Any], weakref.ref[Any], str | None]]] = {}
"""The names of modules that no active module holds, by identity; None for those that have no other name than their class's.

Of the two references, the second one is what `ref(module)` returns as long as it is kept: no call needs to make another one.
"""
_fields: Final[dict[str, str]] = {}  # the fields of the first signature of each name


class CalledAs(NamedTuple):
    """What opens a scope in which a module is called by a name that only its caller knows."""

    module: weakref.ref[Any]
    name: str


def frames_of(module: Any, scope: Counted | None) -> tuple[Frame] | None:
    """Return the level of a module that is called inside `scope`; None where its calls are those of the module around it.

    The first module is its class name. One below is the attribute that holds it (`planner`, `steps[0]`, `tools['search']`),
    looked for in the nearest module that is active, then in those around it. One that no attribute holds is its class name,
    a bare Predict with its signature; but `Pipeline.draft` if it is held by another object, together with a module that would
    have the same name. A bare Predict inside one of DSPy's own modules (ChainOfThought, ReAct), except RLM, is a detail of it.
    """
    while isinstance(scope, Scope):
        opened_by: Any = scope.opened_by
        if type(opened_by) is weakref.ref:  # a module
            around = opened_by()
            if around is not None and (name := _attribute(around, module)) is not None:
                source = type(around).__module__
                is_detail = type(module) is Predict and source.partition(".")[0] == "dspy" and source != _RLM
                return None if is_detail else _frames(name)
        elif type(opened_by) is CalledAs and opened_by.module() is module:
            return _frames(opened_by.name)
        scope = scope.above
    known = _names_by_owner.get(id(module))
    name = _name_by_owner(module) if known is None else known[2]
    return _frames_of_class(module) if name is None else _frames(name)


@functools.lru_cache(maxsize=MAX_NAMES)
def _frames(name: str) -> tuple[Frame]:
    return (Frame("dspy", name),)


def _frames_of_class(module: Any) -> tuple[Frame]:
    if type(module) is not Predict:
        return _frames(type(module).__name__)
    # Not `module.signature`, which calls a `__getattribute__` in Python, if it is found where it nearly always is.
    signature: Any = _get_own(module, "__dict__").get("signature") or module.signature
    return _frames_of_predict(signature)


@functools.lru_cache(maxsize=1_000)
def _frames_of_predict(signature: Any) -> tuple[Frame]:
    own_name = getattr(signature, "__name__", "StringSignature")
    fields = str(getattr(signature, "signature", ""))
    if own_name == "StringSignature":
        return _frames(f"Predict({fields})")
    if len(_fields) < MAX_NAMES:
        _fields.setdefault(own_name, fields)
    is_other = _fields.get(own_name, fields) != fields  # a signature of the same name was there before
    return _frames(f"Predict({own_name}: {fields})" if is_other else f"Predict({own_name})")


def _attribute(around: Any, module: Any) -> str | None:
    """Return how `module` is reached from `around`, by the shortest way.

    Looks at what is stored, by identity: no code of the user's runs, and a large collection is not searched to its end.
    """
    attributes: dict[str, Any] = dict(vars(around))  # a copy: other threads may set attributes meanwhile
    for name, value in attributes.items():  # nearly always: self.planner(...)
        if value is module:
            return name
    return next((_spelled(way) for way, value in _stored(attributes) if value is module), None)


def _stored(attributes: dict[str, Any], *, in_modules: bool = True) -> Iterator[tuple[_Way, Any]]:
    """Yield what is stored in attributes, in collections there, and in modules, each with the way to it; the nearest first."""
    seen: set[int] = set()
    level: list[tuple[_Way, Any]] = [((None, key), each) for key, each in attributes.items() if key not in _OWN_STATE]
    while level and len(seen) < _MOST:
        below: list[tuple[_Way, Any]] = []
        for way, value in level:
            yield way, value
            if id(value) not in seen and (in_modules or Module not in type(value).__mro__):
                seen.add(id(value))
                below.extend(_inside(way, value))
        level = below


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


def _name_by_owner(module: Any) -> str | None:
    """Return `Pipeline.draft` for a module that its caller's `self` holds, if only that tells it from another one there.

    Looked for once for each module, where it is first called.
    """
    owner = _calling_object()
    frames, way, has_twin = _frames_of_class(module), None, False
    for each, value in _stored(_attributes(owner), in_modules=False):
        if value is module:
            way = way or each
        elif type(value) is type(module) and not has_twin:
            has_twin = _frames_of_class(value) == frames
    name = None if way is None or not has_twin else f"{type(owner).__name__}.{_spelled(way)}"
    key = id(module)
    _names_by_owner[key] = weakref.ref(module, lambda _: _names_by_owner.pop(key)), weakref.ref(module), name
    return name


def _attributes(owner: Any) -> dict[str, Any]:
    try:
        own = _get_own(owner, "__dict__")  # without code of the object's own
    except AttributeError:
        return {}
    return {**vars(type(owner)), **own}


def _calling_object() -> Any:
    """Return the `self` of the function that calls a module, or None."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in ("dspy", "tokenscope"):
            if code.co_flags & inspect.CO_OPTIMIZED and "self" in (*code.co_varnames[:1], *code.co_freevars):
                return _self_in(frame)
            if not code.co_name.startswith("<"):  # else it is a comprehension or a lambda in the function
                return None
        frame = frame.f_back
    return None


def _self_in(frame: FrameType) -> Any:
    if not _READS_LOCALS.isdisjoint(frame.f_code.co_names):
        return None  # before Python 3.13, the function would see what it has got from `locals()` change
    variables = frame.f_locals
    owner = variables.get("self")
    if type(variables) is dict and sys.getrefcount(variables) <= 3:  # no debugger has it, either
        variables.clear()  # it is a copy, which would keep alive what the function holds now
    return owner
