"""The check of `tokenscope diff --fail-above`: did total tokens or total cost grow by more than a limit in percent?"""

from __future__ import annotations

from decimal import Decimal

from tokenscope._report.changes import EXACT, Amount, Change, Comparison, percent
from tokenscope._report.formats.text import money


def check_growth(diff: Comparison, limit: Decimal) -> tuple[bool, str]:
    """Return whether total tokens or total cost grew by more than a percentage, and a message, empty if all is well."""
    total = diff.total
    before, after = total.before, total.after
    more = grown(total, limit, "total ")
    messages = [f"{' and '.join(more)}, more than {limit}%"] if more else []
    if total.cost is None:
        unpriced = f"{before.unpriced_calls:,} before, {after.unpriced_calls:,} after"
        messages.append(f"the cost is not compared, because some calls have no known price: {unpriced}")
    return bool(more), "; ".join(messages)


def grown(change: Change, limit: Decimal, which: str = "") -> list[str]:
    """Return by how much the tokens and the cost of a change grew, each as a clause, if they grew by more than a percentage."""
    before, after = change.before, change.after
    clauses: list[str] = []
    if growth := _growth_above(limit, before.total_tokens, after.total_tokens):
        clauses.append(f"{which}tokens grew {growth} ({before.total_tokens:,} -> {after.total_tokens:,})")
    if change.cost is not None and (growth := _growth_above(limit, before.cost or 0, after.cost or 0)):
        clauses.append(f"{which}cost grew {growth} ({money(before)} -> {money(after)})")
    return clauses


def _growth_above(limit: Decimal, old: Amount, new: Amount) -> str:
    """Return by how much an amount grew, with enough digits to show that this is above the limit; empty if it is not."""
    if EXACT.multiply(EXACT.subtract(Decimal(new), Decimal(old)), 100) <= EXACT.multiply(Decimal(old), limit):
        return ""
    if (growth := percent(old, new)) is None:
        return "from nothing"
    shown = (f"{growth:,.{places}f}" for places in range(1, 20))
    return f"by {next((each for each in shown if Decimal(each.replace(',', '')) > limit), f'{growth:,.1f}')}%"
