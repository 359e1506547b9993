"""Sketches: quantiles within 1%, in a bounded number of bytes, however values are fed and merged."""

from __future__ import annotations

import gc
import itertools
import json
import math
import pickle
import random
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenscope._usage.sketch import LARGEST, MOST_BYTES, MOST_COUNT, SMALLEST, Sketch

SHAPES: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda dice: dice.lognormvariate(7, 1),
    "uniform": lambda dice: dice.uniform(0, 100_000),
    "pareto": lambda dice: 100 * dice.paretovariate(1.1),
    "bimodal": lambda dice: dice.gauss(300, 30) if dice.random() < 0.5 else dice.gauss(30_000, 3_000),
    "atoms": lambda dice: dice.choice([0, 20, 500, 500, 500, 7_000, 123_456]),
    "constant": lambda _: 512,
}
BOUND = 0.01 + 1e-9
CHUNK = 64

numbers = st.one_of(st.integers(0, 10**7), st.floats(0, 1e6), st.sampled_from([0, 1, 512, SMALLEST, LARGEST]))
few = st.lists(numbers, max_size=20)
many = st.lists(st.tuples(st.floats(-7, 15).map(lambda power: 10**power), st.sampled_from([0, 1, 9, 34])), max_size=300)


def exact(ordered: list[float], q: float) -> float:
    """Return the smallest value that at least `q` times as many values as there are do not exceed."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def wrong_by(found: float, value: float) -> float:
    return abs(found - value) / value if value else found


def errors(sketch: Sketch, ordered: list[float]) -> tuple[float, float]:
    """Return by which part the median and the 95th percentile are wrong. All else must be right."""
    assert len(ordered) == sketch.count
    assert ordered[-1] == sketch.max == sketch.quantile(1)
    assert len(sketch.cells) <= MOST_BYTES
    return wrong_by(sketch.p50, exact(ordered, 0.5)), wrong_by(sketch.p95, exact(ordered, 0.95))


def in_chunks(values: list[float]) -> Sketch:
    """Feed values as they come, 64 at a time."""
    sketch = Sketch()
    for start in range(0, len(values), CHUNK):
        sketch = sketch.add_all(values[start : start + CHUNK])
    return sketch


def in_tree(values: list[float], dice: random.Random) -> Sketch:
    """Merge sketches of chunks of random sizes in a random tree."""
    parts: list[Sketch] = []
    start = 0
    while start < len(values):
        size = int(2 ** dice.uniform(0, 14))
        parts.append(Sketch.of(values[start : start + size]))
        start += size
    while len(parts) > 1:
        dice.shuffle(parts)
        parts = [sum(parts[place : place + 3]) or Sketch() for place in range(0, len(parts), 3)]
    return parts[0]


def check_shape(shape: str, number: int) -> None:
    dice = random.Random(shape)
    values = [max(0, SHAPES[shape](dice)) for _ in range(number)]
    ordered = sorted(values)
    for sketch in (Sketch.of(values), in_chunks(values), in_tree(values, dice), in_tree(values, dice)):
        assert max(errors(sketch, ordered)) <= BOUND


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    """The median and the 95th percentile of 20,000 values are within 1%: fed at once, in chunks, and merged in trees."""
    check_shape(shape, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_million_values(shape: str) -> None:
    """The same holds for 1,000,000 values."""
    check_shape(shape, 1_000_000)


@given(few, few, few)
def test_a_monoid(a: list[float], b: list[float], c: list[float]) -> None:
    """As long as no buckets were merged, `+` is associative and commutative, and adds what `of` would have counted at once."""
    one, two, three = Sketch.of(a), Sketch.of(b), Sketch.of(c)
    assert Sketch.of(a + b + c) == (one + two) + three == one + (two + three) == three + (two + one)
    assert Sketch.of(a + b + c) == sum([one, two, three]) == one.add_all(b).add_all(c) if a or b or c else True
    assert one == one + Sketch() == Sketch() + one
    assert hash(Sketch.of(a + b)) == hash(two + one)


@given(st.lists(numbers, min_size=1, max_size=100), st.floats(0, 1))
def test_any_quantile(values: list[float], q: float) -> None:
    """As long as no buckets were merged, every quantile is within 1%; what is smaller than the smallest value counts as 0."""
    ordered = sorted(values)
    numerator, denominator = q.as_integer_ratio()
    rank = max(1, -(-len(values) * numerator // denominator))
    value = ordered[rank - 1]
    found = Sketch.of(values).quantile(q)
    assert found < SMALLEST if value < SMALLEST else wrong_by(found, value) <= BOUND


@given(few, few, few)
def test_subtracting(a: list[float], b: list[float], more: list[float]) -> None:
    """What is left of a sum are the counts of the rest. What was not added cannot be subtracted."""
    older, rest = Sketch.of(a), Sketch.of(b)
    left = (older + rest) - older
    assert (rest.cells, rest.count) == (left.cells, left.count)
    assert rest.max <= left.max * (1 + 2 * BOUND) + SMALLEST
    assert Sketch() == older - older
    if more:
        with pytest.raises(ValueError, match="only what was added can be subtracted, but"):
            older - (older + Sketch.of(more))


def test_the_maximum_that_is_left() -> None:
    """The maximum of a difference is exact as long as its bucket has counts, and within 1% otherwise."""
    assert 4_000 == (Sketch.of([10, 20, 4_000]) - Sketch.of([10])).max
    assert pytest.approx(20, rel=BOUND) == (Sketch.of([10, 20, 4_000]) - Sketch.of([4_000])).max
    assert 0 == (Sketch.of([0, 4_000]) - Sketch.of([4_000])).max


def test_subtracting_after_buckets_were_merged() -> None:
    """An older state can be subtracted from a newer one that has merged buckets since. The rest is within 1%."""
    dice = random.Random(3)
    values = [dice.lognormvariate(7, 1) for _ in range(40_000)]
    states = [in_chunks(values[:size]) for size in (640, 6_400, 19_200, 40_000)]
    for older, newer in itertools.pairwise(states):
        rest = newer - older
        ordered = sorted(values[older.count : newer.count])
        assert len(ordered) == rest.count
        assert wrong_by(rest.p50, exact(ordered, 0.5)) <= BOUND
        assert wrong_by(rest.p95, exact(ordered, 0.95)) <= BOUND


def test_subtracting_what_has_merged_more() -> None:
    """A part that has merged more buckets than the sum can be subtracted, too: sums can be made in another order."""
    dice = random.Random(4)
    values = [dice.lognormvariate(7, 1) for _ in range(30_000)]
    part, whole = in_chunks(values), Sketch.of(values)
    rest = (whole + Sketch.of([5_000] * 1_000)) - part
    assert 1_000 == rest.count
    assert Sketch() == whole - part
    with pytest.raises(ValueError, match="only what was added"):
        Sketch.of(values[:20_000]) - part


@settings(max_examples=40)
@given(st.lists(many, max_size=4))
def test_the_bound(parts: list[list[tuple[float, int]]]) -> None:
    """No sketch has more than its bytes of buckets, whatever was counted, and how often."""
    whole = Sketch()
    for part in parts:
        for power in {power for _, power in part}:
            sketch = Sketch.of(value for value, times in part if times == power)
            for _ in range(power):
                sketch += sketch
            whole += sketch
        assert len(whole.cells) <= MOST_BYTES
    assert whole == pickle.loads(pickle.dumps(whole)) == Sketch.from_dict(json.loads(json.dumps(whole.to_dict())))


@pytest.mark.parametrize("seed", [3, 13])
def test_the_bound_of_numbers_beyond_reason(seed: int) -> None:
    """The bytes are bounded even if each bucket has been counted a million billion times, and the quantiles have moved."""
    dice = random.Random(seed)
    values = [10 ** (-6 + 21 * step / 2_400) for step in range(2_400)]
    parts: list[list[Sketch]] = []
    for _ in range(6):
        low = dice.randrange(2_300)
        one = Sketch.of(values[low : dice.randrange(low + 1, 2_400)])
        parts.append([*itertools.accumulate(itertools.repeat(one, 51), lambda sketch, _: sketch + sketch)])
    whole = Sketch()
    for _ in range(100):
        whole += dice.choice(dice.choice(parts))
        assert len(whole.cells) <= MOST_BYTES
        assert whole.p50 <= whole.p95 <= whole.max


def test_phases() -> None:
    """The quantiles stay within 1% while the values change: 20 phases, whose medians differ by a factor of up to 100."""
    dice = random.Random(6)
    values: list[float] = []
    for _ in range(20):
        center = 5 + dice.uniform(0, math.log(100))
        values += [dice.lognormvariate(center, 0.5) for _ in range(2_560)]
    assert max(errors(in_chunks(values), sorted(values))) <= BOUND


@pytest.mark.parametrize(("spread", "bound"), [(0.5, 0.01), (1, 0.01), (2, 0.04), (3, 0.2)])
def test_what_breaks_the_bound(spread: float, bound: float) -> None:
    """Sorted values can make the quantiles wrong by more than 1%: the more, the more powers of ten they span."""
    dice = random.Random(5)
    up = sorted(dice.lognormvariate(7, spread) for _ in range(50_000))
    middle = [up[place // 2] if place % 2 else up[-1 - place // 2] for place in range(len(up))][::-1]
    assert max(max(errors(in_chunks(values), up)) for values in (up, up[::-1], middle)) <= bound + 1e-9


def test_values_beside_the_scale() -> None:
    """Very small values count as 0, very large ones as the largest. What is no number is refused, and changes nothing."""
    assert (0, 2) == (Sketch.of([0, SMALLEST / 2, 1]).p50, round(Sketch.of([2, 2, 10**400]).p50))
    assert LARGEST == Sketch.of([10**400]).max == Sketch.of([2 * LARGEST]).max
    for value in (-1, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="a value must be a number, 0 or more, but is"):
            Sketch.of([1, value])
    with pytest.raises(TypeError):
        Sketch.of(["1"])  # type: ignore[list-item]


def test_nothing() -> None:
    """A sketch of no values is false and has quantiles of 0."""
    empty = Sketch.of([])
    assert not empty
    assert Sketch.of([0])
    assert Sketch() == empty == empty + empty == empty - empty == sum([empty])
    assert (0, 0, 0, 0) == (empty.count, empty.p50, empty.p95, empty.max)
    assert not empty.may_hold(0)
    assert "Sketch(count=2, p50=0.99, p95=3, max=3)" == repr(Sketch.of([1, 3]))


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_that_there_is_not(q: float) -> None:
    """A quantile is from 0 to 1."""
    with pytest.raises(ValueError, match="q must be from 0 to 1, but is"):
        Sketch.of([1]).quantile(q)


def test_other_types() -> None:
    """Sketches are added to and subtracted from sketches only."""
    for wrong in (1, "1", None):
        with pytest.raises(TypeError):
            Sketch() + wrong
        with pytest.raises(TypeError):
            wrong + Sketch()
        with pytest.raises(TypeError):
            Sketch() - wrong


def test_a_value() -> None:
    """A sketch cannot be changed, and the garbage collector finds nothing in it."""
    sketch = Sketch.of([1, 2])
    with pytest.raises(AttributeError):
        sketch.count = 3  # type: ignore[misc]
    assert not any(gc.is_tracked(each) for each in gc.get_referents(sketch) if each is not Sketch)
    assert sys.getsizeof(sketch) < 64


def cells_of(*values: float) -> str:
    return Sketch.of(values).to_dict()["cells"]


GOOD = cells_of(100, 200)
WHOLE = b64decode(GOOD)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ([], TypeError, "a sketch must be an object, not list"),
        ({}, TypeError, "the cells of a sketch must be a str, not NoneType"),
        ({"cells": GOOD}, TypeError, "the max of a sketch must be a number, not NoneType"),
        ({"cells": GOOD, "max": True}, TypeError, "the max of a sketch must be a number, not bool"),
        ({"cells": GOOD, "max": "200"}, TypeError, "the max of a sketch must be a number, not str"),
        ({"cells": GOOD, "max": math.nan}, ValueError, "the max of a sketch must be from 0 to 1e.15, but is nan"),
        ({"cells": GOOD, "max": -1}, ValueError, "the max of a sketch must be from 0"),
        ({"cells": GOOD, "max": 10**400}, ValueError, "the max of a sketch must be from 0"),
        ({"cells": "A" * 1_000_000, "max": 1}, ValueError, "1,000,000 characters, more than"),
        ({"cells": GOOD, "max": 300}, ValueError, "the max of a sketch, 300, is not among its cells"),
        ({"cells": "", "max": 1}, ValueError, "the max of a sketch, 1, is not among its cells"),
        ({"cells": "é", "max": 1}, ValueError, "damaged"),
        ({"cells": "A", "max": 1}, ValueError, "damaged"),
        ({"cells": b64encode(WHOLE[:-1]).decode(), "max": 200}, ValueError, "the cells of a sketch are damaged"),
        ({"cells": b64encode(WHOLE[:2]).decode(), "max": 200}, ValueError, "the cells of a sketch are damaged"),
        ({"cells": b64encode(WHOLE[:-1] + b"\0").decode(), "max": 200}, ValueError, "damaged"),
        ({"cells": b64encode(WHOLE + b"\0").decode(), "max": 200}, ValueError, "damaged"),
        ({"cells": b64encode(WHOLE + b"\0\1\1" * 40).decode(), "max": 200}, ValueError, "damaged"),
        ({"cells": b64encode(b"\xff\xff\0\0\1").decode(), "max": 200}, ValueError, "damaged"),
        ({"cells": b64encode(b"\x0f\xff\0\0\1").decode(), "max": 200}, ValueError, "damaged"),
    ],
)
def test_damaged(found: object, error: type[Exception], message: str) -> None:
    """What is not a sketch's is refused, with the reason."""
    with pytest.raises(error, match=message):
        Sketch.from_dict(found)


def test_too_many_values() -> None:
    """A file's sketch with more values than anybody has is refused."""
    sketch = Sketch.of([1])
    while sketch.count <= MOST_COUNT:
        sketch += sketch
    with pytest.raises(ValueError, match="damaged"):
        Sketch.from_dict(sketch.to_dict())


@given(st.binary(max_size=MOST_BYTES), st.floats(0, 1e15))
def test_any_bytes(cells: bytes, highest: float) -> None:
    """Bytes of any kind are a sketch that works, or they are refused."""
    try:
        sketch = Sketch.from_dict({"cells": b64encode(cells).decode(), "max": highest})
    except ValueError:
        return
    assert sketch.to_dict() == (sketch + Sketch()).to_dict()
    assert 0 <= sketch.p50 <= sketch.p95 <= sketch.max


@given(many, st.data())
def test_any_damage(part: list[tuple[float, int]], data: st.DataObject) -> None:
    """A file's sketch in which a byte was changed is a sketch that works, or it is refused."""
    found = Sketch.of(value for value, _ in part).to_dict()
    cells = bytearray(b64decode(found["cells"]) or b"\0")
    cells[data.draw(st.integers(0, len(cells) - 1))] = data.draw(st.integers(0, 255))
    try:
        sketch = Sketch.from_dict({**found, "cells": b64encode(cells).decode()})
    except ValueError:
        return
    assert 0 <= sketch.p50 <= sketch.p95 <= sketch.max
