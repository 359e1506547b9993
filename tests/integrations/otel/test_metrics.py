"""export_metrics: tokens, durations and costs by scope, module and model, with a limited number of attribute sets."""

from __future__ import annotations

import asyncio
import uuid

import dspy
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from support.dspy_support import ENGINES

import tokenscope
from tokenscope import record_cost, record_tokens, set_price, token_scope, track_tokens
from tokenscope.integrations.otel import export_metrics
from tokenscope.integrations.otel import metrics as otel_metrics
from tokenscope.testing import LoopbackProvider

TOKENS = "gen_ai.client.token.usage"
SECONDS = "gen_ai.client.operation.duration"


class Metrics:
    """A meter provider in memory, and the metrics that were exported to it."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.stop = export_metrics(self.provider)

    def points(self, name):
        """Return the data points of a metric, each with its attributes."""
        found = self.reader.get_metrics_data()
        return [
            (dict(point.attributes), point)
            for metric in self.of(found)
            if metric.name == name
            for point in metric.data.data_points
        ]

    @staticmethod
    def of(found):
        return [
            metric
            for resource in (found.resource_metrics if found else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def all(self):
        """Return the names of all metrics that have points, with their units and the classes of their data."""
        metrics = self.of(self.reader.get_metrics_data())
        return {metric.name: (metric.unit, type(metric.data).__name__) for metric in metrics}

    def tokens(self, *, kind=None, scope=None, module=None):
        """Return the sum of the tokens that have these attributes. None matches any value."""
        wanted = {"gen_ai.token.type": kind, "tokenscope.scope": scope, "tokenscope.module": module}
        return sum(
            point.sum
            for attributes, point in self.points(TOKENS)
            if all(value is None or attributes.get(name) == value for name, value in wanted.items())
        )


@pytest.fixture
def metrics():
    found = Metrics()
    yield found
    found.stop()
    found.provider.shutdown()
    assert [] == otel_metrics._exports


@pytest.fixture
def latest(monkeypatch):
    """Metrics by the newest names."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    found = Metrics()
    yield found
    found.stop()
    found.provider.shutdown()


def record(operation="page", model="mistral-ocr", input_tokens=90, output_tokens=30, module="ocr"):
    record_tokens(module, operation, model, "mistral", input_tokens, output_tokens)


def test_the_conventions_attributes(metrics):
    """Tokens are a histogram with the GenAI convention's attributes and buckets, and with our scope and module."""
    with token_scope("ingest"):
        record()
        record()
    points = {attributes["gen_ai.token.type"]: (attributes, point) for attributes, point in metrics.points(TOKENS)}

    assert {"input": 180, "output": 60} == {kind: point.sum for kind, (_, point) in points.items()}
    assert {2} == {point.count for _, point in points.values()}
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "mistral-ocr",
        "gen_ai.token.type": "input",
        "tokenscope.scope": "ingest/ocr/page",
        "tokenscope.module": "ocr",
    } == points["input"][0]
    assert tuple(4**power for power in range(14)) == tuple(points["input"][1].explicit_bounds)


@pytest.mark.parametrize("engine", ENGINES)
def test_dspy(metrics, engine):
    """Metrics of DSPy's calls add up to the bill, by module and with durations. Cached answers are left out."""

    new = uuid.uuid4()  # unique, because DSPy's cache is also on disk

    @track_tokens("research", "look_up")
    def look_up():
        dspy.ChainOfThought("question -> answer")(question=f"Why {new}?")

    with LoopbackProvider() as provider, token_scope("pipeline"):
        lm = provider.lm(cache=True, **({"engine": "litellm"} if len(ENGINES) > 1 and engine == "litellm" else {}))
        with dspy.context(lm=lm):
            for _ in range(2):
                look_up()
            asyncio.run(dspy.Predict("question -> answer").acall(question=f"Why not {new}?"))
            with pytest.raises(Exception, match="500"):
                lm(f"<<fail 500>> {new}")
        bill = provider.total
    durations = [(attributes.get("error.type"), point.count) for attributes, point in metrics.points(SECONDS)]

    assert (bill.input_tokens, bill.output_tokens) == tuple(metrics.tokens(kind=kind) for kind in ("input", "output"))
    assert 0 < metrics.tokens(module="research") < bill.total_tokens
    assert 0 < metrics.tokens(scope="pipeline/research/look_up/ChainOfThought") == metrics.tokens(module="research")
    assert bill.calls == sum(count for error, count in durations if error is None)
    assert 1 == sum(count for error, count in durations if error is not None)


def test_costs(metrics):
    """Costs by scope and model equal the report's. Calls without a known price have a metric of their own."""
    set_price("mistral/mistral-ocr", input=10, output=20)
    with token_scope("ingest"):
        record()
        record(model="of-my-own")
    ((attributes, cost),) = metrics.points("tokenscope.cost")
    ((unpriced, calls),) = metrics.points("tokenscope.unpriced_calls")

    assert float(tokenscope.report().total.cost) == cost.value == pytest.approx(0.0015)
    assert ("ingest/ocr/page", "mistral-ocr") == (attributes["tokenscope.scope"], attributes["gen_ai.request.model"])
    assert (1, "of-my-own") == (calls.value, unpriced["gen_ai.request.model"])


def test_bounded_sets(metrics, monkeypatch):
    """The number of attribute sets is limited. Further scopes share one set, `(other)`, and no token is lost."""
    monkeypatch.setattr(otel_metrics, "_MOST", 10)
    for number in range(50):
        with token_scope(f"user {number}"):
            record()

    assert 2 * 11 == len(metrics.points(TOKENS))
    assert 40 * 120 == metrics.tokens(scope="(other)")
    assert 50 * 120 == metrics.tokens()


@pytest.mark.filterwarnings("ignore:more than 2,000 distinct names")
def test_bounded_by_default(metrics):
    """By default, the number of sets stays below the limit at which OpenTelemetry's SDK drops attributes."""
    for number in range(2_500):
        record(operation=f"o{number}")

    assert 2 * (otel_metrics._MOST + 1) == len(metrics.points(TOKENS)) < 2_000
    assert 2_500 * 120 == metrics.tokens()
    assert not any("otel.metric.overflow" in attributes for attributes, _ in metrics.points(TOKENS))


def test_bounded_depth(metrics):
    """Only the first 8 levels of a scope's path are recorded."""

    def deeper(level):
        with token_scope(f"l{level}"):
            if level == 12:
                record()
            else:
                deeper(level + 1)

    deeper(1)

    assert 120 == metrics.tokens(scope="l1/l2/l3/l4/l5/l6/l7/l8", module="ocr")


def test_bounded_errors(metrics, monkeypatch):
    """If there are too many types of errors, further types are recorded as `_OTHER`."""
    monkeypatch.setattr(otel_metrics, "_MOST_ERRORS", 3)
    sets = otel_metrics._AttributeSets()

    assert ["e0", "e1", "e2", "_OTHER", "e1"] == [sets.error(name) for name in ("e0", "e1", "e2", "e3", "e1")]


def test_stopping(metrics):
    """After stopping, no call is recorded, and the tokens until then stay. Stopping twice does no harm."""
    record()
    metrics.stop()
    metrics.stop()
    record()

    assert 120 == metrics.tokens()
    assert [] == metrics.points("tokenscope.cost")


def test_twice_is_once(metrics):
    """If metrics are exported to one provider twice, each call is recorded once."""
    assert metrics.stop == export_metrics(metrics.provider)
    record()

    assert 120 == metrics.tokens()


def test_calls_from_before():
    """A call that ended before the export began is not recorded, even if it was still waiting to be counted."""
    with LoopbackProvider() as provider:
        provider.lm()("Why?")
        metrics = Metrics()
    metrics.stop()

    assert 0 == metrics.tokens()


def test_the_global_provider():
    """Without an argument, `export_metrics` uses OpenTelemetry's global meter provider."""
    stop = export_metrics()
    record()
    stop()

    assert [] == otel_metrics._exports


# -- amounts, and the newest names --------------------------------------------------------------------------------------

INFERENCE = "gen_ai.client.inference"
EMBEDDINGS = "gen_ai.client.embeddings"


@pytest.mark.parametrize("names", ["metrics", "latest"])
def test_amounts(names, request):
    """An amount of `record_cost` is a cost of its scope. It is no call of a model."""
    found = request.getfixturevalue(names)
    with token_scope("research"):
        record_cost("search", "web", 0.25)
    costs = found.points("tokenscope.cost")

    assert ({"tokenscope.scope": "research/search/web", "tokenscope.module": "search"}, 0.25) in [
        (attributes, point.value) for attributes, point in costs
    ]
    assert {"tokenscope.cost"} == {name for name in found.all() if name != "tokenscope.unpriced_calls"}


def test_the_newest_names(latest):
    """With OpenTelemetry's opt-in, counters, histograms and durations have the newest names, and the old ones are gone."""
    with token_scope("ingest"):
        for _ in range(2):
            record_tokens(
                "ocr",
                "page",
                "mistral-ocr",
                "mistral",
                90,
                30,
                cache_read_tokens=60,
                cache_write_tokens=20,
                reasoning_tokens=9,
            )
    mine = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "mistral-ocr",
        "tokenscope.scope": "ingest/ocr/page",
        "tokenscope.module": "ocr",
    }
    counted = {
        "input_tokens": 180,
        "output_tokens": 60,
        "cache_read.input_tokens": 120,
        "cache_write.input_tokens": 40,
        "reasoning.output_tokens": 18,
    }

    for name, value in counted.items():
        ((attributes, point),) = latest.points(f"{INFERENCE}.usage.{name}")
        assert ({**mine, "gen_ai.token.modality": "unknown"}, value) == (attributes, point.value)
    for name, value in {"input_tokens": 180, "output_tokens": 60}.items():
        ((attributes, point),) = latest.points(f"{INFERENCE}.operation.{name}")
        assert (mine, 2, value) == (attributes, point.count, point.sum)
        assert tuple(4**power for power in range(14)) == tuple(point.explicit_bounds)
    units = {name: kind for name, kind in latest.all().items() if name.startswith("gen_ai")}
    assert {("{token}", "Sum"), ("{token}", "Histogram")} == set(units.values())
    assert not {TOKENS, SECONDS} & set(units)


def test_the_old_names_are_the_default(metrics, monkeypatch):
    """Without the opt-in, also if it comes later or names something else, the metrics have the old names."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    record()

    assert {TOKENS} == {name for name in metrics.all() if name.startswith("gen_ai")}


def test_failures_by_the_newest_names(latest):
    """A failed call counts 0 tokens, and its duration has the type of its error."""
    with LoopbackProvider() as provider:
        lm = provider.lm()
        lm("Why?")
        with pytest.raises(Exception, match="500"):
            lm("<<fail 500>>")
        bill = provider.total
    used = latest.points(f"{INFERENCE}.usage.input_tokens")
    inputs = [
        (attributes.get("error.type") is None, p.count, p.sum)
        for attributes, p in latest.points(f"{INFERENCE}.operation.input_tokens")
    ]
    durations = [
        (attributes.get("error.type") is None, point.count)
        for attributes, point in latest.points(f"{INFERENCE}.duration")
    ]

    assert [bill.input_tokens] == [point.value for _, point in used]
    assert [(False, 1, 0), (True, 1, bill.input_tokens)] == sorted(inputs)
    assert [(False, 1), (True, 1)] == sorted(durations)


def test_embeddings_by_the_newest_names(metrics, latest):
    """Embeddings have metrics of their own, and are no inference. By the old names they are calls like others."""
    litellm = pytest.importorskip("litellm")
    settings = {"model": "openai/text-embedding-3-small", "api_key": "x"}
    with LoopbackProvider() as provider:
        litellm.embedding(**settings, input=["Hello"], api_base=provider.url)
        asyncio.run(litellm.aembedding(**settings, input=["Hello"], api_base=provider.url))
        bill = provider.total
    ((attributes, point),) = latest.points(f"{EMBEDDINGS}.operation.input_tokens")
    ((_, seconds),) = latest.points(f"{EMBEDDINGS}.duration")

    assert (2, bill.input_tokens) == (point.count, point.sum)
    assert ("embeddings", "openai") == (attributes["gen_ai.operation.name"], attributes["gen_ai.provider.name"])
    assert (2, 0.01) == (seconds.count, seconds.explicit_bounds[0])
    assert not any(name.startswith(INFERENCE) for name in latest.all())
    assert bill.input_tokens == metrics.tokens(kind="input")
    for attributes, _ in latest.points("tokenscope.cost"):
        assert "gen_ai.operation.name" not in attributes


def test_the_newest_names_are_bounded(latest, monkeypatch):
    """The newest metrics have no more attribute sets either, and cached answers are left out."""
    monkeypatch.setattr(otel_metrics, "_MOST", 10)
    for number in range(50):
        with token_scope(f"user {number}"):
            record()
    points = latest.points(f"{INFERENCE}.usage.input_tokens")

    assert (11, 50 * 90) == (len(points), sum(point.value for _, point in points))
