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
from tokenscope._usage.usage import ZERO_COUNTS, Counts

MOST: Final = 2**53
"""No call spends more tokens than this, nor dollars: JSON's numbers are exact up to here."""
_TICKS: Final = Decimal(10_000_000_000)
"""What xAI counts a dollar in."""
_NATIVE: Final = ("gemini/", "vertex_ai/", "vertex/", "vertex-express/")
"""How DSPy and LiteLLM name models that they ask in Google's own words; any other name of Gemini's is OpenAI's words."""

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

_PLAIN: Final = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
)
_PLAIN_PROMPT: Final = frozenset({"cached_tokens"})
_PLAIN_COMPLETION: Final = frozenset({"reasoning_tokens"})
_NO_DETAILS: Final[dict[str, Any]] = {}


def read_counts(model: str, entry: Any) -> Counts:
    """Return the tokens that one usage entry reports, as counts without calls.

    Chat and Responses names are both read, and other providers' names of the parts. Counts are whole: cached tokens are part
    of the prompt's, reasoning of the completion's. If a provider counts them beside, its own total shows it.
    """
    if type(entry) is dict:  # nearly all are plain: whole counts, their usual parts, and a total that agrees
        input_tokens, output_tokens = entry.get("prompt_tokens"), entry.get("completion_tokens")
        prompt = entry.get("prompt_tokens_details") or _NO_DETAILS
        completion = entry.get("completion_tokens_details") or _NO_DETAILS
        if (
            type(input_tokens) is int
            and type(output_tokens) is int
            and 0 <= input_tokens <= MOST >= output_tokens >= 0
            and entry.get("total_tokens") == input_tokens + output_tokens
            and entry.keys() <= _PLAIN
            and type(prompt) is dict
            and type(completion) is dict
            and prompt.keys() <= _PLAIN_PROMPT
            and completion.keys() <= _PLAIN_COMPLETION
        ):
            cache_read, reasoning = prompt.get("cached_tokens") or 0, completion.get("reasoning_tokens") or 0
            if (
                type(cache_read) is int
                and type(reasoning) is int
                and 0 <= cache_read <= input_tokens
                and 0 <= reasoning <= output_tokens
            ):
                return Counts(0, 0, 0, input_tokens, output_tokens, cache_read, 0, reasoning)
    return _read_any(model, entry)


def _read_any(model: str, entry: Any) -> Counts:

    def count(name: str, value: Any) -> int:
        return value if type(value) is int and 0 <= value <= MOST else parse_count(name, value, model)

    get = getter(entry)
    input_tokens = count("prompt_tokens", get("prompt_tokens", "input_tokens"))
    output_tokens = count("completion_tokens", get("completion_tokens", "output_tokens"))
    total = get("total_tokens")
    read = written = audio_in = audio_out = thought = None
    prompt = get("prompt_tokens_details", "input_tokens_details", "input_token_details")
    if prompt is not None:
        detail = getter(prompt)
        read = detail(*_READ)
        written = detail(*_WRITTEN)
        audio_in = detail("audio_tokens")
    completion = get("completion_tokens_details", "output_tokens_details", "output_token_details")
    if completion is not None:
        detail = getter(completion)
        thought = detail("reasoning_tokens", "thinking_tokens")
        audio_out = detail("audio_tokens")
    cost = ZERO_COUNTS.cost
    if type(entry) is not dict or not _BESIDE.isdisjoint(entry):
        read = get(*_READ_BESIDE) if read is None else read
        written = get("cache_creation_input_tokens") if written is None else written
        thought = get("reasoning_tokens") if thought is None else thought
        cost = reported_cost(entry) or cost
    cache_read = 0 if read is None else count("cached_tokens", read)
    cache_write = 0 if written is None else count("cache_creation_tokens", written)
    reasoning = 0 if thought is None else count("reasoning_tokens", thought)
    input_audio = 0 if audio_in is None else count("audio_tokens", audio_in)
    output_audio = 0 if audio_out is None else count("audio_tokens", audio_out)
    if type(total) is int:
        if total != input_tokens + output_tokens and total <= MOST:
            beyond = total - input_tokens - output_tokens
            # LiteLLM leaves out what Google does not bill, and says how much that is.
            unbilled = None if prompt is None else getter(prompt)("tool_use_tokens")
            if unbilled != beyond:
                input_tokens, output_tokens, reasoning = _reconcile_total(
                    model, beyond, input_tokens, output_tokens, cache_read + cache_write, reasoning
                )
    elif (cache_read or cache_write) and prompt is None and get("prompt_tokens") is None:
        input_tokens += cache_read + cache_write  # Anthropic's own words: what is called input is the rest
    # A part is at most its whole. xAI has reported more cached tokens than the prompt had.
    cache_read = min(cache_read, input_tokens)
    cache_write = min(cache_write, input_tokens - cache_read)
    reasoning = min(reasoning, output_tokens)
    input_audio = min(input_audio, input_tokens)
    output_audio = min(output_audio, output_tokens)
    return Counts(
        0, 0, 0, input_tokens, output_tokens, cache_read, cache_write, reasoning, input_audio, output_audio, cost
    )


def _reconcile_total(
    model: str, beyond: int, input_tokens: int, output_tokens: int, cached: int, reasoning: int
) -> tuple[int, int, int]:
    """Return input, output and reasoning if a provider's total is more, or less, than input and output together."""
    if beyond == -reasoning and 0 < reasoning <= output_tokens:
        output_tokens -= reasoning  # DSPy adds Gemini's thoughts to a completion that may have them already
    elif beyond <= 0:
        pass
    elif not input_tokens and not output_tokens:  # Voyage's embeddings report a total alone
        input_tokens = beyond
    elif beyond == reasoning:  # xAI and others count reasoning beside the completion
        output_tokens += reasoning
    elif beyond == cached:
        input_tokens += cached
    elif "gemini" in model and model.startswith(_NATIVE):
        input_tokens += beyond  # what tools that Google runs gave the model to read
    elif "gemini" in model and not reasoning:
        output_tokens += beyond  # Gemini's OpenAI-compatible API reports thoughts only in the total
        reasoning = beyond
    return input_tokens, output_tokens, reasoning


def reported_cost(entry: Any) -> Decimal | None:
    """Return what a provider itself says that a call cost, in dollars; None where it says nothing."""
    first = getter(entry)
    told = first("cost")
    if told is None:
        ticks = first("cost_in_usd_ticks")
        return None if ticks is None else (_dollars(ticks) or Decimal(0)) / _TICKS or None
    if not isinstance(told, int | float):
        return _dollars(getter(told)("total_cost")) or None  # Perplexity
    cost = _dollars(told)
    details = first("cost_details")
    if details is None:
        return cost or None
    if first("is_byok") is True:  # OpenRouter, with a key of one's own: its fee, and what the provider behind it takes
        behind = _dollars(getter(details)("upstream_inference_cost"))
        return None if behind is None else (cost or Decimal(0)) + behind
    return cost  # where OpenRouter says 0, that is the price


def _dollars(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        return None
    return Decimal(str(value))


def getter(values: Any) -> Callable[..., Any]:
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


def parse_count(name: str, value: Any, model: str) -> int:
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
