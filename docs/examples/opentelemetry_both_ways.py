"""Connect to OpenTelemetry: count the spans of another library, and write DSPy's usage on the current span.

It runs against a local server, and needs the extra `dspy-tokenscope[otel]`.
"""

import dspy
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tokenscope import token_scope
from tokenscope.integrations.otel import TokenScopeSpanProcessor, annotate_spans
from tokenscope.testing import LoopbackProvider


def main():
    """Run a span of each kind, then print the tree and the spans' usage."""
    exported = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(TokenScopeSpanProcessor())  # counts other libraries' spans
    tracing.add_span_processor(SimpleSpanProcessor(exported))
    annotate_spans()  # writes DSPy's usage on spans
    tracer = tracing.get_tracer("example")
    with token_scope("request") as scope:
        with tracer.start_as_current_span("answer"):
            dspy.Predict("question -> answer")(question="Why do leaves turn red?")
        with tracer.start_as_current_span("chat some-model") as span:  # as an instrumentor would
            span.set_attribute("gen_ai.request.model", "some-model")
            span.set_attribute("gen_ai.usage.input_tokens", 90)
            span.set_attribute("gen_ai.usage.output_tokens", 30)
    print(scope)
    for span in exported.get_finished_spans():
        usage = {name: value for name, value in span.attributes.items() if name.startswith("gen_ai.usage.")}
        print(span.name, usage)


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        main()
