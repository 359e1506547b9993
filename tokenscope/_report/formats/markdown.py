"""The `markdown` format: the tree as a table, then one by module and one by model, for issues, pull requests and notes.

    | Scope                | Calls | Input | Output | Total | Share |    Cost | Time |
    |:---------------------|------:|------:|-------:|------:|------:|--------:|-----:|
    | `pipeline`           |     3 |   420 |     96 |   516 |  100% | $0.0012 | 1.2s |
    | &nbsp;&nbsp;`planner`|     2 |   300 |     80 |   380 |   74% | $0.0009 | 0.9s |

Names stand in code spans, in which Markdown has no meaning: no link, no mention, no HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tokenscope._report.formats.order import breakdown, siblings
from tokenscope._report.formats.text import NOTHING_YET, duration, money, printable, share, summary, unpriced
from tokenscope._report.report import Report
from tokenscope._report.tree import Node
from tokenscope._usage.usage import Usage

_COUNTS: Final = ("Calls", "Input", "Output", "Total", "Share", "Cost")
_DEEPEST_INDENT: Final = 30  # further levels say their number
_SPECIAL: Final = frozenset("`|\\")


def render(report: Report, *, sort: str = "tokens") -> str:
    """Return the report as a Markdown document.

    Args:
        report: What to write.
        sort: What siblings are ordered by: `tokens`, `cost`, `calls`, `time` or `name`.
    """
    if not report:
        return NOTHING_YET.capitalize() + ".\n"
    total = report.total
    root = report.tree()
    parts = [f"**{summary(total)}**", "", *_head("Scope", "Time"), *_tree(root, total, sort)]
    for title, name, usages in (("By module", "Module", report.by_module()), ("By model", "Model", report.by_model())):
        parts += ["", f"### {title}", "", *_head(name), *_breakdown(usages, total, sort)]
    if note := unpriced(report.by_model(), code):
        parts += ["", note]
    return "\n".join(parts) + "\n"


def code(name: str) -> str:
    """Return a name as inline code that ends where it ends, in a table too."""
    shown = printable(name)
    if shown == shown.strip() != "" and not _SPECIAL & set(shown):
        return f"`{shown}`"
    return f"<code>{''.join(c if c.isalnum() or c == ' ' else f'&#{ord(c)};' for c in shown)}</code>"


def _tree(root: Node, total: Usage, sort: str) -> Iterator[str]:
    stack = [(0, node) for node in reversed(siblings(root.children, sort) if root.kind == "root" else (root,))]
    while stack:
        depth, node = stack.pop()
        indent = "&nbsp;&nbsp;" * depth if depth <= _DEEPEST_INDENT else f"{depth:,}&gt; "
        yield _row(indent + code(node.name), node.usage, total, duration(node.seconds))
        if node.own.calls and any(child.usage.calls for child in node.children):
            own = Node("[self]", "self", node.own, node.own, {}, 0, 0.0, ())
            stack.append((depth + 1, own))
        stack.extend((depth + 1, child) for child in reversed(siblings(node.children, sort)))


def _head(*names: str) -> list[str]:
    first, *last = names
    columns = [first, *_COUNTS, *last]
    return ["| " + " | ".join(columns) + " |", "|:--|" + "--:|" * (len(columns) - 1)]


def _breakdown(usages: Mapping[str, Usage], total: Usage, sort: str) -> Iterator[str]:
    for name, usage in breakdown(usages, sort):
        yield _row(code(name), usage, total)


def _row(name: str, usage: Usage, total: Usage, *more: str) -> str:
    cells = [
        name,
        f"{usage.calls:,}",
        f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}",
        f"{usage.total_tokens:,}",
        f"{share(usage.total_tokens, total.total_tokens):.0%}",
        money(usage),
        *more,
    ]
    return "| " + " | ".join(cells) + " |"
