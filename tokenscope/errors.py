"""What can go wrong, as types.

    Exception
     └─ TokenScopeError               everything tokenscope raises that is not a plain TypeError or ValueError
         ├─ BudgetExceeded            a scope has spent its budget
         └─ ReportFormatError         a file that is no report, is damaged, or has another format (also a ValueError)
    Warning
     └─ TokenScopeWarning             something was counted with less detail than it should have been (a UserWarning)

A wrong argument is a plain `TypeError` or `ValueError` at the line that passed it.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenscope._report.report import Report
    from tokenscope._scopes.budget import Budget
    from tokenscope._usage.usage import Usage


class TokenScopeError(Exception):
    """The base of tokenscope's own exceptions."""


class ReportFormatError(TokenScopeError, ValueError):
    """A file or text that should hold a saved report holds something else; the message names it and what is wrong."""


class BudgetExceeded(TokenScopeError):  # noqa: N818 - the name says what happened
    """A scope has spent its budget, and the run was ended there.

    Args:
        message: What was spent, and of what.
        scope: The scope's name; module and operation, joined by `/`, of a decorated function.
        limit: Its budget.
        spent: What the scope has spent so far. Calls that are on their way in other threads or tasks count when they end.
        report: The report of the scope so far.

    Example:
        >>> from tokenscope import Budget, BudgetExceeded, record_tokens, token_scope
        >>> try:
        ...     with token_scope("run", budget=Budget(tokens=1_000)):
        ...         record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=1_200, output_tokens=0)
        ...         with token_scope("next"):
        ...             pass
        ... except BudgetExceeded as error:
        ...     print(error)
        ...     print(error.scope, error.limit.tokens, error.spent.total_tokens)
        the budget of 'run', 1,000 tokens, is spent: 1,200 tokens, 200 tokens more than that
        run 1000 1200
    """

    def __init__(self, message: str, scope: str, limit: Budget, spent: Usage, report: Report) -> None:
        super().__init__(message, scope, limit, spent, report)
        self.scope = scope
        self.limit = limit
        self.spent = spent
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])


class TokenScopeWarning(UserWarning):
    """Something could not be counted in full detail. The host program goes on undisturbed."""


_warned: set[str] = set()


def warn_once(key: str, message: str, stacklevel: int | None = None) -> None:
    """Warn with `message`, the first time only that `key` is seen in this process; at the nearest line that is not ours."""
    if key not in _warned:
        _warned.add(key)
        warnings.warn(message, TokenScopeWarning, stacklevel=_host_level() if stacklevel is None else stacklevel + 1)


def _host_level() -> int:
    """Return the stack level, as `warn_once` has to name it, of the innermost frame outside of this package."""
    frame: FrameType | None = sys._getframe(1)
    level = 0
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "tokenscope":
        frame = frame.f_back
        level += 1
    return level + 1


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
