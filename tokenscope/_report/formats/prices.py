"""The prices that a report's costs were reckoned with, as rows of text, for the formats that show them folded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from tokenscope._report.formats.text import number, printable
from tokenscope._usage.price_list import TABLE, Price

TITLE: Final = "Prices"
HEADS: Final = ("Model", "Source", "Holds for", "Input", "Output", "Other")
NOTE: Final = "Dollars per million tokens."


def price_rows(prices: Iterable[Price], write: Callable[[str], str] = printable) -> list[tuple[str, ...]]:
    """Return a row of text for each price. `write` writes a model's name as the format does."""
    return [(write(price.model), _source(price), _validity(price), *_rates(price)) for price in prices]


def _source(price: Price) -> str:
    if price.source != TABLE:
        return "told with each call" if price.source == "provider" else price.source
    since = f", since {price.since.replace('T', ' ')} UTC" if price.since else ""
    return printable(f"{price.source} {price.version}{since}")


def _validity(price: Price) -> str:
    if price.source == TABLE and not price.rates:
        return "calls that used more than tokens"
    conditions = [f"prompts over {price.tier:,} tokens"] if price.tier else []
    conditions += [f"{name.replace('_', ' ')} {value}" for name, value in price.terms.items()]
    return printable(", ".join(conditions))


def _rates(price: Price) -> tuple[str, str, str]:
    rates = {name.removesuffix("_tokens").replace("_", " "): f"${number(rate)}" for name, rate in price.rates.items()}
    first, second = (rates.pop(name, "") for name in ("input", "output"))
    return first, second, ", ".join(f"{printable(name)} {rate}" for name, rate in rates.items())
