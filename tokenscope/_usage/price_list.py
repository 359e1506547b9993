"""Price: where a cost comes from, and what it was reckoned with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from tokenscope._usage.keys import COST_IS_KNOWN, UsageKey
from tokenscope._usage.price_dates import earlier_moments
from tokenscope._usage.prices import known_rates, table_version, tier_start

BY_HAND: Final = "set_price"
TABLE: Final = "genai-prices"
SOURCES: Final = ("provider", BY_HAND, TABLE)
"""Where a price comes from: the provider or the caller told the cost; the price was set; or the price table."""


class Price(NamedTuple):
    """One price that a report's costs were reckoned with.

    Args:
        model: `provider/model`, as the caller named it.
        tier: It holds for prompts with more tokens than that; 0 if there is no shorter tier.
        source: `provider`, if the provider or the caller told the cost of each call; `set_price`, also if a team's file
            set it; or `genai-prices`.
        version: The version of genai-prices.
        since: From when on the price holds: a UTC date, or date and time of day; empty if it has never changed.
        terms: Which service was used, if not the usual one: `{"service_tier": "flex"}`.
        rates: Dollars per million tokens, by kind; `calls` per million calls. Kinds that cost the same as other input or output
            are left out. Empty if each call has a cost of its own: the provider told it, or the call used more than tokens, such
            as searches.
    """

    model: str
    tier: int
    source: str
    version: str = ""
    since: str = ""
    terms: Mapping[str, str] = {}
    rates: Mapping[str, Decimal] = {}


def price_source(key: UsageKey) -> str | None:
    """Return where the price of one key comes from: one of `SOURCES`; `none`, if its calls cost nothing; None, if unknown."""
    if key.source in COST_IS_KNOWN:
        return TABLE if key.source == "call" else key.source
    found = known_rates(key)
    return None if found is None else BY_HAND if found[0] else TABLE


def price_of(key: UsageKey) -> Price | None:
    """Return the price of one key; None if its calls have none, or an unknown one."""
    if key.source == "none" or key.is_repeated:
        return None
    if key.source == "provider":
        return Price(key.model, 0, "provider")
    if key.source == "call":
        return Price(key.model, 0, TABLE, table_version())
    found = known_rates(key)
    if found is None:
        return None
    by_hand, rates = found
    if by_hand:
        return Price(key.model, 0, BY_HAND, rates=rates)
    return Price(key.model, tier_start(key), TABLE, table_version(), _since(key), dict(key.terms), rates)


def _since(key: UsageKey) -> str:
    """Return since when the price of a key has held: at some dates, only the prices of other services have changed."""
    first = key.moment
    for earlier in earlier_moments(key.model, key.moment):
        if known_rates(key._replace(moment=earlier)) != known_rates(key):
            break
        first = earlier
    return first.removeprefix("1970-01-01").removeprefix("T")


def prices_of(keys: Iterable[UsageKey]) -> tuple[Price, ...]:
    """Return the prices of some keys, without doublets."""
    return merged(found for key in keys if (found := price_of(key)) is not None)


def merged(prices: Iterable[Price]) -> tuple[Price, ...]:
    """Return prices in the order of their models, without doublets."""
    found: list[Price] = []
    for price in sorted(prices, key=lambda each: (*each[:5], sorted(each.terms.items()), sorted(each.rates.items()))):
        if not found or price != found[-1]:
            found.append(price)
    return tuple(found)
