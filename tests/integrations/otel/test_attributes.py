"""Span attributes: usage and models are read correctly in every convention that instrumentors use."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenscope import Usage
from tokenscope.integrations.otel.attributes import is_model_call, model_of, read, report_name, request_attributes

WHOLE = {"input_tokens": 100, "output_tokens": 40}
PARTS = {**WHOLE, "cache_read_tokens": 60, "cache_write_tokens": 30, "reasoning_tokens": 25}

CONVENTIONS = {
    "GenAI": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 40,
            "gen_ai.usage.cache_read.input_tokens": 60,
            "gen_ai.usage.cache_write.input_tokens": 30,
            "gen_ai.usage.reasoning.output_tokens": 25,
        },
        PARTS,
    ),
    "GenAI, cache creation": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 40,
            "gen_ai.usage.cache_read.input_tokens": 60,
            "gen_ai.usage.cache_creation.input_tokens": 30,
        },
        {**PARTS, "reasoning_tokens": 0},
    ),
    "GenAI, old": ({"gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 40}, WHOLE),
    "Traceloop": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 40,
            "llm.usage.total_tokens": 140,
            "gen_ai.usage.cache_read_input_tokens": 60,
            "gen_ai.usage.cache_creation_input_tokens": 30,
            "llm.usage.reasoning_tokens": 25,
        },
        PARTS,
    ),
    "Traceloop, old": ({"llm.usage.prompt_tokens": 100, "llm.usage.completion_tokens": 40}, WHOLE),
    "OpenInference": (
        {
            "llm.token_count.prompt": 100,
            "llm.token_count.completion": 40,
            "llm.token_count.total": 140,
            "llm.token_count.prompt_details.cache_read": 60,
            "llm.token_count.prompt_details.cache_write": 30,
            "llm.token_count.prompt_details.audio": 7,
            "llm.token_count.completion_details.reasoning": 25,
            "llm.token_count.completion_details.audio": 8,
        },
        {**PARTS, "input_audio_tokens": 7, "output_audio_tokens": 8},
    ),
    "OpenInference, decisions": ({"decision.token_count.input": 100, "decision.token_count.output": 40}, WHOLE),
    "MLflow": (
        {
            "mlflow.chat.tokenUsage": json.dumps(
                {
                    "input_tokens": 100,
                    "output_tokens": 40,
                    "total_tokens": 140,
                    "cache_read_input_tokens": 60,
                    "cache_creation_input_tokens": 30,
                }
            )
        },
        {**PARTS, "reasoning_tokens": 0},
    ),
    "embeddings": ({"gen_ai.usage.input_tokens": 100}, {"input_tokens": 100}),
    "two conventions at once": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 40,
            "llm.token_count.prompt": 100,
            "llm.token_count.completion": 40,
        },
        WHOLE,
    ),
    "reasoning beside the output, as the total shows": (
        {
            "llm.token_count.prompt": 100,
            "llm.token_count.completion": 15,
            "llm.token_count.total": 140,
            "llm.token_count.completion_details.reasoning": 25,
        },
        {**WHOLE, "reasoning_tokens": 25},
    ),
    "cached beside the input, as the total shows": (
        {
            "llm.token_count.prompt": 40,
            "llm.token_count.completion": 40,
            "llm.token_count.total": 140,
            "llm.token_count.prompt_details.cache_read": 60,
        },
        {**WHOLE, "cache_read_tokens": 60},
    ),
    "cached beside the input, as they are more": (
        {
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 40,
            "gen_ai.usage.cache_read.input_tokens": 60,
            "gen_ai.usage.cache_creation.input_tokens": 30,
        },
        {**PARTS, "reasoning_tokens": 0},
    ),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions(convention):
    """In each convention, input and output include their parts, such as cached and reasoning tokens."""
    attributes, expected = CONVENTIONS[convention]

    reading = read(attributes, "an-instrumentor")

    assert reading is not None
    assert Usage(**expected) == Usage.from_counts(reading.counts)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"http.request.method": "POST"}, {"gen_ai.request.model": "m"}, {"mlflow.chat.tokenUsage": "[1]"}],
)
def test_no_usage(attributes):
    """`read` returns None for a span that reports no usage."""
    assert read(attributes, "") is None


def test_bedrock_instrumentors_leave_cached_tokens_out():
    """Cached tokens are added to the input of instrumentors that write Bedrock's own numbers, even if they are few."""
    attributes = {
        "gen_ai.usage.input_tokens": 90,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 10,
    }
    reading = read(attributes, "opentelemetry.instrumentation.botocore.bedrock-runtime")

    assert reading is not None
    assert Usage(**WHOLE, cache_read_tokens=10) == Usage.from_counts(reading.counts)


@given(
    st.dictionaries(
        st.sampled_from(sorted({name for attributes, _ in CONVENTIONS.values() for name in attributes})),
        st.one_of(
            st.integers(-5, 2**70), st.floats(), st.text(max_size=5), st.booleans(), st.none(), st.lists(st.integers())
        ),
    )
)
@pytest.mark.filterwarnings("ignore::tokenscope.errors.TokenScopeWarning")
def test_nothing_that_a_span_tells_can_break_anything(attributes):
    """Any attributes are read without an error, and no part of the usage is larger than its whole."""
    reading = read(attributes, "opentelemetry.instrumentation.bedrock")

    if reading is not None:
        spent = Usage.from_counts(reading.counts)
        assert spent.cache_read_tokens + spent.cache_write_tokens <= spent.input_tokens
        assert spent.reasoning_tokens <= spent.output_tokens


@pytest.mark.parametrize(
    ("expected", "attributes"),
    [
        ("openai/gpt-4o", {"gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o"}),
        ("openai/gpt-4o", {"gen_ai.system": "OpenAI", "gen_ai.request.model": "gpt-4o", "gen_ai.response.model": "x"}),
        ("azure/mine", {"gen_ai.provider.name": "azure.ai.openai", "gen_ai.response.model": "mine"}),
        ("bedrock/nova", {"gen_ai.system": "aws.bedrock", "gen_ai.request.model": "nova"}),
        ("openai/gpt-4o", {"llm.provider": "openai", "llm.model_name": "openai/gpt-4o"}),
        ("openrouter/openai/gpt-4o", {"llm.provider": "openrouter", "llm.model_name": "openai/gpt-4o"}),
        ("anthropic/claude", {"llm.system": "anthropic", "llm.model_name": "claude"}),
        ("mistral/mistral-large", {"llm.provider": "mistral", "llm.model_name": "mistral-large"}),
        ("openai/gpt-4o", {"mlflow.llm.provider": '"openai"', "mlflow.llm.model": '"gpt-4o"'}),
        ("gpt-4o", {"gen_ai.request.model": "gpt-4o"}),
        ("(unknown)", {"gen_ai.request.model": 7}),
    ],
)
def test_models(expected, attributes):
    """A model is named as DSPy names it, with its provider if the span reports one."""
    assert expected == model_of(attributes)


@pytest.mark.parametrize(
    "provider", ["azure.ai.openai", "aws.bedrock", "gcp.vertex_ai", "gcp.gemini", "x_ai", "openai"]
)
def test_names_come_back(provider):
    """A provider's name is translated to its name in reports, and back to OpenTelemetry's name."""
    assert {"gen_ai.provider.name": provider, "gen_ai.request.model": "m"} == request_attributes(
        report_name(provider, "m")
    )


@pytest.mark.parametrize(
    ("expected", "attributes"),
    [
        (True, {"gen_ai.operation.name": "chat"}),
        (False, {"gen_ai.operation.name": "invoke_agent", "openinference.span.kind": "LLM"}),
        (True, {"openinference.span.kind": "EMBEDDING"}),
        (True, {"llm.request.type": "completion"}),
        (False, {"openinference.span.kind": "CHAIN"}),
        (False, {}),
    ],
)
def test_model_calls(expected, attributes):
    """`is_model_call` recognises the span of a model call even if the span has no usage."""
    assert expected is is_model_call(attributes)


@pytest.mark.parametrize("name", ["openai.response.service_tier", "gen_ai.openai.response.service_tier"])
def test_service_tier(name):
    """The service tier of OpenAI's response is what the price depends on. The usual one is not told."""
    flex, usual = ({"gen_ai.usage.input_tokens": 9, name: tier} for tier in ("flex", "default"))

    assert ((("service_tier", "flex"),), ()) == (read(flex, "").terms, read(usual, "").terms)


COSTS = {
    "gen_ai.usage.input_tokens": 9,
    "gen_ai.usage.cost.amount": 0.25,
    "gen_ai.usage.cost.currency": "USD",
    "gen_ai.usage.cost.source": "provider",
}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({}, "0.25"),
        ({"gen_ai.usage.cost.amount": 0}, "0"),
        ({"gen_ai.usage.cost.source": "local"}, None),
        ({"gen_ai.usage.cost.currency": "EUR"}, None),
        ({"gen_ai.usage.cost.amount": -1.0}, None),
        ({"gen_ai.usage.cost.amount": math.nan}, None),
        ({"gen_ai.usage.cost.amount": "0.25"}, None),
        ({"gen_ai.usage.cost.amount": True}, None),
    ],
)
def test_costs(other, told):
    """A cost in dollars that the provider told is taken. What an instrumentor has reckoned is not."""
    reading = read({**COSTS, **other}, "")

    assert (told is not None, Decimal(told or 0)) == (reading.cost_is_told, reading.counts.cost)
