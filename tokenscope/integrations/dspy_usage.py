"""Reading what DSPy reports about a call: its usage entries, whole counts in one of a few shapes.

Nothing that a provider sends may break the host program: what is no count is taken as 0, with one warning.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from tokenscope._later import warn_later
from tokenscope._usage import NOTHING, ZERO, Counts, Usage


def read_counts(model: str, entry: Any) -> Counts:
    """Return the tokens that one entry of a DSPy usage tracker reports, as the counts of a `Usage` without calls.

    DSPy's counts are whole: cached tokens are part of the prompt's. Chat and Responses names are both read, and Anthropic's
    cache counts where they stand beside the details.
    """

    def count(name: str, value: Any) -> int:
        return value if type(value) is int and value >= 0 else _count(value, name, model)

    first = _reader(entry)
    spent = count("prompt_tokens", first("prompt_tokens", "input_tokens"))
    gained = count("completion_tokens", first("completion_tokens", "output_tokens"))
    read = first("cache_read_input_tokens")
    written = first("cache_creation_input_tokens")
    heard = said = reasoning = None
    prompt = first("prompt_tokens_details", "input_tokens_details", "input_token_details")
    if prompt is not None:
        detail = _reader(prompt)
        read = detail("cached_tokens", "cache_read_tokens") or read
        written = detail("cache_creation_tokens", "cache_write_tokens") or written
        heard = detail("audio_tokens")
    completion = first("completion_tokens_details", "output_tokens_details", "output_token_details")
    if completion is not None:
        detail = _reader(completion)
        reasoning = detail("reasoning_tokens")
        said = detail("audio_tokens")
    thought = 0 if reasoning is None else count("reasoning_tokens", reasoning)
    if thought and count("total_tokens", first("total_tokens")) == spent + gained + thought:
        gained += thought  # xAI and others count reasoning beside the completion
    cached = 0 if read is None else count("cached_tokens", read)
    stored = 0 if written is None else count("cache_creation_tokens", written)
    audio_in = 0 if heard is None else count("audio_tokens", heard)
    audio_out = 0 if said is None else count("audio_tokens", said)
    cost = _dollars(first("cost"))
    return 0, 0, 0, spent, gained, cached, stored, thought, audio_in, audio_out, cost, *NOTHING[11:]


def _dollars(value: Any) -> Decimal:
    """Return what a provider says that a call cost (OpenRouter does), else 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return Decimal(0)
    return Decimal(str(value))


def read_entry(model: str, entry: Any) -> Usage:
    """Return the same as a usage; `calls` stays 0."""
    return Usage.from_counts(read_counts(model, entry))


def read_entries(model: str, entries: list[Any]) -> Usage:
    """Return the sum of a call's entries."""
    return sum((read_entry(model, entry) for entry in entries), ZERO)


def _reader(values: Any) -> Callable[..., Any]:
    """Return a function that gives the first of some keys, or attributes, that is there and not None."""
    get: Callable[[str], Any] = values.get if isinstance(values, Mapping) else lambda name: getattr(values, name, None)

    def first(*names: str) -> Any:
        for name in names:
            value = get(name)
            if value is not None:
                return value
        return None

    return first


def _count(value: Any, name: str, model: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, bool | float) and hasattr(type(value), "__index__"):
        try:
            whole = operator.index(value)  # numpy's integers, and the like
        except Exception:  # noqa: BLE001 - whatever it is, it is no number
            whole = -1
        if whole >= 0:
            return int(whole)
    if isinstance(value, float) and math.isfinite(value) and value >= 0 and value.is_integer():
        return int(value)
    what = f"{name} of {model}"
    warn_later(
        f"usage:{what}",
        f"the provider reported {_shown(value)} as {what}, which is no number of tokens; tokenscope counts it as 0",
    )
    return 0


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - it is not ours to fail
        return f"a {type(value).__name__}"
