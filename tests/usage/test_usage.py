"""Usage: counts that add up, and errors for values that are no counts."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from support.spending import python

from tokenscope import Usage
from tokenscope._usage.usage import (
    FIELDS,
    MONEY,
    ZERO,
    ZERO_COUNTS,
    Counts,
    check_count,
    subtract,
    subtract_counts,
    sum_counts,
    sum_usages,
    values_of,
)


class Whole:
    """An integer type like those of other libraries."""

    def __index__(self) -> int:
        return 7


def test_shows_what_is_not_0():
    """A usage is shown with the total first and without what is 0. An unknown cost is shown."""
    usage = Usage(calls=1, input_tokens=10, output_tokens=5, cost=Decimal("0.1"))

    assert "Usage(total_tokens=15, calls=1, input_tokens=10, output_tokens=5, cost=Decimal('0.1'))" == repr(usage)
    assert "Usage()" == repr(Usage())
    assert "Usage(calls=2, failed_calls=2)" == repr(Usage(calls=2, failed_calls=2))
    unpriced = Usage(calls=1, output_tokens=5, unpriced_calls=1)
    assert "Usage(total_tokens=5, calls=1, output_tokens=5, cost=None, unpriced_calls=1)" == f"{unpriced}"


def test_adds_field_by_field():
    """The sum of two usages has the sum of each field."""
    one = Usage(**dict(zip(FIELDS, range(1, len(FIELDS) + 1), strict=True)))

    assert tuple(2 * n for n in range(1, len(FIELDS) + 1)) == values_of(one + one)


def test_sum_starts_from_zero():
    """`sum` of usages works without a start value, and `sum` of no usages is 0."""
    assert Usage(input_tokens=3) == sum([Usage(input_tokens=1), Usage(input_tokens=2)])
    assert 0 == sum([])


@pytest.mark.parametrize("other", [1, "x", None, (1, 2), True, False])
def test_adds_to_nothing_else(other):
    """Adding a value of another type to a usage raises a TypeError."""
    with pytest.raises(TypeError):
        Usage() + other
    with pytest.raises(TypeError):
        other + Usage()


def test_zero_is_false():
    """A usage is true if anything was counted."""
    assert not ZERO
    assert values_of(ZERO) == (0,) * len(FIELDS)
    assert Usage(failed_calls=1)


def test_total_is_input_and_output():
    """The total is input and output, which already include cached, reasoning and audio tokens."""
    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, reasoning_tokens=3, input_audio_tokens=2)

    assert 15 == usage.total_tokens


def test_is_frozen_and_hashable():
    """A usage cannot be changed, and equal usages have equal hashes."""
    usage = Usage(calls=1)

    with pytest.raises(AttributeError):
        usage.calls = 2  # type: ignore[misc]
    assert 1 == len({usage, Usage(calls=1)})


def test_to_dict_has_every_field_and_the_total():
    """`to_dict()` holds all fields, with the total after input and output; tokens kept for an hour only if there are any."""
    assert {*FIELDS, "total_tokens"} - set(Usage().to_dict()) == {"cache_write_1h_tokens"}
    found = Usage(input_tokens=2, output_tokens=3, cache_write_1h_tokens=1).to_dict()

    assert {*FIELDS, "total_tokens"} == set(found)
    assert 5 == found["total_tokens"]
    assert list(found).index("total_tokens") == list(found).index("output_tokens") + 1


@pytest.mark.parametrize("value", [True, False, "3", b"3", None, [1], 1j, Fraction(3)], ids=repr)
def test_what_is_no_number_is_a_type_error(value):
    """A count of a wrong type, such as a boolean or text, raises a TypeError."""
    with pytest.raises(TypeError, match="input_tokens must be a whole number"):
        Usage(input_tokens=value)


@pytest.mark.parametrize("value", [-1, 1.5, 2.0, -0.5, float("nan"), float("inf"), np.int64(-3)], ids=repr)
def test_what_cannot_be_a_count_is_a_value_error(value):
    """A negative, fractional, infinite or NaN count raises a ValueError."""
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
    """Integers of numpy and of other libraries are accepted, and are kept as plain int."""
    usage = Usage(output_tokens=value)

    assert 7 == usage.output_tokens
    assert int is type(usage.output_tokens)


def test_none_of_another_make():
    """A 0 of numpy is a count, as any other 0 is."""
    assert 0 == Usage(output_tokens=np.uint8(0)).output_tokens
    assert int is type(Usage(output_tokens=np.uint8(0)).output_tokens)


def test_counts_are_a_usage_without_prices():
    """Counts have the fields of a usage, without unpriced calls and without saved tokens and cost."""
    counts = Counts(*range(1, len(Counts._fields) + 1))
    usage = Usage.from_counts(counts)

    assert counts._asdict() == {name: getattr(usage, name) for name in Counts._fields}
    assert {"unpriced_calls": 0, "saved_tokens": 0, "saved_cost": 0} == {
        name: getattr(usage, name) for name in FIELDS if name not in Counts._fields
    }
    assert counts == Counts(*(getattr(usage, name) for name in Counts._fields))
    assert usage.total_tokens == counts.tokens


def test_counts_add_up_field_by_field():
    """`sum_counts` adds counts field by field, and returns zero for an empty list."""
    one, other = Counts(1, 0, 1, 7, 5, cost=Decimal("0.1")), Counts(2, 1, 0, 30, 4, 9, cost=Decimal("0.2"))

    assert Usage.from_counts(one) + Usage.from_counts(other) == Usage.from_counts(sum_counts([one, other]))
    assert ZERO_COUNTS == sum_counts([])
    assert other == subtract_counts(sum_counts([one, other]), one)


def test_nothing_is_left_below_0():
    """`subtract` leaves whole numbers, and dollars where nothing of them is taken away."""
    paid = Usage(calls=2, input_tokens=5, cost=Decimal("0.5"))
    left = subtract(paid, Usage(calls=3, input_tokens=4))

    assert Usage(input_tokens=1, cost=Decimal("0.5")) == left
    assert {int} == {type(getattr(left, name)) for name in FIELDS if name not in MONEY}
    assert Decimal("0.5") == subtract(paid, UNKNOWN).cost


def test_a_sum_of_many_is_the_sum_of_two_and_two():
    """Many usages have the sum that they have one by one, also if it is unknown what any of them cost."""
    many = [UNKNOWN, Usage(input_tokens=5), *[ZERO] * 99, CACHED]

    assert sum(many, ZERO) == sum_usages(many)
    assert sum(many, ZERO).cost is None


def test_money_is_decimal():
    """Costs add up exactly, as Decimal. Whole numbers are accepted, too."""
    assert Decimal("0.3") == (Usage(cost=Decimal("0.1")) + Usage(cost=Decimal("0.2"))).cost
    assert Decimal(2) == Usage(saved_cost=2).saved_cost
    assert Decimal is type(Usage(cost=2).cost)


@pytest.mark.parametrize("value", [0.1, "1", True, None])
def test_what_is_no_money(value):
    """A cost that is a float, text, a boolean or None raises a TypeError."""
    with pytest.raises(TypeError, match=f"cost must be a Decimal, in dollars, not {type(value).__name__} "):
        Usage(cost=value)


@pytest.mark.parametrize("value", [-1, Decimal(-1), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")])
def test_money_that_cannot_be(value):
    """A negative, infinite or NaN cost raises a ValueError."""
    with pytest.raises(ValueError, match="cost must be dollars, 0 or more"):
        Usage(cost=value)


def test_known_cost():
    """An unknown cost is None, a partly known cost is a lower bound, and no calls cost 0."""
    assert Decimal(0) == Usage().known_cost
    assert None is Usage(calls=1, unpriced_calls=1).known_cost
    assert None is Usage(calls=1, unpriced_calls=1).to_dict()["cost"]
    assert Decimal(1) == Usage(calls=2, unpriced_calls=1, cost=1).known_cost
    assert 1.0 == Usage(calls=2, unpriced_calls=1, cost=1).to_dict()["cost"]


def test_a_count_is_returned():
    """`check_count` returns a valid count as an int."""
    assert [0, 7] == [check_count("n", 0), check_count("n", Whole())]


@pytest.mark.parametrize("cost", ["1e1000000", "1e-1000000", "9e999999"])
def test_amounts_that_no_sum_can_hold(cost):
    """A cost with more than 1,000 digits raises a ValueError."""
    with pytest.raises(ValueError, match="cost must be dollars, 0 or more"):
        Usage(cost=Decimal(cost))


@pytest.mark.parametrize("cost", ["9e999", "1e-999", "0"])
def test_amounts_that_a_sum_can_hold(cost):
    """A cost with up to 1,000 digits is kept exactly, and so is 0."""
    assert Decimal(cost) == Usage(cost=Decimal(cost)).cost


@pytest.mark.parametrize("cost", ["1e1000", "1e-1000"])
def test_one_digit_too_many(cost):
    """A cost with one digit more raises a ValueError."""
    with pytest.raises(ValueError, match="cost must be dollars, 0 or more"):
        Usage(cost=Decimal(cost))


def test_to_dict_is_ready_for_json():
    """`to_dict()` holds dollars as floats and counts as ints."""
    found = Usage(calls=1, cost=Decimal("0.5"), saved_cost=Decimal("0.25")).to_dict()

    assert {"cost": 0.5, "saved_cost": 0.25} == {name: value for name, value in found.items() if type(value) is float}
    assert 1 == found["calls"]


UNKNOWN = Usage(calls=1, input_tokens=5, unpriced_calls=1)
FREE = Usage(calls=1, input_tokens=5)
CACHED = Usage(calls=1, cached_calls=1, saved_tokens=5)
PAID = Usage(calls=1, input_tokens=5, cost=Decimal("0.5"))


@pytest.mark.parametrize(
    ("usages", "cost"),
    [
        ([], Decimal(0)),
        ([UNKNOWN], None),
        ([UNKNOWN, UNKNOWN], None),
        ([UNKNOWN, CACHED], None),
        ([UNKNOWN, ZERO], None),
        ([UNKNOWN, FREE], Decimal(0)),
        ([UNKNOWN, Usage(input_tokens=5)], None),
        ([UNKNOWN, Usage(calls=1, input_tokens=5, output_tokens=5)], Decimal(0)),
        ([UNKNOWN, Usage(calls=1, output_tokens=5)], Decimal(0)),
        ([UNKNOWN, PAID], Decimal("0.5")),
        ([UNKNOWN, CACHED, FREE, UNKNOWN], Decimal(0)),
        ([CACHED, ZERO], Decimal(0)),
    ],
)
def test_an_unknown_cost(usages, cost):
    """The cost is None if calls spent tokens and no call has a known price, in whatever order they are added up."""
    for order in permutations(usages):
        for cut in range(len(order) + 1):
            assert cost == (sum(order[:cut], ZERO) + sum(order[cut:], ZERO)).cost
            assert cost == sum(order, ZERO).known_cost


def test_no_cost_without_a_reason():
    """A cost of None needs a call without a price; a cost of 0 where no call has a price is None."""
    assert Usage(calls=1, input_tokens=5, unpriced_calls=1, cost=Decimal(0)) == UNKNOWN
    assert UNKNOWN.to_dict()["cost"] is None
    with pytest.raises(TypeError, match="cost must be a Decimal"):
        Usage(calls=1, cost=None)


def test_counting_makes_no_decimal_context():
    """Importing, counting and draining leave Python's decimal context to the program, whose tasks may each have their own."""
    code = """
import contextvars
import tokenscope
from tokenscope._scopes.event_log import drain
with tokenscope.token_scope("a"):
    tokenscope.record_tokens("m", "o", "gpt-4o-mini", "openai", 1, 2)
    drain()
print([each.name for each in contextvars.copy_context() if each.name == "decimal_context"])
"""
    assert "[]\n" == python(code)
