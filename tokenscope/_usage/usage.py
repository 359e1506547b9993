"""Usage: what a call, or any sum of calls, spent."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Context, Decimal
from functools import reduce
from typing import Any, Final, NamedTuple

ARITHMETIC: Final = Context(prec=50)
"""Used by name, for its methods. `Decimal(0)`, and sums by `+`, make a context of their own for the program's tasks to share, in
a ContextVar; and a finaliser in Python 3.11 may not set one of these while another is set."""
NO_DOLLARS: Final = ARITHMETIC.create_decimal(0)


class Counts(NamedTuple):
    """What one call spent, or a sum of calls: the fields of a `Usage` that are counted, before anybody asks for prices."""

    calls: int = 0
    cached_calls: int = 0
    failed_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cost: Decimal = NO_DOLLARS
    """Dollars, where the provider or the caller told them."""

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


def check_count(name: str, value: object) -> int:
    """Return `value` as a plain int, or raise a TypeError or ValueError for what cannot be a number of tokens."""
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, bool) or not (isinstance(value, float) or hasattr(type(value), "__index__")):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__} {value!r}")
    if isinstance(value, float):
        problem = "NaN or infinite" if not math.isfinite(value) else "a float"
        raise ValueError(f"{name} must be a whole number, but {value!r} is {problem}")  # noqa: TRY004 - a number it is
    count = operator.index(value)  # type: ignore[arg-type]  # numpy integers and the like
    if count < 0:
        raise ValueError(f"{name} must not be negative, but is {count}")
    return int(count)


_DIGITS: Final = 1_000
"""No amount has more, before the point or behind it: sums of such would overflow."""


def check_money(name: str, value: object) -> Decimal:
    """Return `value` as a Decimal, or raise a TypeError or ValueError for what cannot be an amount of dollars."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise TypeError(f"{name} must be a Decimal, in dollars, not {type(value).__name__} {value!r}")
    money = Decimal(value)
    if not money.is_finite() or money < 0 or (money and not -_DIGITS < money.adjusted() < _DIGITS):
        raise ValueError(f"{name} must be dollars, 0 or more, but is {value}")
    return money


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and calls: frozen, and a monoid under `+` (so `sum(usages)` works).

    Subsets are subsets: cache and audio tokens are part of input, reasoning and audio tokens part of output, cached and
    failed calls part of calls. (The convention of OpenTelemetry's GenAI attributes and of genai-prices.)

    Args:
        calls: Model calls, cached and failed ones included.
        cached_calls: Calls answered by DSPy's own response cache; they spend nothing.
        failed_calls: Calls that ended in an exception or were cancelled; they keep what they spent.
        input_tokens: Prompt tokens.
        output_tokens: Completion tokens.
        cache_read_tokens: Input tokens that the provider read from its prompt cache.
        cache_write_tokens: Input tokens that the provider wrote to its prompt cache.
        cache_write_1h_tokens: Those of them that are kept for an hour, which costs more (Anthropic, Bedrock).
        reasoning_tokens: Output tokens spent on reasoning.
        input_audio_tokens: Input tokens that are audio.
        output_audio_tokens: Output tokens that are audio.
        cost: What the priced calls cost, in dollars; None where calls spent tokens, and no call has a known price.
        unpriced_calls: Calls that spent tokens at an unknown price; the cost, if there is one, is then a lower bound.
        saved_tokens: Tokens that cached calls would have spent, where DSPy's cache still tells; part of nothing else.
        saved_cost: What those would have cost, in dollars, where their price is known.

    Raises:
        TypeError: a count is not a number, or is a bool.
        ValueError: a count is negative, fractional or NaN.

    Example:
        >>> from tokenscope import Usage
        >>> sum([Usage(calls=1, input_tokens=100, output_tokens=20), Usage(calls=1, input_tokens=5)])
        Usage(total_tokens=125, calls=2, input_tokens=105, output_tokens=20)
    """

    calls: int = 0
    cached_calls: int = 0
    failed_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    cost: Decimal | None = NO_DOLLARS
    unpriced_calls: int = 0
    saved_tokens: int = 0
    saved_cost: Decimal = NO_DOLLARS

    def __post_init__(self) -> None:
        """Check every count, and turn integer-like values (numpy's) into int."""
        for name, value in zip(FIELDS, values_of(self), strict=True):
            if name in MONEY:
                if (value or type(value) is not Decimal) and not (
                    value is None and name == "cost" and self.unpriced_calls
                ):
                    object.__setattr__(self, name, check_money(name, value))
            elif type(value) is not int or value < 0:
                object.__setattr__(self, name, check_count(name, value))
        if not self.cost and 0 < self.unpriced_calls >= self.calls:
            object.__setattr__(self, "cost", None)

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        """Add up, field by field."""
        return sum_usages((self, other)) if isinstance(other, Usage) else NotImplemented

    def __radd__(self, other: object) -> Usage:
        """Let `sum(usages)` start from 0."""
        return self if other == 0 and not isinstance(other, bool) else NotImplemented

    def __repr__(self) -> str:
        """Show what is not 0, the total first."""
        values = {"total_tokens": self.total_tokens, **dict(zip(FIELDS, values_of(self), strict=True))}
        return f"Usage({', '.join(f'{name}={value!r}' for name, value in values.items() if value or value is None)})"

    def __bool__(self) -> bool:
        """Whether anything was counted."""
        return any(values_of(self))

    @classmethod
    def from_counts(cls, counts: Counts, *, unpriced_calls: int = 0) -> Usage:
        """Return counts as a usage; with the cost that they hold, if not all calls are unpriced."""
        return unchecked((*counts, unpriced_calls, 0, NO_DOLLARS))

    @property
    def known_cost(self) -> Decimal | None:
        """The same as `cost`, which was never None in version 0.1."""
        return self.cost

    def to_dict(self) -> dict[str, int | float | None]:
        """Return the counts by name, for JSON, and `total_tokens`; without `cache_write_1h_tokens` if there are none."""
        result: dict[str, int | float | None] = {}
        for name, value in zip(FIELDS, values_of(self), strict=True):
            result[name] = float(value) if name in MONEY and value is not None else value
            if name == "output_tokens":
                result["total_tokens"] = self.total_tokens
        if not self.cache_write_1h_tokens:
            del result["cache_write_1h_tokens"]
        return result

    def _repr_html_(self) -> str:
        """Show what is not 0 as a table in a notebook."""
        from tokenscope._usage.shown import cost_of, html_table

        rows = [("total tokens", f"{self.total_tokens:,}")]
        for name, value in zip(FIELDS, values_of(self), strict=True):
            if value or value is None:
                is_part = name == "cost" and self.unpriced_calls > 0
                rows.append(
                    (name.replace("_", " "), cost_of(value, is_part=is_part) if name in MONEY else f"{value:,}")
                )
        return html_table(("",), ("",), rows)


MONEY: Final = frozenset({"cost", "saved_cost"})
"""The fields that are dollars, as Decimal; the others are counts, as int."""
FIELDS: Final = tuple(field.name for field in fields(Usage))
values_of = operator.attrgetter(*FIELDS)
"""The values of a usage's fields, in order."""
_SETTERS: Final = tuple(getattr(Usage, name).__set__ for name in FIELDS)
TOKENS: Final = FIELDS[FIELDS.index("input_tokens") : FIELDS.index("cost")]
"""The fields that are tokens."""
ZERO: Final = Usage()
ZERO_COUNTS: Final = Counts()


def unchecked(values: Sequence[Any]) -> Usage:
    """Return a usage of valid values, in the order of its fields, in a third of the time that `Usage` takes to check them."""
    usage = object.__new__(Usage)
    for set_value, value in zip(_SETTERS, values, strict=True):
        set_value(usage, value)
    if not usage.cost and 0 < usage.unpriced_calls >= usage.calls:
        _SETTERS[_COST](usage, None)
    return usage


_COST: Final = FIELDS.index("cost")
_INPUT: Final = FIELDS.index("input_tokens")
_MANY: Final = 100


def sum_usages(usages: Iterable[Usage]) -> Usage:
    """Add up usages, field by field. The cost of those that spent anything is known if that of one of them is."""
    rest = iter(usages)
    first = next(rest, ZERO)
    several = [values_of(first), *map(values_of, rest)]
    return first if len(several) == 1 else unchecked(sum_values(several))


def tokens_in(values: tuple[Any, ...]) -> int:
    """Return the input and output tokens of a usage, given its values."""
    return int(values[_INPUT] + values[_INPUT + 1])


def sum_values(several: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Add up the values of usages, as `sum_usages` does. There must be one at least."""
    while len(several) > _MANY:  # an iterator for each would be a lot for garbage collections
        several = [sum_values(several[start : start + _MANY]) for start in range(0, len(several), _MANY)]
    columns = tuple(zip(*several, strict=True))
    sums: list[Any] = [
        (_sum_of_money if name in MONEY else sum)(column) for name, column in zip(FIELDS, columns, strict=True)
    ]
    calls, unpriced = sums[0], sums[_COST + 1]
    is_known = None not in columns[_COST] or any(
        cost is not None and (cost or tokens)
        for cost, tokens in zip(columns[_COST], map(tokens_in, several), strict=True)
    )
    if not is_known or (not sums[_COST] and 0 < unpriced >= calls):
        sums[_COST] = None
    return tuple(sums)


def _sum_of_money(amounts: Iterable[Decimal | None]) -> Decimal:
    return reduce(ARITHMETIC.add, filter(None, amounts), NO_DOLLARS)


def subtract(whole: Usage, part: Usage) -> Usage:
    """Return what is left of a usage without a part of it; nothing is less than 0."""
    pairs = zip(FIELDS, values_of(whole), values_of(part), strict=True)
    left = [
        max(NO_DOLLARS, ARITHMETIC.subtract(a or 0, b or 0)) if name in MONEY else max(0, a - b) for name, a, b in pairs
    ]
    return unchecked(left)


def add_counts(a: Counts, b: Counts) -> Counts:
    """Add two counts, field by field."""
    cost = ARITHMETIC.add(a[-1], b[-1]) if b[-1] else a[-1]
    return Counts._make((*map(operator.add, a[:-1], b[:-1]), cost))


def subtract_counts(a: Counts, b: Counts) -> Counts:
    """Subtract counts, field by field."""
    return Counts._make((*map(operator.sub, a[:-1], b[:-1]), ARITHMETIC.subtract(a[-1], b[-1])))


def sum_counts(several: Iterable[Counts]) -> Counts:
    """Add up counts, field by field."""
    columns = tuple(zip(*several, strict=True))
    return Counts._make((*map(sum, columns[:-1]), _sum_of_money(columns[-1]))) if columns else ZERO_COUNTS


def check_parts(usage: Usage | Counts) -> None:
    """Raise a ValueError where a part of the tokens is larger than their whole. It names both."""
    parts = (
        ("cache_read_tokens + cache_write_tokens", usage.cache_read_tokens + usage.cache_write_tokens, "input_tokens"),
        ("cache_write_1h_tokens", usage.cache_write_1h_tokens, "cache_write_tokens"),
        ("input_audio_tokens", usage.input_audio_tokens, "input_tokens"),
        ("reasoning_tokens", usage.reasoning_tokens, "output_tokens"),
        ("output_audio_tokens", usage.output_audio_tokens, "output_tokens"),
    )
    for part, value, whole in parts:
        if value > getattr(usage, whole):
            raise ValueError(
                f"{part} ({value:,}) is part of {whole}, which is only {getattr(usage, whole):,}: "
                f"{whole} counts everything, cached and reasoning tokens included"
            )
