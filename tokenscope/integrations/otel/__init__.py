"""OpenTelemetry, in and out: `pip install "dspy-tokenscope[otel]"`.

In: `TokenScopeSpanProcessor` counts the usage that other instrumentors' spans report. Out: `annotate_spans` writes the usage of
DSPy's calls on their spans, and `export_metrics` records it as metrics. Nothing happens before one of them is called.
"""

from __future__ import annotations

try:
    from tokenscope.integrations.otel.annotate import annotate_spans
    from tokenscope.integrations.otel.metrics import export_metrics
    from tokenscope.integrations.otel.spans import TokenScopeSpanProcessor
except ModuleNotFoundError as error:
    if not str(error.name).startswith("opentelemetry"):
        raise
    raise ImportError(
        f"tokenscope.integrations.otel needs OpenTelemetry's SDK, but {error.name} is not installed: "
        'pip install "dspy-tokenscope[otel]"'
    ) from error

__all__ = ["TokenScopeSpanProcessor", "annotate_spans", "export_metrics"]
