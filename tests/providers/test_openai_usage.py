"""Reading usage in OpenAI's format: totals, parts, and the cost that a provider reports."""

from __future__ import annotations

import warnings
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.spending import count

from tokenscope import Usage, token_scope
from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._usage.usage import check_parts
from tokenscope.errors import TokenScopeWarning


def read(entry: Any, model: str = "openai/m") -> Usage:
    return Usage.from_counts(read_counts(model, entry))


def chat(prompt: int, completion: int, total: int, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@pytest.mark.parametrize(
    ("model", "entry", "usage"),
    [
        ("m", {"total_tokens": 3}, Usage(input_tokens=3)),
        ("m", chat(10, 5, 15), Usage(input_tokens=10, output_tokens=5)),
        ("m", chat(10, 5, 90), Usage(input_tokens=10, output_tokens=5)),
        ("m", chat(10, 5, 8), Usage(input_tokens=10, output_tokens=5)),
        ("m", chat(10, 5, 15, cached=90), Usage(input_tokens=10, output_tokens=5, cache_read_tokens=10)),
        ("m", chat(10, 5, 105, cached=90), Usage(input_tokens=100, output_tokens=5, cache_read_tokens=90)),
        ("m", chat(10, 5, 35, reasoning=20), Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20)),
        ("m", chat(10, 25, 35, reasoning=20), Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20)),
        ("m", chat(10, 45, 35, reasoning=20), Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20)),
        ("m", chat(10, 5, 15, reasoning=20), Usage(input_tokens=10, output_tokens=5, reasoning_tokens=5)),
        ("openai/gemini-x", chat(10, 5, 35), Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20)),
        ("openai/gemini-x", chat(10, 5, 35, reasoning=2), Usage(input_tokens=10, output_tokens=5, reasoning_tokens=2)),
        ("gemini/gemini-x", chat(10, 5, 35), Usage(input_tokens=30, output_tokens=5)),
    ],
)
def test_totals(model: str, entry: Any, usage: Usage) -> None:
    """The total shows which tokens a provider counted beside input and output; no part is larger than its whole."""
    assert usage == read(entry, model)


@pytest.mark.parametrize(
    ("entry", "cost"),
    [
        ({}, None),
        ({"cost": None}, None),
        ({"cost": 0}, None),
        ({"cost": 0.25}, Decimal("0.25")),
        ({"cost": 0, "cost_details": {}}, Decimal(0)),
        ({"cost": 0.01, "cost_details": {"upstream_inference_cost": 0.2}, "is_byok": True}, Decimal("0.21")),
        ({"cost": 0.01, "cost_details": {"upstream_inference_cost": None}, "is_byok": True}, None),
        ({"cost": 0.01, "cost_details": {"upstream_inference_cost": 0.2}, "is_byok": False}, Decimal("0.01")),
        ({"cost": {"total_cost": 0.011}}, Decimal("0.011")),
        ({"cost": {"total_cost": 0}}, None),
        ({"cost_in_usd_ticks": 465_659_000}, Decimal("0.0465659")),
        ({"cost_in_usd_ticks": 0}, None),
        ({"cost_in_usd_ticks": "7"}, None),
        ({"cost": "0.5"}, None),
        ({"cost": -1}, None),
        ({"cost": True}, None),
    ],
)
def test_costs(entry: Any, cost: Decimal | None) -> None:
    """A valid reported cost is used. A cost of 0 means a free call only if `cost_details` come with it."""
    assert cost == reported_cost(entry)
    assert (cost or Decimal(0)) == read(entry).cost


numbers = st.one_of(st.integers(0, 1_000), st.integers(), st.floats(), st.none(), st.booleans(), st.just("7"))
details = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens", "tool_use_tokens"]),
    numbers,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"], numbers
        ),
        **dict.fromkeys(
            ["cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_tokens", "cost"], numbers
        ),
        **dict.fromkeys(
            ["prompt_tokens_details", "completion_tokens_details", "output_tokens_details"], details | numbers
        ),
    },
)


@settings(max_examples=300, deadline=None)
@given(entries, st.sampled_from(["openai/gpt-4o-mini", "gemini/gemini-2.5-pro", "openai/gemini-2.5-pro"]))
def test_whatever_comes(entry: dict[str, Any], model: str) -> None:
    """Any entry is read without an error and with valid parts; its tokens cost something if the price is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenScopeWarning)
        read_usage = read(entry, model)
    check_parts(read_usage)
    with token_scope("a") as scope:
        count(scope, model, replace(read_usage, calls=1, cost=Decimal(0)))
    usage = scope.usage
    unpriced = int(usage.total_tokens > 0 and model == "openai/gemini-2.5-pro")
    assert unpriced == usage.unpriced_calls
    assert (usage.cost is None) == bool(unpriced)
    assert unpriced or usage.cost > 0 or not usage.total_tokens
