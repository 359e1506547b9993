"""What a response tells of the service that was used, and its price depends on: service tier, speed, batch processing."""

from __future__ import annotations

from typing import Any

from tokenscope._providers.openai_usage import getter
from tokenscope._usage.keys import Terms

_USUAL = frozenset({"auto", "default", "standard", "on_demand"})
"""What providers call the service that costs the usual price."""


def terms_of(response: Any, usage: Any) -> Terms:
    """Return what a response and its usage tell, by genai-prices' names; empty for the usual service.

    OpenAI and Groq tell the tier in the response, Anthropic the tier and the speed in its usage, Google the tier in its usage,
    and Bedrock in an object. Anthropic's tier `batch` is batch processing.
    """
    found: dict[str, str] = {}
    of_usage, of_response = getter(usage), getter(response)
    tier = of_usage("service_tier", "serviceTier") or of_response("service_tier", "serviceTier")
    if tier is not None and not isinstance(tier, str):
        tier = getter(tier)("type")
    for name, value in (("service_tier", tier), ("speed", of_usage("speed"))):
        if isinstance(value, str) and value and value.lower() not in _USUAL:
            found[name] = value.lower()
    if found.get("service_tier") == "batch":
        found["processing"] = found.pop("service_tier")
    return tuple(sorted(found.items()))
