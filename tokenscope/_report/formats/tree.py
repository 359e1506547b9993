"""The `tree` format: scopes as an indented tree, with their calls, tokens, share of the total, cost and time.

    scope                        calls  input  output  total  share                cost  time
    pipeline                         3    420      96    516  ██████████ 100%  $0.00032  1.2s
    ├─ ResearchAgent                 2    300      80    380  ███████▍    74%  $0.00024  0.9s
    │  └─ planner                    2    300      80    380  ███████▍    74%  $0.00024  0.9s
    └─ summarize                     1    120      16    136  ██▋         26%  $0.00008  0.3s

In a narrow terminal the bars go first, then the names are cut; numbers never are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size

from tokenscope._report.formats import terminal as _terminal
from tokenscope._report.formats.order import siblings
from tokenscope._report.formats.terminal import EIGHTHS, WIDTH
from tokenscope._report.formats.text import duration, money, printable, summary, unpriced
from tokenscope._report.report import Report
from tokenscope._report.tree import Node

_BAR: Final = 10
_SHORTEST_NAME: Final = 12
_DEEPEST_GUIDE: Final = 30  # levels drawn with guides; further ones say their number
_GAP: Final = "  "


class Line(NamedTuple):
    """One line of the tree, before it is fitted to a width."""

    guide: str
    name: str
    style: str
    cells: tuple[str, ...]  # calls, input, output, total
    share: float
    cost: str
    time: str


_HEAD: Final = ("calls", "input", "output", "total")
_STYLES: Final = {
    "scope": "bold",
    "module": "bold",
    "root": "bold",
    "dspy": "cyan",
    "tool": "magenta",
    "evaluate": "yellow",
    "compile": "yellow",
    "phase": "yellow",
    "none": "red",
    "other": "red",
    "self": "dim",
}


def render(report: Report, *, width: int = WIDTH, ascii_only: bool = False, sort: str = "tokens") -> str:
    """Return the tree as plain text.

    Args:
        report: What to draw.
        width: The width to keep to, in cells.
        ascii_only: Draw guides and bars with ASCII characters.
        sort: What siblings are ordered by: `tokens`, `cost`, `calls`, `time` or `name`.
    """
    return _terminal.plain(_layout(report, sort, width, ascii_only))


def for_stdout(report: Report, *, sort: str = "tokens") -> str:
    """Return the tree as standard output can show it: its width, its colours, its encoding."""
    return _terminal.for_stdout(partial(_layout, report, sort))


def for_stderr(report: Report) -> str:
    """Return the tree as standard error can show it, whatever a program has put in its place."""
    return _terminal.for_stream(partial(_layout, report, "tokens"), sys.__stderr__)


class Rich(_terminal.Printable):
    """The tree as something rich can print."""

    def __init__(self, report: Report) -> None:
        super().__init__(partial(_layout, report, "tokens"))


def _layout(report: Report, sort: str, width: int, ascii_only: bool) -> Iterator[_terminal.Line]:
    """Yield the lines."""
    if not report:
        yield [("nothing was counted yet", "dim")]
        return
    root = report.tree()
    lines = list(_lines(root, sort, ascii_only))
    columns = [max(len(head), *(len(line.cells[i]) for line in lines)) for i, head in enumerate(_HEAD)]
    times = max(len("time"), *(len(line.time) for line in lines)) if any(line.time for line in lines) else 0
    # Where no price is known, a column of dashes tells nothing that the last line does not.
    costs = max(len("cost"), *(len(line.cost) for line in lines)) if root.usage.cost else 0
    numbers = sum(len(_GAP) + column for column in (*columns, costs, times) if column) + len(_GAP)
    names = max(len("scope"), *(cell_len(line.guide) + cell_len(line.name) for line in lines))
    bar = _BAR
    if names + numbers + bar + 5 > width:
        bar = 0
        if names + numbers + 5 <= width:
            bar = max(0, width - names - numbers - 5)
    share = bar + 5 if bar else 5
    names = min(names, max(_SHORTEST_NAME, width - numbers - share))

    yield [
        (set_cell_size("scope", names), "bold"),
        *((_GAP + head.rjust(column), "bold") for head, column in zip(_HEAD, columns, strict=True)),
        (_GAP + "share".ljust(share), "bold"),
        (_GAP + "cost".rjust(costs) if costs else "", "bold"),
        (_GAP + "time".rjust(times) if times else "", "bold"),
    ]
    for line in lines:
        room = max(names - cell_len(line.guide), min(4, cell_len(line.name)))
        guide = set_cell_size(line.guide, names - room)
        faint = "dim" if line.style == "dim" else ""
        yield [
            (guide, "dim"),
            (_terminal.fit(line.name, room, ascii_only), line.style),
            *((_GAP + cell.rjust(column), faint) for cell, column in zip(line.cells, columns, strict=True)),
            (_GAP + _bar(line.share, bar, ascii_only), "green"),
            (f"{line.share:>5.0%}", faint),
            (_GAP + line.cost.rjust(costs) if costs else "", faint),
            (_GAP + line.time.rjust(times) if times else "", "dim"),
        ]
    for sentence in _footer(root):
        yield [(sentence, "dim")]


def _lines(root: Node, sort: str, ascii_only: bool) -> Iterator[Line]:
    total = root.usage.total_tokens
    tee, corner, bar = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
    stack: list[tuple[Node, str, str, int]] = [(root, "", "", 0)]
    if root.kind == "root":
        stack = [(child, "", "", 0) for child in reversed(siblings(root.children, sort))]
    while stack:
        node, guide, below, depth = stack.pop()
        yield _line(node, guide, total)
        rows = siblings(node.children, sort)
        if node.own.calls and any(child.usage.calls for child in rows):
            rows.append(Node("[self]", "self", node.own, node.own, {}, 0, 0.0, ()))
        if depth >= _DEEPEST_GUIDE:
            inner = [(child, f"{depth + 1:,}> ", "", depth + 1) for child in rows]
        else:
            inner = [(child, below + tee, below + bar, depth + 1) for child in rows[:-1]]
            inner += [(child, below + corner, below + "   ", depth + 1) for child in rows[-1:]]
        stack.extend(reversed(inner))


def _line(node: Node, guide: str, total: int) -> Line:
    usage = node.usage
    cells = (
        f"{usage.calls:,}",
        f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}",
        f"{usage.total_tokens:,}",
    )
    share = usage.total_tokens / total if total else 0.0
    style = _STYLES.get(node.kind, "")
    return Line(
        guide, printable(node.name), style, cells, share, money(usage) if usage.calls else "", duration(node.seconds)
    )


def _bar(share: float, width: int, ascii_only: bool) -> str:
    eighths = round(share * width * 8)
    if ascii_only:
        return ("#" * (eighths // 8)).ljust(width)
    full, part = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[part] if part else "")).ljust(width)


def _footer(root: Node) -> Iterator[str]:
    usage = root.usage
    parts = [summary(usage)]
    for count, what in (
        (usage.cached_calls, "call{} answered by DSPy's cache"),
        (usage.failed_calls, "call{} failed"),
        (usage.cache_read_tokens, "input token{} read from the provider's cache"),
        (usage.reasoning_tokens, "output token{} spent on reasoning"),
    ):
        if count:
            parts.append(f"{count:,} {what.format('' if count == 1 else 's')}")
    if usage.saved_tokens:
        parts.append(f"{usage.saved_tokens:,} tokens saved by it")
    yield "; ".join(parts)
    if unknown := unpriced(root.by_model):
        yield unknown
