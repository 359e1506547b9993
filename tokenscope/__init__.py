"""tokenscope: which part of my program spends the tokens?

    from tokenscope import token_scope, track_tokens

    with token_scope("pipeline") as scope:
        program(question="...")       # any DSPy program: its modules become nested scopes by themselves
    print(scope)

Importing this package registers hooks; DSPy is patched when your program imports it. `uninstrument()` undoes that, and
`TOKENSCOPE_DISABLED=1` in the environment keeps everything as though tokenscope were not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenscope._budget import Budget
from tokenscope._recipes import carry, token_scope, track_tokens
from tokenscope._record import record_tokens
from tokenscope._scope import DISABLED, Scope, current_scope
from tokenscope._usage import Usage
from tokenscope._version import __version__
from tokenscope.errors import BudgetExceeded, ReportFormatError, TokenScopeError
from tokenscope.integrations import instrument, uninstrument

if TYPE_CHECKING:
    from tokenscope._pricing import set_price
    from tokenscope._report import Report
    from tokenscope._responses import record_response
    from tokenscope._shipped import ship
    from tokenscope._shipping import Shipment, receive
    from tokenscope._sinks import JSONLSink
    from tokenscope._streams import record_stream
    from tokenscope._tracker import TokenTracker, get_tracker

__all__ = [
    "Budget",
    "BudgetExceeded",
    "JSONLSink",
    "Report",
    "ReportFormatError",
    "Scope",
    "Shipment",
    "TokenScopeError",
    "TokenTracker",
    "Usage",
    "__version__",
    "carry",
    "current_scope",
    "get_tracker",
    "instrument",
    "receive",
    "record_response",
    "record_stream",
    "record_tokens",
    "report",
    "set_price",
    "ship",
    "token_scope",
    "track_tokens",
    "uninstrument",
]


def report() -> Report:
    """Return a frozen report of everything this process has counted until now, all scopes and threads.

    Example:
        >>> import tokenscope
        >>> tokenscope.report().total.failed_calls
        0
    """
    from tokenscope._ledger import PROCESS
    from tokenscope._report import Report

    return Report.from_rows(PROCESS.view(), PROCESS.path, scoped=False)


_LAZY = {
    "JSONLSink": "_sinks",
    "Report": "_report",
    "Shipment": "_shipping",
    "TokenTracker": "_tracker",
    "get_tracker": "_tracker",
    "receive": "_shipping",
    "record_response": "_responses",
    "record_stream": "_streams",
    "set_price": "_pricing",
    "ship": "_shipped",
}


def __getattr__(name: str) -> Any:
    """Load what few programs need when it is first touched."""
    if name not in _LAZY:
        raise AttributeError(f"module 'tokenscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tokenscope.{_LAZY[name]}"), name)


if not DISABLED:
    instrument()
