"""Reading usage in other formats than OpenAI's, with genai-prices' extractors, which know what each provider counts.

This module loads the price table. It is imported when `record_response` is first touched, so that no call waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple

from genai_prices import Usage as TheirUsage
from genai_prices.data_snapshot import get_snapshot

from tokenscope._providers.openai_usage import MOST, bounded_counts, parse_count
from tokenscope._usage.custom_prices import custom_price
from tokenscope._usage.keys import PriceSource, Terms
from tokenscope._usage.price_dates import HALF_HOUR, moment_of
from tokenscope._usage.prices import calc_price
from tokenscope._usage.usage import TOKENS, Counts


class UsageFormat(NamedTuple):
    """How a provider writes usage: genai-prices' name of the provider, and where its extractor finds usage in a response."""

    provider: str
    key: str = "usage"


ANTHROPIC: Final = UsageFormat("anthropic")
BEDROCK: Final = UsageFormat("aws")
COHERE: Final = UsageFormat("cohere")
GOOGLE: Final = UsageFormat("google", "usageMetadata")
PERPLEXITY: Final = UsageFormat("perplexity")

_PRICED_BY_COUNTS: Final = {  # genai-prices' counts that `Counts` has too, or that cost the same as one it has
    *TOKENS,
    "output_reasoning_tokens",
    "input_text_tokens",
    "output_text_tokens",
    "cache_text_read_tokens",
    "cache_write_5m_tokens",
}


class ReportedCall(NamedTuple):
    """The call of one model, as a response reports it."""

    name: str  # the model's, as reports name it
    counts: Counts
    cost_source: PriceSource | None = None  # if the counts do not show it


def extract(usage_format: UsageFormat, usage: Any, name: str, started: float, terms: Terms) -> list[ReportedCall]:
    """Return the calls that usage reports, one for each model (`name` is the response's); none if it has no counts."""
    values = plain(usage, name)

    def reported_call(theirs: TheirUsage, name: str) -> ReportedCall:
        return _reported_call(theirs, name, moment_of(name, int(started // HALF_HOUR)), terms)

    if usage_format is ANTHROPIC:
        return [reported_call(theirs, model) for model, theirs in _anthropic(values, name)]
    if usage_format is COHERE and isinstance(billed := values.get("billed_units"), dict) and "input_tokens" in billed:
        billed.setdefault("output_tokens", 0)  # embeddings have none
    if (theirs := _read(usage_format, values)) is None:
        return []
    if usage_format is GOOGLE:
        _count_thoughts_once(theirs, values)
    return [reported_call(theirs, name)]


def _anthropic(values: dict[str, Any], name: str) -> list[tuple[str, TheirUsage]]:
    """Read a message's usage and its iterations: summaries and advisors are billed, but the message's counts exclude them."""
    if (theirs := _read(ANTHROPIC, values)) is None:
        return []
    advisors: dict[str, Any] = {}
    iterations = values.get("iterations")
    for each in iterations if isinstance(iterations, list) else []:
        kind = each.get("type") if isinstance(each, dict) else None
        if kind in ("compaction", "advisor_message") and (more := _read(ANTHROPIC, each)) is not None:
            advisor = each.get("model")
            if kind == "compaction":
                theirs = theirs + more
            elif isinstance(advisor, str) and advisor:
                advisors[advisor] = advisors.get(advisor, 0) + more
    prefix = "".join(name.rpartition("/")[:2])
    return [(name, theirs), *((prefix + model, spent) for model, spent in advisors.items())]


def _read(usage_format: UsageFormat, values: dict[str, Any]) -> TheirUsage | None:
    provider = get_snapshot().find_provider(None, usage_format.provider, None)
    extractor = next(each for each in provider.extractors or () if each.api_flavor == "default")
    try:
        return extractor.extract({usage_format.key: values})[1]
    except Exception:  # noqa: BLE001 - it has none of the counts (a ValueError), or a part is of a kind no provider sends
        return None


def _count_thoughts_once(theirs: TheirUsage, values: dict[str, Any]) -> None:
    """Subtract thoughts from the output if Google's own total shows that the candidates include them already."""
    counts = vars(theirs)
    thoughts, prompt, output = (counts.get(f"{part}_tokens", 0) for part in ("output_reasoning", "input", "output"))
    if thoughts and values.get("totalTokenCount") == prompt + output - thoughts:
        theirs.output_tokens = output - thoughts


def _reported_call(theirs: TheirUsage, name: str, moment: str, terms: Terms) -> ReportedCall:
    parts = ("cache_read", "cache_write", "cache_write_1h", "output_reasoning", "input_audio", "output_audio")
    # Attributes that are missing here are inferred from others.
    tokens = [int(vars(theirs).get(f"{part}_tokens", 0)) for part in ("input", "output", *parts)]
    cost = _exact_cost(theirs, name, moment, terms)
    counts = bounded_counts(tokens[0], tokens[1], tokens[2:], cost)._replace(calls=1)
    return ReportedCall(name, counts, None if cost is None else "call")


def _exact_cost(theirs: TheirUsage, name: str, moment: str, terms: Terms) -> Decimal | None:
    """Return the cost of a call that used something `Counts` has no count of: searches, images."""
    counts_tell_all = all(part in _PRICED_BY_COUNTS for part, value in vars(theirs).items() if value)
    if counts_tell_all or custom_price(name) is not None:
        return None
    return calc_price(name, vars(theirs), moment, terms)


_VENDORS: Final = {  # providers that serve models of their own: genai-prices' names, and the names in LiteLLM and DSPy
    **{name: name for name in ("anthropic", "cohere", "deepseek", "mistral", "openai")},
    "google": "gemini",
    "moonshotai": "moonshot",
    "voyageai": "voyage",
    "x-ai": "xai",
}


def vendor_of(model: str) -> str | None:
    """Return the provider that makes and serves a model; None if no one is known to, or several do."""
    if "/" in model:
        return None
    try:
        return _VENDORS.get(get_snapshot().find_provider(model, None, None).id)
    except LookupError:
        return None


def plain(values: Any, name: str, depth: int = 4) -> dict[str, Any]:
    """Return usage as plain dicts with valid counts only; Google's names are spelled as in its API."""
    found: dict[str, Any] = {}
    for key, value in _items(values):
        if not isinstance(key, str) or key.startswith("_") or value is None:
            continue
        if (kept := _plain(key, value, name, depth)) is not None:
            if _GOOGLE_NAME.fullmatch(key):
                key = re.sub("_([a-z])", lambda letter: letter[1].upper(), key)  # noqa: PLW2901
            found[key] = kept
    return found


def _plain(key: str, value: Any, name: str, depth: int) -> Any:
    if isinstance(value, int | float | str) or hasattr(type(value), "__index__"):
        if key.endswith(("okens", "ount")):  # tokens, tokenCount, token_count
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


_GOOGLE_NAME: Final = re.compile("(.*_)?token_count|(.*prompt|cache|candidates)_tokens_details")
"""Google's names in its SDK. (OpenAI has `prompt_tokens_details`, too, but its format is not read here.)"""
