"""Reading a span's attributes, in each convention that instrumentors use: the model that was called, and what it spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tokenscope._providers.openai_usage import getter, parse_count, read_counts
from tokenscope._usage.usage import Counts
from tokenscope.integrations.otel.names import report_name

Attributes = Mapping[str, Any]

Convention = dict[str, tuple[str, ...]]
"""Fields of `Usage`, and the attributes that have them: the first one that a span has counts."""

GENAI: Final[Convention] = {
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
    "output_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
    "total_tokens": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens"),
    "cache_read_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
    ),
    "cache_write_tokens": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
    ),
    "input_audio_tokens": ("gen_ai.usage.audio.input_tokens", "gen_ai.usage.details.input_audio_tokens"),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
    ),
    "output_audio_tokens": ("gen_ai.usage.audio.output_tokens", "gen_ai.usage.details.output_audio_tokens"),
}
OPENINFERENCE: Final[Convention] = {
    "input_tokens": ("llm.token_count.prompt", "decision.token_count.input"),
    "output_tokens": ("llm.token_count.completion", "decision.token_count.output"),
    "total_tokens": ("llm.token_count.total",),
    "cache_read_tokens": ("llm.token_count.prompt_details.cache_read",),
    "cache_write_tokens": ("llm.token_count.prompt_details.cache_write",),
    "input_audio_tokens": ("llm.token_count.prompt_details.audio",),
    "reasoning_tokens": ("llm.token_count.completion_details.reasoning",),
    "output_audio_tokens": ("llm.token_count.completion_details.audio",),
}
MLFLOW: Final[Convention] = {
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "total_tokens": ("total_tokens",),
    "cache_read_tokens": ("cache_read_input_tokens",),
    "cache_write_tokens": ("cache_creation_input_tokens",),
}
MLFLOW_USAGE: Final = "mlflow.chat.tokenUsage"

_MODEL: Final = (
    "gen_ai.request.model",
    "gen_ai.response.model",
    "llm.model_name",
    "embedding.model_name",
    "decision.model_name",
    "llm.request.model",
    "mlflow.llm.model",
)
"""The model that was asked for comes before the model that answered, as in DSPy's own calls."""
_PROVIDER: Final = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "mlflow.llm.provider")

_WITHOUT_CACHE: Final = ("opentelemetry.instrumentation.botocore", "opentelemetry.instrumentation.bedrock")
"""Instrumentors whose input tokens are Bedrock's own, which exclude tokens read from and written to its cache (as the sources of
opentelemetry-instrumentation-botocore 0.66b2 and opentelemetry-instrumentation-bedrock 0.62.4 show)."""

_MODEL_CALLS: Final = frozenset(
    {"chat", "completion", "text_completion", "generate_content", "embeddings", "embedding"}
)


class Reading(NamedTuple):
    """The model and the usage that a span reports."""

    model: str  # as reports name it, with its provider if that is known
    counts: Counts  # without calls


def read(attributes: Attributes, instrumentor: str) -> Reading | None:
    """Return the usage that a span's attributes report; None if they report none.

    Args:
        attributes: The span's attributes.
        instrumentor: The name of its instrumentation scope: some instrumentors depart from their convention.
    """
    found = _reported(attributes)
    if found is None:
        return None
    model = model_of(attributes)
    details = {"cached_tokens": found.get("cache_read_tokens"), "cache_write_tokens": found.get("cache_write_tokens")}
    input_tokens, total_tokens = found.get("input_tokens"), found.get("total_tokens")
    cached = sum(value for value in details.values() if type(value) is int)
    exceeds_input = type(input_tokens) is int and cached > input_tokens >= 0
    if cached > 0 and (exceeds_input or instrumentor.startswith(_WITHOUT_CACHE)):
        cached = sum(parse_count(name, value, model) for name, value in details.items())
        input_tokens, total_tokens = parse_count("prompt_tokens", input_tokens, model) + cached, None
    entry = {
        "prompt_tokens": input_tokens,
        "completion_tokens": found.get("output_tokens"),
        "total_tokens": total_tokens,
        "prompt_tokens_details": {**details, "audio_tokens": found.get("input_audio_tokens")},
        "completion_tokens_details": {
            "reasoning_tokens": found.get("reasoning_tokens"),
            "audio_tokens": found.get("output_audio_tokens"),
        },
    }
    return Reading(model, read_counts(model, entry))


def _reported(attributes: Attributes) -> dict[str, Any] | None:
    """Return the fields of usage in the first convention that has input or output."""
    for convention in (GENAI, OPENINFERENCE, MLFLOW):
        get = getter(_mlflow(attributes) if convention is MLFLOW else attributes)
        found = {field: value for field, names in convention.items() if (value := get(*names)) is not None}
        if "input_tokens" in found or "output_tokens" in found:
            return found
    return None


def _mlflow(attributes: Attributes) -> Attributes:
    """Return MLflow's usage, which is JSON in a string."""
    text = attributes.get(MLFLOW_USAGE)
    if not isinstance(text, str):
        return {}
    try:
        usage = json.loads(text)
    except ValueError:
        parse_count(MLFLOW_USAGE, text, model_of(attributes))  # warns
        return {}
    return usage if isinstance(usage, dict) else {}


def model_of(attributes: Attributes) -> str:
    """Return the model's name as reports have it, `provider/model`."""
    get = getter(attributes)
    return report_name(_name(get(*_PROVIDER)), _name(get(*_MODEL)) or "(unknown)")


def _name(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return value[1:-1] if len(value) > 2 and value[0] == value[-1] == '"' else value  # MLflow's strings are JSON


def is_model_call(attributes: Attributes) -> bool:
    """Return whether a span is that of one model call. Spans of failed calls report no usage."""
    kind = getter(attributes)("gen_ai.operation.name", "llm.request.type")
    if isinstance(kind, str):
        return kind in _MODEL_CALLS
    return attributes.get("openinference.span.kind") in ("LLM", "EMBEDDING")
