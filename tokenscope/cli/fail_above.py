"""The gate of `tokenscope diff --fail-above`: whether total tokens or total cost grew by more than so many percent."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from tokenscope._report.diff import EXACT, Amount, Diff, percent
from tokenscope._report.formats.text import money


class Verdict(NamedTuple):
    """What the gate says of a diff."""

    failed: bool
    sentence: str
    """What grew by how much, and what could not be compared; nothing where there is nothing to say."""


def verdict(diff: Diff, limit: Decimal) -> Verdict:
    """Judge a diff.

    Args:
        diff: What changed.
        limit: By how many percent the totals may grow; exactly so many is not too many.
    """
    total = diff.total
    before, after = total.before, total.after
    grown: list[str] = []
    if _grew_above(before.total_tokens, after.total_tokens, limit):
        how = _growth(before.total_tokens, after.total_tokens, limit)
        grown.append(f"total tokens grew {how} ({before.total_tokens:,} -> {after.total_tokens:,})")
    if total.cost is not None and _grew_above(before.cost, after.cost, limit):
        grown.append(f"total cost grew {_growth(before.cost, after.cost, limit)} ({money(before)} -> {money(after)})")
    said = [f"{' and '.join(grown)}, more than {limit}%"] if grown else []
    if total.cost is None:
        unknown = f"{before.unpriced_calls:,} before, {after.unpriced_calls:,} after"
        said.append(f"the cost is not compared, for there are calls without a known price: {unknown}")
    return Verdict(bool(grown), "; ".join(said))


def _grew_above(old: Amount, new: Amount, limit: Decimal) -> bool:
    """Whether an amount grew by more than so many percent, exactly; from nothing to anything is more than any."""
    return EXACT.multiply(EXACT.subtract(Decimal(new), Decimal(old)), 100) > EXACT.multiply(Decimal(old), limit)


def _growth(old: Amount, new: Amount, limit: Decimal) -> str:
    """Return by how much an amount grew, with as many digits as show that it is more than the limit."""
    growth = percent(old, new)
    if growth is None:
        return "from nothing"
    shown = (f"{growth:,.{places}f}" for places in range(1, 20))
    return f"by {next((each for each in shown if Decimal(each.replace(',', '')) > limit), f'{growth:,.1f}')}%"
