"""Breakdowns: usage by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.usage import Usage, sum_values, unchecked, values_of

T = TypeVar("T")
_NUMBER: Final = re.compile(r"0*(\d+)")


def counted(name: str) -> tuple[str, str]:
    """Return what names are sorted by, so that `page 2` comes before `page 10`."""
    return _NUMBER.sub(lambda found: f"{len(found[1]):06}{found[1]}", name), name


class ByName(dict[str, T]):
    """Something by name. The KeyError for a missing name shows the nearest names."""

    def __missing__(self, name: object) -> T:
        raise KeyError(no_such(str(name), self))


class Breakdown(ByName[Usage]):
    """Usage by name, the costliest first. The KeyError for a missing name shows the nearest names."""

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        return usage_table(("name",), (((name,), usage) for name, usage in self.items()))


def usage_table(heads: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Usage]]) -> str:
    """Return usage by name, as a table for notebooks."""
    from tokenscope._usage.shown import cost_of, html_table

    cells: list[tuple[str, ...]] = []
    for names, usage in rows:
        counts = usage.calls, usage.input_tokens, usage.output_tokens, usage.total_tokens
        cells.append(
            (*names, *(f"{count:,}" for count in counts), cost_of(usage.cost, is_part=usage.unpriced_calls > 0))
        )
    return html_table(heads, ("calls", "input", "output", "total", "cost"), cells)


def breakdown_of(parts: Iterable[tuple[str, Usage]]) -> Breakdown:
    """Add up usages by name, the costliest first; equal ones are in the order of their names."""
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for name, usage in parts:
        groups.setdefault(name, []).append(values_of(usage))
    sums = [(name, unchecked(sum_values(several))) for name, several in groups.items()]
    return Breakdown(sorted(sums, key=lambda item: (-item[1].total_tokens, *counted(item[0]))))


def spent_by_model(usages: Iterable[ModelUsage]) -> Breakdown:
    """Add up what was spent by model, the costliest first."""
    return breakdown_of((each.key.model, each.spent) for each in usages if not each.key.is_repeated)


def no_such(name: str, names: Iterable[str], where: str = "") -> str:
    """Return the message for a missing name: it shows the nearest names."""
    known = list(names)
    near = difflib.get_close_matches(name.partition("/")[0], known, n=3, cutoff=0.4) or known[:5]
    below = f" below {where!r}" if where else ""
    return f"no {name!r}{below}; " + (f"the nearest: {', '.join(map(repr, near))}" if near else "there is nothing")
