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
from tokenscope import record_tokens, set_price, token_scope, track_tokens
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
            for resource in (found.resource_metrics if found else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

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
