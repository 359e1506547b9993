"""Telling that calls bought nothing, and why.

What they spent is counted a second time, beside what it is part of: in brackets that add up, are priced, saved and merged as
all others, and that no total holds.
"""

from __future__ import annotations

from typing import Any, Final

from tokenscope._scopes.ledger import Ledger
from tokenscope._usage.calls import Path
from tokenscope._usage.keys import Key, is_saved, is_waste, waste_of, wasted
from tokenscope._usage.usage import NOTHING, Counts

_ENDINGS: Final = frozenset({"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "Stop"})
"""What ends a call because the program is to end, or wants its answer no more."""
_CALLS, _CACHED = 0, 1  # places in the counts


def is_failure(error: str | None) -> bool:
    """Whether an exception of this name ended a call against the program's will."""
    return error is not None and error not in _ENDINGS


def discard(ledger: Ledger, path: Path, key: Key, values: Counts, why: str) -> None:
    """Tell that a call, which is counted already, bought nothing. What DSPy's cache answered cost nothing either."""
    if not values[_CACHED]:
        ledger.add(path, wasted(why, key), values)


def discard_all(ledger: Ledger, why: str) -> None:
    """Tell that what was counted in a ledger bought nothing, but for what is known to be waste already."""
    for path, row in ledger.view().items():
        known: dict[Key, list[Any]] = {}
        for (model, bracket), values in row.models.items():
            reason, of = waste_of(bracket)
            if reason is not None:
                sums = known.setdefault((model, of), list(NOTHING))
                sums[:] = [a + b for a, b in zip(sums, values, strict=True)]
        for key, values in row.models.items():
            if is_waste(key[1]) or is_saved(key[1]):
                continue
            # Requests that were repeated within a call are waste, and no calls.
            rest = [max(a - b, NOTHING[0]) for a, b in zip(values, known.get(key, NOTHING), strict=True)]
            rest[_CALLS] = max(0, rest[_CALLS] - rest[_CACHED])
            rest[_CACHED] = 0
            if any(rest):
                ledger.add(path, wasted(why, key), tuple(rest))
