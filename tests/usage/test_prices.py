"""Prices: the price table, prices set by hand, and sums of calls by price tier."""

from __future__ import annotations

from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import TieredPrices
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenscope import Usage, record_tokens, token_scope
from tokenscope._usage.custom_prices import forget_prices, set_price
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.price_tiers import tier_edges, tier_of
from tokenscope._usage.prices import check_priced, known_models, price, priced, repriced, settle, split
from tokenscope._usage.usage import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_prices_by_hand() -> Iterator[None]:
    forget_prices()
    yield
    forget_prices()


def table_price(model: str, usage: Usage) -> Decimal:
    """Return the price of one call, as genai-prices calculates it."""
    provider, name = split(model)
    theirs = TheirUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    return calc_price(theirs, name, provider_id=provider).total_price


NAMES = {
    "openai/gpt-4o-mini": "openai",
    "openai/gpt-4o-2024-08-06": "openai",
    "gpt-5-mini": "openai",
    "anthropic/claude-3-5-sonnet-latest": "anthropic",
    "openrouter/anthropic/claude-3.5-haiku": "openrouter",
    "gemini/gemini-2.5-pro": "google",
    "vertex_ai/gemini-2.5-flash": "google",
    "bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0": "aws",
    "bedrock/converse/us.anthropic.claude-sonnet-4-20250514-v1:0": "aws",
    "azure/gpt-4o": "azure",
    "azure_ai/gpt-4o": "azure",
    "mistral/mistral-large-latest": "mistral",
    "groq/llama-3.3-70b-versatile": "groq",
    "deepseek/deepseek-chat": "deepseek",
    "xai/grok-4": "x-ai",
    "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo": "together",
    "openai/text-embedding-3-small": "openai",
}


@pytest.mark.parametrize("model", NAMES)
def test_names(model: str) -> None:
    """Model names of DSPy, litellm and OpenRouter are priced at the provider that serves the model."""
    provider, name = split(model)
    assert NAMES[model] == calc_price(TheirUsage(input_tokens=1), name, provider_id=provider).provider.id
    cost = price(model, Usage(calls=1, input_tokens=1_000_000), 0)
    assert cost is not None
    assert cost > 0


@pytest.mark.parametrize("route", ["", "converse/", "invoke/"], ids=["plain", "converse", "invoke"])
def test_routes_of_bedrock(route: str) -> None:
    """A Bedrock model costs the same on each of litellm's routes to Bedrock."""
    model = f"bedrock/{route}anthropic.claude-sonnet-4-20250514-v1:0"
    with token_scope("run") as scope:
        record_tokens("m", "o", model, None, input_tokens=1_000_000, output_tokens=0)
    assert (Decimal(3), 0) == (scope.usage.cost, scope.usage.unpriced_calls)


@pytest.mark.parametrize("model", ["ollama/llama3.3", "no-such-model", "openai/no-such-model", "router", "///", "a/"])
def test_unknown(model: str) -> None:
    """The price of an unknown model is unknown, never 0."""
    assert price(model, Usage(calls=1, input_tokens=10, output_tokens=10), 0) is None


def test_known_prices() -> None:
    """A million tokens of each kind cost what the price list says."""
    million = 1_000_000
    assert Decimal("0.15") == price("openai/gpt-4o-mini", Usage(calls=1, input_tokens=million), 0)
    assert Decimal("0.6") == price("openai/gpt-4o-mini", Usage(calls=1, output_tokens=million), 0)
    cached = Usage(calls=1, input_tokens=million, cache_read_tokens=million)
    assert Decimal("0.075") == price("openai/gpt-4o-mini", cached, 0)
    written = Usage(calls=1, input_tokens=million, cache_write_tokens=million)
    assert Decimal("3.75") == price("anthropic/claude-sonnet-4-5", written, 0)


def test_every_threshold_is_an_edge() -> None:
    """Every price threshold in the price table is an edge between two tiers."""
    thresholds = set()
    for provider in get_snapshot().providers:
        for model in provider.models:
            for each in model.prices if isinstance(model.prices, list) else [model.prices]:
                prices: Any = getattr(each, "prices", each)
                for value in prices._comparable_values().values():
                    if isinstance(value, TieredPrices):
                        thresholds.update(tier.start for tier in value.tiers)
    assert len(thresholds) > 3
    assert thresholds <= set(tier_edges())


MODELS = [
    "openai/gpt-4o-mini",
    "gemini/gemini-2.5-pro",
    "anthropic/claude-sonnet-4-5",
    "xai/grok-4",
    "perplexity/sonar",
]
lengths = st.one_of(
    st.integers(0, 40_000),
    st.sampled_from([32_000, 100_000, 128_000, 199_999, 200_000, 256_000, 272_000, 524_288]).flatmap(
        lambda edge: st.integers(edge - 1, edge + 1)
    ),
    st.integers(0, 3_000_000),
)


@st.composite
def calls(draw: st.DrawFn) -> Usage:
    whole, written = draw(lengths), draw(st.integers(0, 100_000))
    read = draw(st.integers(0, whole))
    return Usage(
        calls=1,
        input_tokens=whole,
        output_tokens=written,
        cache_read_tokens=read,
        cache_write_tokens=draw(st.integers(0, whole - read)),
        reasoning_tokens=draw(st.integers(0, written)),
    )


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MODELS), st.lists(calls(), min_size=1, max_size=6))
def test_sums_cost_what_their_calls_cost(model: str, made: list[Usage]) -> None:
    """The cost of calls that are added up by price tier equals the sum of their single costs."""
    sums: dict[int, Usage] = {}
    for usage in made:
        tier = tier_of(usage.input_tokens)
        sums[tier] = sums.get(tier, Usage()) + usage
    priced = [price(model, usage, tier) for tier, usage in sums.items()]
    assert sum(table_price(model, usage) for usage in made) == sum(cost for cost in priced if cost is not None)


def test_by_hand() -> None:
    """`set_price` overrides the table and prices unknown models. Cache reads cost like input by default."""
    usage = Usage(calls=1, input_tokens=1_000_000, output_tokens=1_000_000, cache_read_tokens=400_000)
    set_price("openai/gpt-4o-mini", input=1, output=2)
    assert Decimal(3) == price("openai/gpt-4o-mini", usage, 0)
    set_price("mine", input=1.5, output=Decimal(2), cache_read=0.25, cache_write=0)
    assert Decimal("3.0") == price("mine", usage, 0)
    set_price("ollama/llama3.3", input=0, output=0)
    assert Decimal(0) == price("ollama/llama3.3", usage, 0)


@pytest.mark.parametrize(
    ("model", "prices", "error", "message"),
    [
        ("m", {"input": -1, "output": 0}, ValueError, "input must be dollars per million tokens, 0 or more, but is -1"),
        ("m", {"input": 0, "output": float("nan")}, ValueError, "output must be .* but is nan"),
        ("m", {"input": 0, "output": float("inf")}, ValueError, "output must be .* but is inf"),
        ("m", {"input": "1", "output": 0}, TypeError, "input must be .* not str '1'"),
        ("m", {"input": True, "output": 0}, TypeError, "input must be .* not bool True"),
        ("m", {"input": 0, "output": 0, "cache_read": -0.1}, ValueError, "cache_read must be"),
        ("", {"input": 0, "output": 0}, ValueError, "model must not be empty"),
        (7, {"input": 0, "output": 0}, TypeError, "model must be a str, not int 7"),
    ],
)
def test_bad_prices(model: Any, prices: Any, error: type[Exception], message: str) -> None:
    """A wrong price or model raises an error that names the fault, and sets no price."""
    with pytest.raises(error, match=message):
        set_price(model, **prices)
    assert price("m", Usage(calls=1, input_tokens=1), 0) is None


def test_cache_writes_by_hand() -> None:
    """Each part has its own price. A part without a price costs like other input."""
    usage = Usage(calls=1, input_tokens=1_000_000, cache_read_tokens=200_000, cache_write_tokens=400_000)
    set_price("mine", input=1, output=2, cache_read=Decimal("0.1"), cache_write=Decimal("1.25"))
    assert Decimal("0.92") == price("mine", usage, 0)  # 0.40 of plain input, 0.02 of reads, 0.50 of writes
    set_price("mine", input=1, output=2)
    assert Decimal(1) == price("mine", usage, 0)


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("bedrock/converse/amazon.nova-lite-v1:0", "bedrock", "amazon.nova-lite-v1:0"),
        ("bedrock/invoke/amazon.nova-lite-v1:0", "bedrock", "amazon.nova-lite-v1:0"),
        ("bedrock_converse/amazon.nova-lite-v1:0", "bedrock", "amazon.nova-lite-v1:0"),
        ("openai/converse/invoke/gpt", "openai", "converse/invoke/gpt"),
        ("gpt", None, "gpt"),
    ],
)
def test_routes_are_left_out(model: str, provider: str | None, name: str) -> None:
    """Only Bedrock's routes are left out of a model's name."""
    assert (provider, name) == split(model)


def test_a_prompt_longer_than_all_edges() -> None:
    """A prompt beyond the last edge is priced as the table says."""
    usage = Usage(calls=1, input_tokens=tier_edges()[-1] + 1, output_tokens=7)
    tier = tier_of(usage.input_tokens)
    assert len(tier_edges()) == tier
    assert table_price("openai/gpt-4o-mini", usage) == price("openai/gpt-4o-mini", usage, tier)


def test_the_price_of_another_model():
    """A usage at another model's price has its counts, and that model's cost, or none if its price is not known."""
    usage = Usage(calls=2, input_tokens=1_000, cost=Decimal(9))
    key, unknown = UsageKey("openai/gpt-4o"), UsageKey("unknown/model")

    assert (Decimal("0.0025"), 0, 2) == (
        (found := repriced(key, usage)).cost,
        found.unpriced_calls,
        found.calls,
    )
    assert usage is repriced(key._replace(source="none"), usage)
    assert (None, 2) == ((found := repriced(unknown, usage)).cost, found.unpriced_calls)
    assert 1 == repriced(unknown, Usage(input_tokens=5)).unpriced_calls
    assert 1 == priced(unknown, Counts(input_tokens=5)).unpriced_calls
    by_night, by_day = (UsageKey("deepseek/deepseek-chat", moment=f"2025-06-01T{time}") for time in ("18:00", "12:00"))
    assert repriced(by_night, usage).cost < repriced(by_day, usage).cost
    assert (
        priced(by_night, Counts(calls=1, input_tokens=10)).cost < priced(by_day, Counts(calls=1, input_tokens=10)).cost
    )


def test_the_price_of_a_service():
    """A call that used a cheaper service costs less."""
    known_models()
    key = UsageKey("openai/gpt-5-mini", moment="2026-10-14")
    flex = key._replace(terms=(("service_tier", "flex"),))
    counts = Counts(calls=1, input_tokens=10)

    assert priced(flex, counts).cost < priced(key, counts).cost
    assert "2026-10-14" == settle(key._replace(moment="2026-11-27")).moment


def test_a_model_without_a_price_is_refused():
    """The error shows the nearest models, and how to tell a price."""
    check_priced("openai/gpt-4o-mini")
    with pytest.raises(TypeError, match=r"^model must be a str, not int 3$"):
        check_priced(3)
    with pytest.raises(ValueError, match=r"^no price is known of ") as caught:
        check_priced("openai/gpt-4o-minni")
    assert (
        "no price is known of 'openai/gpt-4o-minni'; the nearest: "
        + ", ".join(map(repr, get_close_matches("openai/gpt-4o-minni", known_models(), n=3)))
        + ". set_price('openai/gpt-4o-minni', input=..., output=...) tells one"
    ) == str(caught.value)
    with pytest.raises(
        ValueError, match=r"^no price is known of '\*'\. set_price\('\*', input=..., output=...\) tells one$"
    ):
        check_priced("*")
