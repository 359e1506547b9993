"""The `tree` format: the total, and scopes as an indented tree, with their calls, tokens, share of the total, cost and time.

    516 tokens (420 in + 96 out); $0.00032; 3 calls
    scope                        calls  input  output  total  share                cost  time
    pipeline                         3    420      96    516  ██████████ 100%  $0.00032  1.2s
    ├─ ResearchAgent                 2    300      80    380  ███████▍    74%  $0.00024  0.9s
    │  └─ planner                    2    300      80    380  ███████▍    74%  $0.00024  0.9s
    └─ summarize                     1    120      16    136  ██▋         26%  $0.00008  0.3s

Of a large tree, the costliest scopes are shown. In a narrow terminal the bars go first, then whole columns, then the middle of
names. Numbers are never cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from itertools import repeat
from typing import Final

from tokenscope._report.breakdown import Breakdown
from tokenscope._report.formats import part_shares, text
from tokenscope._report.formats.columns import DEEPEST_GUIDE, GAP, Column, Columns, ScopeColumn, guides
from tokenscope._report.formats.order import self_line, shown
from tokenscope._report.formats.terminal import EIGHTHS, WIDTH, Drawing, Line
from tokenscope._report.parts import has_parts
from tokenscope._report.snapshot import Snapshot, is_by_part
from tokenscope._report.tree import Node

_COLUMNS: Final = (
    *map(Column, ("calls", "input", "output", "total")),
    Column("cost", blanks=("", "$0.00", text.UNKNOWN)),  # the last line says what has no price
    Column("time", blanks=("",)),
)
_SHARE_AT: Final = 4  # columns that stand before the share
_BAR: Final = 10
_PERCENT: Final = 5
_ROWS: Final = 60
_NARROW: Final = 70
_LEAST_IMPORTANT: Final = ("time", "input", "output", "calls", "cost")
_STYLES: Final = {
    **dict.fromkeys(("scope", "module", "root"), "bold"),
    **dict.fromkeys(("evaluate", "compile", "phase"), "yellow"),
    **dict.fromkeys(("none", "other"), "red"),
    "dspy": "cyan",
    "tool": "magenta",
    "self": "dim",
}


def render(
    snapshot: Snapshot,
    *,
    width: int = WIDTH,
    ascii_only: bool = False,
    sort: str = "tokens",
    top: int | None = _ROWS,
    min_share: float | None = None,
    parts: bool = False,
    measured_by: Sequence[str] | None = None,
) -> str:
    """Return the tree as plain text that keeps to a width, in cells."""
    drawn = drawing(snapshot, sort=sort, top=top, min_share=min_share, parts=parts, measured_by=measured_by)
    return drawn.plain(width, ascii_only=ascii_only)


def drawing(
    snapshot: Snapshot,
    *,
    sort: str = "tokens",
    top: int | None = _ROWS,
    min_share: float | None = None,
    parts: bool = False,
    measured_by: Sequence[str] | None = None,
) -> Drawing:
    """Return the tree as a drawing.

    Args:
        snapshot: The report.
        sort: The order of siblings.
        top: How many rows are shown.
        min_share: Leave out what has a smaller share of the total.
        parts: Whether to show, below each row with calls of its own, the parts of their prompts.
        measured_by: What has measured prompts, if the rows do not tell.
    """
    return Drawing(partial(_draw, snapshot, sort, top, min_share, parts, measured_by))


def _draw(
    snapshot: Snapshot,
    sort: str,
    top: int | None,
    min_share: float | None,
    parts: bool,
    measured_by: Sequence[str] | None,
    width: int,
    ascii_only: bool,
) -> Iterator[Line]:
    tree = snapshot.tree()
    chosen = shown(tree, sort, top, min_share)
    if not snapshot:
        yield [(f"{text.NOTHING_YET}: {text.WHY_NOTHING}", "dim")]
        return
    whole = tree.usage
    by_cost = sort == "cost" and bool(whole.cost)
    depths: list[int] = []
    names: list[str] = []
    styles: list[str] = []
    shares: list[float] = []
    rows: list[tuple[str, ...]] = []
    prompts: list[Breakdown] = []
    by_part = is_by_part(snapshot)
    shows_parts = parts and has_parts(snapshot.rows)
    above: list[Node] = []
    for depth, node in chosen.lines:
        usage = node.usage
        if shows_parts:
            above[depth:] = [node]
            prompts.append(_own_parts(above))
        depths.append(depth)
        names.append(text.printable(node.name))
        styles.append(_STYLES.get(node.kind, ""))
        spent, all_spent = (usage.cost, whole.cost) if by_cost else (usage.total_tokens, whole.total_tokens)
        shares.append(text.share(Decimal(spent or 0), Decimal(all_spent or 0)))
        rows.append((*text.counts(usage), text.money(usage) if usage else "", text.duration(node.seconds)))
    columns = Columns(_COLUMNS, rows)
    if by_part:
        columns.leave_out("output", "total")
    scopes = ScopeColumn(guides(depths, ascii_only=ascii_only), names)
    for least in _LEAST_IMPORTANT if width < _NARROW else ():
        if least != sort and width - columns.width - len(GAP) - _PERCENT < scopes.width:
            columns.leave_out(least)
    room = width - columns.width - len(GAP) - _PERCENT
    bar = max(0, min(_BAR, room - scopes.width))
    scopes.narrow(room - bar)
    share_at = sum(map(bool, columns.heads[:_SHARE_AT]))

    yield [(text.headline(snapshot), "bold")]
    heads = columns.styled(columns.heads, ["bold"] * len(_COLUMNS))
    title = ("of cost" if bar > 1 else "cost%") if by_cost else "share"
    heads.insert(share_at, (GAP + title.ljust(bar + _PERCENT), "bold"))
    yield [(scopes.head, "bold"), *heads]
    below = _lines_below(depths, prompts, width, ascii_only) if shows_parts else repeat(None, len(rows))
    drawn = scopes.lines(styles, ascii_only=ascii_only)
    for style, part, row, scope, line in zip(styles, shares, rows, drawn, below, strict=True):
        faint = "dim" if style == "dim" else ""
        numbers = columns.styled(row, (*[faint] * (len(row) - 1), "dim"))
        bars = (GAP + _bar(round(part * bar * 8), bar, ascii_only), "green"), (f"{part:>{_PERCENT}.0%}", faint)
        yield [*scope, *numbers[:share_at], *bars, *numbers[share_at:]]
        if line:
            yield line
    rest = chosen.rest() + (" (--all or top=None shows all)" if min_share is None else "") if chosen.rows else ""
    about_parts = part_shares.note(snapshot, measured_by) if parts or by_part else ""
    for note in filter(None, (rest, *text.notes(snapshot), about_parts)):
        yield [(note, "dim")]


def _own_parts(above: list[Node]) -> Breakdown:
    """Return the parts of the prompts of a row's own calls, given the nodes that lead to it."""
    node = above[-1]
    if node.kind == "self":
        return above[-2].own_parts
    return Breakdown() if self_line(node, node.children) else node.own_parts


def _lines_below(depths: list[int], prompts: list[Breakdown], width: int, ascii_only: bool) -> Iterator[Line | None]:
    """Yield the line below each row that shows the parts of its prompts, if it has any."""
    dot, dots, bar = ("|", "...", "|") if ascii_only else ("·", "…", "│")
    above = guides(depths, ascii_only=ascii_only)
    for depth, deeper, guide, parts in zip(depths, [*depths[1:], 0], above, prompts, strict=True):
        if not part_shares.is_measured(parts):
            yield None
            continue
        corner = 3 if 0 < depth <= DEEPEST_GUIDE else 0  # cells of the last level's guide, `├─ `
        before = guide[: len(guide) - corner] if depth <= DEEPEST_GUIDE else " " * len(guide)
        through = bar if corner and guide[-3] in "├|" else ""
        start = (before + through.ljust(corner)) + (bar if deeper > depth else " ") + " "
        yield [(start + part_shares.shares_line(parts, max(width - len(start), 20), dot=dot, dots=dots), "dim")]


@lru_cache
def _bar(eighths: int, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return ("#" * (eighths // 8)).ljust(width)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)
