"""A scope for each optimizer's run. Each overrides `compile`, so it is wrapped in every one, also in those to come."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from tokenscope._call import Frame
from tokenscope._wrap import Recipe, wrap


class _Compile(Recipe):
    """A scope by the optimizer's class name. Subclasses that call their base's compile stay in one scope."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__((Frame("compile", name),))


_COMPILE_ORIGINALS: Final = "__tokenscope_compile__"


def adopt_optimizers(module: ModuleType) -> None:
    """Wrap `compile` of every optimizer there is, and of those to come."""
    base = module.Teleprompter
    if _COMPILE_ORIGINALS in vars(base):
        return
    original = vars(base).get("__init_subclass__")
    setattr(base, _COMPILE_ORIGINALS, original)
    for optimizer in _subclasses(base):
        _adopt(optimizer)

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:  # noqa: N807 - what it becomes
        super(base, cls).__init_subclass__(**kwargs) if original is None else original.__get__(None, cls)(**kwargs)
        _adopt(cls)

    base.__init_subclass__ = classmethod(__init_subclass__)


def release_optimizers(module: ModuleType) -> None:
    """Undo `adopt_optimizers`."""
    base = module.Teleprompter
    if _COMPILE_ORIGINALS not in vars(base):
        return
    original = vars(base)[_COMPILE_ORIGINALS]
    delattr(base, _COMPILE_ORIGINALS)
    if original is None:
        del base.__init_subclass__
    else:
        base.__init_subclass__ = original
    for optimizer in _subclasses(base):
        own: Any = vars(optimizer).get("compile")
        ours: Any = getattr(own, "__func__", own)
        if hasattr(ours, _COMPILE_ORIGINALS):
            optimizer.compile = ours.__wrapped__ if ours is own else type(own)(ours.__wrapped__)


def _adopt(optimizer: Any) -> None:
    own = vars(optimizer).get("compile")
    if inspect.isfunction(own) and not hasattr(own, _COMPILE_ORIGINALS):
        ours = wrap(own, _Compile(optimizer.__name__))
        setattr(ours, _COMPILE_ORIGINALS, True)
        optimizer.compile = ours
    elif isinstance(own, staticmethod | classmethod) and not hasattr(own.__func__, _COMPILE_ORIGINALS):
        inner = wrap(own.__func__, _Compile(optimizer.__name__))
        setattr(inner, _COMPILE_ORIGINALS, True)
        optimizer.compile = type(own)(inner)


def _subclasses(base: Any) -> Iterator[Any]:
    found: dict[Any, None] = {}
    level: list[Any] = base.__subclasses__()
    while level:
        found.update(dict.fromkeys(level))
        level = [below for each in level for below in each.__subclasses__()]
    return iter(found)
