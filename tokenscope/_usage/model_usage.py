"""What the calls of one key spent, priced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tokenscope._usage.keys import UsageKey
from tokenscope._usage.usage import NO_DOLLARS, ZERO, Usage, sum_usages


class ModelUsage(NamedTuple):
    """What the calls of one key spent: as finely as calls must stay apart to be priced again."""

    key: UsageKey
    usage: Usage  # of answers from DSPy's cache: what they once spent and cost

    @property
    def spent(self) -> Usage:
        """What counts in totals: cached calls spent nothing, and wasted counts and parts of prompts repeat others."""
        usage = self.usage
        if self.key.is_repeated:
            return ZERO
        if self.key.source != "cache":
            return usage
        return Usage(
            calls=usage.calls,
            cached_calls=usage.cached_calls,
            saved_tokens=usage.total_tokens,
            saved_cost=usage.cost or NO_DOLLARS,
        )


def total(usages: Iterable[ModelUsage]) -> Usage:
    """Add up what was spent."""
    return sum_usages(each.spent for each in usages)
