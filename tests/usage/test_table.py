"""Tables of counts: equal paths have one row, at any depth."""

from __future__ import annotations

import pytest

from tokenscope._usage.calls import MAX_NAMES, OTHER, Frame, ScopePath
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import TokenScopeWarning, forget_warnings

A = Frame("scope", "a")
B = Frame("scope", "b")
KEY = UsageKey("x")
ONE = Counts(calls=1, input_tokens=1)


TOP = ScopePath(None, Frame("root", ""))


def path(*frames: Frame) -> ScopePath:
    """Return a new path object, like the paths beyond the limit of names."""
    made = TOP
    for frame in frames:
        made = ScopePath(made, frame)
    return made


def counts_at(row):
    """Return the counts of a row by key."""
    return {key: spent.counts() for key, spent in row.counts.items()}


def test_equal_chains_have_one_row():
    """Two path objects have one row if their frames are equal."""
    table = UsageTable(TOP)
    one, other = path(A, B), path(A, B)
    table.add(one, KEY, ONE)
    table.add(other, KEY, ONE)

    assert one is not other
    assert table.row(one) is table.row(other)
    assert {KEY: Counts(calls=2, input_tokens=2)} == counts_at(table.row(other))


@pytest.mark.parametrize("other", [path(A), path(B, B), path(A, A), path(A, Frame("dspy", "b")), path(B, A)], ids=repr)
def test_other_chains_have_others(other):
    """Paths that differ in depth, name, kind or order have different rows."""
    table = UsageTable(TOP)

    assert table.row(path(A, B)) is not table.row(other)


@pytest.mark.parametrize("levels", [1_500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_deep_chains_without_recursion(levels):
    """Paths deeper than Python's recursion limit can be added and merged."""
    one, other = path(*[B] * levels), path(*[B] * levels)
    table, second = UsageTable(TOP), UsageTable(TOP)
    table.add(one, KEY, ONE)
    second.add(other, KEY, ONE)
    table.merge(second)

    assert levels == one.depth
    assert levels + 1 == len(table.rows)
    assert {KEY: Counts(calls=2, input_tokens=2)} == counts_at(table.row(other))


def test_names_beyond_the_limit():
    """A level has at most MAX_NAMES rows, and one more row for all further names."""
    table = UsageTable(TOP)
    for number in range(MAX_NAMES + 5):
        table.add(path(A, Frame("scope", str(number)), B), KEY, ONE)
    table.add(path(A, Frame("scope", "7"), B), KEY, ONE)

    assert MAX_NAMES + 1 == table.row(path(A)).width
    assert {KEY: Counts(calls=5, input_tokens=5)} == counts_at(table.row(path(A, OTHER, B)))
    assert {KEY: Counts(calls=2, input_tokens=2)} == counts_at(table.row(path(A, Frame("scope", "7"), B)))
    assert ["a"] == [level.frame.name for level in table.overflowed]


def test_entries_of_each_level():
    """`add_entries` counts an entry at each level of the path below the scope above it."""
    table = UsageTable(TOP)
    inner = path(A, B)
    assert inner.parent is not None
    table.add_entries(inner, TOP, 1, 5)
    table.add_entries(inner, inner.parent, 1, 2)

    assert [(1, 5), (2, 7)] == [(row.entries, row.nanoseconds) for row in (table.row(path(A)), table.row(inner))]
    assert (0, 0) == (table.row(TOP).entries, table.row(TOP).nanoseconds)


def test_a_warning_about_names_at_the_top():
    """The warning about too many names outside of any scope says that it is the top level. It comes once."""
    forget_warnings()
    table = UsageTable(TOP)
    for number in range(MAX_NAMES + 1):
        table.row(path(Frame("scope", f"s{number}")))

    with pytest.warns(
        TokenScopeWarning, match="more than 2,000 distinct names below 'the top level': the tokens of"
    ) as caught:
        table.warn_of_overflow()
        table.warn_of_overflow()
    assert 1 == len(caught)
    assert not table.overflowed
