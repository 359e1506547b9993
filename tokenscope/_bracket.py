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


def length_bracket(bracket: int) -> int:
    """Return the bracket of the prompts' lengths alone, whoever told the price."""
    if bracket <= OWN_PRICE:
        return OWN_PRICE - bracket
    return SAVED - bracket if bracket <= SAVED else max(bracket, 0)
