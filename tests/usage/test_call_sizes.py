"""CallSizes: the sizes and times of a path's calls, as quantiles."""

from __future__ import annotations

import json
import pickle
import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenscope._usage.call_sizes import MOST_LETTERS, MOST_NAMES, MOST_OF_TOKENIZERS, CallSizes, Measured

models = st.sampled_from([f"provider/m{number}" for number in range(12)])
calls = st.lists(
    st.tuples(
        models,
        st.integers(0, 200_000),
        st.integers(0, 5_000),
        st.floats(0, 600),
        st.sampled_from(["", "bytes", *(f"t{number}" for number in range(10))]),
    ),
    max_size=20,
)
CALLS: list[Measured] = [
    ("openai/gpt-4o", 1_000, 50, 1.5, "o200k_base"),
    ("openai/gpt-4o", 3_000, 20, 0.5, "o200k_base"),
    ("ollama/llama", 2_000, 90, 4.0, "bytes"),
    ("ollama/llama", 0, 0, 0.0, ""),
]


def test_of() -> None:
    """A sizes has the quantiles of each number, the longest call of each model, and what measured the prompts."""
    sizes = CallSizes.of(CALLS)
    assert 4 == sizes.calls == sizes.input.count == sizes.output.count == sizes.seconds.count
    assert (3_000, 90, 4) == (sizes.input.max, sizes.output.max, sizes.seconds.max)
    assert pytest.approx((1_000, 20, 0.5), rel=0.01) == (sizes.input.p50, sizes.output.p50, sizes.seconds.p50)
    assert (("openai/gpt-4o", 3_000), ("ollama/llama", 2_000)) == sizes.longest
    assert ("bytes", "o200k_base") == sizes.measured_by
    assert sizes
    assert not CallSizes()
    assert CallSizes() == CallSizes.of([])


@given(calls, calls, calls)
def test_a_monoid(a: list[Measured], b: list[Measured], c: list[Measured]) -> None:
    """`+` is associative and commutative, and adds what `of` would have counted at once."""
    one, two, three = CallSizes.of(a), CallSizes.of(b), CallSizes.of(c)
    assert CallSizes.of(a + b + c) == (one + two) + three == one + (two + three) == three + (two + one)
    assert CallSizes.of(a + b + c) == sum([one, two, three])
    assert one == one + CallSizes() == CallSizes() + one
    assert hash(one + two) == hash(two + one)


@given(calls)
def test_as_json(a: list[Measured]) -> None:
    """A sizes is the same after it was written as JSON or pickled."""
    sizes = CallSizes.of(a)
    assert sizes == CallSizes.from_dict(json.loads(json.dumps(sizes.to_dict()))) == pickle.loads(pickle.dumps(sizes))


def test_few_names() -> None:
    """The models with the longest calls are kept, and names of a bounded length."""
    sizes = CallSizes.of([(f"m{number}", number, 1, 1.0, f"t{number:02}") for number in range(20)])
    assert tuple((f"m{number}", number) for number in range(19, 19 - MOST_NAMES, -1)) == sizes.longest
    assert tuple(f"t{number:02}" for number in range(MOST_NAMES)) == sizes.measured_by
    long = CallSizes.of([("m" * 10_000, 10**400, 1, 1.0, "t" * 10_000)])
    assert (("m" * 15 + "…" + "m" * (MOST_LETTERS - 16), 10**15),) == long.longest
    assert ("t" * MOST_OF_TOKENIZERS,) == long.measured_by
    assert long == CallSizes.from_dict(long.to_dict())


def test_the_window_of_a_model_with_a_long_name() -> None:
    """Amazon's names of models may be long, and end with the model's own."""
    model = (
        "bedrock/arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-20241022-v2:0"
    )
    assert 0.1 == CallSizes.of([(model, 20_000, 1, 1.0, "bytes")]).window_share


def test_subtracting() -> None:
    """A difference has the calls that were added, and the longest calls that may be among them."""
    older = CallSizes.of(CALLS)
    newer = older + CallSizes.of([("openai/gpt-4o", 5_000, 70, 2.0, "o200k_base"), ("xai/grok", 100, 1, 1.0, "bytes")])
    rest = newer - older
    assert (2, 5_000) == (rest.calls, rest.input.max)
    assert (("openai/gpt-4o", 5_000), ("xai/grok", 100)) == rest.longest
    assert ("bytes", "o200k_base") == rest.measured_by
    again = newer + CallSizes.of([CALLS[2]]) - newer
    assert (("ollama/llama", 2_000),) == again.longest
    assert CallSizes() == newer - newer
    with pytest.raises(ValueError, match="only what was added can be subtracted"):
        older - newer


def test_other_types() -> None:
    """Sizes of calls are added to and subtracted from sizes of calls only."""
    for wrong in (1, "1", None):
        with pytest.raises(TypeError):
            CallSizes() + wrong
        with pytest.raises(TypeError):
            wrong + CallSizes()
        with pytest.raises(TypeError):
            CallSizes() - wrong


def check_memory(number: int) -> None:
    """Check the memory that the worst names and widely spread numbers take."""
    dice = random.Random(1)
    sizes = CallSizes.of(
        (
            f"{n % 10}" + "m" * MOST_LETTERS,
            int(dice.lognormvariate(9, 3)),
            int(dice.lognormvariate(8, 3)),
            dice.lognormvariate(0, 4),
            f"{n % 10}" + "t" * MOST_OF_TOKENIZERS,
        )
        for n in range(number)
    )
    assert number == sizes.calls
    assert MOST_NAMES == len(sizes.longest) == len(sizes.measured_by)
    assert len(pickle.dumps(sizes)) <= 1_500
    assert sum(sys.getsizeof(each.cells) for each in (sizes.input, sizes.output, sizes.seconds)) <= 1_500


def test_memory() -> None:
    """The sizes of 20,000 calls has at most 1.5 kB."""
    check_memory(20_000)


@pytest.mark.slow
def test_memory_of_a_million_calls() -> None:
    """The sizes of 1,000,000 calls has at most 1.5 kB, too."""
    check_memory(1_000_000)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"calls": 5}, ValueError, "call sizes of 5 calls have 4, 4 and 4 values of input, output and seconds"),
        ({"calls": 4.0}, TypeError, "the calls of call sizes must be an int, not float"),
        ({"calls": True}, TypeError, "the calls of call sizes must be an int, not bool"),
        ({"input": None}, TypeError, "input: a sketch must be an object, not NoneType"),
        ({"seconds": {"cells": "?", "max": 1}}, ValueError, "seconds: the cells of a sketch are damaged"),
        ({"longest": []}, TypeError, "the longest of call sizes must be an object, not list"),
        (
            {"longest": {str(each): 1 for each in range(9)}},
            ValueError,
            "the longest of call sizes has 9 names, more than 3",
        ),
        ({"longest": {"m": 1.5}}, TypeError, "the longest call of 'm' must be an int, not float"),
        ({"longest": {"m": -1}}, ValueError, "the longest call of 'm' must be from 0 to"),
        ({"longest": {"m": 10**16}}, ValueError, "the longest call of 'm' must be from 0 to"),
        ({"longest": {"m" * 257: 1}}, ValueError, "a name in longest of call sizes has 257 letters, more than 64"),
        ({"measured_by": "bytes"}, TypeError, "the measured_by of call sizes must be a list, not str"),
        ({"measured_by": [1]}, TypeError, "a name in measured_by of call sizes must be a str, not int"),
    ],
)
def test_damaged(change: dict[str, Any], error: type[Exception], message: str) -> None:
    """What is no size of calls is refused, with the reason."""
    with pytest.raises(error, match=message):
        CallSizes.from_dict({**CallSizes.of(CALLS).to_dict(), **change})


def test_no_object() -> None:
    """What is no object is refused."""
    with pytest.raises(TypeError, match="call sizes must be an object, not list"):
        CallSizes.from_dict([])


def test_the_share_of_the_context_window():
    """The largest share of a model's window that a call has filled; None if no window is known."""
    calls = [("openai/gpt-4o-mini", 64_000, 1, 0.1, "bytes"), ("openai/gpt-4", 1_000, 1, 0.1, "bytes")]

    assert 0.5 == CallSizes.of(calls).window_share
    assert CallSizes.of([("own/model", 64_000, 1, 0.1, "bytes")]).window_share is None
    assert CallSizes().window_share is None
