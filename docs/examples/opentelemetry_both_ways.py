"""OpenTelemetry in and out: count what another library's spans tell of, and write what DSPy spends on the current span.

Runs against a small server on loopback; needs the extra `dspy-tokenscope[otel]`.
"""

import dspy
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tokenscope import token_scope
from tokenscope.integrations.otel import TokenScopeSpanProcessor, annotate_spans
from tokenscope.testing import LoopbackProvider


def main():
    """Run a span of each kind, and show what either side has learned from the other."""
    exported = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(TokenScopeSpanProcessor())  # in
    tracing.add_span_processor(SimpleSpanProcessor(exported))
    annotate_spans()  # out
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
