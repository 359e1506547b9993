"""Detecting where a response comes from: the format of its usage, the provider that served it, and the model that answered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from tokenscope._providers.extractors import ANTHROPIC, BEDROCK, COHERE, GOOGLE, PERPLEXITY, UsageFormat, vendor_of
from tokenscope._providers.openai_usage import Get, getter
from tokenscope._providers.terms import terms_of
from tokenscope._scopes.event_log import warn_later
from tokenscope._usage.calls import model_name
from tokenscope._usage.keys import Terms

UNKNOWN_MODEL: Final = "(unknown)"


class ResponseSource(NamedTuple):
    """Where a response comes from, and its usage."""

    name: str | None  # the model's, as reports name it; None if the response has no field for it
    usage_format: UsageFormat | None  # None: OpenAI's
    usage: Any  # None: the response has none
    model: str  # for `read_counts`: with its provider if LiteLLM has read the usage, without it otherwise
    terms: Terms = ()  # which service was used


def source_of(response: Any, provider: str | None, model: str | None, sender: str | None = None) -> ResponseSource:
    """Return where a response comes from, given the provider and the model if the caller names them.

    The shape of the usage alone shows its format: programs use one provider's SDK for another's API, and gateways translate.
    `sender` is the provider if something else than the response shows it.
    """
    get = getter(response)
    usage_format, usage = _usage(get)
    answered = model if model is not None else _model(response, get)
    if answered is None:
        return ResponseSource(None, usage_format, usage, "")
    packages = (str(base.__module__).partition(".")[0] for base in type(response).__mro__)
    sdk = next((package for package in packages if package in _SDKS), None)
    if provider is not None:
        name = model_name(answered, provider)
    elif model is not None and "/" in model and not model.startswith("arn:"):
        name = model
    else:
        sender = sender or _sender(response, sdk, usage_format, usage)
        # If nothing shows the provider, it is `openai`, as in DSPy's and LiteLLM's names: the API is OpenAI's.
        name = model_name(answered, sender or vendor_of(answered) or "openai")
    if answered == UNKNOWN_MODEL:
        warn_later(
            f"no model:{name}", f"a response of {name} does not say which model answered; pass model=... to name it"
        )
    called = name if sdk == "litellm" else answered.rpartition("/")[2]
    return ResponseSource(name, usage_format, usage, called, terms_of(response, usage))


def _usage(get: Get) -> tuple[UsageFormat | None, Any]:
    if (usage := get("usage_metadata", "usageMetadata")) is not None:
        return GOOGLE, usage
    if (usage := get("usage")) is None:
        meta = get("meta")  # Cohere's embeddings
        return (None, None) if getter(meta)("billed_units") is None else (COHERE, meta)
    count = getter(usage)
    if count("prompt_tokens", "completion_tokens") is not None:
        return (None if count("citation_tokens") is None else PERPLEXITY), usage
    if count("inputTokens", "outputTokens") is not None:
        return BEDROCK, usage
    if count("billed_units") is not None:
        return COHERE, usage
    if count("input_tokens", "output_tokens") is not None:
        part = count("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "iterations")
        return (ANTHROPIC if part is not None or get("type") == "message" else None), usage
    return None, None if count("total_tokens") is None else usage


def _model(response: Any, get: Get) -> str | None:
    """Return the model's name in a response; None if the response has no field for it."""
    fields = ("model", "model_version", "modelVersion")
    name = get(*fields)
    if isinstance(name, str) and name.strip():
        name = name.removeprefix("publishers/google/").removeprefix("models/") or name
        return name.encode("utf-8", "replace").decode()
    has_field = response.__contains__ if isinstance(response, Mapping) else partial(hasattr, response)
    return UNKNOWN_MODEL if any(map(has_field, fields)) else None


_SDKS: Final = {  # packages that responses' classes are from, and the provider's name if the package shows it
    "anthropic": "anthropic",
    "cohere": "cohere",
    "google": "gemini",
    "groq": "groq",
    "mistralai": "mistral",
    "together": "together_ai",
    "xai_sdk": "xai",
    # LiteLLM's responses name their provider; OpenAI's SDK is used for many.
    "litellm": None,
    "openai": None,
}

_IN_USAGE: Final = {
    "cost_details": "openrouter",
    "is_byok": "openrouter",
    "cost_in_usd_ticks": "xai",
    "num_sources_used": "xai",
    "prompt_cache_hit_tokens": "deepseek",
}
_IN_RESPONSE: Final = {"x_groq": "groq", "prompt_filter_results": "azure"}


def _sender(response: Any, sdk: str | None, usage_format: UsageFormat | None, usage: Any) -> str | None:
    """Return the provider that a response shows by something only that provider sends; None if there is no such thing."""
    get, count = getter(response), getter(usage)
    if sdk == "litellm":  # a private attribute names the provider that it has asked
        asked = getter(getattr(response, "_hidden_params", None))("custom_llm_provider")
        return asked if isinstance(asked, str) and asked else None
    identifier = get("id")
    identifier = identifier if isinstance(identifier, str) else ""
    if usage_format is ANTHROPIC:
        clouds = {"msg_bdrk_": "bedrock", "msg_vrtx_": "vertex_ai"}
        return next((cloud for prefix, cloud in clouds.items() if identifier.startswith(prefix)), "anthropic")
    if usage_format is GOOGLE:
        return "gemini" if count("trafficType", "traffic_type") is None else "vertex_ai"
    if usage_format is not None:
        return {BEDROCK: "bedrock", COHERE: "cohere", PERPLEXITY: "perplexity"}[usage_format]
    if sdk is not None and _SDKS[sdk] is not None:
        return _SDKS[sdk]
    for look_up, fields in ((count, _IN_USAGE), (get, _IN_RESPONSE)):
        for field, provider in fields.items():
            if look_up(field) is not None:
                return provider
    if identifier.startswith("gen-"):
        return "openrouter"
    if get("system_fingerprint") == "fp_ollama":
        return "ollama"
    # Servers that imitate OpenAI, and serve models of any name, send such identifiers, too.
    return "openai" if identifier.startswith(("chatcmpl-", "cmpl-", "resp_")) else None
