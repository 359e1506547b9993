"""Costs depend on the service that a response tells of: its tier, its speed, and how long the prompt stays in the cache."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import dspy
import pytest
from support.anthropic_server import SPENT, AnthropicServer
from support.dspy_support import DSPY, ENGINES

from tokenscope import record_response, token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider

RATES = {
    None: (Decimal("0.25"), Decimal(2)),
    "flex": (Decimal("0.125"), Decimal(1)),
    "priority": (Decimal("0.45"), Decimal("3.6")),
}
"""Dollars per million tokens of input and output that gpt-5-mini costs in each tier since 2026-10-12."""


def cost_of(bill, tier):
    """Return what a bill costs in a service tier, nothing being cached."""
    given, answered = RATES[tier]
    return (given * bill.input_tokens + answered * bill.output_tokens) / 1_000_000


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model_type", ["chat", "responses"])
@pytest.mark.parametrize("tier", RATES)
def test_service_tiers(tier, model_type, engine):
    """A call costs what its service tier costs, also if it is asynchronous; tokens are those of the bill."""
    if model_type == "responses" and DSPY < (3, 1):
        pytest.skip("DSPy 3.0 does not ask OpenAI's Responses API")
    more = {} if tier is None else {"service_tier": tier}
    if DSPY >= (3, 4):
        more["engine"] = "auto" if engine == "native" else engine
    with LoopbackProvider() as provider:
        lm = provider.lm(
            "openai/gpt-5-mini", cache=False, model_type=model_type, temperature=1.0, max_tokens=20_000, **more
        )
        with token_scope("tier") as scope:
            lm("Why? <<bill tier>>")
            asyncio.run(lm.acall("How? <<bill tier>>"))
        bill = provider.bill["tier"]
    assert (2, bill.input_tokens, bill.output_tokens) == (
        scope.usage.calls,
        scope.usage.input_tokens,
        scope.usage.output_tokens,
    )
    assert cost_of(bill, tier) == scope.usage.cost
    price = scope.report().prices()[0]
    assert ({} if tier is None else {"service_tier": tier}) == price.terms
    assert RATES[tier] == (price.rates["input_tokens"], price.rates["output_tokens"])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_hour_in_anthropics_cache(engine):
    """What Anthropic keeps for an hour costs what it says."""
    more = {"engine": "auto" if engine == "native" else engine} if DSPY >= (3, 4) else {}
    lifetimes = {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 10}
    with AnthropicServer(cache_creation=lifetimes, service_tier="standard", speed="standard") as server:
        lm = dspy.LM("anthropic/claude-haiku-4-5", api_base=server.url, api_key="x", cache=False, **more)
        with token_scope("hour") as scope:
            lm("Why?")
    usage = scope.usage
    assert (SPENT.input_tokens, 15, 10) == (usage.input_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens)
    rates = scope.report().prices()[0].rates
    assert Decimal(2) * rates["input_tokens"] == rates["cache_write_1h_tokens"]
    plain = SPENT.input_tokens - SPENT.cache_read_tokens - 15
    assert usage.cost * 1_000_000 == (
        rates["input_tokens"] * plain
        + rates["cache_read_tokens"] * SPENT.cache_read_tokens
        + rates["cache_write_tokens"] * 5
        + rates["cache_write_1h_tokens"] * 10
        + rates["output_tokens"] * SPENT.output_tokens
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_an_hour_in_anthropics_cache_of_several_requests(engine):
    """What several requests of one call keep for an hour adds up, and costs what it says."""

    class Twice(dspy.LM):
        def forward(self, prompt=None, messages=None, **kwargs):
            super().forward(prompt=prompt, messages=messages, **kwargs)
            return super().forward(prompt=prompt, messages=messages, **kwargs)

    more = {"engine": "auto" if engine == "native" else engine} if DSPY >= (3, 4) else {}
    with AnthropicServer(cache_creation={"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 10}) as server:
        settings = {"api_base": server.url, "api_key": "x", "cache": False, **more}
        once, twice = (kind("anthropic/claude-haiku-4-5", **settings) for kind in (dspy.LM, Twice))
        with token_scope("once") as single:
            once("Why?")
        with token_scope("twice") as double:
            twice("Why?")
    assert 3 == server.bill.calls
    assert (1, 10, 15) == (single.usage.calls, single.usage.cache_write_1h_tokens, single.usage.cache_write_tokens)
    assert (1, 20, 30) == (double.usage.calls, double.usage.cache_write_1h_tokens, double.usage.cache_write_tokens)
    assert 2 * single.usage.cost == double.usage.cost


@pytest.mark.skipif(DSPY < (3, 4), reason="litellm takes no such response")
def test_what_is_no_count_of_an_hour():
    """An invalid count is a warning that names the model."""
    forget_warnings()
    with AnthropicServer(cache_creation={"ephemeral_1h_input_tokens": "many"}) as server:
        lm = dspy.LM("anthropic/claude-haiku-4-5", api_base=server.url, api_key="x", cache=False)
        said = "ephemeral_1h_input_tokens of anthropic/claude-haiku-4-5"
        with token_scope("hour") as scope, pytest.warns(TokenScopeWarning, match=said):
            lm("Why?")
            assert (15, 0) == (scope.usage.cache_write_tokens, scope.usage.cache_write_1h_tokens)


def test_more_kept_for_an_hour_than_was_written():
    """A provider that says that more is kept for an hour than was written to its cache is not believed."""
    with AnthropicServer(cache_creation={"ephemeral_1h_input_tokens": 1_000}) as server:
        lm = dspy.LM("anthropic/claude-haiku-4-5", api_base=server.url, api_key="x", cache=False)
        with token_scope("hour") as scope:
            lm("Why?")
    assert (15, 15) == (scope.usage.cache_write_tokens, scope.usage.cache_write_1h_tokens)


USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}


@pytest.mark.parametrize(
    ("response", "terms"),
    [
        ({"model": "gpt-5-mini", "service_tier": "flex", "usage": USAGE}, {"service_tier": "flex"}),
        ({"model": "gpt-5-mini", "service_tier": "default", "usage": USAGE}, {}),
        ({"model": "gpt-5-mini", "service_tier": 7, "usage": USAGE}, {}),
        ({"model": "gpt-5-mini", "service_tier": "unheard-of", "usage": USAGE}, {}),
        (
            {
                "type": "message",
                "model": "claude-opus-4-8",
                "usage": {"input_tokens": 9, "output_tokens": 1, "speed": "fast", "service_tier": "standard"},
            },
            {"speed": "fast"},
        ),
        (
            {
                "type": "message",
                "model": "claude-haiku-4-5",
                "usage": {"input_tokens": 9, "output_tokens": 1, "service_tier": "batch"},
            },
            {"processing": "batch"},
        ),
    ],
)
def test_responses_that_are_recorded_by_hand(response, terms):
    """`record_response` reads the service, too; what the price of a model does not depend on is dropped."""
    with token_scope("by hand") as scope:
        record_response(response)
    assert terms == scope.report().prices()[0].terms
