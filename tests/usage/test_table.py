"""Tables of counts: equal paths have one row, at any depth."""

from __future__ import annotations

import pytest

from tokenscope._usage import table as tables
from tokenscope._usage.calls import MAX_NAMES, MAX_PATHS, OTHER, Frame, ScopePath, value_path
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.table import UsageRow, UsageTable
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import TokenScopeWarning, forget_warnings

A = Frame("scope", "a")
B = Frame("scope", "b")
KEY = UsageKey("x")
ONE = Counts(calls=1, input_tokens=1)


TOP = ScopePath(None, Frame("root", ""))


@pytest.fixture(autouse=True)
def _no_paths():
    TOP.forget_children()


def path(*frames: Frame) -> ScopePath:
    """Return a new path object, like the paths beyond the limit of names."""
    made = TOP
    for frame in frames:
        made = ScopePath(made, frame)
    return made


def counts_at(row):
    """Return the counts of a row by key."""
    return {**row.counts}


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


@pytest.mark.parametrize("levels", [1_500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
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


def names(*parts: object) -> ScopePath:
    """Return a path of scopes with these names, which is kept if there is room."""
    made = TOP
    for part in parts:
        made = made.child(Frame("scope", str(part)))
    return made


def tokens_by_name(table: UsageTable) -> dict[str, int]:
    """Return the tokens of each row that has any, by its names."""
    return {
        "/".join(path.names): sum(spent.input_tokens for spent in row.counts.values())
        for path, row in table.rows.items()
        if row.counts
    }


@pytest.fixture
def ten_paths(monkeypatch):
    """Let a table have 10 paths, and 3 rows `(other)` beside them."""
    monkeypatch.setattr(tables, "MAX_PATHS", 10)
    monkeypatch.setattr(tables, "MAX_NAMES", 3)


def new_paths(*parts: object) -> ScopePath:
    """Return a path of scopes with these names, a new object at each call."""
    return path(*(Frame("scope", str(part)) for part in parts))


@pytest.mark.parametrize("make", [names, new_paths])
@pytest.mark.parametrize("table", [UsageTable, lambda top: UsageTable(top).copy()], ids=["a table", "a copy"])
def test_paths_beyond_the_limit(ten_paths, table, make):
    """What has no row when a table is full is counted as `(other)`, at the level where its first new name begins."""
    table = table(TOP)
    for top in "ab":
        for number in range(3):
            table.add(make(top, number), KEY, ONE)
    table.add(make("a", 0, "deep"), KEY, ONE)
    table.add(make("a", 0, "deep", "full"), KEY, ONE)
    assert 10 + 1 == len(table.rows)
    assert not table.overflowed
    for _ in range(2):
        table.add(make("a", 0, "deep", "full", "new", "below"), KEY, ONE)
        table.add(make("a", 1, "new"), KEY, ONE)
        table.add(make("a", 1, "newer"), KEY, ONE)
        table.add(make("c", 1), KEY, ONE)
        table.add(make("b", 2), KEY, ONE)

    assert {
        "a/0": 1,
        "a/1": 1,
        "a/2": 1,
        "b/0": 1,
        "b/1": 1,
        "b/2": 3,
        "a/0/deep": 1,
        "a/0/deep/full": 1,
        "a/0/deep/full/(other)": 2,
        "a/1/(other)": 4,
        "(other)": 2,
    } == tokens_by_name(table)
    assert [None] == list(table.overflowed)


@pytest.mark.parametrize("make", [names, new_paths])
def test_names_beyond_the_limit_of_a_level(ten_paths, make):
    """A level has at most so many names, also if the paths of all are kept."""
    table = UsageTable(TOP)
    for number in range(5):
        table.add(make("a", number), KEY, ONE)

    assert {"a/0": 1, "a/1": 1, "a/2": 1, "a/(other)": 2} == tokens_by_name(table)


def test_a_full_table_of_a_scope(ten_paths):
    """What has no row in the table of a scope is counted as `(other)` in it, not above the scope."""
    table = UsageTable(names("s", "t"))
    for number in range(3):
        for inner in range(3):
            table.add(names("s", "t", number, inner), KEY, ONE)
    for number in range(3):
        table.add(names("s", "t", "new", number), KEY, ONE)

    assert all(("s", "t") == path.names[:2] for path in table.rows)
    assert 3 + 2 == tokens_by_name(table)["s/t/(other)"] + tokens_by_name(table).get("s/t/2/(other)", 0)
    assert 12 == sum(tokens_by_name(table).values())


@pytest.mark.parametrize("table", [UsageTable, lambda top: UsageTable(top).copy()], ids=["a table", "a copy"])
def test_rows_of_others_are_bounded_too(ten_paths, table):
    """If many levels of a full table get new names, these are counted as `(other)` further up."""
    table = table(TOP)
    for top in "abc":
        for number in range(3):
            table.add(names(top, number), KEY, ONE)
    for _ in range(2):
        for top in "abc":
            for number in range(3):
                table.add(names(top, number, "new"), KEY, ONE)

    assert {
        "a/0": 1,
        "a/1": 1,
        "a/2": 1,
        "b/0": 1,
        "b/1": 1,
        "b/2": 1,
        "c/0": 1,
        "c/(other)": 8,
        "a/0/(other)": 2,
        "a/1/(other)": 2,
        "(other)": 8,
    } == tokens_by_name(table)


def test_rows_of_others_stay_in_the_scope(ten_paths):
    """If many levels of a full table of a scope get new names, these are counted in the scope's own row `(other)`."""
    table = UsageTable(names("s", "t"))
    for number in range(9):
        table.add(names("s", "t", number // 3, number), KEY, ONE)
    for _ in range(2):
        for number in range(9):
            table.add(names("s", "t", number // 3, number, "new"), KEY, ONE)

    assert all(("s", "t") == path.names[:2] for path in table.rows)
    assert 8 == tokens_by_name(table)["s/t/(other)"]
    assert 27 == sum(tokens_by_name(table).values())


def test_a_path_that_equals_the_base():
    """Nothing is counted above the base of a table, also at paths of other objects than the base."""
    table = UsageTable(names("s", "t"))
    table.add(new_paths("s", "t", "x"), KEY, ONE)

    assert all(("s", "t") == path.names[:2] for path in table.rows)


def test_entries_beyond_the_limit(ten_paths):
    """Entries and times of paths without a row of their own are counted at `(other)`."""
    table = UsageTable(TOP)
    for number in range(10):
        table.row(names(number % 3, number))
    table.add_entries(names("new", "inner"), names("new"), 2, 5)
    table.add_entries(names("new"), TOP, 1, 7)

    assert (3, 12) == (table.row(names("(other)")).entries, table.row(names("anything")).nanoseconds)


def test_a_warning_about_all_paths(ten_paths):
    """The warning about too many paths says what to do. It comes once."""
    forget_warnings()
    table = UsageTable(TOP)
    for number in range(20):
        table.row(names(number % 3, number % 9, number))

    with pytest.warns(
        TokenScopeWarning,
        match=r"more than 10 distinct paths of names: the tokens of further .* names, .*attributes: token_",
    ) as caught:
        table.warn_of_overflow()
        table.warn_of_overflow()
    assert 1 == len([each for each in caught if "paths" in str(each.message)])


def test_the_limit_of_paths():
    """A table holds 50,000 paths."""
    table = UsageTable(TOP)
    for number in range(60_000):
        table.add(names(number % 250, number), KEY, ONE)

    assert 50_000 == MAX_PATHS == len([path for path in table.rows if OTHER not in path]) - 1
    assert 60_000 == sum(tokens_by_name(table).values())


def test_a_draft_changes_no_kept_row():
    """The rows that a table keeps stay as they are. What is added to a draft copies only the rows that it changes."""
    first = UsageTable(TOP)
    for number in range(100):
        first.add(names("a", number), KEY, ONE)
    kept = first.copy()
    frozen = dict(kept.kept)
    table = kept.draft()
    table.add(names("a", 7), KEY, ONE)
    table.add(names("a", "new"), KEY, ONE)
    table.add_entries(names("a"), TOP, 1, 3)

    assert {KEY: ONE} == counts_at(frozen[names("a", 7)])
    assert (100, 0) == (frozen[names("a")].width, frozen[names("a")].entries)
    assert names("a", "new") not in frozen
    assert {KEY: Counts(calls=2, input_tokens=2)} == counts_at(table.rows[names("a", 7)])
    assert (101, 1) == (table.rows[names("a")].width, table.rows[names("a")].entries)
    assert {names("a", 7), names("a", "new"), names("a")} == {
        path for path, row in table.rows.items() if row is not frozen.get(path)
    }
    assert frozen == kept.rows
    kept.kept.update(table.changes)
    assert table.rows == kept.rows


def test_a_merged_table_has_the_entries_of_both():
    """Merging adds entries and times."""
    table, other = UsageTable(TOP), UsageTable(TOP)
    table.add_entries(names("a"), TOP, 1, 5)
    for each in ("a", "b"):
        other.add_entries(names(each), TOP, 2, 7)
    table.merge(other)

    assert [(3, 12), (2, 7)] == [
        (row.entries, row.nanoseconds) for row in (table.row(names("a")), table.row(names("b")))
    ]


def test_copies_of_a_table_are_independent():
    """What is added to a table is not in its copy, and the other way around."""
    table = UsageTable(TOP)
    table.add(names("a"), KEY, ONE)
    copy = table.copy()
    copy.add(names("a"), KEY, ONE)
    table.add(names("b"), KEY, ONE)

    assert {"a": 2} == tokens_by_name(copy)
    assert {"a": 1, "b": 1} == tokens_by_name(table)
    again = table.copy()
    table.add(names("a"), KEY, ONE)
    assert {"a": 1, "b": 1} == tokens_by_name(again)
    assert {"a": 2, "b": 1} == tokens_by_name(table)


@pytest.mark.parametrize("at", range(1, 8))
def test_an_interrupt_where_a_row_is_made(monkeypatch, at):
    """If an interrupt keeps a row from being made, it is made the next time."""
    made: list[UsageRow] = []
    begin = UsageRow.__init__

    def interrupted(row: UsageRow) -> None:
        made.append(row)
        if len(made) == at:
            raise KeyboardInterrupt
        begin(row)

    table = UsageTable(TOP)
    monkeypatch.setattr(UsageRow, "__init__", interrupted)
    for _ in range(3):
        for each in (names("a", "b"), path(A, B, A), path(B, B)):
            try:
                table.add(each, KEY, ONE)
            except KeyboardInterrupt:
                table.add(each, KEY, ONE)

    assert {"a/b": 3, "a/b/a": 3, "b/b": 3} == tokens_by_name(table)


def test_names_that_are_kept_later():
    """A path object that replaces an earlier one of the same names has the same row."""
    top = ScopePath(None, Frame("root", ""))
    table = UsageTable(top)
    before = top.child(A)
    top.forget_children()
    table.add(before, KEY, ONE)
    table.add(top.child(A), KEY, ONE)

    assert table.row(before) is table.row(top.child(A))
    assert 2 == len(table.rows)


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


def test_each_level_and_each_attribute_has_a_warning(monkeypatch):
    """A warning names the attribute, or the last eight names of the level."""
    monkeypatch.setattr(tables, "MAX_NAMES", 3)
    forget_warnings()
    table = UsageTable(TOP)
    for number in range(5):
        for name in ("user", "request"):
            table.row(value_path(name, number))
        table.row(names("a", "b", number))
        table.row(names(*range(9), number))
    with pytest.warns(TokenScopeWarning) as caught:
        table.warn_of_overflow()

    levels = [f"more than 3 distinct names below {level!r}: the tokens of" for level in ("a/b", "1/2/3/4/5/6/7/8")]
    attributes = [
        f"more than 3 distinct values of the attribute {name!r}: the tokens of further ones are added up under '(other)' in "
        "by_attribute. Records keep all values."
        for name in ("user", "request")
    ]
    said = [str(each.message) for each in caught]
    assert sorted([*levels, *attributes]) == sorted(
        each if "attribute " in each else each.partition(" further")[0] for each in said
    )
