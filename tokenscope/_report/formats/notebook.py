"""The report in a notebook: what `_repr_html_` returns, a tree of `<details>` that folds without any script.

Names are escaped. There is no class, id, script or address in it, so it cannot change the notebook's page.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from html import escape
from typing import Final

from tokenscope._report.formats import part_shares
from tokenscope._report.formats.text import NOTHING_YET, duration, money, notes, plural, printable, share
from tokenscope._report.parts import has_parts
from tokenscope._report.snapshot import Snapshot
from tokenscope._report.tree import Node
from tokenscope._usage.usage import Usage

_ROWS: Final = 300
_DEEPEST: Final = 40  # browsers stop nesting at some hundred levels
_OPEN: Final = 3  # levels that are unfolded at first
_WIDEST_LINE: Final = 110  # characters of a line of parts
_FRAME: Final = "max-width:60em;line-height:1.6;font-variant-numeric:tabular-nums"
_CELLS: Final = "float:right;white-space:nowrap"
_CELL: Final = "display:inline-block;min-width:{}em;text-align:right;opacity:{}"
_INSIDE: Final = "margin-left:1.2em;border-top:1px solid rgba(128,128,128,.2)"


def render(snapshot: Snapshot) -> str:
    """Return the report as a fragment of HTML."""
    if not snapshot:
        return f"<div>{NOTHING_YET.capitalize()}.</div>"
    tree = snapshot.tree()
    usage = tree.usage
    cost = [] if usage.cost is None else [f"<b>{money(usage)}</b>"]
    head = [f"<b>{usage.total_tokens:,} tokens</b>", *cost, plural(usage.calls, "call")]
    foot = "".join(f'<div style="opacity:.7">{note}</div>' for note in notes(snapshot, _name))
    has_prompts = has_parts(snapshot.rows)
    if has_prompts:
        foot += f'<div style="opacity:.7">{escape(part_shares.note(snapshot))}</div>'
    rows = "".join(_rows(tree, has_prompts))
    return f'<div style="{_FRAME}"><div>{" · ".join(head)}</div>{rows}{foot}</div>'


def _name(name: str) -> str:
    return escape(printable(name))


def _rows(tree: Node, has_prompts: bool) -> Iterator[str]:
    shown = _costliest(tree)
    root = tree.root
    stack: list[tuple[int, Node | str]] = [(0, _left_out(root, shown))]
    stack += [(0, node) for node in reversed(root.children) if node in shown]
    while stack:
        depth, node = stack.pop()
        if isinstance(node, str):
            yield node
            continue
        below = [child for child in node.children if child in shown]
        rest = _left_out(node, shown)
        prompts = _prompts(node) if has_prompts else ""
        if not below and not rest:
            yield f'<div style="{_INSIDE}">{_row(node, tree.usage)}{prompts}</div>'
            continue
        state = " open" if depth < _OPEN else ""
        yield f'<details{state} style="{_INSIDE}"><summary>{_row(node, tree.usage)}</summary>{prompts}'
        stack += [(depth, rest + "</details>"), *((depth + 1, child) for child in reversed(below))]


def _prompts(node: Node) -> str:
    """Return a line with the parts of the prompts of a node's own calls; empty if none was measured."""
    parts = node.own_parts
    if not part_shares.is_measured(parts):
        return ""
    line = escape(part_shares.shares_line(parts, _WIDEST_LINE))
    return f'<div style="clear:both;margin-left:1.2em;opacity:.7;font-size:.9em"><bdi>{line}</bdi></div>'


def _costliest(tree: Node) -> set[Node]:
    """Return the nodes to show: the costliest ones. The parents of each are among them."""
    near = (node for depth, node in tree.walk() if depth < _DEEPEST)
    return set(nlargest(_ROWS, near, key=lambda node: node.usage.total_tokens))  # of equal ones, a parent comes first


def _left_out(node: Node, shown: set[Node]) -> str:
    if not (rest := [child for child in node.children if child not in shown]):
        return ""
    tokens = sum(child.usage.total_tokens for child in rest)
    return f'<div style="{_INSIDE};opacity:.7">… {len(rest):,} more, {tokens:,} tokens</div>'


def _row(node: Node, total: Usage) -> str:
    usage = node.usage
    cells = [
        (f"{usage.total_tokens:,}", 5, 1),
        (f"{share(usage.total_tokens, total.total_tokens):.0%}", 3.5, 0.7),
        (money(usage), 7, 1),
        (duration(node.seconds), 4.5, 0.7),
    ]
    shown = "".join(f'<span style="{_CELL.format(width, faint)}">{text}</span>' for text, width, faint in cells)
    return f'<bdi>{_name(node.name)}</bdi><span style="{_CELLS}">{shown}</span>'
