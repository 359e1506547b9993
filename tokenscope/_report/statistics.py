"""A report's totals as plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenscope._report.report import Report
    from tokenscope._usage.usage import Usage


def statistics(report: Report) -> dict[str, Any]:
    """Return the totals of a report, in all, by module and by model."""
    summary = {
        f"total_{name}" if name.endswith("tokens") and not name.startswith("total") else name: value
        for name, value in report.total.to_dict().items()
    }
    summary["total_calls"] = summary.pop("calls")
    summary["total_cost"] = summary.pop("cost")
    return {
        "summary": dict(sorted(summary.items(), key=lambda item: not item[0].startswith("total_"))),
        "by_module": {name: _of(usage) for name, usage in report.by_module().items()},
        "by_model": {name: _of(usage) for name, usage in report.by_model().items()},
    }


def _of(usage: Usage) -> dict[str, Any]:
    counts = usage.to_dict()
    return {
        "input_tokens": counts.pop("input_tokens"),
        "output_tokens": counts.pop("output_tokens"),
        "total_tokens": counts.pop("total_tokens"),
        "call_count": counts.pop("calls"),
        **counts,
    }
