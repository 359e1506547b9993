"""Calling a function when a module has been imported.

wrapt has such hooks too, but wrapt 2.2 and later load asyncio, and `import tokenscope` must cost nothing to programs that use
neither asyncio nor DSPy. wrapt itself is loaded when there is something to wrap.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

Hook = Callable[[ModuleType], None]


class _Notifier:
    """A loader that does what the real one does, and then calls the hook."""

    def __init__(self, loader: Any, hook: Hook) -> None:
        self._loader = loader
        self._hook = hook

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._hook(module)

    def __getattr__(self, name: str) -> Any:
        """Return the attributes of the real loader, which creates the module and answers code that asks before it is run."""
        return getattr(self._loader, name)


class _Finder:
    def __init__(self) -> None:
        self.hooks: dict[str, Hook] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """Let the other finders find a module that is waited for, and stand between it and its loader."""
        if (hook := self.hooks.pop(fullname, None)) is None:
            return None
        try:
            spec = find_spec(fullname)
        finally:
            self.hooks[fullname] = hook
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Notifier(spec.loader, hook)  # type: ignore[assignment]
        return spec


_finder: Final = _Finder()


def after_import(module: str, hook: Hook) -> None:
    """Call `hook(module)` each time the module of that name has been imported."""
    _finder.hooks[module] = hook
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
