"""Names of providers and models: `provider/model` in reports, two attributes in OpenTelemetry."""

from __future__ import annotations

from typing import Final

_OTEL_NAMES: Final = {
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
"""Providers' names in reports, and OpenTelemetry's current names if they differ."""

_REPORT_NAMES: Final = {
    **{theirs: ours for ours, theirs in _OTEL_NAMES.items()},
    "aws": "bedrock",
    "aws_bedrock": "bedrock",
    "az.ai.inference": "azure_ai",
    "az.ai.openai": "azure",
    "gcp.gen_ai": "gemini",
    "google": "gemini",
    "google-gla": "gemini",
    "google-vertex": "vertex_ai",
    "google_genai": "gemini",
    "mistralai": "mistral",
    "vertexai": "vertex_ai",
}
"""Providers' names in the conventions, old and new, and their names in reports, which are DSPy's and litellm's."""


def report_name(provider: str | None, model: str) -> str:
    """Return a model's name as reports have it: with its provider.

    Example:
        >>> report_name("aws.bedrock", "amazon.nova-micro-v1:0"), report_name("openai", "openai/gpt-5-mini")
        ('bedrock/amazon.nova-micro-v1:0', 'openai/gpt-5-mini')
    """
    if provider is None:
        return model
    provider = _REPORT_NAMES.get(provider.lower(), provider.lower())
    return model if model.startswith(f"{provider}/") else f"{provider}/{model}"


def request_attributes(model: str) -> dict[str, str]:
    """Return OpenTelemetry's attributes for a model that has this name in reports.

    Example:
        >>> request_attributes("gemini/gemini-2.5-flash")
        {'gen_ai.provider.name': 'gcp.gemini', 'gen_ai.request.model': 'gemini-2.5-flash'}
    """
    provider, slash, name = model.partition("/")
    if not slash:
        return {"gen_ai.request.model": model}
    return {"gen_ai.provider.name": _OTEL_NAMES.get(provider, provider), "gen_ai.request.model": name}
