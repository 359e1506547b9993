"""Reading usage in OpenAI's format, which DSPy, LiteLLM and most providers use: whole counts, and their parts.

Nothing that a provider sends may break the host program: a value that is not a count is read as 0, with one warning.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from tokenscope._scopes.event_log import warn_later
from tokenscope._usage.usage import NO_DOLLARS, ZERO_COUNTS, Counts

Get = Callable[..., Any]  # returns the first of some keys or attributes whose value is not None

MOST: Final = 2**53  # no call spends more tokens or dollars than this: JSON's numbers are exact up to here
_TICKS_PER_DOLLAR: Final = 10_000_000_000  # xAI reports costs in ticks
_GOOGLE_PREFIXES: Final = ("gemini/", "vertex_ai/", "vertex/", "vertex-express/")
"""How DSPy and LiteLLM name models that they ask through Google's own API. Other Gemini models use OpenAI's format."""

_CACHE_READ: Final = (
    "cache_read_input_tokens",  # LiteLLM and Anthropic
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Together, Moonshot
    "num_cached_tokens",  # Mistral
    "cached_prompt_text_tokens",  # xAI's SDK
)
_BESIDE_DETAILS: Final = frozenset(  # parts that may stand beside the details; most entries have none of them
    {*_CACHE_READ, "cache_creation_input_tokens", "cache_creation", "reasoning_tokens", "cost", "cost_in_usd_ticks"}
)

_NOTHING_CACHED: Final[dict[str, Any]] = {"cached_tokens": 0}
_NO_REASONING: Final[dict[str, Any]] = {"reasoning_tokens": 0}
_NO_COST: Final = ZERO_COUNTS.cost
_new_tuple: Any = tuple.__new__  # a named tuple's own constructor costs as much again


def read_counts(model: str, entry: Any, calls: int = 0, failed_calls: int = 0) -> Counts:
    """Return the tokens that one usage entry reports, as the counts of so many calls.

    The names of the Chat and the Responses API are read, and other providers' names of the parts. Cached tokens are part of the
    prompt's, reasoning is part of the completion's. A provider may count a part beside its whole; its own total shows that.
    """
    if type(entry) is dict and len(entry) == 5:  # DSPy's own: whole counts, their usual parts, and a total that agrees
        try:
            input_tokens = entry["prompt_tokens"]
            output_tokens = entry["completion_tokens"]
            prompt = entry["prompt_tokens_details"] or _NOTHING_CACHED
            completion = entry["completion_tokens_details"] or _NO_REASONING
            if (
                type(prompt) is type(completion) is dict
                and len(prompt) == len(completion) == 1
                and type(input_tokens) is type(output_tokens) is int
                and type(cached := prompt["cached_tokens"]) is int
                and type(reasoning := completion["reasoning_tokens"]) is int
                and 0 <= cached <= input_tokens
                and 0 <= reasoning <= output_tokens
                and input_tokens + output_tokens == entry["total_tokens"] <= MOST
            ):
                values = (calls, 0, failed_calls, input_tokens, output_tokens, cached, 0, 0, reasoning, 0, 0, _NO_COST)
                plain: Counts = _new_tuple(Counts, values)
                return plain
        except (KeyError, TypeError):
            pass  # no such entry
    return _read_any(model, entry)._replace(calls=calls, failed_calls=failed_calls)


def _read_any(model: str, entry: Any) -> Counts:
    def count(name: str, value: Any) -> int:
        return value if type(value) is int and 0 <= value <= MOST else parse_count(name, value, model)

    get = getter(entry)
    input_tokens = count("prompt_tokens", get("prompt_tokens", "input_tokens"))
    output_tokens = count("completion_tokens", get("completion_tokens", "output_tokens"))
    total = get("total_tokens")
    prompt = get("prompt_tokens_details", "input_tokens_details", "input_token_details")
    completion = get("completion_tokens_details", "output_tokens_details", "output_token_details")
    of_prompt = _get_nothing if prompt is None else getter(prompt)
    of_completion = _get_nothing if completion is None else getter(completion)
    read = of_prompt("cached_tokens", "cache_read_tokens", "cache_read_input_tokens")
    written = of_prompt("cache_creation_tokens", "cache_write_tokens")
    thought = of_completion("reasoning_tokens", "thinking_tokens")
    lifetimes = of_prompt("cache_creation_token_details")
    cost = None
    if type(entry) is not dict or not _BESIDE_DETAILS.isdisjoint(entry):
        read = get(*_CACHE_READ) if read is None else read
        written = get("cache_creation_input_tokens") if written is None else written
        lifetimes = get("cache_creation") if lifetimes is None else lifetimes
        thought = get("reasoning_tokens") if thought is None else thought
        cost = reported_cost(entry)
    cache_read = count("cached_tokens", read)
    cache_write = count("cache_creation_tokens", written)
    reasoning = count("reasoning_tokens", thought)
    input_audio = count("audio_tokens", of_prompt("audio_tokens"))
    output_audio = count("audio_tokens", of_completion("audio_tokens"))
    if type(total) is int:
        missing = total - input_tokens - output_tokens
        # LiteLLM leaves tokens out that Google does not bill, and says how many.
        if missing and total <= MOST and missing != of_prompt("tool_use_tokens"):
            input_tokens, output_tokens, reasoning = _reconcile_total(
                model, missing, input_tokens, output_tokens, cache_read + cache_write, reasoning
            )
    elif (cache_read or cache_write) and prompt is None and get("prompt_tokens") is None:
        input_tokens += cache_read + cache_write  # Anthropic's own format: its input excludes cached tokens
    hour = "ephemeral_1h_input_tokens"
    written_for_an_hour = 0 if lifetimes is None else count(hour, getter(lifetimes)(hour))
    parts = (cache_read, cache_write, written_for_an_hour, reasoning, input_audio, output_audio)
    return bounded_counts(input_tokens, output_tokens, parts, cost)


def bounded_counts(input_tokens: int, output_tokens: int, parts: Iterable[int], cost: Decimal | None) -> Counts:
    """Return counts; their parts are in the order of `TOKENS`."""
    # A part is at most its whole. xAI has reported more cached tokens than the prompt had.
    cache_read, cache_write, written_for_an_hour, reasoning, input_audio, output_audio = parts
    cache_read = min(cache_read, input_tokens)
    cache_write = min(cache_write, input_tokens - cache_read)
    return Counts(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cache_write_1h_tokens=min(written_for_an_hour, cache_write),
        reasoning_tokens=min(reasoning, output_tokens),
        input_audio_tokens=min(input_audio, input_tokens),
        output_audio_tokens=min(output_audio, output_tokens),
        cost=cost or ZERO_COUNTS.cost,
    )


def _reconcile_total(
    model: str, missing: int, input_tokens: int, output_tokens: int, cached: int, reasoning: int
) -> tuple[int, int, int]:
    """Return input, output and reasoning if a provider's total has `missing` tokens more (or fewer) than input and output."""
    if missing == -reasoning and 0 < reasoning <= output_tokens:
        output_tokens -= reasoning  # DSPy adds Gemini's thoughts to a completion that may include them already
    elif missing <= 0:
        pass
    elif not input_tokens and not output_tokens:  # Voyage's embeddings report a total alone
        input_tokens = missing
    elif missing == reasoning:  # xAI and others count reasoning beside the completion
        output_tokens += reasoning
    elif missing == cached:
        input_tokens += cached
    elif "gemini" in model and model.startswith(_GOOGLE_PREFIXES):
        input_tokens += missing  # what tools that Google runs gave the model to read
    elif "gemini" in model and not reasoning:
        output_tokens += missing  # Gemini's OpenAI-compatible API reports thoughts only in the total
        reasoning = missing
    return input_tokens, output_tokens, reasoning


def reported_cost(entry: Any) -> Decimal | None:
    """Return what a call cost in dollars, if the provider reports it."""
    get = getter(entry)
    if (cost := get("cost")) is None:
        ticks = get("cost_in_usd_ticks")
        return None if ticks is None else (_dollars(ticks) or NO_DOLLARS) / _TICKS_PER_DOLLAR or None
    if not isinstance(cost, int | float):
        return _dollars(getter(cost)("total_cost")) or None  # Perplexity
    dollars = _dollars(cost)
    if (details := get("cost_details")) is None:
        return dollars or None
    if get("is_byok") is True:  # OpenRouter with a key of one's own: its fee, and the price of the provider behind it
        upstream = _dollars(getter(details)("upstream_inference_cost"))
        return None if upstream is None else (dollars or NO_DOLLARS) + upstream
    return dollars  # if OpenRouter reports 0, the call was free


def _dollars(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        return None
    return Decimal(str(value))


def _get_nothing(*_: str) -> None:
    return None


def getter(values: Any) -> Get:
    """Return a function that returns the first of some keys or attributes whose value is not None."""
    look_up = _look_up(values)

    def get(*names: str) -> Any:
        for name in names:
            if (value := look_up(name)) is not None:
                return value
        return None

    return get


def _look_up(values: Any) -> Callable[[str], Any]:
    if isinstance(values, Mapping):
        return values.get
    if hasattr(values, "__pydantic_extra__"):  # pydantic takes microseconds to look up a name that is not there
        return {**vars(values), **(values.__pydantic_extra__ or {})}.get
    return lambda name: getattr(values, name, None)


def parse_count(name: str, value: Any, model: str) -> int:
    """Return a number of tokens; 0, with one warning, for anything else."""
    if value is None:
        return 0
    if not isinstance(value, bool | float) and hasattr(type(value), "__index__"):
        try:
            whole = operator.index(value)  # numpy's integers, and the like
        except Exception:  # noqa: BLE001 - an object of the provider's may raise anything
            whole = -1
        if 0 <= whole <= MOST:
            return int(whole)
    if isinstance(value, float) and 0 <= value <= MOST and value.is_integer():
        return int(value)
    try:
        shown = repr(value)[:100]
    except Exception:  # noqa: BLE001 - an object of the provider's may raise anything
        shown = f"a {type(value).__name__}"
    count = f"{name} of {model}"
    warn_later(
        f"usage:{count}",
        f"the provider reported {shown} as {count}, which is not a number of tokens; tokenscope counts it as 0",
    )
    return 0
