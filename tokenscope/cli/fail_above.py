"""The check of `tokenscope diff --fail-above`: did total tokens or total cost grow by more than a limit in percent?"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from tokenscope._report.changes import EXACT, Amount, Comparison, percent
from tokenscope._report.formats.text import money


class Verdict(NamedTuple):
    """The result of the check."""

    failed: bool
    message: str
    """What grew by how much, and what could not be compared. Empty if there is nothing to report."""


def check_growth(diff: Comparison, limit: Decimal) -> Verdict:
    """Check that neither total tokens nor total cost grew by more than a limit.

    Args:
        diff: The changes between two reports.
        limit: The percentage by which a total may grow. Exactly this much passes.
    """
    total = diff.total
    before, after = total.before, total.after
    grown: list[str] = []
    if _grew_above(before.total_tokens, after.total_tokens, limit):
        growth = _growth(before.total_tokens, after.total_tokens, limit)
        grown.append(f"total tokens grew {growth} ({before.total_tokens:,} -> {after.total_tokens:,})")
    if total.cost is not None and _grew_above(before.cost, after.cost, limit):
        grown.append(f"total cost grew {_growth(before.cost, after.cost, limit)} ({money(before)} -> {money(after)})")
    messages = [f"{' and '.join(grown)}, more than {limit}%"] if grown else []
    if total.cost is None:
        unpriced = f"{before.unpriced_calls:,} before, {after.unpriced_calls:,} after"
        messages.append(f"the cost is not compared, because some calls have no known price: {unpriced}")
    return Verdict(bool(grown), "; ".join(messages))


def _grew_above(old: Amount, new: Amount, limit: Decimal) -> bool:
    """Return whether an amount grew by more than a percentage, exactly. Growth from zero is above any percentage."""
    return EXACT.multiply(EXACT.subtract(Decimal(new), Decimal(old)), 100) > EXACT.multiply(Decimal(old), limit)


def _growth(old: Amount, new: Amount, limit: Decimal) -> str:
    """Return the growth in percent, with enough digits to show that it is more than the limit."""
    growth = percent(old, new)
    if growth is None:
        return "from nothing"
    shown = (f"{growth:,.{places}f}" for places in range(1, 20))
    return f"by {next((each for each in shown if Decimal(each.replace(',', '')) > limit), f'{growth:,.1f}')}%"
