"""OpenTelemetry, both ways: `pip install "dspy-tokenscope[otel]"`.

In: `TokenScopeSpanProcessor` counts what other instrumentors' spans tell of. Out: `annotate_spans` writes what DSPy's calls
spend on their spans, `export_metrics` records it as metrics. Nothing happens before one of them is called.
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
        f"tokenscope.integrations.otel needs OpenTelemetry's SDK, and there is no {error.name}: "
        'pip install "dspy-tokenscope[otel]"'
    ) from error

__all__ = ["TokenScopeSpanProcessor", "annotate_spans", "export_metrics"]
