"""Keys: the price tier of a prompt, and where the price of a call comes from."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tokenscope._usage.keys import UsageKey, key_of, usage_key
from tokenscope._usage.price_tiers import tier_edges, tier_of
from tokenscope._usage.usage import Counts


@pytest.mark.parametrize(("length", "tier"), [(0, 0), (15_999, 0), (16_000, 1), (16_001, 2), (16_384, 2), (16_999, 3)])
def test_short_prompts_are_one_tier(length, tier):
    """No model is dearer for prompts of up to 16,000 tokens. Longer prompts belong to the edge above them."""
    assert tier == tier_of(length)
    assert length <= tier_edges()[tier]


@pytest.mark.parametrize(
    ("counts", "is_told", "key"),
    [
        (Counts(calls=1, input_tokens=1), False, UsageKey("m", 0, "table")),
        (Counts(calls=1, output_tokens=1), False, UsageKey("m", 0, "table")),
        (Counts(calls=1, input_tokens=16_000), False, UsageKey("m", 1, "table")),
        (Counts(calls=1), False, UsageKey("m", 0, "none")),
        (Counts(calls=1), True, UsageKey("m", 0, "provider")),
        (Counts(calls=1, input_tokens=1, cost=Decimal(1)), False, UsageKey("m", 0, "provider")),
        (Counts(calls=1, input_tokens=16_000), True, UsageKey("m", 1, "provider")),
    ],
)
def test_where_a_price_comes_from(counts, is_told, key):
    """A call is priced by the table, unless its cost is told or it spent no tokens."""
    assert key == key_of("m", counts, 0.0, source="provider" if is_told else None)._replace(moment="")


def test_the_service_is_in_the_key():
    """A key has the service that the response tells of, unless the cost is told."""
    terms = (("service_tier", "flex"),)

    assert terms == key_of("m", Counts(calls=1, input_tokens=1), 0.0, terms).terms
    assert () == key_of("m", Counts(calls=1, input_tokens=1, cost=Decimal(1)), 0.0, terms).terms


def test_one_key_is_one_object():
    """`usage_key` returns the same object for the same model, tier and source."""
    assert usage_key("m", 1, "table") is usage_key("m", 1, "table")
    assert usage_key("m", 1, "table") is not usage_key("m", 1, "provider")
