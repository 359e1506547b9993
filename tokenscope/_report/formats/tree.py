"""The `tree` format: scopes as an indented tree, with their calls, tokens, share of the total, cost and time.

    scope                        calls  input  output  total  share                cost  time
    pipeline                         3    420      96    516  ██████████ 100%  $0.00032  1.2s
    ├─ ResearchAgent                 2    300      80    380  ███████▍    74%  $0.00024  0.9s
    │  └─ planner                    2    300      80    380  ███████▍    74%  $0.00024  0.9s
    └─ summarize                     1    120      16    136  ██▋         26%  $0.00008  0.3s

In a narrow terminal the bars go first, then the names are cut. Numbers are never cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Final

from tokenscope._report.formats import text
from tokenscope._report.formats.columns import GAP, Column, Columns, ScopeColumn, guides
from tokenscope._report.formats.order import lines
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
_DETAILS: Final = ("cached_calls", "failed_calls", "cache_read_tokens", "reasoning_tokens")
_STYLES: Final = {
    **dict.fromkeys(("scope", "module", "root"), "bold"),
    **dict.fromkeys(("evaluate", "compile", "phase"), "yellow"),
    **dict.fromkeys(("none", "other"), "red"),
    "dspy": "cyan",
    "tool": "magenta",
    "self": "dim",
}


def render(snapshot: Snapshot, *, width: int = WIDTH, ascii_only: bool = False, sort: str = "tokens") -> str:
    """Return the tree as plain text that keeps to a width, in cells."""
    return drawing(snapshot, sort).plain(width, ascii_only=ascii_only)


def drawing(snapshot: Snapshot, sort: str = "tokens") -> Drawing:
    """Return the tree as a drawing."""
    return Drawing(partial(_draw, snapshot, sort))


def _draw(snapshot: Snapshot, sort: str, width: int, ascii_only: bool) -> Iterator[Line]:
    if not snapshot:
        yield [(text.NOTHING_YET, "dim")]
        return
    tree = snapshot.tree()
    total = tree.usage.total_tokens
    depths: list[int] = []
    names: list[str] = []
    styles: list[str] = []
    shares: list[float] = []
    rows: list[tuple[str, ...]] = []
    for depth, node in lines(tree, sort):
        usage = node.usage
        depths.append(depth)
        names.append(text.printable(node.name))
        styles.append(_STYLES.get(node.kind, ""))
        shares.append(text.share(usage.total_tokens, total))
        rows.append((*text.counts(usage), text.money(usage) if usage else "", text.duration(node.seconds)))
    columns = Columns(_COLUMNS, rows)
    scopes = ScopeColumn(guides(depths, ascii_only=ascii_only), names)
    room = width - columns.width - len(GAP) - _PERCENT
    bar = max(0, min(_BAR, room - scopes.width))
    scopes.narrow(room - bar)

    heads = columns.styled(columns.heads, ["bold"] * len(_COLUMNS))
    heads.insert(_SHARE_AT, (GAP + "share".ljust(bar + _PERCENT), "bold"))
    yield [(scopes.head, "bold"), *heads]
    for style, part, row, scope in zip(styles, shares, rows, scopes.lines(styles, ascii_only=ascii_only), strict=True):
        faint = "dim" if style == "dim" else ""
        numbers = columns.styled(row, (*[faint] * (len(row) - 1), "dim"))
        bars = (GAP + _bar(round(part * bar * 8), bar, ascii_only), "green"), (f"{part:>{_PERCENT}.0%}", faint)
        yield [*scope, *numbers[:_SHARE_AT], *bars, *numbers[_SHARE_AT:]]
    footer = [text.summary(tree.usage), *text.details(tree.usage, *_DETAILS)]
    if tree.usage.saved_tokens:
        footer.append(f"{tree.usage.saved_tokens:,} tokens saved by it")
    yield [("; ".join(footer), "dim")]
    by_model = tree.by_model
    for note in filter(None, (text.unpriced(by_model), text.misnamed(snapshot.unused_prices, by_model))):
        yield [(note, "dim")]


@lru_cache
def _bar(eighths: int, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return ("#" * (eighths // 8)).ljust(width)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)
