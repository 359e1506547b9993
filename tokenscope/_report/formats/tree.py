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

from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache, partial
from typing import Final

from tokenscope._report.formats import text
from tokenscope._report.formats.columns import GAP, Column, Columns, ScopeColumn, guides
from tokenscope._report.formats.order import shown
from tokenscope._report.formats.terminal import EIGHTHS, WIDTH, Drawing, Line
from tokenscope._report.snapshot import Snapshot

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
) -> str:
    """Return the tree as plain text that keeps to a width, in cells."""
    return drawing(snapshot, sort=sort, top=top, min_share=min_share).plain(width, ascii_only=ascii_only)


def drawing(
    snapshot: Snapshot, *, sort: str = "tokens", top: int | None = _ROWS, min_share: float | None = None
) -> Drawing:
    """Return the tree as a drawing."""
    return Drawing(partial(_draw, snapshot, sort, top, min_share))


def _draw(
    snapshot: Snapshot, sort: str, top: int | None, min_share: float | None, width: int, ascii_only: bool
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
    for depth, node in chosen.lines:
        usage = node.usage
        depths.append(depth)
        names.append(text.printable(node.name))
        styles.append(_STYLES.get(node.kind, ""))
        spent, all_spent = (usage.cost, whole.cost) if by_cost else (usage.total_tokens, whole.total_tokens)
        shares.append(text.share(Decimal(spent or 0), Decimal(all_spent or 0)))
        rows.append((*text.counts(usage), text.money(usage) if usage else "", text.duration(node.seconds)))
    columns = Columns(_COLUMNS, rows)
    scopes = ScopeColumn(guides(depths, ascii_only=ascii_only), names)
    for least in _LEAST_IMPORTANT if width < _NARROW else ():
        if least != sort and width - columns.width - len(GAP) - _PERCENT < scopes.width:
            columns.leave_out(least)
    room = width - columns.width - len(GAP) - _PERCENT
    bar = max(0, min(_BAR, room - scopes.width))
    scopes.narrow(room - bar)
    share_at = sum(map(bool, columns.heads[:_SHARE_AT]))

    yield [(text.summary(whole), "bold")]
    heads = columns.styled(columns.heads, ["bold"] * len(_COLUMNS))
    title = ("of cost" if bar > 1 else "cost%") if by_cost else "share"
    heads.insert(share_at, (GAP + title.ljust(bar + _PERCENT), "bold"))
    yield [(scopes.head, "bold"), *heads]
    for style, part, row, scope in zip(styles, shares, rows, scopes.lines(styles, ascii_only=ascii_only), strict=True):
        faint = "dim" if style == "dim" else ""
        numbers = columns.styled(row, (*[faint] * (len(row) - 1), "dim"))
        bars = (GAP + _bar(round(part * bar * 8), bar, ascii_only), "green"), (f"{part:>{_PERCENT}.0%}", faint)
        yield [*scope, *numbers[:share_at], *bars, *numbers[share_at:]]
    rest = chosen.rest() + (" (--all or top=None shows all)" if min_share is None else "") if chosen.rows else ""
    for note in filter(None, (rest, *text.notes(snapshot))):
        yield [(note, "dim")]


@lru_cache
def _bar(eighths: int, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return ("#" * (eighths // 8)).ljust(width)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)
