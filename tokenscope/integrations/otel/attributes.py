"""The words of OpenTelemetry's conventions: how spans name models, providers and usage, and how reports do.

`read` returns what a span says in any convention that instrumentors use: the model that was called, and what it spent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tokenscope._providers.openai_usage import getter, parse_count, read_counts
from tokenscope._providers.terms import terms_of
from tokenscope._usage.keys import Terms
from tokenscope._usage.usage import Counts

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
OPERATION: Final = "gen_ai.operation.name"
COST: Final = "gen_ai.usage.cost."
"""How the attributes of a call's cost begin: `amount`, `currency`, and `source`, which is `provider` or `local`."""
_TIER: Final = ("openai.response.service_tier", "gen_ai.openai.response.service_tier")

_MODEL: Final = (  # the model that was asked for comes before the model that answered, as in DSPy's own calls
    "gen_ai.request.model",
    "gen_ai.response.model",
    "llm.model_name",
    "embedding.model_name",
    "decision.model_name",
    "llm.request.model",
    "mlflow.llm.model",
)
_PROVIDER: Final = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "mlflow.llm.provider")

_OTEL_NAMES: Final = {  # providers' names in reports, and OpenTelemetry's current names if they differ
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}

_REPORT_NAMES: Final = {
    **{theirs: ours for ours, theirs in _OTEL_NAMES.items()},
    **dict.fromkeys(("aws", "aws_bedrock"), "bedrock"),
    "az.ai.inference": "azure_ai",
    "az.ai.openai": "azure",
    **dict.fromkeys(("gcp.gen_ai", "google", "google-gla", "google_genai"), "gemini"),
    **dict.fromkeys(("google-vertex", "vertexai"), "vertex_ai"),
    "mistralai": "mistral",
}
"""Providers' names in the conventions, old and new, and their names in reports, which are DSPy's and litellm's."""

_WITHOUT_CACHE: Final = ("opentelemetry.instrumentation.botocore", "opentelemetry.instrumentation.bedrock")
"""Instrumentors whose input tokens are Bedrock's own, which exclude tokens read from and written to its cache (as the sources of
opentelemetry-instrumentation-botocore 0.66b2 and opentelemetry-instrumentation-bedrock 0.62.4 show)."""

_EMBEDDINGS: Final = {"embeddings", "embedding"}
_MODEL_CALLS: Final = {"chat", "completion", "text_completion", "generate_content", *_EMBEDDINGS}


def wants_latest() -> bool:
    """Return whether the environment asks for the newest names of the GenAI conventions, as OpenTelemetry has it."""
    names = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
    return "gen_ai_latest_experimental" in map(str.strip, names)


class Reading(NamedTuple):
    """The model and the usage that a span reports."""

    model: str  # as reports name it, with its provider if that is known
    counts: Counts  # without calls
    terms: Terms = ()  # which service answered, if not the usual one
    cost_is_told: bool = False  # by the provider


def read(attributes: Attributes, instrumentor: str) -> Reading | None:
    """Return the usage that a span's attributes report, or None. Some instrumentors depart from their convention."""
    if (found := _reported(attributes)) is None:
        return None
    model = model_of(attributes)
    details = {"cached_tokens": found.get("cache_read_tokens"), "cache_write_tokens": found.get("cache_write_tokens")}
    input_tokens, total_tokens = found.get("input_tokens"), found.get("total_tokens")
    cached = sum(value for value in details.values() if type(value) is int)
    exceeds_input = type(input_tokens) is int and cached > input_tokens >= 0
    if cached > 0 and (exceeds_input or instrumentor.startswith(_WITHOUT_CACHE)):
        cached = sum(parse_count(name, value, model) for name, value in details.items())
        input_tokens, total_tokens = parse_count("prompt_tokens", input_tokens, model) + cached, None
    cost = _told_cost(attributes)
    entry = {
        "cost": cost,
        "prompt_tokens": input_tokens,
        "completion_tokens": found.get("output_tokens"),
        "total_tokens": total_tokens,
        "prompt_tokens_details": {**details, "audio_tokens": found.get("input_audio_tokens")},
        "completion_tokens_details": {
            "reasoning_tokens": found.get("reasoning_tokens"),
            "audio_tokens": found.get("output_audio_tokens"),
        },
    }
    tier = getter(attributes)(*_TIER)
    return Reading(model, read_counts(model, entry), terms_of({"service_tier": tier}, {}), cost is not None)


def _told_cost(attributes: Attributes) -> Any:
    """Return the cost in dollars that the provider told. What others have reckoned is left to the table of prices."""
    is_told = attributes.get(f"{COST}source") == "provider" and attributes.get(f"{COST}currency") == "USD"
    amount: Any = attributes.get(f"{COST}amount") if is_told else None
    return amount if type(amount) in (int, float) and amount >= 0 else None


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
    try:
        usage = json.loads(text) if isinstance(text, str) else None
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
    kind = getter(attributes)(OPERATION, "llm.request.type")
    if isinstance(kind, str):
        return kind in _MODEL_CALLS
    return attributes.get("openinference.span.kind") in ("LLM", "EMBEDDING")


def is_embedding(attributes: Attributes) -> bool:
    """Return whether a span is that of an embedding request."""
    kind = getter(attributes)(OPERATION, "llm.request.type")
    return kind in _EMBEDDINGS if isinstance(kind, str) else attributes.get("openinference.span.kind") == "EMBEDDING"


def report_name(provider: str | None, model: str) -> str:
    """Return a model's name as reports have it, with its provider: `bedrock/amazon.nova-micro-v1:0`."""
    if provider is None:
        return model
    provider = _REPORT_NAMES.get(provider.lower(), provider.lower())
    return model if model.startswith(f"{provider}/") else f"{provider}/{model}"


def request_attributes(model: str) -> dict[str, str]:
    """Return OpenTelemetry's attributes for a model that has this name in reports."""
    provider, slash, name = model.partition("/")
    if not slash:
        return {"gen_ai.request.model": model}
    return {"gen_ai.provider.name": _OTEL_NAMES.get(provider, provider), "gen_ai.request.model": name}
