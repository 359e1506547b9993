"""The `folded` format: one line a stack with the tokens spent at its end, for flamegraph.pl, inferno and speedscope.

    pipeline;ResearchAgent;planner 323
    pipeline;ResearchAgent;searcher 1868

The lines add up to the report's total. A `;` in a name becomes a `,`.
"""

from __future__ import annotations

from tokenscope._report.formats.order import stacks
from tokenscope._report.formats.text import printable
from tokenscope._report.snapshot import Snapshot


def render(snapshot: Snapshot) -> str:
    """Return the stacks, the costliest branch first."""
    return "".join(
        f"{';'.join(printable(node.name).replace(';', ',') for node in stack)} {stack[-1].own.total_tokens}\n"
        for stack in stacks(snapshot.tree())
        if stack[-1].own.total_tokens
    )
