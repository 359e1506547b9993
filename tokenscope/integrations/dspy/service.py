"""Which service an LM call has used: the response tells the tier and the speed, and how long the provider caches the prompt."""

from __future__ import annotations

from typing import Any

from tokenscope._providers.openai_usage import getter, parse_count
from tokenscope._providers.terms import terms_of
from tokenscope._scopes.lm_calls import lm_call_in_progress
from tokenscope._usage.warnings import internal_error


def note_service(wrapped: Any, switch: list[bool]) -> Any:
    """`usage_dict`, which DSPy calls with each response: what it returns does not tell the service."""

    def usage_dict(response: Any, *args: Any, **kwargs: Any) -> Any:
        raw = getattr(response, "provider_data", None)
        call = lm_call_in_progress() if raw and switch else None
        if call is not None:
            read_service(call, raw)
        return wrapped(response, *args, **kwargs)

    return usage_dict


def read_service(call: Any, response: Any) -> None:
    """Note which service the response of a call tells of, as the provider or LiteLLM has sent it."""
    try:
        get = getter(response)
        usage = get("usage", "usageMetadata")
        call.terms = terms_of(response, usage)
        if (lifetimes := getter(usage)("cache_creation")) is not None:
            tokens = getter(lifetimes)("ephemeral_1h_input_tokens")
            kept = parse_count("ephemeral_1h_input_tokens", tokens, call.model)
            # DSPy may look at one response twice, and one call may have several. Kept, so that no other one has its id.
            call.__dict__.setdefault("lifetimes", {})[id(response)] = kept, response
    except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
        internal_error("reading which service was used")
