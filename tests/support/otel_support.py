"""Helpers for tests of OpenTelemetry: a tracer provider with our processor, and the attributes of a model call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tokenscope.integrations import usage_watchers
from tokenscope.integrations.otel import TokenScopeSpanProcessor
from tokenscope.integrations.otel import spans as otel_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


class Tracing:
    """A tracer provider with our processor, and the spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(TokenScopeSpanProcessor())
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def tracer(self, name: str = "an-instrumentor") -> Any:
        return self.provider.get_tracer(name)

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of the only span of that name."""
        (span,) = [span for span in self.ended if span.name == name]
        return dict(span.attributes or {})


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    """Return a tracer provider for one test. Afterwards, assert that no span is left, and remove all watchers."""
    found = Tracing()
    yield found
    found.provider.shutdown()
    assert {} == otel_spans._open, "a span was never forgotten"
    for watcher in tuple(usage_watchers.watchers):
        usage_watchers.unwatch(watcher)


def usage(input_tokens: int, output_tokens: int, model: str = "gpt-4o-mini") -> dict[str, Any]:
    """Return the attributes of a model call, under OpenTelemetry's names."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
    }
