"""Usage: counts that add up, and nothing that is no count."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from tokenscope import Usage
from tokenscope._usage.usage import FIELDS, ZERO, ZERO_COUNTS, Counts, check_count, counts_of, sum_counts, values_of


class Whole:
    """An integer of another make."""

    def __index__(self) -> int:
        return 7


def test_adds_field_by_field():
    """A sum has the sum of each field."""
    one = Usage(**dict(zip(FIELDS, range(1, len(FIELDS) + 1), strict=True)))

    assert tuple(2 * n for n in range(1, len(FIELDS) + 1)) == values_of(one + one)


def test_sum_starts_from_zero():
    """`sum` works without a start value, over nothing it is 0."""
    assert Usage(input_tokens=3) == sum([Usage(input_tokens=1), Usage(input_tokens=2)])
    assert 0 == sum([])


@pytest.mark.parametrize("other", [1, "x", None, (1, 2), True, False])
def test_adds_to_nothing_else(other):
    """Only usages add to usages; 0 may stand on the left, for `sum`."""
    with pytest.raises(TypeError):
        Usage() + other
    with pytest.raises(TypeError):
        other + Usage()


def test_zero_is_false():
    """A usage is true when anything was counted."""
    assert not ZERO
    assert values_of(ZERO) == (0,) * len(FIELDS)
    assert counts_of(ZERO) == ZERO_COUNTS
    assert Usage(failed_calls=1)


def test_total_is_input_and_output():
    """Cached, reasoning and audio tokens are parts, and not counted again."""
    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, reasoning_tokens=3, input_audio_tokens=2)

    assert 15 == usage.total_tokens


def test_is_frozen_and_hashable():
    """A usage is a value."""
    usage = Usage(calls=1)

    with pytest.raises(AttributeError):
        usage.calls = 2  # type: ignore[misc]
    assert 1 == len({usage, Usage(calls=1)})


def test_to_dict_has_every_field_and_the_total():
    """The dict for JSON holds all counts, the total behind input and output."""
    found = Usage(input_tokens=2, output_tokens=3).to_dict()

    assert {*FIELDS, "total_tokens"} == set(found)
    assert 5 == found["total_tokens"]
    assert list(found).index("total_tokens") == list(found).index("output_tokens") + 1


@pytest.mark.parametrize("value", [True, False, "3", b"3", None, [1], 1j, Fraction(3)], ids=repr)
def test_what_is_no_number_is_a_type_error(value):
    """Booleans, text and the like are no counts."""
    with pytest.raises(TypeError, match="input_tokens must be a whole number"):
        Usage(input_tokens=value)


@pytest.mark.parametrize("value", [-1, 1.5, 2.0, -0.5, float("nan"), float("inf"), np.int64(-3)], ids=repr)
def test_what_cannot_be_a_count_is_a_value_error(value):
    """Negative, fractional, infinite and NaN are no counts."""
    with pytest.raises(ValueError, match="input_tokens must"):
        Usage(input_tokens=value)


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "NaN or infinite"), (1.5, "a float"), (-2, "negative, but is -2")], ids=repr
)
def test_the_message_says_what_is_wrong(value, said):
    """An error names the count and its fault."""
    with pytest.raises(ValueError, match=said):
        check_count("n", value)


@pytest.mark.parametrize("value", [np.int32(7), np.uint8(7), Whole(), 7], ids=lambda value: f"{type(value).__name__} 7")
def test_integers_of_another_make_become_int(value):
    """numpy's integers count, and are kept as plain int."""
    usage = Usage(output_tokens=value)

    assert 7 == usage.output_tokens
    assert int is type(usage.output_tokens)


def test_counts_are_a_usage_without_prices():
    """Counts have the names that a usage has; what a price table adds is not among them."""
    counts = Counts(*range(1, len(Counts._fields) + 1))
    usage = Usage.from_counts(counts)

    assert counts._asdict() == {name: getattr(usage, name) for name in Counts._fields}
    assert {"unpriced_calls": 0, "saved_tokens": 0, "saved_cost": 0} == {
        name: getattr(usage, name) for name in FIELDS if name not in Counts._fields
    }
    assert counts == counts_of(usage)
    assert usage.total_tokens == counts.tokens


def test_counts_add_up_field_by_field():
    """Counts add up as their usages do; nothing adds up to zero."""
    one, other = Counts(1, 0, 1, 7, 5, cost=Decimal("0.1")), Counts(2, 1, 0, 30, 4, 9, cost=Decimal("0.2"))

    assert counts_of(Usage.from_counts(one) + Usage.from_counts(other)) == sum_counts([one, other])
    assert ZERO_COUNTS == sum_counts([])


def test_money_is_decimal():
    """Dollars add up exactly, as Decimal; whole numbers are taken too."""
    assert Decimal("0.3") == (Usage(cost=Decimal("0.1")) + Usage(cost=Decimal("0.2"))).cost
    assert Decimal(2) == Usage(saved_cost=2).saved_cost
    assert Decimal is type(Usage(cost=2).cost)


@pytest.mark.parametrize("value", [0.1, "1", True, None])
def test_what_is_no_money(value):
    """Floats and text are no exact amounts."""
    with pytest.raises(TypeError, match="cost must be a Decimal, in dollars"):
        Usage(cost=value)


@pytest.mark.parametrize("value", [-1, Decimal(-1), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")])
def test_money_that_cannot_be(value):
    """An amount is finite, and not negative."""
    with pytest.raises(ValueError, match="cost must be dollars, 0 or more"):
        Usage(cost=value)


def test_known_cost():
    """A cost is unknown where calls spent tokens and none of their prices is known; it is a lower bound where some are."""
    assert Decimal(0) == Usage().known_cost
    assert None is Usage(calls=1, unpriced_calls=1).known_cost
    assert None is Usage(calls=1, unpriced_calls=1).to_dict()["cost"]
    assert Decimal(1) == Usage(calls=2, unpriced_calls=1, cost=1).known_cost
    assert 1.0 == Usage(calls=2, unpriced_calls=1, cost=1).to_dict()["cost"]


def test_a_count_is_returned():
    """What is a number of tokens comes back as it is."""
    assert [0, 7] == [check_count("n", 0), check_count("n", Whole())]


@pytest.mark.parametrize("cost", ["1e1000000", "1e-1000000", "9e999999"])
def test_amounts_that_no_sum_can_hold(cost):
    """Are no amounts of dollars."""
    with pytest.raises(ValueError, match="cost must be dollars, 0 or more"):
        Usage(cost=Decimal(cost))
