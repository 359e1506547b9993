"""tokenscope: which part of my program spends the tokens?

    from tokenscope import token_scope, track_tokens

    with token_scope("pipeline") as scope:
        program(question="...")       # any DSPy program: its modules become nested scopes by themselves
    print(scope)

Importing this package registers hooks; DSPy is patched when your program imports it. `uninstrument()` undoes that, and
`TOKENSCOPE_DISABLED=1` in the environment keeps everything as though tokenscope were not there.

For pytest, which else warns that a package with a plugin was imported before: PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenscope._scopes.budget import Budget, BudgetExceeded
from tokenscope._scopes.process import DISABLED
from tokenscope._scopes.recording import record_cost, record_tokens
from tokenscope._scopes.scope import Scope, current_scope
from tokenscope._scopes.token_scope import token_scope
from tokenscope._scopes.track_tokens import track_tokens
from tokenscope._scopes.wrapping import carry
from tokenscope._usage.usage import Usage
from tokenscope._usage.warnings import ReportFormatError, TokenScopeError
from tokenscope._version import __version__
from tokenscope.integrations import instrument, uninstrument

if TYPE_CHECKING:
    from tokenscope._processes.shipment import Shipment, receive, ship
    from tokenscope._providers.responses import record_response
    from tokenscope._providers.streams import record_stream
    from tokenscope._report.advice import Finding
    from tokenscope._report.breakdown import Breakdown
    from tokenscope._report.changes import Change
    from tokenscope._report.forecast import Forecast
    from tokenscope._report.parts import Reread
    from tokenscope._report.record import Record
    from tokenscope._report.report import Diff, Report
    from tokenscope._report.tree import Node
    from tokenscope._report.waste import Waste
    from tokenscope._tracker.sinks import JSONLSink
    from tokenscope._tracker.tracker import TokenTracker, get_tracker
    from tokenscope._usage.call_sizes import CallSizes
    from tokenscope._usage.custom_prices import set_price
    from tokenscope._usage.price_list import Price

__all__ = [
    "Breakdown",
    "Budget",
    "BudgetExceeded",
    "CallSizes",
    "Change",
    "Diff",
    "Finding",
    "Forecast",
    "JSONLSink",
    "Node",
    "Price",
    "Record",
    "Report",
    "ReportFormatError",
    "Reread",
    "Scope",
    "Shipment",
    "TokenScopeError",
    "TokenTracker",
    "Usage",
    "Waste",
    "__version__",
    "carry",
    "current_scope",
    "get_tracker",
    "instrument",
    "receive",
    "record_cost",
    "record_response",
    "record_stream",
    "record_tokens",
    "report",
    "reset",
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
    from tokenscope._scopes.enforcement import report_of
    from tokenscope._scopes.process import STATE

    return report_of(STATE.root)


def reset() -> None:
    """Forget all counts and records of this process. Scopes that are open keep what was counted in them.

    Example:
        >>> import tokenscope
        >>> tokenscope.record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        >>> tokenscope.reset()
        >>> tokenscope.report().total
        Usage()
    """
    from tokenscope._scopes.event_log import clear

    clear()


_LAZY = {
    **dict.fromkeys(("Shipment", "receive", "ship"), "_processes.shipment"),
    "record_response": "_providers.responses",
    "record_stream": "_providers.streams",
    "Change": "_report.changes",
    "Finding": "_report.advice",
    "Reread": "_report.parts",
    "CallSizes": "_usage.call_sizes",
    "Forecast": "_report.forecast",
    **dict.fromkeys(("Diff", "Report"), "_report.report"),
    "Node": "_report.tree",
    "Breakdown": "_report.breakdown",
    "Waste": "_report.waste",
    "Record": "_report.record",
    "JSONLSink": "_tracker.sinks",
    **dict.fromkeys(("TokenTracker", "get_tracker"), "_tracker.tracker"),
    "set_price": "_usage.custom_prices",
    "Price": "_usage.price_list",
    "load_ipython_extension": "integrations.ipython",
}


def __getattr__(name: str) -> Any:
    """Load a name that few programs need when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'tokenscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tokenscope.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    """List the public names only, those not loaded yet included."""
    return list(__all__)


if not DISABLED:
    instrument()
