"""annotate_spans writes a DSPy call's usage on the span that is current when DSPy makes the call, and on no other."""

from __future__ import annotations

import asyncio
import json
import uuid

import dspy
import pytest
from opentelemetry import trace
from support.dspy_support import ENGINES
from support.otel_support import usage

from tokenscope import token_scope
from tokenscope.integrations import usage_watchers as watchers
from tokenscope.integrations.otel import annotate_spans
from tokenscope.testing import LoopbackProvider

pytest_plugins = ["support.otel_support"]


@pytest.fixture(autouse=True)
def annotated(tracing):  # `tracing` removes the watchers afterwards
    return annotate_spans()


@pytest.fixture
def provider():
    with LoopbackProvider() as found:
        yield found


def lm_on(provider, engine):
    return provider.lm(**({"engine": "litellm"} if len(ENGINES) > 1 and engine == "litellm" else {}))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_current_span(tracing, provider, engine):
    """The current span around a call gets its counts, their parts and the model, under OpenTelemetry's names."""
    with tracing.tracer().start_as_current_span("mine"):
        lm_on(provider, engine)("Why? <<cached 3>> <<reasoning 5>>")
    bill = provider.total

    assert {
        "gen_ai.usage.input_tokens": bill.input_tokens,
        "gen_ai.usage.output_tokens": bill.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
    } == tracing.attributes("mine")


def test_several_calls(tracing, provider):
    """If a span contains several calls, it gets their sum. The span around it gets nothing."""
    lm = provider.lm()
    with tracing.tracer().start_as_current_span("around"), tracing.tracer().start_as_current_span("mine"):
        lm("Why?")
        asyncio.run(lm.acall("Why not?"))

    assert provider.total.input_tokens == tracing.attributes("mine")["gen_ai.usage.input_tokens"]
    assert provider.total.output_tokens == tracing.attributes("mine")["gen_ai.usage.output_tokens"]
    assert {} == tracing.attributes("around")


def test_a_span_that_tells_already(tracing, provider):
    """Usage that an instrumentor has written on a span is left as it is."""
    with tracing.tracer().start_as_current_span("theirs", attributes=usage(1, 2)):
        provider.lm()("Why?")

    assert usage(1, 2) == tracing.attributes("theirs")


def test_no_span(provider):
    """Without a current span, a call works as usual."""
    assert not trace.get_current_span().is_recording()
    provider.lm()("Why?")

    assert 1 == provider.total.calls


def test_stopping(tracing, provider, annotated):
    """After stopping, calls are no longer written on spans. Stopping twice does no harm."""
    annotated()
    annotated()
    with tracing.tracer().start_as_current_span("mine"):
        provider.lm()("Why?")

    assert {} == tracing.attributes("mine")


def test_an_answer_from_the_cache(tracing, provider):
    """An answer from DSPy's cache spends nothing, so nothing is written on the span."""
    lm = provider.lm(cache=True)
    question = f"Why {uuid.uuid4()}?"  # unique, because DSPy's cache is also on disk
    lm(question)
    with tracing.tracer().start_as_current_span("mine"):
        lm(question)

    assert 1 == provider.total.calls
    assert {} == tracing.attributes("mine")


def test_an_embedding(tracing, provider):
    """The tokens of litellm's embeddings are written on the span, too."""
    litellm = pytest.importorskip("litellm")
    with tracing.tracer().start_as_current_span("mine"):
        litellm.embedding("openai/text-embedding-3-small", input=["Hello"], api_base=provider.url, api_key="x")

    assert provider.total.input_tokens == tracing.attributes("mine")["gen_ai.usage.input_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_openinference(tracing, provider, engine):
    """OpenInference's spans of LM calls report the billed usage, and its other spans report none.

    Phoenix, Langfuse and Logfire show these spans.
    """
    pytest.importorskip("openinference.instrumentation.dspy")
    from integrations.otel.test_instrumentors import DSPY, Instruments

    instruments = Instruments(tracing)
    instruments.add(DSPY)
    try:
        with dspy.context(lm=lm_on(provider, engine)):
            dspy.ChainOfThought("question -> answer")(question="Why? <<cached 3>> <<reasoning 5>>")
            asyncio.run(dspy.ChainOfThought("question -> answer").acall(question="Why? <<cached 3>>"))
    finally:
        instruments.stop()
    told = [dict(span.attributes) for span in tracing.ended if "llm.token_count.total" in span.attributes]
    bill = provider.total

    assert ["LLM", "LLM"] == [each["openinference.span.kind"] for each in told]
    for expected, name in (
        (bill.input_tokens, "llm.token_count.prompt"),
        (bill.output_tokens, "llm.token_count.completion"),
        (bill.total_tokens, "llm.token_count.total"),
        (6, "llm.token_count.prompt_details.cache_read"),
        (5, "llm.token_count.completion_details.reasoning"),
        (bill.input_tokens, "gen_ai.usage.input_tokens"),
        (bill.output_tokens, "gen_ai.usage.output_tokens"),
    ):
        assert expected == sum(each.get(name, 0) for each in told), name
    for each in told:
        assert ("openai", "gpt-4o-mini") == (each["gen_ai.provider.name"], each["gen_ai.request.model"])


@pytest.mark.slow
@pytest.mark.parametrize("isolated", ["true", "false"])
def test_mlflow(provider, tmp_path, monkeypatch, isolated):
    """MLflow's spans of LM calls report the billed usage, with MLflow's own context and with OpenTelemetry's."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.dspy")
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", isolated)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.tracing.reset()
    mlflow.dspy.autolog()
    try:
        with dspy.context(lm=provider.lm()):
            dspy.ChainOfThought("question -> answer")(question="Why?")
        trace_ = mlflow.get_trace(mlflow.get_last_active_trace_id(), flush=True)
    finally:
        mlflow.dspy.autolog(disable=True)
        mlflow.tracing.reset()
    (call,) = [span for span in trace_.data.spans if span.span_type == "CHAT_MODEL"]
    told = call.attributes["mlflow.chat.tokenUsage"]
    bill = provider.total

    assert (bill.input_tokens, bill.output_tokens) == (told["input_tokens"], told["output_tokens"])
    assert bill.total_tokens == trace_.info.token_usage["total_tokens"], json.dumps(trace_.info.token_usage)


@pytest.fixture
def with_costs(annotated, monkeypatch):
    """Annotate with the newest names."""
    annotated()
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    stop = annotate_spans()
    yield stop
    stop()


def costs(tracing, name="mine"):
    """Return the amount, currency and source of a span's cost."""
    attributes = tracing.attributes(name)
    return tuple(attributes.get(f"gen_ai.usage.cost.{part}") for part in ("amount", "currency", "source"))


@pytest.mark.parametrize("engine", ENGINES)
def test_costs(tracing, provider, with_costs, engine):
    """With OpenTelemetry's opt-in, a span has what its calls cost together, from the table of prices."""
    lm = lm_on(provider, engine)
    with token_scope("work") as scope, tracing.tracer().start_as_current_span("mine"):
        lm("Why?")
        lm("Why not?")

    assert (pytest.approx(float(scope.usage.cost)), "USD", "local") == costs(tracing)
    with_costs()
    with tracing.tracer().start_as_current_span("after"):
        lm("Why?")
    assert not any(name.startswith("gen_ai.usage") for name in tracing.attributes("after"))


def test_costs_that_the_provider_tells(tracing, provider, with_costs):
    """A cost that the provider told has the source `provider`; with a reckoned one beside it, the sum is `local`."""

    def report(told):
        watchers.notify("openai/gpt-4o-mini", {"prompt_tokens": 1_000_000, "completion_tokens": 0, **told})

    with tracing.tracer().start_as_current_span("mine"):
        report({"cost": 0.25})
    with tracing.tracer().start_as_current_span("both"):
        report({"cost": 0.25})
        report({})

    assert (0.25, "USD", "provider") == costs(tracing)
    assert (pytest.approx(0.4), "USD", "local") == costs(tracing, "both")


def test_unknown_costs(tracing, provider, with_costs):
    """A span with a call whose price is not known gets no cost; nor does one without the opt-in."""
    with tracing.tracer().start_as_current_span("mine"):
        watchers.notify("no-such-model", {"prompt_tokens": 9, "completion_tokens": 0})

    assert (None, None, None) == costs(tracing)
    assert 9 == tracing.attributes("mine")["gen_ai.usage.input_tokens"]


def test_no_costs_by_default(tracing, provider):
    """Without the opt-in, spans get no cost."""
    with tracing.tracer().start_as_current_span("mine"):
        provider.lm()("Why?")

    assert (None, None, None) == costs(tracing)
