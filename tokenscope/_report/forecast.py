"""What a larger run would spend: `report.scale`, from the samples of a small run.

What repeats with the samples is multiplied, and what a run spends once stays. The range is the 95% prediction interval for the
sum of so many new samples, by Student's t. It needs what each sample spent, so there is one only if samples can be told apart.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from functools import reduce
from io import BytesIO
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Final, NamedTuple

from tokenscope._report.breakdown import breakdown_of
from tokenscope._report.reading import frames_of, read_stream
from tokenscope._report.snapshot import Snapshot, with_missing_costs
from tokenscope._usage.calls import NO_SCOPE
from tokenscope._usage.usage import FIELDS, MONEY, Usage, check_count, sum_usages, values_of

CONFIDENCE: Final = 95  # percent
ATTRIBUTE: Final = "sample"  # of the scopes of samples: token_scope("run", sample=3)
_ADVICE: Final = f"give their scopes numbers or the attribute {ATTRIBUTE!r}"
_EXACT: Final = Context(prec=60)
_NUMBER: Final = re.compile(r"\d+")
_LARGE: Final = 1_000  # degrees of freedom from which on t is reckoned from the normal distribution
_SAME_TIME: Final = 0.001  # seconds: the clock may have been set a little between the calls of a program
_Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a larger run is expected to spend: `report.scale(samples=5, to=1_000)`.

    Args:
        samples: How many samples the small run made.
        to: How many the larger run makes.
        expected: What it is expected to spend in all.
        tokens: The bounds of its tokens, low and high, in 95 of 100 such runs; None if the samples tell none.
        cost: The bounds of its cost in dollars; None if the samples tell none, or a price is not known.
        basis: What the samples were told apart by, or why there is no range.
        repeated: The paths that grow with the samples, the costliest first.
        once: The paths that are taken to be spent once, whatever the number of samples.
    """

    samples: int
    to: int
    expected: Usage
    tokens: tuple[int, int] | None
    cost: tuple[Decimal, Decimal] | None
    basis: str
    repeated: tuple[str, ...]
    once: tuple[str, ...]


def forecast(snapshot: Snapshot, samples: int, to: int, records: Iterable[str] = ()) -> Forecast:
    """Return what a run of `to` samples would spend, given one of `samples`, and its records as lines of JSON."""
    for name, value in {"samples": samples, "to": to}.items():
        if check_count(name, value) < 1:
            raise ValueError(f"{name} must be 1 or more, but is {value}")
    places = _places(snapshot, samples)
    grown = [each for each in places if each.repeats and each.spent]
    each_sample, basis = _told_apart(grown, samples, snapshot.by_attribute(ATTRIBUTE), records)
    varying, once = (sum_usages(each.spent for each in places if each.repeats is repeats) for repeats in (True, False))
    expected = once + _scaled(varying, to, samples)
    tokens = cost = None
    if each_sample:
        values = [Decimal(each.total_tokens) for each in each_sample]
        low, high = _prediction(values, to)
        tokens = once.total_tokens + math.floor(low), once.total_tokens + math.ceil(high)
        if not expected.unpriced_calls:
            low, high = _prediction([each.cost or Decimal(0) for each in each_sample], to)
            fixed = once.cost or Decimal(0)
            cost = _EXACT.add(fixed, low), _EXACT.add(fixed, high)
    repeated = breakdown_of((each.top, each.spent) for each in grown)
    single = breakdown_of((each.path, each.spent) for each in places if each.spent and not each.repeats)
    return Forecast(samples, to, expected, tokens, cost, basis, tuple(repeated), tuple(single))


class _Place(NamedTuple):
    """A row, and how it depends on the samples."""

    names: _Names
    spent: Usage  # at the row itself
    repeats: bool
    passes_on: bool  # whether the rows below repeat for this reason, too
    top: str  # the path of the highest row that repeats
    sample: str | None  # the number in the name of the sample's own scope

    @property
    def path(self) -> str:
        return "/".join(name for _, name in self.names)


class _Call(NamedTuple):
    """A record: when the call began and ended, in seconds since 1970, and its line of JSON."""

    start: float
    end: float
    line: str


def _places(snapshot: Snapshot, samples: int) -> list[_Place]:
    rows = list(snapshot.rows)
    siblings: dict[tuple[int, str, str], list[int]] = {}  # that differ in a number only, and were entered once each
    for index, row in enumerate(rows):
        if row.entries <= 1 and _NUMBER.search(row.frame.name):
            siblings.setdefault((row.parent, row.frame.kind, _NUMBER.sub("#", row.frame.name)), []).append(index)
    numbered = {index: len(group) for group in siblings.values() if len(group) % samples == 0 for index in group}
    places: list[_Place] = []
    for index, row in enumerate(rows):
        above = places[row.parent] if row.parent >= 0 else _Place((), Usage(), samples == 1, samples == 1, "", None)
        names = (*above.names, (row.frame.kind, row.frame.name))
        spent = sum_usages(each.spent for each in row.usages if not each.key.is_repeated)
        passes_on = above.passes_on or index in numbered or (row.entries or spent.calls) > 1
        repeats = passes_on or bool(spent.calls and spent.calls % samples == 0)
        top, sample = above.top if above.passes_on else "", above.sample
        if not above.passes_on and numbered.get(index) == samples:
            sample = "-".join(_NUMBER.findall(row.frame.name))
        place = _Place(names, spent, repeats, passes_on, top, sample)
        places.append(place._replace(top=place.path) if repeats and not top else place)
    return places


def _told_apart(
    grown: Sequence[_Place], samples: int, by_attribute: Mapping[str, Usage], records: Iterable[str]
) -> tuple[list[Usage], str]:
    """Return what each sample spent, and how that is known; or nothing, and why it is not."""
    if samples == 1:
        return [], "one sample does not show how much samples differ"
    if not grown:
        return [], "nothing was spent that grows with the samples"
    by_number: dict[str | None, list[Usage]] = {}
    for each in grown:
        by_number.setdefault(each.sample, []).append(each.spent)
    if None not in by_number and len(by_number) == samples:
        return [sum_usages(each) for each in by_number.values()], "the numbers in the names of their scopes"
    if len(by_value := by_attribute.keys() - {"(none)"}) == samples:
        each_sample = [by_attribute[value] for value in by_value]
        if _amounts(each_sample) == _amounts(each.spent for each in grown):
            return each_sample, f"their attribute {ATTRIBUTE!r}"
    found, problem = _split(records, {each.names for each in grown}, samples)
    if problem:
        return [], f"{problem}"
    if _amounts(found) != _amounts(each.spent for each in grown):
        return [], "the records are not those of all calls that grow with the samples"
    return found, "their records: one sample after the other, each with as many calls"


def _amounts(usages: Iterable[Usage]) -> tuple[int, int]:
    total = sum_usages(usages)
    return total.calls, total.total_tokens


def _split(records: Iterable[str], paths: set[_Names], samples: int) -> tuple[list[Usage], str]:
    """Return what each sample spent by the records at some paths, or why they do not tell."""
    by_path: dict[_Names, list[_Call]] = {}
    for line in records:
        record: dict[str, Any] = json.loads(line)
        names = tuple((kind, name) for kind, name in frames_of(record) or [list(NO_SCOPE)])
        if names in paths:
            try:
                start = datetime.fromisoformat(record["timestamp"]).timestamp()
            except (KeyError, TypeError, ValueError):
                return [], "a record does not say when its call was made"
            by_path.setdefault(names, []).append(_Call(start, start + record.get("seconds", 0), line))
    if not by_path:
        return [], f"a report alone does not tell the samples apart; {_ADVICE}, or pass the records"
    parts: list[list[_Call]] = [[] for _ in range(samples)]
    for names, calls in by_path.items():
        if len(calls) % samples:
            path = "/".join(name for _, name in names)
            return [], f"{len(calls):,} calls at {path} are not the same number for each of {samples:,} samples"
        size = len(calls) // samples
        for number, call in enumerate(sorted(calls)):
            parts[number // size].append(call)
    if any(max(one.end for one in part) > min(then).start + _SAME_TIME for part, then in pairwise(parts)):
        return [], f"the records overlap, as samples ran at once; {_ADVICE}"
    texts = ("".join(f"{call.line}\n" for call in part) for part in parts)
    return [with_missing_costs(read_stream(BytesIO(text.encode()), "records")).total for text in texts], ""


def _scaled(usage: Usage, to: int, samples: int) -> Usage:
    """Return a usage times `to / samples`, rounded to whole counts; a call without a price stays one, at least."""
    values: dict[str, Any] = dict(zip(FIELDS, values_of(usage), strict=True))
    for name, value in values.items():
        if name == "unpriced_calls":
            values[name] = -(-value * to // samples)
        elif name not in MONEY:
            values[name] = (2 * value * to + samples) // (2 * samples)
        elif value:
            values[name] = _EXACT.divide(_EXACT.multiply(value, to), samples)
    return Usage(**values)


def _prediction(values: Sequence[Decimal], to: int) -> tuple[Decimal, Decimal]:
    """Return the bounds, 0 or more, of the sum of so many new values like these."""
    count = len(values)
    mean = _EXACT.divide(reduce(_EXACT.add, values), count)
    differences = [_EXACT.subtract(value, mean) for value in values]
    squares = reduce(_EXACT.add, map(_EXACT.multiply, differences, differences))
    deviation = _EXACT.sqrt(_EXACT.divide(squares, count - 1))
    # The sum of new values varies, and so does the mean of the known ones.
    spread = _EXACT.multiply(deviation, Decimal(student_t(count - 1) * math.sqrt(to + to * to / count)))
    expected = _EXACT.multiply(mean, to)
    return max(Decimal(0), _EXACT.subtract(expected, spread)), _EXACT.add(expected, spread)


def student_t(freedom: int) -> float:
    """Return how many standard deviations hold 95% of Student's t distribution with so many degrees of freedom."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 200)
    if freedom > _LARGE:
        return z + (z**3 + z) / (4 * freedom)
    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE / 100 else (low, middle)
    return low


def _within(t: float, freedom: int) -> float:
    """Return the probability of -t to t: a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, cosine = freedom % 2, math.cos(angle)
    term, total = cosine**odd, 0.0
    for n in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (n + 1) / (n + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
