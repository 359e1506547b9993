"""Waste: what calls spent that bought nothing, by module and by the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from tokenscope._report.attribution import attributions
from tokenscope._report.rows import Row
from tokenscope._report.tree import no_such
from tokenscope._usage.usage import ZERO, Usage


@dataclass(frozen=True, slots=True)
class Waste:
    """What a module spent that bought nothing, by the reason: each call counts for one.

    Args:
        failed_parses: Calls whose answer DSPy's adapter could not read, so that it asked again, or the module failed.
        provider_errors: Calls that ended in an error; cancelled ones are none.
        retries: Attempts of `dspy.Refine`, `dspy.BestOfN` and `dspy.ProgramOfThought` that were thrown away for another one,
            and the advice between them.
        stragglers: What ran twice because DSPy took it for stuck: the run that came second.
    """

    failed_parses: Usage = ZERO
    provider_errors: Usage = ZERO
    retries: Usage = ZERO
    stragglers: Usage = ZERO

    @property
    def total(self) -> Usage:
        """All of it."""
        return sum((usage for _, usage in self.reasons()), ZERO)

    def reasons(self) -> list[tuple[str, Usage]]:
        """Return the reasons there were, and what went for each."""
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, usage) for name, usage in named if usage]

    def __repr__(self) -> str:
        told = (f"{name}: {usage.total_tokens:,} tokens" for name, usage in self.reasons())
        return f"<Waste {'; '.join(told) or 'of nothing'}>"


class Wastes(dict[str, Waste]):
    """Waste by module; a name that is not there is a KeyError that shows the nearest ones."""

    @property
    def total(self) -> Waste:
        """The waste of all modules."""
        return Waste(*(sum((getattr(waste, field.name) for waste in self.values()), ZERO) for field in fields(Waste)))

    def __missing__(self, name: object) -> Waste:
        raise KeyError(no_such(str(name), self))


def waste_by_module(rows: Iterable[Row]) -> Wastes:
    """Add up what rows tell of waste, by module, those first that wasted most tokens."""
    found: dict[str, dict[str, Usage]] = {}
    for row, place in attributions(rows):
        for tally in row.tallies:
            why = tally.key.wasted
            if why is not None:
                reasons = found.setdefault(place.whose, {})
                reasons[why] = reasons.get(why, ZERO) + tally.usage
    wastes = {name: Waste(**reasons) for name, reasons in found.items()}
    return Wastes(sorted(wastes.items(), key=lambda item: (-item[1].total.total_tokens, item[0])))
