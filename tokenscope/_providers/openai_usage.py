"""Reading a usage entry in OpenAI's words, which DSPy, LiteLLM and most providers speak: whole counts, and their parts.

Nothing that a provider sends may break the host program: what is no count is taken as 0, with one warning.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from tokenscope._scopes.event_log import warn_later
from tokenscope._usage.usage import COST, NOTHING, Counts

MOST: Final = 2**53
"""No call spends more tokens than this, nor dollars: JSON's numbers are exact up to here."""
_TICKS: Final = Decimal(10_000_000_000)
"""What xAI counts a dollar in."""
_NATIVE: Final = ("gemini/", "vertex_ai/", "vertex/", "vertex-express/")
"""How DSPy and LiteLLM name models that they ask in Google's own words; any other name of Gemini's is OpenAI's words."""

_REST: Final = NOTHING[COST + 1 :]

_READ: Final = ("cached_tokens", "cache_read_tokens", "cache_read_input_tokens")
_WRITTEN: Final = ("cache_creation_tokens", "cache_write_tokens")
_READ_BESIDE: Final = (
    "cache_read_input_tokens",  # LiteLLM and Anthropic
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Together, Moonshot
    "num_cached_tokens",  # Mistral
    "cached_prompt_text_tokens",  # xAI's SDK
)
_BESIDE: Final = frozenset(
    {*_READ_BESIDE, "cache_creation_input_tokens", "reasoning_tokens", "cost", "cost_in_usd_ticks"}
)
"""What may stand beside the details; most entries have none of it."""


def read_counts(model: str, entry: Any) -> Counts:
    """Return the tokens that one entry tells, as the counts of a `Usage` without calls.

    Chat and Responses names are both read, and other providers' names of the parts. Counts are whole: cached tokens are part
    of the prompt's, reasoning of the completion's. Where a provider counts them beside, its own total shows it.
    """

    def count(name: str, value: Any) -> int:
        return value if type(value) is int and 0 <= value <= MOST else count_of(name, value, model)

    first = reader(entry)
    spent = count("prompt_tokens", first("prompt_tokens", "input_tokens"))
    gained = count("completion_tokens", first("completion_tokens", "output_tokens"))
    total = first("total_tokens")
    read = written = heard = said = reasoning = None
    prompt = first("prompt_tokens_details", "input_tokens_details", "input_token_details")
    if prompt is not None:
        detail = reader(prompt)
        read = detail(*_READ)
        written = detail(*_WRITTEN)
        heard = detail("audio_tokens")
    completion = first("completion_tokens_details", "output_tokens_details", "output_token_details")
    if completion is not None:
        detail = reader(completion)
        reasoning = detail("reasoning_tokens", "thinking_tokens")
        said = detail("audio_tokens")
    cost = NOTHING[COST]
    if type(entry) is not dict or not _BESIDE.isdisjoint(entry):
        read = first(*_READ_BESIDE) if read is None else read
        written = first("cache_creation_input_tokens") if written is None else written
        reasoning = first("reasoning_tokens") if reasoning is None else reasoning
        cost = own_cost(entry) or cost
    cached = 0 if read is None else count("cached_tokens", read)
    stored = 0 if written is None else count("cache_creation_tokens", written)
    thought = 0 if reasoning is None else count("reasoning_tokens", reasoning)
    audio_in = 0 if heard is None else count("audio_tokens", heard)
    audio_out = 0 if said is None else count("audio_tokens", said)
    if type(total) is int:
        if total != spent + gained and total <= MOST:
            beyond = total - spent - gained
            # LiteLLM leaves out what Google does not bill, and says how much that is.
            unbilled = None if prompt is None else reader(prompt)("tool_use_tokens")
            if unbilled != beyond:
                spent, gained, thought = _beside(model, beyond, spent, gained, cached + stored, thought)
    elif (cached or stored) and prompt is None and first("prompt_tokens") is None:
        spent += cached + stored  # Anthropic's own words: what is called input is the rest
    if cached + stored > spent or thought > gained or audio_in > spent or audio_out > gained:
        # A part is at most its whole. xAI has reported more cached tokens than the prompt had.
        cached = min(cached, spent)
        stored, thought = min(stored, spent - cached), min(thought, gained)
        audio_in, audio_out = min(audio_in, spent), min(audio_out, gained)
    return 0, 0, 0, spent, gained, cached, stored, thought, audio_in, audio_out, cost, *_REST


def _beside(model: str, beyond: int, spent: int, gained: int, kept: int, thought: int) -> tuple[int, int, int]:
    """Return input, output and reasoning where a provider's total holds more, or less, than input and output together."""
    if beyond == -thought and 0 < thought <= gained:
        gained -= thought  # DSPy adds Gemini's thoughts to a completion that may have them already
    elif beyond <= 0:
        pass
    elif not spent and not gained:  # Voyage's embeddings tell a total alone
        spent = beyond
    elif beyond == thought:  # xAI and others count reasoning beside the completion
        gained += thought
    elif beyond == kept:
        spent += kept
    elif "gemini" in model and model.startswith(_NATIVE):
        spent += beyond  # what tools that Google runs gave the model to read
    elif "gemini" in model and not thought:
        gained += beyond  # Gemini's OpenAI-compatible API tells of thoughts only in the total
        thought = beyond
    return spent, gained, thought


def own_cost(entry: Any) -> Decimal | None:
    """Return what a provider itself says that a call cost, in dollars; None where it says nothing."""
    first = reader(entry)
    told = first("cost")
    if told is None:
        ticks = first("cost_in_usd_ticks")
        return None if ticks is None else (_dollars(ticks) or Decimal(0)) / _TICKS or None
    if not isinstance(told, int | float):
        return _dollars(reader(told)("total_cost")) or None  # Perplexity
    cost = _dollars(told)
    details = first("cost_details")
    if details is None:
        return cost or None
    if first("is_byok") is True:  # OpenRouter, with a key of one's own: its fee, and what the provider behind it takes
        behind = _dollars(reader(details)("upstream_inference_cost"))
        return None if behind is None else (cost or Decimal(0)) + behind
    return cost  # where OpenRouter says 0, that is the price


def _dollars(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        return None
    return Decimal(str(value))


def reader(values: Any) -> Callable[..., Any]:
    """Return a function that gives the first of some keys, or attributes, that is there and not None."""
    get = _getter(values)

    def first(*names: str) -> Any:
        for name in names:
            value = get(name)
            if value is not None:
                return value
        return None

    return first


def _getter(values: Any) -> Callable[[str], Any]:
    if isinstance(values, Mapping):
        return values.get
    more = getattr(values, "__pydantic_extra__", values)
    if more is values:
        return lambda name: getattr(values, name, None)
    return {**vars(values), **(more or {})}.get  # pydantic's own look-up of a name that is not there takes microseconds


def count_of(name: str, value: Any, model: str) -> int:
    """Return a number of tokens; 0, with one warning, for what is none."""
    if value is None:
        return 0
    if not isinstance(value, bool | float) and hasattr(type(value), "__index__"):
        try:
            whole = operator.index(value)  # numpy's integers, and the like
        except Exception:  # noqa: BLE001 - whatever it is, it is no number
            whole = -1
        if 0 <= whole <= MOST:
            return int(whole)
    if isinstance(value, float) and math.isfinite(value) and 0 <= value <= MOST and value.is_integer():
        return int(value)
    what = f"{name} of {model}"
    warn_later(
        f"usage:{what}",
        f"the provider reported {_shown(value)} as {what}, which is no number of tokens; tokenscope counts it as 0",
    )
    return 0


def _shown(value: Any) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # noqa: BLE001 - it is not ours to fail
        return f"a {type(value).__name__}"
