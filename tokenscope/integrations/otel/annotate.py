"""Usage out of tokenscope, as span attributes: a DSPy call's usage, on the span that is current when DSPy makes the call.

Each token is written on one span, on the call's own if an instrumentor opens one. Backends add up by themselves.
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
from tokenscope.integrations.otel.attributes import MLFLOW_USAGE
from tokenscope.integrations.otel.names import request_attributes
from tokenscope.integrations.usage_watchers import unwatch, watch

_lock: Final = threading.RLock()
_written: Final[weakref.WeakKeyDictionary[Any, Usage]] = weakref.WeakKeyDictionary()
"""The usage that was written on a span so far: some calls report usage more than once, and a span may contain several calls."""


def annotate_spans() -> Callable[[], None]:
    """Write the usage of each DSPy call on the span that is current when DSPy makes the call.

    This is the span of OpenInference's instrumentor for DSPy (which Phoenix, Langfuse and Logfire use), MLflow's span, or one of
    your own. A span that reports usage already is left as it is.

    Returns:
        A function that stops the writing.

    Example:
        >>> from tokenscope.integrations.otel import annotate_spans
        >>> stop = annotate_spans()
        >>> stop()
    """
    watch(_annotate)
    return partial(unwatch, _annotate)


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
    except Exception:  # noqa: BLE001 - a span's own methods must not break the host program
        internal_error("annotating a span")


def _write(span: Any, model: str, spent: Usage) -> None:
    attributes = getattr(span, "attributes", None) or {}
    with _lock:
        before = _written.get(span)
        if before is None and any(name.startswith(_USAGE_PREFIXES) for name in attributes):
            return
        whole = _written[span] = spent if before is None else before + spent
        values = _openinference(whole) if "openinference.span.kind" in attributes else _genai(whole)
        for name, value in request_attributes(model).items():
            if name not in attributes:
                values[name] = value
        span.set_attributes(values)


_USAGE_PREFIXES: Final = ("gen_ai.usage.", "llm.token_count.", "llm.usage.", "mlflow.")
"""How attributes begin on spans that report usage already. MLflow's spans have an attribute of their own."""


def _genai(usage: Usage) -> dict[str, Any]:
    """Return attributes with OpenTelemetry's names; parts only if they are not 0."""
    parts = {
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {**_whole(usage), **{name: value for name, value in parts.items() if value}}


def _openinference(usage: Usage) -> dict[str, Any]:
    """Return attributes with OpenInference's names, and input and output with OpenTelemetry's, which some backends need.

    The parts have one name each: Langfuse takes each name for another kind of token.
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
    """Write on MLflow's current span, which is not always OpenTelemetry's."""
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
