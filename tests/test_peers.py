"""The harness of tests/benchmarks/peers: how spans are added up and compared with the bill, and its scenarios with tokenscope."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.peers.__main__ import EXACT, measure, share
from benchmarks.peers.tools import Span, add_up

from tokenscope import Usage

BILL = {
    "": Usage(input_tokens=10),
    "a": Usage(input_tokens=100),
    "a/b": Usage(input_tokens=40),
    "ab": Usage(input_tokens=7),
}


def test_spans_are_added_up_once():
    """A scope has the tokens of the spans below it. What is below a span with counts is part of it."""
    spans = [Span(1, None, "scope", None), Span(2, 1, "call", 10), Span(3, 2, "same call", 10), Span(4, 1, "other", 5)]

    assert {"scope": 15, "call": 10, "same call": 10, "other": 5} == add_up(spans)
    assert {"scope": None} == add_up(spans[:1])
    assert {"call": 3} == add_up([Span(2, 99, "call", 3)])  # the span above was not exported


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({}, "none"),
        ({"a": None, "a/b": 0}, "none"),
        ({"all": 157}, EXACT),  # one scope has the whole bill
        ({"all": 314}, "200.0%"),
        ({"a": 140, "a/b": 40, "ab": 7}, EXACT),  # "ab" is not below "a"
        ({"a": 140, "a/b": 44, "ab": None}, "0.0%"),
        ({"a": 140, "a/b": 44}, "110.0%"),
        ({"all": 156}, "99.4%"),
    ],
)
def test_share_of_the_bill(tokens, expected):
    """The share is that of the scope with the largest error, and exact only if every scope is."""
    assert expected == share(tokens, BILL)


@pytest.mark.slow
def test_tokenscope_is_exact():
    """In every scenario, each scope of tokenscope has what was billed for it."""
    said, bills = measure(Path(sys.executable), "tokenscope")

    assert {} == said["errors"]
    assert dict.fromkeys(bills, EXACT) == {name: share(said["tokens"][name], bill) for name, bill in bills.items()}
