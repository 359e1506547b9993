"""Reading a usage in other words than OpenAI's, by genai-prices' extractors: they know what each provider counts in what.

Loaded when `record_response` is first touched, and with it the table of prices: no call waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple

from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import UsageExtractor

from tokenscope._providers.openai_usage import MOST, parse_count
from tokenscope._usage import prices as _pricing
from tokenscope._usage.usage import Usage


class UsageFormat(NamedTuple):
    """How a provider words its usage: whose extractor reads it, and where that looks for it in a response."""

    provider: str
    flavour: str
    root: tuple[str, ...]


ANTHROPIC: Final = UsageFormat("anthropic", "default", ("usage",))
BEDROCK: Final = UsageFormat("aws", "default", ("usage",))
COHERE: Final = UsageFormat("cohere", "default", ("usage",))
GOOGLE: Final = UsageFormat("google", "default", ("usageMetadata",))
PERPLEXITY: Final = UsageFormat("perplexity", "default", ("usage",))

_SAID: Final = {
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_text_tokens",
    "output_text_tokens",
    "cache_text_read_tokens",
    "cache_write_5m_tokens",
}
"""What a `Usage` says too, or costs like what it says."""


class Extracted(NamedTuple):
    """What one model spent; `cost` where a `Usage` cannot say all that has a price."""

    name: str  # the model's, as reports have it
    usage: Usage
    cost: Decimal | None


def extract(words: UsageFormat, usage: Any, name: str) -> list[Extracted]:
    """Return what a response's usage tells, by model; nothing where it has no counts.

    Args:
        words: How it is worded.
        usage: The usage, a mapping or an object.
        name: The response's model, as reports name it: for prices and warnings.
    """
    told = plain(usage, name)
    if words is ANTHROPIC:
        return _anthropic(told, name)
    if words is COHERE and isinstance(billed := told.get("billed_units"), dict) and "input_tokens" in billed:
        billed.setdefault("output_tokens", 0)  # embeddings have none
    theirs = _read(words, told)
    if theirs is None:
        return []
    if words is GOOGLE:
        _without_thoughts_twice(theirs, told)
    return [_extracted(theirs, name)]


def _anthropic(told: dict[str, Any], name: str) -> list[Extracted]:
    """Read a message's usage and its iterations: summaries and advisors are billed, and not in the counts of the message."""
    theirs = _read(ANTHROPIC, told)
    if theirs is None:
        return []
    advisors: dict[str, Any] = {}
    iterations = told.get("iterations")
    for each in iterations if isinstance(iterations, list) else []:
        kind = each.get("type") if isinstance(each, dict) else None
        if kind in ("compaction", "advisor_message") and (more := _read(ANTHROPIC, each)) is not None:
            advisor = each.get("model")
            if kind == "compaction":
                theirs = theirs + more
            elif isinstance(advisor, str) and advisor:
                advisors[advisor] = advisors.get(advisor, 0) + more
    prefix = "".join(name.rpartition("/")[:2])
    return [_extracted(theirs, name), *(_extracted(spent, prefix + model) for model, spent in advisors.items())]


def _read(words: UsageFormat, told: dict[str, Any]) -> TheirUsage | None:
    response: Any = told
    for key in reversed(words.root):
        response = {key: response}
    try:
        return _extractor(words).extract(response)[1]
    except ValueError:  # it has none of the counts
        return None


def _extractor(words: UsageFormat) -> UsageExtractor:
    provider = get_snapshot().find_provider(None, words.provider, None)
    return next(each for each in provider.extractors or () if each.api_flavor == words.flavour)


def _without_thoughts_twice(theirs: TheirUsage, told: dict[str, Any]) -> None:
    """Take thoughts out of the output again where Google's own total says that the candidates had them already."""
    counted = vars(theirs)
    thoughts, spent, gained = (counted.get(f"{part}_tokens", 0) for part in ("output_reasoning", "input", "output"))
    if thoughts and told.get("totalTokenCount") == spent + gained - thoughts:
        theirs.output_tokens = gained - thoughts


def _extracted(theirs: TheirUsage, name: str) -> Extracted:
    told = vars(theirs)
    spent, gained = int(told.get("input_tokens", 0)), int(told.get("output_tokens", 0))
    read = min(int(told.get("cache_read_tokens", 0)), spent)
    usage = Usage(
        calls=1,
        input_tokens=spent,
        output_tokens=gained,
        cache_read_tokens=read,
        cache_write_tokens=min(int(told.get("cache_write_tokens", 0)), spent - read),
        reasoning_tokens=min(int(told.get("output_reasoning_tokens", 0)), gained),
        input_audio_tokens=min(int(told.get("input_audio_tokens", 0)), spent),
        output_audio_tokens=min(int(told.get("output_audio_tokens", 0)), gained),
    )
    return Extracted(name, usage, _exact_price(theirs, name))


def _exact_price(theirs: TheirUsage, name: str) -> Decimal | None:
    """Return the price of a call that spent what a `Usage` cannot say: searches, images, an hour in the cache."""
    provider, model = _pricing.split(name)
    if name in _pricing._custom or all(key in _SAID for key, value in vars(theirs).items() if value):
        return None
    try:
        return Decimal(calc_price(theirs, model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


_VENDORS: Final = {
    "anthropic": "anthropic",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "google": "gemini",
    "mistral": "mistral",
    "moonshotai": "moonshot",
    "openai": "openai",
    "voyageai": "voyage",
    "x-ai": "xai",
}
"""Who makes models and serves them: genai-prices' names, and LiteLLM's, which are DSPy's."""


def provider_of(model: str) -> str | None:
    """Return who makes and serves a model of this name; None where that is nobody, or anybody."""
    if "/" in model:
        return None
    try:
        return _VENDORS.get(get_snapshot().find_provider(model, None, None).id)
    except LookupError:
        return None


def plain(values: Any, name: str, depth: int = 4) -> dict[str, Any]:
    """Return a usage as dicts with Google's spelling of Google's names, and only with counts that are some."""
    found: dict[str, Any] = {}
    for key, value in _items(values):
        if not isinstance(key, str) or key.startswith("_") or value is None:
            continue
        kept = _plain(key, value, name, depth)
        if kept is not None:
            found[_GOOGLE.get(key, key)] = kept
    return found


def _plain(key: str, value: Any, name: str, depth: int) -> Any:
    counts = key.endswith(("okens", "ount"))  # tokens, tokenCount, token_count
    if isinstance(value, int | float | str) or hasattr(type(value), "__index__"):
        if counts:
            return parse_count(key, value, name)
        if isinstance(value, str):
            return str(getattr(value, "value", value))  # Google's SDK has enums
        return value if type(value) is int and 0 <= value <= MOST else None
    if not depth:
        return None
    if isinstance(value, list | tuple):
        return [each for item in value if (each := _plain("", item, name, depth - 1)) is not None]
    return plain(value, name, depth - 1)


def _items(values: Any) -> list[tuple[Any, Any]]:
    if isinstance(values, Mapping):
        return list(values.items())
    if is_dataclass(values) and not isinstance(values, type):
        return [(field.name, getattr(values, field.name, None)) for field in fields(values)]
    extra = getattr(values, "__pydantic_extra__", None)
    return [*getattr(values, "__dict__", {}).items(), *(extra.items() if isinstance(extra, dict) else ())]


def _camel(name: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), name)


_GOOGLE: Final = {
    name: _camel(name)
    for name in (
        "prompt_token_count",
        "prompt_tokens_details",
        "cached_content_token_count",
        "cache_tokens_details",
        "candidates_token_count",
        "candidates_tokens_details",
        "thoughts_token_count",
        "tool_use_prompt_token_count",
        "tool_use_prompt_tokens_details",
        "total_token_count",
        "token_count",
    )
}
"""Google's names as its SDK spells them, and as its API does. (`prompt_tokens_details` is OpenAI's, too: not read here.)"""
