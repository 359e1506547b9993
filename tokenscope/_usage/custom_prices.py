"""Prices that are set: by `set_price`, or for a team by the TOML file that TOKENSCOPE_PRICES names.

["ollama/my-llama"]
input = 0.10          # dollars per million tokens
output = 0.40
cache_read = 0.01     # may be left out, as cache_write may

In a file named `pyproject.toml`, these are the tables below `[tool.tokenscope.prices]`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from decimal import Decimal
from difflib import get_close_matches
from numbers import Real
from typing import Any, Final

from tokenscope._usage.warnings import warn_once

Rates = dict[str, Decimal]
"""Dollars per million tokens, by `input`, `output`, `cache_read` and `cache_write`; the last two may be left out."""

PRICES_VARIABLE: Final = "TOKENSCOPE_PRICES"
PYPROJECT: Final = "pyproject.toml"
_NEEDED: Final = ("input", "output")
_KINDS: Final = (*_NEEDED, "cache_read", "cache_write")
_LARGEST: Final = 100  # digits before the point: sums of larger prices might overflow
_NEAREST: Final = 3
_SIMILAR: Final = 0.8

_custom: dict[str, Rates] = {}  # needs no lock, which a forked child could find held: each step is one
_files: dict[str, dict[str, Rates]] = {}  # by absolute path
_at_start: dict[str, str] = {}
"""The absolute path of the file that the environment names at first, as a program may change its folder."""
with contextlib.suppress(OSError):  # the folder may be deleted
    _at_start.update((path, os.path.abspath(path)) for path in [os.environ.get(PRICES_VARIABLE)] if path)


def set_price(
    model: str,
    *,
    input: float | Decimal,  # noqa: A002 - the usual word
    output: float | Decimal,
    cache_read: float | Decimal | None = None,
    cache_write: float | Decimal | None = None,
) -> None:
    """Set the price of a model, for reports of this process; it wins over the price table, and over TOKENSCOPE_PRICES.

    Args:
        model: The model as reports name it: `provider/model`. A name without a provider holds for every provider's model of that
            name, except those whose price is set with their provider.
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
    given = {"input": input, "output": output, "cache_read": cache_read, "cache_write": cache_write}
    _custom[model] = _checked(model, {kind: dollars for kind, dollars in given.items() if dollars is not None})


def forget_prices() -> None:
    """Forget the prices that were set, and read the file of prices anew."""
    _custom.clear()
    _files.clear()


def custom_price(model: str) -> Rates | None:
    """Return the price that was set for a model, or for all models of its name; None if there is none."""
    for prices in _all_prices():
        for name in (model, _shared_name(model)) if prices else ():
            if name in prices:
                return prices[name]
    return None


def custom_names() -> list[str]:
    """Return the names that a price was set for."""
    return list(dict.fromkeys(name for prices in _all_prices() for name in prices))


def unused_names(names: Iterable[str], models: Iterable[str]) -> tuple[str, ...]:
    """Return those of some names whose price holds for none of the models."""
    used = {name for model in models for name in (model, _shared_name(model))}
    return tuple(dict.fromkeys(name for name in names if name not in used))


def nearest(name: str, models: Iterable[str]) -> list[str]:
    """Return the models whose names are most similar to a name, whatever their providers are."""
    by_end: dict[str, list[str]] = {}
    for model in models:
        by_end.setdefault(_end(model), []).append(model)
    similar = get_close_matches(_end(name), by_end, n=_NEAREST, cutoff=_SIMILAR)
    return [model for end in similar for model in by_end[end]][:_NEAREST]


def name_at_provider(model: str) -> str:
    """Return a model's name without its provider, and without the routes that litellm has to Bedrock."""
    provider, slash, name = model.partition("/")
    if not slash:
        return model
    return name.removeprefix("converse/").removeprefix("invoke/") if provider == "bedrock" else name


def _shared_name(model: str) -> str:
    """Return the name without a provider by which the price of a model may be set; empty if only its whole name will do."""
    name = name_at_provider(model)
    return "" if "/" in name else name


def _end(name: str) -> str:
    return name.rpartition("/")[2].casefold()


def _all_prices() -> Iterator[dict[str, Rates]]:
    """Yield what the program has set, and then what the environment's file sets."""
    yield _custom
    path = os.environ.get(PRICES_VARIABLE)
    if path:
        yield _prices_in(_at_start.get(path) or os.path.abspath(path))


def _prices_in(path: str) -> dict[str, Rates]:
    if path not in _files:
        try:
            load_prices(path)
        except (OSError, ValueError) as error:
            _files[path] = {}
            warn_once(f"{PRICES_VARIABLE}:{path}", f"{PRICES_VARIABLE}: {error}. No price of this file is used")
    return _files[path]


def load_prices(path: str) -> str:
    """Read a file of prices, to look them up when TOKENSCOPE_PRICES names it, and return its absolute path.

    An OSError or ValueError names the file, the model and what is wrong.
    """
    absolute = os.path.abspath(path)
    _files[absolute] = _read(path)
    return absolute


def _read(path: str) -> dict[str, Rates]:
    import tomllib

    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from None
    try:
        tables = tomllib.loads(content.decode("utf-8-sig"), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is no TOML: {error}") from None
    if os.path.basename(path) == PYPROJECT:
        try:
            tables = tables["tool"]["tokenscope"]["prices"]
        except (KeyError, TypeError):
            raise ValueError(f"{path}: it has no [tool.tokenscope.prices]") from None
    prices: dict[str, Rates] = {}
    for model, table in tables.items():
        try:
            prices[model] = _checked(model, _price_table(table))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {model!r}: {error}") from None
    return prices


def _price_table(table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise TypeError(f"a table with input and output is needed, not {type(table).__name__} {table!r}")
    for key, value in table.items():
        if key not in _KINDS:
            advice = "; a name with a dot needs quotes" if isinstance(value, dict) else ""
            raise ValueError(f"unknown key {key!r}; known are {', '.join(_KINDS)}{advice}")
    for kind in _NEEDED:
        if kind not in table:
            raise ValueError(f"it lacks {kind}")
    return table


def _checked(model: object, prices: dict[str, Any]) -> Rates:
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, not {type(model).__name__} {model!r}")
    if not model.strip():
        raise ValueError(f"model must not be empty, but is {model!r}")
    return {kind: _dollars(kind, value) for kind, value in prices.items()}


def _dollars(kind: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError(f"{kind} must be dollars per million tokens, a number, not {type(value).__name__} {value!r}")
    dollars = Decimal(str(value))
    if not dollars.is_finite() or dollars < 0:
        raise ValueError(f"{kind} must be dollars per million tokens, 0 or more, but is {value}")
    if dollars and dollars.adjusted() > _LARGEST:
        raise ValueError(f"{kind} must be dollars per million tokens, but {value} is out of all proportion")
    return dollars
