"""The `markdown` format: the tree as a table, then one by module and one by model, for issues, pull requests and notes.

    | Scope                | Calls | Input | Output | Total | Share |    Cost | Time |
    |:---------------------|------:|------:|-------:|------:|------:|--------:|-----:|
    | `pipeline`           |     3 |   420 |     96 |   516 |  100% | $0.0012 | 1.2s |
    | &nbsp;&nbsp;`planner`|     2 |   300 |     80 |   380 |   74% | $0.0009 | 0.9s |

Names are in code spans, in which Markdown has no meaning: no link, no mention, no HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tokenscope._report.formats import text
from tokenscope._report.formats.columns import DEEPEST_GUIDE
from tokenscope._report.formats.order import breakdown, lines
from tokenscope._report.formats.prices import HEADS, NOTE, TITLE, price_rows
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.usage import Usage

_NUMBERS: Final = ("Calls", "Input", "Output", "Total", "Share", "Cost")
_SPECIAL: Final = frozenset("`|\\")


def render(snapshot: Snapshot, *, sort: str = "tokens") -> str:
    """Return the report as a Markdown document."""
    if not snapshot:
        return text.NOTHING_YET.capitalize() + ".\n"
    total, by_model = snapshot.total, snapshot.by_model()
    rows = (
        (indent(depth) + code(node.name), *_cells(node.usage, total), text.duration(node.seconds))
        for depth, node in lines(snapshot.tree(), sort)
    )
    blocks = [f"**{text.summary(total)}**", table(("Scope", *_NUMBERS, "Time"), rows)]
    for name, usages in (("module", snapshot.by_module()), ("model", by_model)):
        rows = ((code(each), *_cells(usage, total)) for each, usage in breakdown(usages, sort))
        blocks += [f"### By {name}", table((name.capitalize(), *_NUMBERS), rows)]
    notes = text.unpriced(by_model, code), text.misnamed(snapshot.unused_prices, by_model, code)
    return document(*blocks, *notes, _prices(snapshot))


def _prices(snapshot: Snapshot) -> str:
    if not (rows := price_rows(snapshot.prices(), code)):
        return ""
    return f"<details><summary>{TITLE}</summary>\n\n{table(HEADS, rows)}\n\n{NOTE}\n\n</details>"


def document(*blocks: str) -> str:
    """Return blocks of text with a blank line between each two. Empty ones are left out."""
    return "\n\n".join(filter(None, blocks)) + "\n"


def table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table: the first column is aligned on the left, the others on the right."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join([head, "|:--|" + "--:|" * (len(heads) - 1), *body])


def indent(depth: int) -> str:
    """Return what stands before the name of a scope at a depth."""
    return "&nbsp;&nbsp;" * depth if depth <= DEEPEST_GUIDE else f"{depth:,}&gt; "


def code(name: str) -> str:
    """Return a name as inline code that ends where it ends, in a table too."""
    shown = text.printable(name)
    if shown == shown.strip() != "" and not _SPECIAL & set(shown):
        return f"`{shown}`"
    return f"<code>{''.join(c if c.isalnum() or c == ' ' else f'&#{ord(c)};' for c in shown)}</code>"


def _cells(usage: Usage, total: Usage) -> tuple[str, ...]:
    return *text.counts(usage), f"{text.share(usage.total_tokens, total.total_tokens):.0%}", text.money(usage)
