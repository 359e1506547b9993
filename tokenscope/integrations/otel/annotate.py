"""The way out, on spans: what a DSPy call spends, on the span that is current when DSPy makes it.

Each token is written on one span, that of the call itself where an instrumentor opens one: backends add up by themselves.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from opentelemetry import trace

from tokenscope._providers.openai_usage import read_counts
from tokenscope._usage.usage import Usage
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations import usage_watchers as _entries
from tokenscope.integrations.otel.attributes import MLFLOW_USAGE
from tokenscope.integrations.otel.names import request_attributes

_lock: Final = threading.RLock()
_written: Final[weakref.WeakKeyDictionary[Any, Usage]] = weakref.WeakKeyDictionary()
"""What was written on a span until now: some calls tell of usage more than once, and a span may hold several calls."""


def annotate_spans() -> Callable[[], None]:
    """Write what each DSPy call spends on the span that is current when DSPy makes the call.

    That is the span of OpenInference's instrumentor for DSPy (which Phoenix, Langfuse and Logfire use), MLflow's, or one of your
    own. A span that tells of usage already is left as it is.

    Returns:
        A function that ends it.

    Example:
        >>> from tokenscope.integrations.otel import annotate_spans
        >>> stop = annotate_spans()
        >>> stop()
    """
    _entries.watch(_annotate)
    return partial(_entries.unwatch, _annotate)


def _annotate(model: str, entry: Any) -> None:
    try:
        spent = Usage.from_counts(read_counts(model, entry))
        span = trace.get_current_span()
        if span.is_recording():
            _write(span, model, spent)
        mlflow = sys.modules.get("mlflow")
        active = getattr(mlflow, "get_current_active_span", None)
        if active is not None and (current := active()) is not None:
            _write_mlflow(current, spent)
    except Exception:  # noqa: BLE001 - the host program goes on, whatever its spans do
        internal_error("annotating a span")


def _write(span: Any, model: str, spent: Usage) -> None:
    attributes = getattr(span, "attributes", None) or {}
    with _lock:
        before = _written.get(span)
        if before is None and any(name.startswith(_TOLD) for name in attributes):
            return
        whole = _written[span] = spent if before is None else before + spent
        values = _openinference(whole) if "openinference.span.kind" in attributes else _genai(whole)
        for name, value in request_attributes(model).items():
            if name not in attributes:
                values[name] = value
        span.set_attributes(values)


_TOLD: Final = ("gen_ai.usage.", "llm.token_count.", "llm.usage.", "mlflow.")
"""How attributes begin on spans that tell of usage already; MLflow's own are written in MLflow's way."""


def _genai(usage: Usage) -> dict[str, Any]:
    """OpenTelemetry's names; parts only where there are some."""
    parts = {
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {**_whole(usage), **{name: value for name, value in parts.items() if value}}


def _openinference(usage: Usage) -> dict[str, Any]:
    """OpenInference's names, and OpenTelemetry's two for backends that read only these.

    Not both for the parts: Langfuse takes each name for another kind of token.
    """
    parts = {
        "llm.token_count.prompt_details.cache_read": usage.cache_read_tokens,
        "llm.token_count.prompt_details.cache_write": usage.cache_write_tokens,
        "llm.token_count.prompt_details.audio": usage.input_audio_tokens,
        "llm.token_count.completion_details.reasoning": usage.reasoning_tokens,
        "llm.token_count.completion_details.audio": usage.output_audio_tokens,
    }
    return {
        "llm.token_count.prompt": usage.input_tokens,
        "llm.token_count.completion": usage.output_tokens,
        "llm.token_count.total": usage.total_tokens,
        **{name: value for name, value in parts.items() if value},
        **_whole(usage),
    }


def _whole(usage: Usage) -> dict[str, Any]:
    return {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}


def _write_mlflow(span: Any, spent: Usage) -> None:
    """Write on MLflow's own current span, which need not be OpenTelemetry's."""
    with _lock:
        before = _written.get(span)
        if before is None and span.get_attribute(MLFLOW_USAGE) is not None:
            return
        whole = _written[span] = spent if before is None else before + spent
        values = {
            "input_tokens": whole.input_tokens,
            "output_tokens": whole.output_tokens,
            "total_tokens": whole.total_tokens,
        }
        if whole.cache_read_tokens:
            values["cache_read_input_tokens"] = whole.cache_read_tokens
        if whole.cache_write_tokens:
            values["cache_creation_input_tokens"] = whole.cache_write_tokens
        span.set_attribute(MLFLOW_USAGE, values)
