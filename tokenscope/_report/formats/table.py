"""The `table` format: flat, one row a module, the costliest first.

    Module                   | Input | Output | Total
    -------------------------------------------------
    ResearchAgent.searcher   | 1,456 |    412 | 1,868
    ResearchAgent.planner    |   234 |     89 |   323

The rows add up to the report's total.
"""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len, set_cell_size

from tokenscope._report.formats.order import breakdown
from tokenscope._report.formats.text import NOTHING_YET, printable
from tokenscope._report.report import Report

_LONGEST_NAME: Final = 120


def render(report: Report, *, sort: str = "tokens", title: str = "Module") -> str:
    """Return the table as plain text.

    Args:
        report: What to draw.
        sort: What the rows are ordered by: `tokens`, `cost`, `calls` or `name`.
        title: The head of the names' column.
    """
    if not report:
        return NOTHING_YET
    rows = [(title, "Input", "Output", "Total")] + [
        (_short(printable(name)), f"{usage.input_tokens:,}", f"{usage.output_tokens:,}", f"{usage.total_tokens:,}")
        for name, usage in breakdown(report.by_module(), sort)
    ]
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(
            [
                set_cell_size(name, widths[0]),
                *(number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)),
            ]
        )
        for name, *numbers in rows
    ]
    lines.insert(1, "-" * cell_len(lines[0]))
    return "\n".join(lines)


def _short(name: str) -> str:
    return name if cell_len(name) <= _LONGEST_NAME else set_cell_size(name, _LONGEST_NAME - 1).rstrip() + "…"
