"""The `csv` format: one row a path of the tree, for spreadsheets and data frames.

    path,kind,entries,seconds,calls,…,cost,unpriced_calls,saved_tokens,saved_cost,subtree_tokens,subtree_cost
    pipeline,scope,1,1.5,0,…,0,0,0,0,2191,0.0031
    pipeline/ResearchAgent,dspy,1,1.2,3,…,0.0031,0,0,0,2191,0.0031

The counts are what was spent at the path itself, so that a column adds up to the report's total. `subtree_…` is that and
everything below. An unknown cost is an empty cell. Text that a spreadsheet would take for a formula begins with `'`.
"""

from __future__ import annotations

import csv
import io
import re
from decimal import Decimal
from typing import Final

from tokenscope._report.formats.order import stacks
from tokenscope._report.formats.text import number, printable
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.usage import FIELDS

_COUNTS: Final = tuple(name for name in FIELDS if name != "cache_write_1h_tokens")  # the columns of version 0.1
_HEAD: Final = ("path", "kind", "entries", "seconds", *_COUNTS, "subtree_tokens", "subtree_cost")
_FORMULAS: Final = re.compile(r"""(^|;)(?=[ "]*[=+\-@\t\r＝＋－＠])""")  # noqa: RUF001 - Excel takes the wide ones for the others
"""Where a formula would begin, also in a sheet that splits lines at semicolons. No cell has a tab in it."""


def render(snapshot: Snapshot, *, sort: str = "tokens") -> str:
    """Return the rows, each parent before its children."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEAD)
    for stack in stacks(snapshot.tree(), sort):
        node = stack[-1]
        path = "/".join(above.name for above in stack)
        scope = (_text(path), _text(node.kind), node.entries, f"{node.seconds:.6f}".rstrip("0").rstrip("."))
        own = (_cell(getattr(node.own, name)) for name in _COUNTS)
        writer.writerow((*scope, *own, node.usage.total_tokens, _cell(node.usage.cost)))
    return file.getvalue()


def _text(text: str) -> str:
    return printable(_FORMULAS.sub(r"\1'", text))


def _cell(value: int | Decimal | None) -> int | str | None:
    return number(value) if isinstance(value, Decimal) else value
