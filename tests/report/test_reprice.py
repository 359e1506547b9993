"""Repricing: what the same calls would have cost on another model, each priced by itself."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given, settings
from hypothesis import strategies as st
from support.spending import count

from tokenscope import Report, Usage, get_tracker, record_tokens, set_price, token_scope
from tokenscope._usage.prices import forget_prices

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_prices_by_hand() -> Iterator[None]:
    forget_prices()
    yield
    forget_prices()


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["openai/gpt-4o", "anthropic/claude-sonnet-4-5", "local/nobody-knows"]),
        st.one_of(st.integers(0, 1_000_000), st.sampled_from([15_999, 16_000, 128_000, 200_000, 200_001, 272_001])),
        st.integers(0, 10_000),
        st.sampled_from([None, Decimal("0.25")]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(
    calls=CALLS, target=st.sampled_from(["gemini/gemini-2.5-pro", "openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"])
)
def test_each_call_is_priced_by_itself(calls, target):
    """The sum is what genai-prices says of each call, tiers for long prompts included, whoever told the old price."""
    with token_scope("run") as scope:
        for model, spent, gained, cost in calls:
            record_tokens("m", "o", model, None, spent, gained, cost=cost)
    report = scope.report()
    other = report.reprice(target)
    provider, _, name = target.partition("/")
    prices = [
        calc_price(TheirUsage(input_tokens=spent, output_tokens=gained), name, provider_id=provider).total_price
        for _, spent, gained, _ in calls
    ]

    assert sum(prices, Decimal(0)) == other.total.cost
    assert 0 == other.total.unpriced_calls
    assert report.total.total_tokens == other.total.total_tokens
    assert [target] * bool(calls) == list(other.by_model())
    assert [row[:4] for row in report.rows] == [row[:4] for row in other.rows]


def test_a_price_that_a_provider_told_is_of_its_own_model():
    """On another model that price means nothing; on the report itself it stays."""
    with token_scope("run") as scope:
        record_tokens("m", "o", "anthropic/claude-3.5-haiku", "openrouter", 1_000_000, 0, cost=Decimal(7))
    report = scope.report()

    assert Decimal("0.15") == report.reprice("openai/gpt-4o-mini").total.cost
    assert Decimal(7) == report.total.cost


def test_who_told_the_old_price_makes_no_difference(tmp_path):
    """Of the same calls, a report whose costs the provider told and one whose costs the table tells are one report."""
    repriced = []
    for cost in (Decimal(7), None):
        get_tracker().reset()
        for tokens in (10, 250_000):
            record_tokens("m", "o", "openai/gpt-4o", None, tokens, 10, cost=cost)
        repriced.append(get_tracker().report().reprice("gemini/gemini-2.5-pro"))
    told, listed = repriced

    assert told == listed
    assert told.render("json") == listed.render("json")
    told.save(tmp_path / "report.json")
    assert listed == Report.load(tmp_path / "report.json")


def test_what_the_cache_saved_is_repriced_too():
    """An answer from DSPy's cache costs nothing on any model, and would have cost the other one's price."""
    with token_scope("run") as scope:
        saved = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
        count(scope, "openai/gpt-4o", Usage(calls=1, cached_calls=1), saved=saved)
    total = scope.report().reprice("openai/gpt-4o-mini").total

    assert (Decimal(0), Decimal("0.75"), 2_000_000) == (total.cost, total.saved_cost, total.saved_tokens)


def test_repricing_again_and_after_loading(tmp_path):
    """A repriced report, a sum and a file know as much of their calls as the first one."""
    with token_scope("run") as scope:
        record_tokens("m", "o", "openai/gpt-4o", None, 250_000, 10)
        record_tokens("m", "o", "openai/gpt-4o", None, 10, 10)
    report = scope.report()
    report.save(tmp_path / "report.json")
    there = report.reprice("gemini/gemini-2.5-pro")

    assert there == there.reprice("openai/gpt-5-mini").reprice("gemini/gemini-2.5-pro")
    assert there == Report.load(tmp_path / "report.json").reprice("gemini/gemini-2.5-pro")
    assert 2 * there.total.cost == (report + report).reprice("gemini/gemini-2.5-pro").total.cost


def test_a_price_set_by_hand_and_calls_without_tokens():
    """`set_price` counts here as everywhere; calls that spent nothing cost nothing."""
    set_price("local/mine", input=1, output=2)
    with token_scope("run") as scope:
        record_tokens("m", "o", "openai/gpt-4o", None, 1_000_000, 1_000_000)
        record_tokens("m", "o", "openai/gpt-4o", None, 0, 0)

    assert Decimal(3) == scope.report().reprice("local/mine").total.cost
    assert Report() == Report().reprice("local/mine")


def test_a_model_without_a_price():
    """The error shows the nearest ones, and how to tell a price."""
    with pytest.raises(
        ValueError, match=r"no price is known of 'openai/gpt-5-mni'; the nearest: 'openai/gpt-5-mini'.*set_price"
    ):
        Report().reprice("openai/gpt-5-mni")
    with pytest.raises(ValueError, match=r"no price is known of 'zzz'\. set_price"):
        Report().reprice("zzz")
    with pytest.raises(TypeError, match="model must be a str, not int 3"):
        Report().reprice(3)
