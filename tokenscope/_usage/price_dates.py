"""As of when a call is priced: prices have start dates, and some models are cheaper at night.

A key holds what the price depends on: the first moment from which on prices have been what they were when the call was made. So
calls of one model have one key for as long as its price stays the same. Before the table of prices is loaded, which no call waits
for, the key holds the day; and with peak hours, the half-hour. A process that runs for weeks and never looks at a cost loads the
table after `MANY_MOMENTS` of these, or each would be a sum of its own for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

HALF_HOUR: Final = 1_800
"""Seconds. Prices change at dates, in UTC, and peak hours begin and end at full and half hours."""
MANY_MOMENTS: Final = 48
_PEAK_HOURS: Final = "deepseek"
"""In the names of models whose price depends on the time of day."""


class PriceDates(NamedTuple):
    """When the prices of a model change, in UTC: ISO dates, and times of the day."""

    dates: tuple[str, ...] = ()
    times: tuple[str, ...] = ()


_table: list[Callable[[str], PriceDates]] = []
"""How to look up the dates of a model, when the table of prices is loaded."""
noted_moments: Final[set[str]] = set()
"""What keys have held so far, while the table of prices was not loaded."""


def use_table(look_up: Callable[[str], PriceDates]) -> None:
    """Look up dates in the table of prices from now on, as it is loaded."""
    if not _table:
        _table.append(look_up)
        moment_of.cache_clear()
        noted_moments.clear()


@lru_cache(maxsize=16_384)
def moment_of(model: str, half_hour: int) -> str:
    """Return the moment as of which a call is priced that was made in a half-hour, counted since 1970.

    Empty where the price never changes; a date, `2026-10-12`; or a date and a time, `2026-10-12T16:30`, both in UTC.
    """
    made = datetime.fromtimestamp(half_hour * HALF_HOUR, UTC)
    date, clock = made.date().isoformat(), f"{made:%H:%M}"
    if not _table:
        moment = f"{date}T{clock}" if _PEAK_HOURS in model.lower() else date
        noted_moments.add(moment)
        return moment
    changes = _table[0](model)
    if not any(changes):
        return ""
    first_date = max((each for each in changes.dates if each <= date), default="1970-01-01")
    if not changes.times:
        return first_date
    first_time = max((each for each in changes.times if each <= clock), default="00:00")
    return f"{first_date}T{first_time}"


def moment_now(model: str) -> str:
    """Return the moment as of which a call is priced that is made now."""
    return moment_of(model, int(time.time() // HALF_HOUR))


def settled(model: str, moment: str) -> str:
    """Return a moment, noted before the table of prices was loaded, as `moment_of` returns it now."""
    if not moment or not _table:
        return moment
    return moment_of(model, int(moment_as_datetime(moment).timestamp() // HALF_HOUR))


def earlier_moments(model: str, moment: str) -> list[str]:
    """Return the moments before one at which a price of the model may have changed, the latest first, at the same time of day."""
    if not moment or not _table:
        return []
    date, clock = moment[:10], moment[10:]
    dates = ["1970-01-01", *_table[0](model).dates]
    return [each + clock for each in reversed(dates) if each < date]


def moment_as_datetime(moment: str) -> datetime:
    """Return a moment of a key as a datetime, in UTC."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)
