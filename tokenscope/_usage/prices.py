"""What tokens cost, in dollars: genai-prices' table, and prices set by hand. The only file that names genai-prices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Context, Decimal, localcontext
from difflib import get_close_matches
from functools import lru_cache
from numbers import Real
from typing import Any, Final

from tokenscope._usage.keys import UsageKey
from tokenscope._usage.price_tiers import tier_edges
from tokenscope._usage.usage import Counts, Usage

_MILLION: Final = Decimal(1_000_000)
_ARITHMETIC: Final = Context(prec=50)
"""Used by name, for its methods: to enter a context sets a ContextVar, which a finaliser in Python 3.11 may not do safely."""
_PROVIDERS: Final = {
    "fireworks_ai": "fireworks",
    "bedrock_converse": "bedrock",
    "azure_ai": "azure",
    "chatgpt": "openai",
}
"""Providers that litellm calls otherwise than genai-prices does."""

_custom: dict[str, dict[str, Decimal]] = {}  # needs no lock, which a forked child could find held: each step is one


def set_price(
    model: str,
    *,
    input: float | Decimal,  # noqa: A002 - the usual word
    output: float | Decimal,
    cache_read: float | Decimal | None = None,
    cache_write: float | Decimal | None = None,
) -> None:
    """Set the price of a model, for reports of this process; it wins over the price table.

    Args:
        model: The model as reports name it: `provider/model`.
        input: Dollars per million input tokens.
        output: Dollars per million output tokens.
        cache_read: Dollars per million input tokens read from the provider's cache; like other input where left out.
        cache_write: Dollars per million input tokens written to the provider's cache; like other input where left out.

    Raises:
        TypeError: a price is no number, or the model no str.
        ValueError: a price is negative, infinite or NaN, or the model's name empty.

    Example:
        >>> from tokenscope import set_price
        >>> set_price("ollama/llama3.3", input=0, output=0)
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__} {model!r}")
    if not model.strip():
        raise ValueError(f"model must not be empty, but is {model!r}")
    given = {"input": input, "output": output, "cache_read": cache_read, "cache_write": cache_write}
    prices = {name: _dollars(name, value) for name, value in given.items() if value is not None}
    _custom[model] = prices


def has_custom_price(model: str) -> bool:
    """Return whether the price of a model was set by hand."""
    return model in _custom


def forget_prices() -> None:
    """Forget the prices that were set by hand."""
    _custom.clear()


def priced(key: UsageKey, counts: Counts) -> Usage:
    """Return what the calls of one key spent, with its cost where that was not told."""
    if key.source in ("provider", "none"):
        return Usage.from_counts(counts)
    cost = price(key.model, counts, key.tier)
    if cost is None:
        return Usage(**counts._replace(cost=Decimal(0))._asdict(), unpriced_calls=counts.calls)
    return Usage.from_counts(counts._replace(cost=cost))


def repriced(model: str, key: UsageKey, usage: Usage) -> Usage:
    """Return the usage of one key as though another model had been called, at its price in the table, whatever was told."""
    if key.source == "none":
        return usage
    cost = price(model, usage, key.tier)
    return replace(usage, cost=cost or Decimal(0), unpriced_calls=usage.calls if cost is None else 0)


def check_priced(model: object) -> None:
    """Raise for a model without a known price.

    Raises:
        TypeError: the model is no str.
        ValueError: no price is known; the message shows the nearest models that have one.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__} {model!r}")
    if price(model, Usage(calls=1, input_tokens=1), 0) is None:
        near = get_close_matches(model, known_models(), n=3, cutoff=0.6)
        raise ValueError(
            f"no price is known of {model!r}"
            + (f"; the nearest: {', '.join(map(repr, near))}" if near else "")
            + f". set_price({model!r}, input=..., output=...) tells one"
        )


def known_models() -> list[str]:
    """Return the names, `provider/model`, of those whose price was set by hand or is in the table."""
    from genai_prices.data_snapshot import get_snapshot

    return list(_custom) + [
        f"{provider.id}/{model.id}" for provider in get_snapshot().providers for model in provider.models
    ]


def price(model: str, usage: Usage | Counts, tier: int) -> Decimal | None:
    """Return what calls of one model, whose prompts are of one price tier, cost together in dollars; None if unknown."""
    custom = _custom.get(model)
    if custom is not None:
        return _by_hand(custom, usage)
    rates = _rates(model, tier)
    if rates is None:
        return None
    per_call, rate_of = rates
    return _total([(per_call, usage.calls), *((rate, getattr(usage, part)) for part, rate in rate_of.items())])


def _by_hand(prices: dict[str, Decimal], usage: Usage | Counts) -> Decimal:
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
    return _ARITHMETIC.normalize(_ARITHMETIC.divide(cost, _MILLION)) or Decimal(0)


def _total(parts: Iterable[tuple[Decimal, int]]) -> Decimal:
    """Add up rates times counts, without the zeros that arithmetic leaves behind a sum.

    Another program's file may hold more cached tokens than prompts had. That is no reason for a price below 0.
    """
    total = Decimal(0)
    for rate, count in parts:
        total = _ARITHMETIC.add(total, _ARITHMETIC.multiply(rate, count))
    return _ARITHMETIC.normalize(total) if total > 0 else Decimal(0)


_PARTS: Final = {
    "cache_read_tokens": ("input_tokens", "cache_read_tokens"),
    "cache_write_tokens": ("input_tokens", "cache_write_tokens"),
    "input_audio_tokens": ("input_tokens", "input_audio_tokens"),
    "reasoning_tokens": ("output_tokens", "output_reasoning_tokens"),
    "output_audio_tokens": ("output_tokens", "output_audio_tokens"),
}
"""Our parts of input and output, and genai-prices' names for the whole and the part."""


@lru_cache(maxsize=4_096)
def _rates(model: str, tier: int) -> tuple[Decimal, dict[str, Decimal]] | None:
    """Return the price of a call itself and of one token of each kind, found by asking genai-prices about single changes.

    A part's rate is what a token of it costs more, or less, than a plain one of its whole.
    """
    with localcontext(_ARITHMETIC):
        return _ask_for_rates(model, tier)


def _ask_for_rates(model: str, tier: int) -> tuple[Decimal, dict[str, Decimal]] | None:
    edges = tier_edges()
    length = edges[tier] if tier < len(edges) else edges[-1] + 1
    asked = {
        "per_call": _ask(model, input_tokens=0, output_tokens=0),
        "input_tokens": _ask(model, input_tokens=length, output_tokens=0),
        "output_tokens": _ask(model, input_tokens=length, output_tokens=length),
    }
    for ours, (whole, theirs) in _PARTS.items():
        counts = {"input_tokens": length, "output_tokens": length if whole == "output_tokens" else 0, theirs: length}
        asked[ours] = _ask(model, **counts)
    costs = {name: cost for name, cost in asked.items() if cost is not None}
    if len(costs) < len(asked):
        return None
    per_call, plain, written = costs["per_call"], costs["input_tokens"], costs["output_tokens"]
    rates = {"input_tokens": (plain - per_call) / length, "output_tokens": (written - plain) / length}
    for ours, (whole, _) in _PARTS.items():
        rates[ours] = (costs[ours] - (written if whole == "output_tokens" else plain)) / length
    return per_call, rates


def _ask(model: str, **counts: int) -> Decimal | None:
    from genai_prices import Usage as TheirUsage
    from genai_prices import calc_price

    provider, name = split(model)
    try:
        return Decimal(calc_price(TheirUsage(**counts), name, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


def split(model: str) -> tuple[str | None, str]:
    """Split a model's name, as DSPy, litellm and OpenRouter write it, into provider and model.

    Example:
        >>> split("openrouter/anthropic/claude-3.5-haiku"), split("gpt-5-mini")
        (('openrouter', 'anthropic/claude-3.5-haiku'), (None, 'gpt-5-mini'))
    """
    provider, slash, name = model.partition("/")
    if not slash:
        return None, model
    if provider == "bedrock":
        name = name.removeprefix("converse/").removeprefix("invoke/")
    return _PROVIDERS.get(provider, provider), name


def _dollars(name: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError(f"{name} must be dollars per million tokens, a number, not {type(value).__name__} {value!r}")
    dollars = Decimal(str(value))
    if not dollars.is_finite() or dollars < 0:
        raise ValueError(f"{name} must be dollars per million tokens, 0 or more, but is {value!r}")
    return dollars
