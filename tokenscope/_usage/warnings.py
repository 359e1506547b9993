"""The base of all errors, and warnings that come once."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from types import FrameType
from typing import Final

_PACKAGE: Final = __name__.partition(".")[0]


class TokenScopeError(Exception):
    """The base of tokenscope's own exceptions."""


class ReportFormatError(TokenScopeError, ValueError):
    """A file or text that should hold a saved report holds something else; the message names it and what is wrong."""


class TokenScopeWarning(UserWarning):
    """Something could not be counted in full detail. The host program goes on undisturbed."""


for _class in (TokenScopeError, ReportFormatError, TokenScopeWarning):
    _class.__module__ = f"{_PACKAGE}.errors"  # where users find it

_warned: Final[set[str]] = set()


def warn_once(key: str, message: str) -> None:
    """Warn with `message`, the first time only that `key` is seen in this process; at the nearest line that is not ours."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(message, TokenScopeWarning, stacklevel=host_level())


def host_level() -> int:
    """Return the stack level of the innermost frame outside of this package, as the caller has to name it in `warnings.warn`."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    level = 0
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
        level += 1
    return level + 1


def silence(key: str) -> None:
    """Never warn of a key."""
    _warned.add(key)


def forget_warnings() -> None:
    """Warn anew of what was warned of before."""
    _warned.clear()


def internal_error(where: str) -> None:
    """Report the exception being handled, a fault of tokenscope's own, without disturbing the host program.

    Called inside an `except` block. Under pytest it is raised again, so that a fault never hides in a test run.
    """
    if "PYTEST_CURRENT_TEST" in os.environ:
        raise  # noqa: PLE0704 - called from an except block
    warn_once(
        f"internal:{where}",
        f"tokenscope could not do its work in {where}; your program is not affected, but some tokens may be missing "
        f"from the report. Please report this:\n{traceback.format_exc()}",
    )
