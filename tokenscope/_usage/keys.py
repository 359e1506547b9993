"""What calls are added up by, so that a sum can still be priced exactly.

Some models are dearer for long prompts, so a price is a call's own. But a price table takes half a second to load, and each
look-up a tenth of a millisecond, so no call is priced when it is counted. Instead, calls of one model are added up by *price
tier*: an interval of prompt lengths in which no model changes its price. Within a tier, the price of a sum is the sum of prices.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache, lru_cache
from typing import Final, Literal, NamedTuple, get_args

from tokenscope._usage.usage import Counts

PriceSource = Literal["table", "provider", "cache", "none"]
"""Where the price of calls comes from: the price table; the provider or the caller, who told the cost; DSPy's response cache,
whose answers cost nothing, and whose counts tell what was saved; or nowhere, as they spent no tokens."""
WasteReason = Literal["failed_parses", "provider_errors", "retries", "stragglers"]
"""Why what calls spent was wasted."""

WASTE_REASONS: Final[tuple[WasteReason, ...]] = get_args(WasteReason)
_SOURCES: Final[tuple[PriceSource, ...]] = ("provider", "cache", "none", "table")
_SHORT: Final = 16_000
"""No model is dearer for prompts of up to so many tokens."""


class UsageKey(NamedTuple):
    """What calls are added up by.

    Args:
        model: `provider/model`, as the caller named it.
        tier: The price tier: the interval that the length of each prompt lies in, counted from 0.
        source: Where the price comes from.
        wasted: Why what the calls spent was wasted. Such counts repeat what other keys hold already, and no total holds them.
    """

    model: str
    tier: int = 0
    source: PriceSource = "table"
    wasted: WasteReason | None = None

    @property
    def rank(self) -> tuple[str, int, int, int]:
        """Where it stands among others: by model, then wasted counts first, then by source and tier."""
        wasted = 0 if self.wasted is None else -1 - WASTE_REASONS.index(self.wasted)
        tier = self.tier if self.source == "table" else -self.tier
        return self.model, wasted, _SOURCES.index(self.source), tier


@lru_cache(maxsize=4_096)
def usage_key(model: str, tier: int, source: PriceSource) -> UsageKey:
    """Return a key; the same object again, as most calls have one of few."""
    return UsageKey(model, tier, source)


@cache
def tier_edges() -> tuple[int, ...]:
    """Return the lengths at which prices may change: above 16,000 each multiple of 1,000, the one before it, and of 1,024."""
    thousands = {k * 1_000 - low for k in range(16, 2_001) for low in (0, 1)}
    return tuple(sorted(thousands | {k * 1_024 for k in range(16, 2_048)}))


def tier_of(input_tokens: int) -> int:
    """Return the price tier of a call whose prompt has so many tokens."""
    return bisect_left(tier_edges(), input_tokens) if input_tokens >= _SHORT else 0


def key_of(model: str, counts: Counts, *, cost_is_told: bool = False) -> UsageKey:
    """Return the key by which a call is added up. `cost_is_told`: the cost is known, even if it is 0."""
    length = counts.input_tokens
    tier = tier_of(length) if length >= _SHORT else 0
    if cost_is_told or counts.cost:
        return usage_key(model, tier, "provider")
    return usage_key(model, tier, "table") if length or counts.output_tokens else usage_key(model, 0, "none")
