"""The check of `tokenscope diff --fail-above`: did total tokens or total cost grow by more than a limit in percent?"""

from __future__ import annotations

from decimal import Decimal

from tokenscope._report.changes import EXACT, Amount, Comparison, percent
from tokenscope._report.formats.text import money


def check_growth(diff: Comparison, limit: Decimal) -> tuple[bool, str]:
    """Return whether total tokens or total cost grew by more than a percentage, and a message, empty if all is well."""
    total = diff.total
    before, after = total.before, total.after
    grown: list[str] = []
    if growth := _growth_above(limit, before.total_tokens, after.total_tokens):
        grown.append(f"total tokens grew {growth} ({before.total_tokens:,} -> {after.total_tokens:,})")
    if total.cost is not None and (growth := _growth_above(limit, before.cost or 0, after.cost or 0)):
        grown.append(f"total cost grew {growth} ({money(before)} -> {money(after)})")
    messages = [f"{' and '.join(grown)}, more than {limit}%"] if grown else []
    if total.cost is None:
        unpriced = f"{before.unpriced_calls:,} before, {after.unpriced_calls:,} after"
        messages.append(f"the cost is not compared, because some calls have no known price: {unpriced}")
    return bool(grown), "; ".join(messages)


def _growth_above(limit: Decimal, old: Amount, new: Amount) -> str:
    """Return by how much an amount grew, with enough digits to show that this is above the limit; empty if it is not."""
    if EXACT.multiply(EXACT.subtract(Decimal(new), Decimal(old)), 100) <= EXACT.multiply(Decimal(old), limit):
        return ""
    if (growth := percent(old, new)) is None:
        return "from nothing"
    shown = (f"{growth:,.{places}f}" for places in range(1, 20))
    return f"by {next((each for each in shown if Decimal(each.replace(',', '')) > limit), f'{growth:,.1f}')}%"
