"""What the calls of one key spent, priced."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import NamedTuple

from tokenscope._usage.keys import UsageKey
from tokenscope._usage.usage import NO_DOLLARS, ZERO, Usage


class ModelUsage(NamedTuple):
    """What the calls of one key spent: as finely as calls must stay apart to be priced again."""

    key: UsageKey
    usage: Usage  # of answers from DSPy's cache: what they once spent and cost

    @property
    def spent(self) -> Usage:
        """What counts in totals: cached calls spent nothing, and wasted counts repeat what is counted already."""
        usage = self.usage
        if self.key.wasted is not None:
            return ZERO
        if self.key.source != "cache":
            return usage
        return Usage(
            calls=usage.calls,
            cached_calls=usage.cached_calls,
            saved_tokens=usage.total_tokens,
            saved_cost=usage.cost or NO_DOLLARS,
        )


def by_model(usages: Iterable[ModelUsage]) -> tuple[tuple[str, Usage], ...]:
    """Add up what was spent by model, in the order of the models' names."""
    found: dict[str, Usage] = {}
    for each in usages:
        if each.key.wasted is None:
            model = each.key.model
            found[model] = found[model] + each.spent if model in found else each.spent
    return tuple(sorted(found.items()))


def total(usages: Iterable[ModelUsage]) -> Usage:
    """Add up what was spent."""
    return functools.reduce(operator.add, [each.spent for each in usages] or [ZERO])
