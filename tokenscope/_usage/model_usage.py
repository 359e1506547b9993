"""Tally: the calls of one model at one path of a report, as finely as they must stay apart to be priced again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tokenscope._usage.keys import OWN_PRICE, Key, bracket_of, is_saved, is_waste
from tokenscope._usage.usage import ZERO, Usage


class Tally(NamedTuple):
    """Calls of one model in one bracket, priced."""

    model: str
    bracket: int
    usage: Usage  # where answers came from DSPy's cache: what they once spent and cost

    @property
    def spent(self) -> Usage:
        """What the calls spent: cached ones nothing, and what tells of waste is counted already."""
        usage = self.usage
        if is_waste(self.bracket):
            return ZERO
        if not is_saved(self.bracket):
            return usage
        return Usage(
            calls=usage.calls,
            cached_calls=usage.cached_calls,
            saved_tokens=usage.total_tokens,
            saved_cost=usage.cost,
        )


def by_model(tallies: Iterable[Tally]) -> tuple[tuple[str, Usage], ...]:
    """Add up what tallies spent, by model, in the order of the models' names."""
    found: dict[str, Usage] = {}
    for tally in tallies:
        if is_waste(tally.bracket):
            continue
        usage = tally.spent
        found[tally.model] = found[tally.model] + usage if tally.model in found else usage
    return tuple(sorted(found.items()))


def by_key(models: Mapping[str, Usage] | list[Tally] | tuple[Tally, ...]) -> Iterable[tuple[Key, Usage]]:
    """Return tallies by key; usages by model count as calls of average length whose price is told."""
    if not isinstance(models, Mapping):
        return [((tally.model, tally.bracket), tally.usage) for tally in models]
    return [
        ((model, OWN_PRICE - bracket_of(usage.input_tokens // max(1, usage.calls))), usage)
        for model, usage in models.items()
    ]


def total(tallies: Iterable[Tally]) -> Usage:
    """Add up what tallies spent."""
    return sum((tally.spent for tally in tallies), ZERO)
