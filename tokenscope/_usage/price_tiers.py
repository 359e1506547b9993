"""Price tiers: some models are dearer for long prompts, so a price is a call's own.

A tier is an interval of prompt lengths in which no model changes its price. Within it, the price of a sum is the sum of prices.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Final

SHORT_PROMPT: Final = 16_000
"""No model is dearer for prompts of up to so many tokens."""


@cache
def tier_edges() -> tuple[int, ...]:
    """Return the lengths at which prices may change: above 16,000 each multiple of 1,000, the one before it, and of 1,024."""
    thousands = {k * 1_000 - low for k in range(16, 2_001) for low in (0, 1)}
    return tuple(sorted(thousands | {k * 1_024 for k in range(16, 2_048)}))


def tier_of(input_tokens: int) -> int:
    """Return the price tier of a call whose prompt has so many tokens."""
    return bisect_left(tier_edges(), input_tokens) if input_tokens >= SHORT_PROMPT else 0
