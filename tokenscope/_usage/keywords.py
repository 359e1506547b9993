"""Wrong keywords: a TypeError that names the argument that was meant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

C = TypeVar("C", bound=Callable[..., Any])


def teaches(**meant: str) -> Callable[[C], C]:
    """Let a function, or a class when it is called, name the argument that a wrong keyword means.

    Args:
        **meant: Names that other libraries have for arguments, and the arguments. Misspelt names need none.
    """

    def decorate(target: C) -> C:
        called: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
        code = called.__code__
        names = code.co_varnames[isinstance(target, type) : code.co_argcount + code.co_kwonlyargcount]  # without `self`

        @functools.wraps(called)
        def checked(*args: Any, **keywords: Any) -> Any:
            for name in keywords:
                if name not in names:
                    raise TypeError(wrong_keyword(target.__name__, name, names, meant.get(name)))
            return called(*args, **keywords)

        if not isinstance(target, type):
            return checked  # type: ignore[return-value]
        target.__init__ = checked  # type: ignore[misc]
        return target  # pyright: ignore[reportReturnType]

    return decorate


def wrong_keyword(function: str, name: str, names: Sequence[str], meant: str | None) -> str:
    """Return a sentence about a keyword that a function does not have."""
    import difflib

    near = [meant] if meant else difflib.get_close_matches(name, names)
    hint = f"; did you mean {near[0]}=?" if near else f"; it has {', '.join(names)}"
    return f"{function}() has no argument {name!r}{hint}"
