"""Waste: what calls spent without a use, by module and by reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tokenscope._report.attribution import attributions
from tokenscope._report.breakdown import no_such, usage_table
from tokenscope._report.rows import Rows
from tokenscope._usage.usage import ZERO, Usage, sum_usages


@dataclass(frozen=True, slots=True)
class Waste:
    """What a module wasted, by reason. Each call has one reason.

    Args:
        failed_parses: Calls whose answer DSPy's adapter could not read, so that it asked again, or the module failed.
        provider_errors: Calls that ended in an error. Cancelled calls are not among them.
        retries: Attempts of `dspy.Refine`, `dspy.BestOfN` and `dspy.ProgramOfThought` that another attempt replaced, and
            the advice between them.
        stragglers: Items that DSPy ran twice because the first run seemed stuck: the run that ended last.
    """

    failed_parses: Usage = ZERO
    provider_errors: Usage = ZERO
    retries: Usage = ZERO
    stragglers: Usage = ZERO

    @property
    def total(self) -> Usage:
        """The waste of all reasons."""
        return sum_usages(usage for _, usage in self.reasons())

    def reasons(self) -> list[tuple[str, Usage]]:
        """Return each reason that occurred, with what was wasted for it."""
        return [(field.name, usage) for field in fields(self) if (usage := getattr(self, field.name))]

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        return usage_table(("reason",), (((reason.replace("_", " "),), usage) for reason, usage in self.reasons()))

    def __repr__(self) -> str:
        reasons = (f"{name}: {usage.total_tokens:,} tokens" for name, usage in self.reasons())
        return f"<Waste {'; '.join(reasons) or 'of nothing'}>"


class Wastes(dict[str, Waste]):
    """Waste by module. The KeyError for a missing name shows the nearest names."""

    @property
    def total(self) -> Waste:
        """The waste of all modules."""
        return Waste(*(sum_usages(getattr(waste, field.name) for waste in self.values()) for field in fields(Waste)))

    def __missing__(self, name: object) -> Waste:
        raise KeyError(no_such(str(name), self))

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        reasons = ((name, *each) for name, waste in self.items() for each in waste.reasons())
        return usage_table(
            ("module", "reason"), (((name, reason.replace("_", " ")), usage) for name, reason, usage in reasons)
        )


def waste_by_module(rows: Rows) -> Wastes:
    """Return the waste of each module, the most wasteful first."""
    found: dict[str, dict[str, Usage]] = {}
    for row, attribution in attributions(rows):
        for key, usage in row.usages:
            if key.wasted is not None:
                reasons = found.setdefault(attribution.module, {})
                reasons[key.wasted] = reasons.get(key.wasted, ZERO) + usage
    wastes = {name: Waste(**reasons) for name, reasons in found.items()}
    return Wastes(sorted(wastes.items(), key=lambda item: (-item[1].total.total_tokens, item[0])))
