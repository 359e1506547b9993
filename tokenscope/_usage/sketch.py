"""`Sketch`: the median, the 95th percentile and the maximum of any number of values, in a few hundred bytes."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, cosh, exp, frexp, inf, log, sqrt
from operator import add, sub
from struct import pack, unpack
from typing import Any, Final, Literal

MOST_BYTES: Final = 432
"""No sketch keeps more bytes of buckets."""
_MOST_TEXT: Final = -(-MOST_BYTES // 3) * 4
MOST_COUNT: Final = 1 << 40
"""No sketch that is read from a file has more values."""
SMALLEST: Final = 1e-6
"""Smaller values count as 0."""
LARGEST: Final = 1e15
"""Larger values count as this."""

_GAMMA: Final = log(1.01 / 0.99)
"""The logarithm of a bucket's upper end divided by its lower end."""
_PER_LOG: Final = 1 / _GAMMA
_OFFSET: Final = 1 - ceil(log(SMALLEST) * _PER_LOG)
"""What makes the bucket of the smallest value number 1. Bucket 0 holds zeros."""

# A cell is a bucket, at level 0, or a stretch of 2, 4, 8 … buckets, at level 1, 2, 3 …: the number of a cell at level L is the
# number of any of its buckets without the last L bits. A key is the level and that number in one int.
_BITS: Final = 12
_NUMBERS: Final = (1 << _BITS) - 1
_TOP: Final = _BITS

_KEPT: Final = (log(0.5 / 0.5), log(0.95 / 0.05))
"""The quantiles that stay exact, as log-odds."""
_WIDEST: Final = 4.0
_NARROWEST: Final = 1e-4
_STEP: Final = 1.2
_NEAR: Final = 0.5
"""How far around these quantiles, in log-odds, no buckets are merged: the widest that fits, in steps."""
_ROOM: Final = 3 / 4
_LESS_ROOM: Final = 7 / 8
"""How much of the bytes buckets may take after some were merged, so that not each addition has to merge some: after a search for
the best way, and after buckets were merged into larger cells that there were."""

# How cells are encoded, so that each step is one call of a function in C:
# - 2 bytes: the first key; 2 bytes: how many bytes the steps have, from each key to the next.
# - The steps, a byte each. Bytes above `_LONGEST_STEP` stand for as many steps of 1 as `_RUNS` says.
# - The lowest byte of each count.
# - If not all are 0: what steps have beyond `_LONGEST_STEP`, in units of that, then the second bytes of all counts, the third,
#   and so on. Zeros in these are a 0 and how many there are.
_LONGEST_STEP: Final = 239
_RUNS: Final = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
_RUN_BYTES: Final = tuple((b"\1" * run, bytes([byte])) for byte, run in enumerate(_RUNS, _LONGEST_STEP + 1))[::-1]
_ZEROS: Final = re.compile(rb"\0{1,255}")
_ENCODED_ZEROS: Final = re.compile(rb"\0(.)", re.DOTALL)
_COUNT_BYTES: Final = 8


@dataclass(frozen=True, slots=True, repr=False)
class Sketch:
    """Quantiles of values, such as tokens or seconds of calls: frozen, and a monoid under `+` (so `sum` works).

    Values are counted in logarithmic buckets, as in DDSketch (C. Masson, J. E. Rim, H. K. Lee: DDSketch: a fast and
    fully-mergeable quantile sketch with relative-error guarantees; VLDB 2019). A bucket's upper end is 1.01 / 0.99 times its
    lower end, so a quantile is within 1% of the value itself. The count and the maximum are exact.

    A sketch has at most `MOST_BYTES` bytes of buckets. Until it would have more, merging is exact, in any order. Then it merges
    neighbouring buckets, those in the tails first, and none around the median and the 95th percentile. Their counts are still
    exact, so both quantiles stay within 1%. Other quantiles become less exact.

    Later values can break this, if they move a quantile to a place where buckets were merged before. The quantile is then the
    middle of a merged bucket, or it is at a wrong rank by as many values as the merged buckets around it hold. That takes values
    over many powers of ten whose kind changes. With 50,000 values, fed in order of size, a quantile was wrong by less than 1% if
    they were lognormal with a sigma of up to 1.5, by up to 3% with a sigma of 2, and by up to 8% with a sigma of 3. With 20
    phases of other medians, it was wrong by less than 1% if these differed by a factor of up to 100, and by up to 2% with 1,000.

    Args:
        cells: The buckets and their counts, encoded.
        count: How many values there are.
        max: The largest value; 0 if there are none.

    Example:
        >>> from tokenscope._usage.sketch import Sketch
        >>> sketch = Sketch.of([100, 200, 300]) + Sketch.of([4_000])
        >>> sketch.count, round(sketch.p50), sketch.max
        (4, 198, 4000.0)
    """

    cells: bytes = b""
    count: int = 0
    max: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Sketch:
        """Return a sketch of some values.

        Raises:
            ValueError: a value is negative, infinite or NaN.
        """
        return EMPTY.add_all(values)

    def add_all(self, values: Iterable[float]) -> Sketch:
        """Return a sketch of these values and of some more.

        Raises:
            ValueError: a value is negative, infinite or NaN.
        """
        batch = list(values)
        if not batch:
            return self
        cells = decoded(self.cells)
        cells.update(_buckets(batch))
        return _fitted(cells, self.count + len(batch), max(self.max, float(min(max(batch), LARGEST))))

    def quantile(self, q: float) -> float:
        """Return the smallest value that at least `q` times `count` values do not exceed, within 1%; 0 if there are no values.

        Args:
            q: From 0, the smallest value, to 1, the largest.

        Raises:
            ValueError: `q` is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be from 0 to 1, but is {q!r}")
        part, whole = q.as_integer_ratio()
        rank = max(1, -(-self.count * part // whole))
        if rank >= self.count:
            return self.max
        cells = decoded(self.cells)
        keys = _in_order(cells)
        below = accumulate(map(cells.__getitem__, keys))
        return min(self.max, next(_value_of(key) for key, reached in zip(keys, below, strict=True) if reached >= rank))

    @property
    def p50(self) -> float:
        """The median, within 1%; 0 if there are no values."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float:
        """The 95th percentile, within 1%; 0 if there are no values."""
        return self.quantile(0.95)

    def may_hold(self, value: float) -> bool:
        """Whether the bucket of a value has counts, so that the value, or one within 2% of it, may be among the values."""
        return bool(_holders(decoded(self.cells), value))

    def to_dict(self) -> dict[str, Any]:
        """Return the sketch as JSON has it; `from_dict` reads it."""
        return {"max": self.max, "cells": b64encode(self.cells).decode()}

    @classmethod
    def from_dict(cls, found: object) -> Sketch:
        """Return the sketch that `to_dict` has returned, from JSON.

        Raises:
            TypeError: something has another type.
            ValueError: something is not what `to_dict` returns.
        """
        if not isinstance(found, Mapping):
            raise TypeError(f"a sketch must be an object, not {type(found).__name__}")
        text, highest = found.get("cells"), found.get("max")
        if not isinstance(text, str):
            raise TypeError(f"the cells of a sketch must be a str, not {type(text).__name__}")
        if isinstance(highest, bool) or not isinstance(highest, int | float):
            raise TypeError(f"the max of a sketch must be a number, not {type(highest).__name__}")
        if len(text) > _MOST_TEXT:
            raise ValueError(f"the cells of a sketch have {len(text):,} characters, more than {_MOST_TEXT}")
        if not 0 <= highest <= LARGEST:
            raise ValueError(f"the max of a sketch must be from 0 to {LARGEST:g}, but is {highest!r}")
        encoded, cells = b"", Counter[int]()
        try:
            encoded = b64decode(text, validate=True)
            cells = decoded(encoded)
            is_whole = not cells or (min(cells.values()) > 0 and _encoded(cells) == encoded)
        except (ValueError, OverflowError):
            is_whole = False
        count = cells.total()
        if not is_whole or count > MOST_COUNT or any(_first(key) > _LAST for key in cells):
            raise ValueError("the cells of a sketch are damaged")
        if bool(highest) > bool(cells) or (cells and not _holders(cells, highest)):
            raise ValueError(f"the max of a sketch, {highest:g}, is not among its cells")
        return cls(encoded, count, float(highest))

    def __bool__(self) -> bool:
        return self.count > 0

    def __add__(self, other: object) -> Sketch:
        if not isinstance(other, Sketch):
            return NotImplemented
        if not self or not other:
            return self or other
        cells = decoded(self.cells)
        cells.update(decoded(other.cells))
        return _fitted(cells, self.count + other.count, max(self.max, other.max))

    def __radd__(self, other: Literal[0]) -> Sketch:
        """Make `sum` work, which begins with 0."""
        return self if other == 0 else NotImplemented

    def __sub__(self, other: object) -> Sketch:
        """Return what was added to `other` to make this sketch.

        The maximum is that of this sketch if its bucket still has counts, or else the middle of the highest bucket that has.

        Raises:
            ValueError: `other` has more values in a bucket than this sketch.
        """
        if not isinstance(other, Sketch):
            return NotImplemented
        cells = decoded(self.cells)
        for key, count in sorted(decoded(other.cells).items()):
            _take(cells, key, count)
        cells = +cells
        if not cells:
            return EMPTY
        highest = self.max if _holders(cells, self.max) else _value_of(_in_order(cells)[-1])
        return _fitted(cells, self.count - other.count, highest)

    def __repr__(self) -> str:
        return f"Sketch(count={self.count}, p50={self.p50:.4g}, p95={self.p95:.4g}, max={self.max:.4g})"


EMPTY: Final = Sketch()


def _buckets(values: Iterable[float]) -> list[int]:
    """Return the number of each value's bucket."""
    return [ceil(log(each) * _PER_LOG) + _OFFSET if SMALLEST <= each <= LARGEST else _outer(each) for each in values]


def _outer(value: float) -> int:
    """Return the bucket of a very small or a very large value."""
    if 0 <= value < SMALLEST:
        return 0
    if LARGEST < value < inf:
        return _LAST
    raise ValueError(f"a value must be a number, 0 or more, but is {value!r}")


_LAST: Final = _buckets([LARGEST])[0]


def _ancestors(key: int) -> list[int]:
    """Return a cell and those that it can be merged into, the smallest first. Zeros are never merged."""
    level, number = key >> _BITS, key & _NUMBERS
    return [(each << _BITS) | (number >> (each - level)) for each in range(level, _TOP + 1)] if key else [0]


def _first(key: int) -> int:
    """Return the first bucket of a cell."""
    return (key & _NUMBERS) << (key >> _BITS)


def _in_order(cells: Counter[int]) -> list[int]:
    """Return the keys in the order of the middles of their cells."""
    keys = sorted(cells)
    if keys[-1] > _NUMBERS:
        keys.sort(key=lambda key: (2 * (key & _NUMBERS) + 1) << (key >> _BITS))
    return keys


def _value_of(key: int) -> float:
    """Return the middle of a cell; of a bucket, the value that is within 1% of both ends."""
    middle = _first(key) + (1 << (key >> _BITS)) / 2 - 1 - _OFFSET
    return min(exp(middle * _GAMMA) / cosh(_GAMMA / 2), LARGEST) if key else 0.0


def _holders(cells: Counter[int], value: float) -> list[int]:
    """Return the cells with counts that a value may be counted in."""
    return [each for each in _ancestors(_buckets([value])[0]) if cells[each]]


def _take(cells: Counter[int], key: int, count: int) -> None:
    """Take counts of a cell away, where they are now: they may have been merged into a larger cell since.

    Where sketches were merged in another order, they may also be in smaller cells.
    """
    left = _take_from(cells, _ancestors(key), count)
    if left:
        low, high = _first(key), _first(key) + (1 << (key >> _BITS))
        parts = [each for each in cells if low <= _first(each) < high]
        left = _take_from(cells, sorted(parts, key=cells.__getitem__, reverse=True), left)
    if left:
        raise ValueError(
            f"only what was added can be subtracted, but {left:,} more values near {_value_of(key):.4g} would be"
        )


def _take_from(cells: Counter[int], keys: Iterable[int], count: int) -> int:
    """Take counts away, and return how many there were not."""
    for key in keys:
        taken = min(count, cells[key])
        cells[key] -= taken
        count -= taken
    return count


def _fitted(cells: Counter[int], count: int, highest: float) -> Sketch:
    """Return a sketch that keeps no more bytes than it may."""
    encoded = _encoded(cells)
    return Sketch(encoded if len(encoded) <= MOST_BYTES else _merged(cells), count, highest)


def _merged(cells: Counter[int]) -> bytes:
    """Merge cells into larger ones, the larger the further they are from the quantiles that stay exact, and encode them."""
    keys = _in_order(cells)
    distances = _distances([*map(cells.__getitem__, keys)])
    gathered = _gathered(cells, keys, distances)
    if len(gathered) < len(cells) and len(encoded := _encoded(gathered)) <= MOST_BYTES * _LESS_ROOM:
        return encoded
    narrow, wide = _NARROWEST, _WIDEST
    best = b""
    while wide > narrow * _STEP:
        width = sqrt(narrow * wide)
        encoded = _encoded(_merged_beyond(width, cells, keys, distances))
        if len(encoded) <= MOST_BYTES * _ROOM:
            best, narrow = encoded, width
        else:
            wide = width
    return best or _encoded(_merged_at_all(cells, keys, distances))


def _distances(counts: list[int]) -> list[float]:
    """Return how far each of these, in order, is from the nearest quantile that stays exact, in log-odds; 0 where it is."""
    total, reached = sum(counts), 0
    left, found = -inf, list[float]()
    for count in counts:
        reached += count
        right = log(reached / (total - reached)) if reached < total else inf
        found.append(min(left - kept if left > kept else kept - right if right < kept else 0.0 for kept in _KEPT))
        left = right
    return found


def _gathered(cells: Counter[int], keys: list[int], distances: list[float]) -> Counter[int]:
    """Return cells, with buckets merged into the larger cells that there are, except near the quantiles that stay exact."""
    far = {key for key, distance in zip(keys, distances, strict=True) if distance > _NEAR}
    levels = sorted({key >> _BITS for key in far} - {0})
    found = Counter(cells)
    for key in far:
        if 0 < key <= _NUMBERS:
            for level in levels:
                larger = (level << _BITS) | (key >> level)
                if larger in far:
                    found[larger] += found.pop(key)
                    break
    return found


def _merged_beyond(width: float, cells: Counter[int], keys: list[int], distances: list[float]) -> Counter[int]:
    """Return cells, merged beyond a distance: to level 1 up to twice the distance, to level 2 up to four times, and so on.

    No cell grows so large that it holds a bucket within the distance.
    """
    found: Counter[int] = Counter()
    inside = [_first(key) for key, distance in zip(keys, distances, strict=True) if distance <= width]
    last = len(inside) - 1
    place = -1  # of the last cell within the distance that stands before
    for key, distance in zip(keys, distances, strict=True):
        if distance <= width:
            place += 1
            found[key] += cells[key]
            continue
        level, first = frexp(distance / width)[1], _first(key)
        if place >= 0:
            level = min(level, (inside[place] ^ first).bit_length() - 1)
        if place < last:
            level = min(level, (inside[place + 1] ^ first).bit_length() - 1)
        found[_ancestor(key, min(level, _TOP))] += cells[key]
    return found


def _merged_at_all(cells: Counter[int], keys: list[int], distances: list[float]) -> Counter[int]:
    """Return cells of the largest level, and those of the kept quantiles themselves."""
    found: Counter[int] = Counter()
    for key, distance in zip(keys, distances, strict=True):
        found[_ancestor(key, _TOP) if distance else key] += cells[key]
    return found


def _ancestor(key: int, level: int) -> int:
    """Return the cell of a level, or the cell itself if it is larger. Zeros are never merged."""
    own = key >> _BITS
    return (level << _BITS) | ((key & _NUMBERS) >> (level - own)) if level > own and key else key


def _encoded(cells: Counter[int]) -> bytes:
    """Return cells and their counts as bytes; the same bytes for equal ones."""
    keys = sorted(cells)
    counts = [*map(cells.__getitem__, keys)]
    steps = [*map(sub, keys[1:], keys)]
    rest = b""
    if max(counts) > 255 or max(steps, default=0) > _LONGEST_STEP:
        lows, highs = (
            [(each - 1) % _LONGEST_STEP + 1 for each in steps],
            bytes((each - 1) // _LONGEST_STEP for each in steps),
        )
        raw = pack(f"<{len(counts)}Q", *counts)
        planes = [raw[place::_COUNT_BYTES] for place in range(_COUNT_BYTES)]
        rest = b"".join([highs, *planes[1:]]).rstrip(b"\0")
        rest = _ZEROS.sub(lambda found: bytes([0, len(found[0])]), rest)
        short, lowest = bytes(lows), planes[0]
    else:
        short, lowest = bytes(steps), bytes(counts)
    for run, byte in _RUN_BYTES:
        short = short.replace(run, byte)
    return b"".join([keys[0].to_bytes(2), len(short).to_bytes(2), short, lowest, rest])


def decoded(encoded: bytes) -> Counter[int]:
    """Return the counts of cells, as `_encoded` has encoded them."""
    if not encoded:
        return Counter()
    end = 4 + int.from_bytes(encoded[2:4])
    short = encoded[4:end]
    for run, byte in _RUN_BYTES:
        short = short.replace(byte, run)
    number = len(short) + 1
    steps: Iterable[int] = short
    counts: Iterable[int] = encoded[end : end + number]
    rest = encoded[end + number :]
    if rest:
        rest = _ENCODED_ZEROS.sub(lambda found: bytes(found[1][0]), rest)
        steps = map(add, steps, map(_LONGEST_STEP.__mul__, rest[: number - 1].ljust(number - 1, b"\0")))
        raw = bytearray(number * _COUNT_BYTES)
        raw[::_COUNT_BYTES] = counts
        for place in range(1, _COUNT_BYTES):
            start = number * place - 1
            raw[place::_COUNT_BYTES] = rest[start : start + number].ljust(number, b"\0")
        counts = unpack(f"<{number}Q", raw)
    return Counter(dict(zip(accumulate(steps, initial=int.from_bytes(encoded[:2])), counts, strict=True)))
