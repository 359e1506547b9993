"""What tokens cost, in dollars: by prices that were set, or by genai-prices' table. The only file that names genai-prices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any, Final

from tokenscope._usage.custom_prices import Rates, custom_names, custom_price, name_at_provider
from tokenscope._usage.keys import COST_IS_KNOWN, Terms, UsageKey
from tokenscope._usage.price_dates import PriceDates, moment_as_datetime, settled, use_table
from tokenscope._usage.price_tiers import tier_edges
from tokenscope._usage.usage import ARITHMETIC, NO_DOLLARS, Counts, Usage

_MILLION: Final = 1_000_000
_PROVIDERS: Final = {
    "fireworks_ai": "fireworks",
    "bedrock_converse": "bedrock",
    "azure_ai": "azure",
    "chatgpt": "openai",
}
"""Providers that litellm calls otherwise than genai-prices does."""


def priced(key: UsageKey, counts: Counts) -> Usage:
    """Return what the calls of one key spent, with its cost where that was not told."""
    if key.source in COST_IS_KNOWN:
        return Usage.from_counts(counts)
    cost = _price(key, counts, key.terms)
    if cost is None:
        return Usage.from_counts(counts, unpriced_calls=counts.calls or 1)
    return Usage.from_counts(counts._replace(cost=cost))


def settle(key: UsageKey) -> UsageKey:
    """Return a key without what its price does not depend on, as far as the table of prices is loaded."""
    if key.source in COST_IS_KNOWN or not (key.moment or key.terms):
        return key
    known_terms = _conditions(key.model)[1]
    terms = tuple(each for each in key.terms if each in known_terms)
    return key._replace(moment=settled(key.model, key.moment), terms=terms)


def repriced(key: UsageKey, usage: Usage) -> Usage:
    """Return a usage with the cost that it has by another key than its own."""
    if key.source == "none":
        return usage
    cost = _price(key, usage)
    return replace(usage, cost=cost, unpriced_calls=usage.calls or 1 if cost is None else 0)


def check_priced(model: object) -> None:
    """Raise a ValueError for a model without a known price. It shows the nearest models that have one."""
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__} {model!r}")
    if price(model, Usage(), 0) is None:
        near = get_close_matches(model, known_models())
        raise ValueError(
            f"no price is known of {model!r}"
            + (f"; the nearest: {', '.join(map(repr, near))}" if near else "")
            + f". set_price({model!r}, input=..., output=...) tells one"
        )


def known_models() -> list[str]:
    """Return the names, `provider/model`, of those whose price was set by hand or is in the table."""
    return custom_names() + [
        f"{provider.id}/{model.id}" for provider in _table().providers for model in provider.models
    ]


def _price(key: UsageKey, usage: Usage | Counts, terms: Terms = ()) -> Decimal | None:
    # What a call itself costs, if it costs anything besides its tokens, is of no part of its prompt.
    return price(key.model, usage, key.tier, key.moment, terms, with_calls=key.part is None)


def price(
    model: str, usage: Usage | Counts, tier: int, moment: str = "", terms: Terms = (), *, with_calls: bool = True
) -> Decimal | None:
    """Return what calls of one model, whose price depends on the same, cost together in dollars; None if unknown."""
    custom = custom_price(model)
    if custom is not None:
        return _by_hand(custom, usage)
    rates = _rates(model, tier, moment, terms)
    if rates is None:
        return None
    per_call, rate_of = rates
    return _total(
        [
            (per_call, usage.calls if with_calls else 0),
            *((rate, getattr(usage, part)) for part, rate in rate_of.items()),
        ]
    )


def _by_hand(prices: Rates, usage: Usage | Counts) -> Decimal:
    read, written = usage.cache_read_tokens, usage.cache_write_tokens
    whole = prices["input"]
    cost = _total(
        [
            (whole, usage.input_tokens - read - written),
            (prices["output"], usage.output_tokens),
            (prices.get("cache_read", whole), read),
            (prices.get("cache_write", whole), written),
        ]
    )
    return ARITHMETIC.normalize(ARITHMETIC.divide(cost, _MILLION)) or NO_DOLLARS


def _total(parts: Iterable[tuple[Decimal, int]]) -> Decimal:
    """Add up rates times counts; at least 0, even if another program's file holds more cached tokens than prompts had."""
    total = NO_DOLLARS
    for rate, count in parts:
        if count:
            total = ARITHMETIC.add(total, ARITHMETIC.multiply(rate, count))
    return ARITHMETIC.normalize(total) if total > 0 else NO_DOLLARS


_PARTS: Final = {
    "cache_read_tokens": ("input_tokens", "cache_read_tokens"),
    "cache_write_tokens": ("input_tokens", "cache_write_tokens"),
    "cache_write_1h_tokens": ("cache_write_tokens", "cache_write_1h_tokens"),
    "input_audio_tokens": ("input_tokens", "input_audio_tokens"),
    "reasoning_tokens": ("output_tokens", "output_reasoning_tokens"),
    "output_audio_tokens": ("output_tokens", "output_audio_tokens"),
}
"""Our parts of input and output, and genai-prices' names for the whole and the part."""


@lru_cache(maxsize=4_096)
def _rates(model: str, tier: int, moment: str, terms: Terms) -> tuple[Decimal, dict[str, Decimal]] | None:
    """Return the price of a call itself and of one token of each kind, found by asking genai-prices about single changes.

    A part's rate is what a token of it costs more, or less, than a plain one of its whole.
    """
    edges = tier_edges()
    length = edges[tier] if tier < len(edges) else edges[-1] + 1
    questions = {
        "per_call": {"input_tokens": 0, "output_tokens": 0},
        "input_tokens": {"input_tokens": length, "output_tokens": 0},
        "output_tokens": {"input_tokens": length, "output_tokens": length},
    }
    for ours, (whole, theirs) in _PARTS.items():
        outputs = length if whole == "output_tokens" else 0
        questions[ours] = {"input_tokens": length, "output_tokens": outputs, whole: length, theirs: length}
    with localcontext(ARITHMETIC):
        costs: dict[str, Decimal] = {}
        for name, counts in questions.items():
            cost = calc_price(model, counts, moment, terms)
            if cost is None:
                return None
            costs[name] = cost
        wholes = {"input_tokens": "per_call", "output_tokens": "input_tokens"}
        wholes.update((ours, whole) for ours, (whole, _) in _PARTS.items())
        rates = {name: (costs[name] - costs[whole]) / length for name, whole in wholes.items()}
    return costs["per_call"], rates


def calc_price(model: str, counts: dict[str, Any], moment: str = "", terms: Terms = ()) -> Decimal | None:
    """Return what genai-prices says that one call costs, by its own names of the counts; None if it does not know."""
    found = _calculation(model, counts, moment, terms)
    return None if found is None else Decimal(found.total_price)


def _calculation(model: str, counts: dict[str, Any], moment: str, terms: Terms) -> Any:
    from genai_prices import Usage as TheirUsage

    provider, name = split(model)
    made = moment_as_datetime(moment) if moment else None
    try:
        return _table().calc(TheirUsage(**counts), name, provider, None, made, dict(terms) or None)
    except (LookupError, ValueError):
        return None


def known_rates(key: UsageKey) -> tuple[bool, dict[str, Decimal]] | None:
    """Return whether a price was set by hand, and a million tokens' price by kind, less parts that cost as their whole does."""
    custom = custom_price(key.model)
    if custom is not None:
        return True, {f"{name}_tokens": rate for name, rate in custom.items()}
    found = _rates(key.model, key.tier, key.moment, key.terms)
    if found is None:
        return None
    per_call, differences = found
    rates = {"calls": per_call} if per_call else {}
    for part in ("input_tokens", "output_tokens"):
        rates[part] = differences[part]
    for part, (whole, _) in _PARTS.items():
        if differences[part]:
            rates[part] = ARITHMETIC.add(rates.get(whole, differences["input_tokens"]), differences[part])
    return False, {part: ARITHMETIC.normalize(ARITHMETIC.multiply(rate, _MILLION)) for part, rate in rates.items()}


def tier_start(key: UsageKey) -> int:
    """Return how many tokens the prompts of a key's price tier exceed, as the table of prices says; 0 for the lowest."""
    if not key.tier:
        return 0
    shortest = tier_edges()[key.tier - 1]
    found = _calculation(key.model, {"input_tokens": shortest + 1, "output_tokens": 1}, key.moment, key.terms)
    rates = vars(found.model_price).values() if found is not None else ()
    starts = (tier.start for rate in rates for tier in getattr(rate, "tiers", None) or ())
    return max((start for start in starts if start <= shortest), default=0)


@cache
def table_version() -> str:
    """Return the version of genai-prices."""
    from importlib.metadata import version

    return version("genai-prices")


def load_table() -> None:
    """Load the table of prices now, and the file of those that are set, which is else done when a price is first looked up."""
    _table()
    custom_names()


def _table() -> Any:
    from genai_prices.data_snapshot import get_snapshot

    use_table(_dates_of)
    return get_snapshot()


def model_info(model: str) -> Any:
    """Return what genai-prices knows of a model, a `ModelInfo`; None if it does not know the model."""
    provider, name = split(model)
    try:
        return _table().find_provider_model(name.lower(), None, provider, None)[1]
    except (LookupError, ValueError):
        return None


@cache
def _conditions(model: str) -> tuple[list[Any], Terms]:
    """Return on which dates and times, and on which terms, the table makes the price of a model depend."""
    info = model_info(model)
    if info is None:
        return [], ()
    variants = info.price_variants or ()
    prices = info.prices if isinstance(info.prices, list) else ()
    constraints = [each.constraint for each in (*prices, *variants) if each.constraint is not None]
    return constraints, tuple(term for each in variants for term in each.when.items())


@lru_cache(maxsize=4_096)
def _dates_of(model: str) -> PriceDates:
    constraints = _conditions(model)[0]
    dates = {each.start_date.isoformat() for each in constraints if hasattr(each, "start_date")}
    times = [(each.start_time, each.end_time) for each in constraints if hasattr(each, "start_time")]
    clock = {
        datetime.combine(date(2000, 1, 1), edge if edge.tzinfo else edge.replace(tzinfo=UTC)).astimezone(UTC)
        for pair in times
        for edge in pair
    }
    return PriceDates(tuple(sorted(dates)), tuple(sorted(f"{edge:%H:%M}" for edge in clock)))


def split(model: str) -> tuple[str | None, str]:
    """Split a model's name, as DSPy, litellm and OpenRouter write it, into provider and model; without one, None."""
    provider, slash, _ = model.partition("/")
    return _PROVIDERS.get(provider, provider) if slash else None, name_at_provider(model)
