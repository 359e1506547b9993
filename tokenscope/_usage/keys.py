"""Brackets: what calls of one model can be added up and still be priced exactly.

Some models are dearer for long prompts, so price is per call. But a price table takes half a second to load, and asking it a
tenth of a millisecond, so no call is priced when it is counted. Instead, calls of one model are added up by the bracket that
their prompts' lengths lie in, an interval that no price threshold divides: within one, the price of a sum is the sum of prices.

Calls that the table does not price stand apart: a number tells the bracket and why.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Final

Key = tuple[str, int]
"""What calls are added up by: the model's name, and the bracket, or a number below 0 for those that stand apart."""

FREE: Final = -1  # calls that spent no tokens
SAVED: Final = -10  # SAVED - bracket: answers from DSPy's cache, and the counts are what was saved
OWN_PRICE: Final = -100_000  # OWN_PRICE - bracket: calls whose provider said what they cost
WASTES: Final = ("failed_parses", "provider_errors", "retries", "stragglers")
"""Why calls bought nothing. What those spent is counted a second time, apart: in brackets far below all others."""
_WASTE: Final = 1_000_000
_SHORT: Final = 16_000


@cache
def edges() -> tuple[int, ...]:
    """Return the lengths at which prices may change: above 16,000 each multiple of 1,000, the one before it, and of 1,024."""
    thousands = {k * 1_000 - low for k in range(16, 2_001) for low in (0, 1)}
    return tuple(sorted(thousands | {k * 1_024 for k in range(16, 2_048)}))


def bracket_of(input_tokens: int) -> int:
    """Return the bracket that a prompt's length lies in."""
    return bisect_left(edges(), input_tokens) if input_tokens >= _SHORT else 0


def is_saved(bracket: int) -> bool:
    """Whether the counts are what answers from DSPy's cache saved."""
    return OWN_PRICE < bracket <= SAVED


def wasted(why: str, key: Key) -> Key:
    """Return under which key it is counted a second time what calls spent that bought nothing."""
    model, bracket = key
    return model, bracket - _WASTE * (WASTES.index(why) + 1)


def waste_of(bracket: int) -> tuple[str | None, int]:
    """Return why calls bought nothing, and their bracket; None where the counts are those of calls themselves."""
    number = (_WASTE // 2 - bracket) // _WASTE
    return (WASTES[number - 1], bracket + _WASTE * number) if number > 0 else (None, bracket)


def is_waste(bracket: int) -> bool:
    """Whether the counts are in the total already, and only tell that it bought nothing."""
    return bracket < -_WASTE // 2


def length_bracket(bracket: int) -> int:
    """Return the bracket of the prompts' lengths alone, whoever told the price."""
    bracket = waste_of(bracket)[1]
    if bracket <= OWN_PRICE:
        return OWN_PRICE - bracket
    return SAVED - bracket if bracket <= SAVED else max(bracket, 0)
