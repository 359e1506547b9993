"""What bought nothing, in one line."""

from __future__ import annotations

from tokenscope._report.formats.text import money, plural, printable
from tokenscope._report.report import Report
from tokenscope._usage.usage import Usage


def wasted(report: Report) -> str:
    """Return in one line what bought nothing, and why; nothing where all did."""
    wastes = report.waste()
    if not wastes:
        return ""
    spent = wastes.total.total
    percent = 100 * spent.total_tokens / (report.total.total_tokens or 1)
    reasons = "; ".join(f"{name.replace('_', ' ')} {_told(usage)}" for name, usage in wastes.total.reasons())
    most = f", most in {printable(next(iter(wastes)))}" if len(wastes) > 1 else f", in {printable(next(iter(wastes)))}"
    return f"{spent.total_tokens:,} tokens ({percent:.1f}%), {money(spent)}: {reasons}{most}"


def _told(usage: Usage) -> str:
    calls = plural(usage.calls, "call")
    return f"{calls} with {usage.total_tokens:,} tokens" if usage.total_tokens else calls
