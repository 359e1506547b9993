"""How values show themselves: printable names, dollars, and a table for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from functools import lru_cache, partial
from heapq import nlargest
from html import escape
from typing import Final

UNKNOWN: Final = "\N{EN DASH}"
AT_LEAST: Final = "≥ "
_EXACT: Final = Context(prec=60)
_ROWS: Final = 300
_DEEPEST: Final = 30  # levels that are indented
_TABLE: Final = "border-collapse:collapse;font-variant-numeric:tabular-nums"
_ROW: Final = "border-top:1px solid rgba(128,128,128,.2)"  # as in the notebook's tree: to be seen on light and dark
_CELL: Final = "text-align:{};padding:.2em .6em"


def printable(name: str) -> str:
    """Return a name with its line breaks, escapes and other control characters made visible."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def cost_of(cost: Decimal | None, *, is_part: bool) -> str:
    """Return a cost: `$0.12`; `≥ $0.12`, rounded down, if it is only a part of the cost; a dash if it is unknown."""
    if cost is None:
        return UNKNOWN
    return AT_LEAST + dollars(cost, ROUND_FLOOR) if is_part else dollars(cost)


_two_digits: Final = lru_cache(partial(Context, 2))  # returns a context that rounds to two digits, given how


def dollars(amount: Decimal, rounding: str = ROUND_HALF_UP) -> str:
    """Return an amount of money: rounded to cents, or to two digits if it is less than a dollar."""
    size = amount.adjusted()
    if amount and not -9 < size < 30:  # written out, it would fill the page
        return f"${amount:.1e}"
    if size < 0:
        amount = _two_digits(rounding).plus(amount)
    last_digit = Decimal(1).scaleb(min(-2, amount.adjusted() - 1) if amount else -2)
    return f"${amount.quantize(last_digit, rounding, _EXACT):,f}"


def html_table(
    names: Sequence[str],
    numbers: Sequence[str],
    rows: Sequence[Sequence[str]],
    depths: Sequence[int] = (),
    weights: Sequence[int] = (),
) -> str:
    """Return a table as HTML, given the headings of names and of numbers; of many rows, the 300 with the largest weights.

    It has no colours of its own, so it can be read on a light and on a dark page. Cells are escaped.
    """
    if not rows:
        return "<div>Nothing.</div>"
    heads = [*names, *numbers]
    styles = [*[_CELL.format("left")] * len(names), *[_CELL.format("right")] * len(numbers)]
    lines: list[str] = []
    if any(heads):
        lines.append(
            "".join(f'<th style="{style};opacity:.7">{head}</th>' for style, head in zip(styles, heads, strict=True))
        )
    for index in sorted(nlargest(_ROWS, range(len(rows)), key=lambda index: weights[index] if weights else -index)):
        indent = f";padding-left:{0.6 + 1.2 * min(depths[index], _DEEPEST):.1f}em" if depths else ""
        cells = zip([styles[0] + indent, *styles[1:]], rows[index], strict=True)
        lines.append("".join(f'<td style="{style}"><bdi>{escape(printable(cell))}</bdi></td>' for style, cell in cells))
    if len(rows) > _ROWS:
        lines.append(f'<td style="{styles[0]};opacity:.7" colspan="{len(heads)}">… {len(rows) - _ROWS:,} more</td>')
    body = "".join(f'<tr style="{_ROW}">{line}</tr>' for line in lines)
    return f'<table style="{_TABLE}">{body}</table>'
