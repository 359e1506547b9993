"""Reading what DSPy reports about a call: its usage entries, whole counts in one of a few shapes.

Nothing that a provider sends may break the host program: what is no count is taken as 0, with one warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tokenscope._usage import ZERO, Usage
from tokenscope.errors import warn_once


def read_entry(model: str, entry: Any) -> Usage:
    """Return the tokens that one entry of a DSPy usage tracker reports; `calls` stays 0.

    DSPy's counts are whole: cached tokens are part of the prompt's. Chat and Responses names are both read, and Anthropic's
    cache counts where they stand beside the details.
    """

    def count(name: str, value: Any) -> int:
        return _count(value, f"{name} of {model}")

    prompt = _first(entry, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    completion = _first(entry, "completion_tokens_details", "output_tokens_details", "output_token_details")
    spent = count("prompt_tokens", _first(entry, "prompt_tokens", "input_tokens"))
    gained = count("completion_tokens", _first(entry, "completion_tokens", "output_tokens"))
    reasoning = count("reasoning_tokens", _first(completion, "reasoning_tokens"))
    total = count("total_tokens", _first(entry, "total_tokens"))
    if reasoning and total == spent + gained + reasoning:
        gained += reasoning  # xAI and others count reasoning beside the completion
    return Usage(
        input_tokens=spent,
        output_tokens=gained,
        cache_read_tokens=count(
            "cached_tokens",
            _first(prompt, "cached_tokens", "cache_read_tokens") or _first(entry, "cache_read_input_tokens"),
        ),
        cache_write_tokens=count(
            "cache_creation_tokens",
            _first(prompt, "cache_creation_tokens", "cache_write_tokens")
            or _first(entry, "cache_creation_input_tokens"),
        ),
        reasoning_tokens=reasoning,
        input_audio_tokens=count("audio_tokens", _first(prompt, "audio_tokens")),
        output_audio_tokens=count("audio_tokens", _first(completion, "audio_tokens")),
    )


def read_entries(model: str, entries: list[Any]) -> Usage:
    """Return the sum of a call's entries."""
    return sum((read_entry(model, entry) for entry in entries), ZERO)


def _first(values: Any, *names: str) -> Any:
    """Return the first of some keys, or attributes, that is there and not None."""
    for name in names:
        value = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
        if value is not None:
            return value
    return None


def _count(value: Any, what: str) -> int:
    if value is None:
        return 0
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, float) and math.isfinite(value) and value >= 0 and value.is_integer():
        return int(value)
    warn_once(
        f"usage:{what}",
        f"the provider reported {value!r} as {what}, which is no number of tokens; tokenscope counts it as 0",
        stacklevel=3,
    )
    return 0
