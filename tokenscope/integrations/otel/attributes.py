"""Reading a span's attributes: which model was called, and what it spent, in whichever convention an instrumentor writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tokenscope._providers.openai_usage import getter, parse_count, read_counts
from tokenscope._usage.usage import Counts
from tokenscope.integrations.otel.names import report_name

Attributes = Mapping[str, Any]

_IN: Final = "prompt_tokens"
_OUT: Final = "completion_tokens"
_TOTAL: Final = "total_tokens"
_CACHE_READ: Final = "cached_tokens"
_CACHE_WRITTEN: Final = "cache_write_tokens"
_AUDIO_IN: Final = "input_audio_tokens"
_REASONING: Final = "reasoning_tokens"
_AUDIO_OUT: Final = "output_audio_tokens"

_GENAI: Final = {
    _IN: ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
    _OUT: ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
    _TOTAL: ("gen_ai.usage.total_tokens", "llm.usage.total_tokens"),
    _CACHE_READ: (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
    ),
    _CACHE_WRITTEN: (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
    ),
    _REASONING: (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
    ),
    _AUDIO_IN: ("gen_ai.usage.audio.input_tokens", "gen_ai.usage.details.input_audio_tokens"),
    _AUDIO_OUT: ("gen_ai.usage.audio.output_tokens", "gen_ai.usage.details.output_audio_tokens"),
}
_OPENINFERENCE: Final = {
    _IN: ("llm.token_count.prompt", "decision.token_count.input"),
    _OUT: ("llm.token_count.completion", "decision.token_count.output"),
    _TOTAL: ("llm.token_count.total",),
    _CACHE_READ: ("llm.token_count.prompt_details.cache_read",),
    _CACHE_WRITTEN: ("llm.token_count.prompt_details.cache_write",),
    _REASONING: ("llm.token_count.completion_details.reasoning",),
    _AUDIO_IN: ("llm.token_count.prompt_details.audio",),
    _AUDIO_OUT: ("llm.token_count.completion_details.audio",),
}
_MLFLOW: Final = {
    _IN: ("input_tokens",),
    _OUT: ("output_tokens",),
    _TOTAL: ("total_tokens",),
    _CACHE_READ: ("cache_read_input_tokens",),
    _CACHE_WRITTEN: ("cache_creation_input_tokens",),
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
"""The name by which the model was asked for wins over the one that answered, as in DSPy's own calls."""
_PROVIDER: Final = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "mlflow.llm.provider")

_WITHOUT_CACHE: Final = ("opentelemetry.instrumentation.botocore", "opentelemetry.instrumentation.bedrock")
"""Instrumentors whose input tokens are Bedrock's own, without those read from and written to its cache (read in the sources of
opentelemetry-instrumentation-botocore 0.66b2 and opentelemetry-instrumentation-bedrock 0.62.4)."""

_MODEL_CALLS: Final = frozenset(
    {"chat", "completion", "text_completion", "generate_content", "embeddings", "embedding"}
)


class Reading(NamedTuple):
    """What a span tells."""

    model: str  # as reports name it, with its provider where that is known
    counts: Counts  # without calls


def read(attributes: Attributes, instrumentor: str) -> Reading | None:
    """Return what a span's attributes tell of usage; None where they tell none.

    Args:
        attributes: The span's.
        instrumentor: The name of its instrumentation scope: some count other than their convention says.
    """
    entry = _entry(attributes)
    if entry is None:
        return None
    model = model_of(attributes)
    details = entry["prompt_tokens_details"]
    if _is_without_cache(entry, instrumentor):
        cached = sum(parse_count(name, each, model) for name, each in details.items() if name != "audio_tokens")
        entry[_IN] = parse_count(_IN, entry.get(_IN), model) + cached
        entry.pop(_TOTAL, None)
    return Reading(model, read_counts(model, entry))


def _entry(attributes: Attributes) -> dict[str, Any] | None:
    """Return the attributes of the first convention that tells of input or output, in OpenAI's words."""
    for convention in (_GENAI, _OPENINFERENCE, _MLFLOW):
        told = _mlflow(attributes) if convention is _MLFLOW else attributes
        first = getter(told)
        found = {name: value for name, keys in convention.items() if (value := first(*keys)) is not None}
        if _IN in found or _OUT in found:
            prompt: dict[str, Any] = {name: found.pop(name) for name in (_CACHE_READ, _CACHE_WRITTEN) if name in found}
            completion: dict[str, Any] = {name: found.pop(name) for name in (_REASONING,) if name in found}
            for name, details in ((_AUDIO_IN, prompt), (_AUDIO_OUT, completion)):
                if name in found:
                    details["audio_tokens"] = found.pop(name)
            return {**found, "prompt_tokens_details": prompt, "completion_tokens_details": completion}
    return None


def _mlflow(attributes: Attributes) -> Attributes:
    """Return MLflow's usage, which is JSON within a string."""
    text = attributes.get(MLFLOW_USAGE)
    if not isinstance(text, str):
        return {}
    try:
        told = json.loads(text)
    except ValueError:
        parse_count(MLFLOW_USAGE, text, model_of(attributes))  # warns: it is no number of tokens
        return {}
    return told if isinstance(told, dict) else {}


def _is_without_cache(entry: dict[str, Any], instrumentor: str) -> bool:
    """Whether input does not hold the cached tokens: known of the instrumentor, or seen where the part exceeds the whole."""
    details = entry["prompt_tokens_details"]
    kept = [value for name, value in details.items() if name != "audio_tokens" and type(value) is int]
    whole = entry.get(_IN)
    return sum(kept) > 0 and (
        instrumentor.startswith(_WITHOUT_CACHE) or (type(whole) is int and sum(kept) > whole >= 0)
    )


def model_of(attributes: Attributes) -> str:
    """Return the model's name as reports have it, `provider/model`."""
    first = getter(attributes)
    name = first(*_MODEL)
    name = name if isinstance(name, str) and name.strip() else "(unknown)"
    provider = first(*_PROVIDER)
    known = isinstance(provider, str) and provider.strip()
    return report_name(_unquoted(provider) if known else None, _unquoted(name))


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name  # MLflow's strings are JSON


def is_model_call(attributes: Attributes) -> bool:
    """Whether a span is that of one model call, also where it tells no usage, as failed calls do."""
    first = getter(attributes)
    kind = first("gen_ai.operation.name", "llm.request.type")
    if isinstance(kind, str):
        return kind in _MODEL_CALLS
    return attributes.get("openinference.span.kind") in ("LLM", "EMBEDDING")
