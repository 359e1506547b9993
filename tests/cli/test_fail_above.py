"""`--fail-above`: how much growth fails the check, exactly, and the text of the message."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law.test_properties import QUICK
from support.formats import HUGE, PRICED, usage
from support.reports import build

from tokenscope import Report
from tokenscope._usage.calls import Frame
from tokenscope.cli.fail_above import check_growth


def spent(tokens: int, cost: str | None = "0", calls: int = 1) -> Report:
    """Return the report of a scope that spent these tokens at this cost, in this number of calls."""
    return build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(calls, tokens, 0, cost)})], scoped=True)


def judged(old: Report, new: Report, limit: str) -> tuple[bool, str]:
    """Return the result of the check."""
    return tuple(check_growth(old.diff(new), Decimal(limit)))


@pytest.mark.parametrize(
    ("old", "new", "limit", "failed"),
    [
        (1000, 1050, "5", False),  # exactly the limit
        (1000, 1051, "5", True),
        (1000, 1001, "0.1", False),
        (3000, 3021, "0.7", False),  # 0.7 has no exact binary form
        (3000, 3022, "0.7", True),
        (1000, 1000, "0", False),
        (1000, 1001, "0", True),
        (1000, 10, "0", False),
        (0, 0, "0", False),
        (0, 1, "1000000", True),  # growth without bound
        (HUGE, HUGE + 1, "0", True),
        (HUGE - 1, HUGE - 1 + (HUGE - 1) // 100, "1", False),
        (HUGE - 1, HUGE + (HUGE - 1) // 100, "1", True),
    ],
)
def test_exactly(old, new, limit, failed):
    """Growth by exactly the limit passes, and any more fails, at any size."""
    assert failed == judged(spent(old), spent(new), limit)[0]


@QUICK
@given(st.integers(0, 10**12), st.integers(0, 10**12), st.decimals(0, 1000, places=3))
def test_against_fractions(old, new, limit):
    """The check is exact arithmetic with rational numbers."""
    failed = Fraction(new - old) * 100 > Fraction(old) * Fraction(limit)

    assert failed == judged(spent(old), spent(new), str(limit))[0]
    assert failed == judged(spent(1, str(old)), spent(1, str(new)), str(limit))[0]


def test_what_it_says_of_tokens():
    """The message has the growth, the old and the new number, and the limit."""
    assert (True, "total tokens grew by 12.5% (1,000 -> 1,125), more than 5%") == judged(spent(1000), spent(1125), "5")
    assert (True, "total tokens grew from nothing (0 -> 7), more than 0.5%") == judged(spent(0), spent(7), "0.5")
    assert (False, "") == judged(spent(1000), spent(1000), "0")


def test_what_it_says_of_cost():
    """Cost is checked as well as tokens."""
    assert (True, "total cost grew by 50.0% ($0.10 -> $0.15), more than 5%") == (
        judged(spent(10, "0.10"), spent(10, "0.15"), "5")
    )
    assert (True, "total cost grew from nothing ($0.00 -> $0.15), more than 5%") == (
        judged(spent(10, "0"), spent(10, "0.15"), "5")
    )
    assert (
        True,
        "total tokens grew by 20.0% (10 -> 12) and total cost grew by 50.0% ($0.10 -> $0.15), more than 5%",
    ) == judged(spent(10, "0.10"), spent(12, "0.15"), "5")


def test_growth_is_shown_as_more_than_the_limit():
    """Growth that rounds to the limit is shown with enough digits to tell them apart."""
    assert "by 5.001% " in judged(spent(100_000), spent(105_001), "5")[1]
    assert "by 1,200.0% " in judged(spent(1), spent(13), "5")[1]
    assert "by 5.0% " in judged(spent(HUGE), spent(HUGE + HUGE // 20 + 9), "5")[1]  # too close to tell apart


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [("1", None, "0 before, 3 after"), (None, "1", "2 before, 0 after"), (None, None, "2 before, 3 after")],
)
def test_an_unknown_cost(old, new, counts):
    """An unknown cost is not compared, and the message says so. Tokens are compared."""
    unknown = f"the cost is not compared, because some calls have no known price: {counts}"

    assert (False, unknown) == judged(spent(10, old, 2), spent(10, new, 3), "0")
    assert (True, f"total tokens grew by 10.0% (10 -> 11), more than 5%; {unknown}") == (
        judged(spent(10, old, 2), spent(11, new, 3), "5")
    )


def test_a_lower_bound_is_no_cost():
    """If a part of the cost is unknown, the rest is not compared either."""
    failed, said = judged(PRICED, PRICED, "0")

    assert not failed
    assert said.endswith("9 before, 9 after")
