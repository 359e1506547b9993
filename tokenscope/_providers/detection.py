"""Where a response comes from: in whose words its usage is, who served it, and which model answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from tokenscope._providers.extractors import ANTHROPIC, BEDROCK, COHERE, GOOGLE, PERPLEXITY, UsageFormat, provider_of
from tokenscope._providers.openai_usage import getter
from tokenscope._scopes.event_log import warn_later
from tokenscope._usage.calls import model_name

First = Callable[..., Any]


class ResponseSource(NamedTuple):
    """What a response tells of itself, apart from numbers."""

    name: str | None  # as reports name the model; None where the response has no word for it
    words: UsageFormat | None  # None: OpenAI's
    usage: Any  # None: the response has none
    model: str  # as `read_counts` wants it: with its provider where LiteLLM has read it, alone where nobody has


def source_of(response: Any, provider: str | None, model: str | None) -> ResponseSource:
    """Return what a response tells, where the caller has not told it.

    Whose words they are is told by their shape alone: one provider's SDK is used for another's API, and gateways translate.
    """
    first = getter(response)
    words, usage = _usage(first)
    told = model if model is not None else _model(response, first)
    if told is None:
        return ResponseSource(None, words, usage, "")
    sdk = _sdk(type(response))
    if provider is not None:
        name = model_name(told, provider)
    elif model is not None and "/" in model and not model.startswith("arn:"):
        name = model
    else:
        guess = _asked(response) if sdk == "litellm" else _sender(sdk, first, words, getter(usage))
        # Where nothing tells, `openai` is whoever speaks as OpenAI does, as in DSPy's and LiteLLM's names.
        name = model_name(told, guess or provider_of(told) or "openai")
    if told == _UNKNOWN:
        warn_later(
            f"no model:{name}", f"a response of {name} does not say which model answered; pass model=... to name it"
        )
    return ResponseSource(name, words, usage, name if sdk == "litellm" else told.rpartition("/")[2])


def _usage(first: First) -> tuple[UsageFormat | None, Any]:
    usage = first("usage_metadata", "usageMetadata")
    if usage is not None:
        return GOOGLE, usage
    usage = first("usage")
    if usage is None:
        meta = first("meta")  # Cohere's embeddings
        return (None, None) if getter(meta)("billed_units") is None else (COHERE, meta)
    told = getter(usage)
    if told("prompt_tokens", "completion_tokens") is not None:
        return (None if told("citation_tokens") is None else PERPLEXITY), usage
    if told("inputTokens", "outputTokens") is not None:
        return BEDROCK, usage
    if told("billed_units") is not None:
        return COHERE, usage
    if told("input_tokens", "output_tokens") is not None:
        beside = told("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "iterations")
        anthropic = beside is not None or first("type") == "message"
        return (ANTHROPIC if anthropic else None), usage
    return None, None if told("total_tokens") is None else usage


_UNKNOWN: Final = "(unknown)"


def _model(response: Any, first: First) -> str | None:
    """Return the model's name in a response; None where there is no place for one."""
    names = ("model", "model_version", "modelVersion")
    found = first(*names)
    if isinstance(found, str) and found.strip():
        found = found.removeprefix("publishers/google/").removeprefix("models/") or found
        return found.encode("utf-8", "replace").decode()
    has_place = any(name in response if isinstance(response, Mapping) else hasattr(response, name) for name in names)
    return _UNKNOWN if has_place else None


_SDKS: Final = {
    "anthropic": "anthropic",
    "cohere": "cohere",
    "google": "gemini",
    "groq": "groq",
    "mistralai": "mistral",
    "together": "together_ai",
    "xai_sdk": "xai",
    # LiteLLM's responses say who it is; OpenAI's SDK is everybody's.
    "litellm": None,
    "openai": None,
}
"""Packages whose classes responses are of, and the provider's name where that tells it."""

_IN_USAGE: Final = {
    "cost_details": "openrouter",
    "is_byok": "openrouter",
    "cost_in_usd_ticks": "xai",
    "num_sources_used": "xai",
    "prompt_cache_hit_tokens": "deepseek",
}
_IN_RESPONSE: Final = {"x_groq": "groq", "prompt_filter_results": "azure"}
_AT_HOME: Final = ("chatcmpl-", "cmpl-", "resp_")
"""How identifiers begin at OpenAI and at servers that do as it does, which serve models of any name."""


def _sdk(kind: type) -> str | None:
    for base in kind.__mro__:
        package = str(base.__module__).partition(".")[0]
        if package in _SDKS:
            return package
    return None


def _asked(response: Any) -> str | None:
    """Return whom LiteLLM has asked; it says so, if not quite publicly."""
    provider = getter(getattr(response, "_hidden_params", None))("custom_llm_provider")
    return provider if isinstance(provider, str) and provider else None


def _sender(sdk: str | None, first: First, words: UsageFormat | None, told: First) -> str | None:
    """Return who sent a response, by what only they send; None where it may be anyone who speaks as OpenAI does."""
    identifier = first("id")
    identifier = identifier if isinstance(identifier, str) else ""
    if words is ANTHROPIC:
        clouds = {"msg_bdrk_": "bedrock", "msg_vrtx_": "vertex_ai"}
        return next((cloud for prefix, cloud in clouds.items() if identifier.startswith(prefix)), "anthropic")
    if words is GOOGLE:
        return "gemini" if told("trafficType", "traffic_type") is None else "vertex_ai"
    if words is not None:
        return {BEDROCK: "bedrock", COHERE: "cohere", PERPLEXITY: "perplexity"}[words]
    if sdk is not None and _SDKS[sdk] is not None:
        return _SDKS[sdk]
    for where, hints in ((told, _IN_USAGE), (first, _IN_RESPONSE)):
        for field, provider in hints.items():
            if where(field) is not None:
                return provider
    if identifier.startswith("gen-"):
        return "openrouter"
    if first("system_fingerprint") == "fp_ollama":
        return "ollama"
    return "openai" if identifier.startswith(_AT_HOME) else None
