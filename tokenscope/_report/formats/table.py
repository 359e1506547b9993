"""The `table` format: flat, one row a module, the costliest first.

    Module                   | Input | Output | Total
    -------------------------------------------------
    ResearchAgent.searcher   | 1,456 |    412 | 1,868
    ResearchAgent.planner    |   234 |     89 |   323

The rows add up to the report's total. What the columns do not say stands below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len

from tokenscope._report.formats.columns import Column, Columns, shortened
from tokenscope._report.formats.order import breakdown
from tokenscope._report.formats.part_shares import note
from tokenscope._report.formats.text import NOTHING_YET, WHY_NOTHING, counts, notes, printable
from tokenscope._report.snapshot import Snapshot, is_by_part

_LONGEST_NAME: Final = 120


def render(
    snapshot: Snapshot,
    *,
    sort: str = "tokens",
    top: int | None = None,
    min_share: float | None = None,
    title: str = "Module",
    measured_by: Sequence[str] | None = None,
) -> str:
    """Return the table as plain text. The title is the heading of the names."""
    chosen = breakdown(snapshot.by_module(), sort, top, min_share)
    if not snapshot:
        return f"{NOTHING_YET}: {WHY_NOTHING}"
    heads = ("Input",) if is_by_part(snapshot) else ("Input", "Output", "Total")
    rows = [
        (shortened(printable(name), _LONGEST_NAME), *counts(usage)[1 : len(heads) + 1]) for name, usage in chosen.lines
    ]
    columns = Columns([Column(title, align_left=True), *map(Column, heads)], rows)
    lines = [" | ".join(cells) for cells in (columns.heads, *map(columns.fit, rows))]
    lines.insert(1, "-" * cell_len(lines[0]))
    about_parts = note(snapshot, measured_by) if is_by_part(snapshot) else ""
    below = list(filter(None, (chosen.rest(), *notes(snapshot), about_parts)))
    return "\n".join([*lines, *([""] if below else []), *below])
