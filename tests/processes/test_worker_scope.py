"""WorkerScope: a worker packs its counts for another process, which unpacks the same counts below any path."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.spending import spend, spent

import tokenscope
from tokenscope import current_scope, token_scope
from tokenscope._processes.worker_scope import WorkerScope, bring_home, pack, unpack
from tokenscope._scopes.event_log import clear, collect
from tokenscope._scopes.process import STATE, ScopeRoot
from tokenscope._usage.calls import NO_SCOPE, OTHER, ROOT, Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

FRAMES = st.sampled_from([Frame("scope", name) for name in "abc"] + [Frame("dspy", "a"), OTHER])
BASES = st.lists(FRAMES, max_size=3)
KEYS = st.builds(
    UsageKey,
    st.sampled_from(["p/x", "p/y"]),
    st.sampled_from([0, 7]),
    st.sampled_from(["table", "provider", "cache", "none"]),
    st.sampled_from([None, "retries"]),
)
SPENT = st.tuples(st.lists(FRAMES, max_size=4), KEYS, st.integers(1, 9), st.integers(0, 3))


def path_of(frames, base=ROOT):
    """Return the path of these frames below a base path."""
    for frame in frames:
        base = base.child(frame)
    return base


def table_of(spent, base):
    """Return a table of counts below a path."""
    table = UsageTable(base)
    for frames, key, tokens, entries in spent:
        row = table.row(path_of(frames, base))
        row.add(key, Counts(calls=1, input_tokens=tokens))
        if frames:
            row.entries += entries
    return table


def plain(table):
    """Return a table's rows in a form that can be compared, without empty rows."""
    return {tuple(path): (row.entries, {**row.counts}) for path, row in table.rows.items() if row.entries or row.counts}


@given(st.lists(SPENT, max_size=12), BASES, BASES)
def test_there_and_back(spent, there, here):
    """Packing and unpacking moves all counts from one path to another, including those of the path itself."""
    there, here = path_of(there), path_of(here)
    packed = pickle.loads(pickle.dumps(pack(table_of(spent, there), there)))
    found = plain(unpack(packed, here))
    expected = plain(table_of(spent, here))
    if here is ROOT and () in expected:
        expected[NO_SCOPE,] = expected.pop(())

    assert expected == found


@given(st.lists(SPENT, max_size=12), st.lists(SPENT, max_size=12))
def test_what_comes_home_adds_up(first, second):
    """Bringing home two tables gives the same counts as bringing home one table with both."""
    apart, together = ScopeRoot(ROOT), ScopeRoot(ROOT)
    for each in (first, second):
        bring_home(pack(table_of(each, ROOT), ROOT), apart)
    bring_home(pack(table_of(first + second, ROOT), ROOT), together)

    assert plain(collect(together)) == plain(collect(apart))


def test_deep_paths():
    """Rows of any depth are packed without recursion, each level once."""
    path = path_of([Frame("scope", "deep")] * 20_000)
    table = UsageTable(ROOT)
    table.row(path)
    packed = pack(table, ROOT)
    assert 20_000 == len(packed)
    unpacked = unpack(pickle.loads(pickle.dumps(packed)), ROOT)
    assert [path] == [each for each in unpacked.rows if each.depth == 20_000]


def tokens_of(packed):
    """Return the input tokens of packed rows."""
    return sum(counts.input_tokens for _, _, _, _, models, _ in packed for counts in models.values())


def test_a_task_stands_alone():
    """A task packs the usage until it ends. Later usage counts in the worker process."""
    with token_scope("a") as a:
        task = WorkerScope(Frame("scope", name) for name in "xy")
        assert current_scope() is task
        assert "y" == task.name
        assert task.parent is None
        spend(1)
        with token_scope("inner") as inner:
            spend(2)
            visit = tokenscope.carry(spend)
        assert ["y"] == [node.name for node in [task.report().tree()]]
        late = tokenscope.carry(spend)
        packed = task.end_task()
        assert current_scope() is a
        late(4)
        visit(8)

    assert 3 == tokens_of(packed)
    assert [0, 10] == [spent(a), spent(inner)]
    report = tokenscope.report()
    assert 12 == spent(report)
    assert 8 == report.find("x/y/inner").usage.input_tokens


def test_scopes_that_are_open_when_a_task_ends():
    """If scopes are open when a task ends, their usage so far is packed. Later usage counts in the worker process."""
    task = WorkerScope()
    scope = token_scope("open")
    scope.__enter__()
    spend(1)
    packed = task.end_task()
    spend(2)
    with token_scope("inner"):
        spend(4)
    scope.__exit__(None, None, None)

    assert 1 == tokens_of(packed)
    assert 6 == spent(tokenscope.report())
    assert 4 == tokenscope.report().find("open/inner").usage.input_tokens
    assert not STATE.open_scopes


def test_a_task_that_is_abandoned():
    """The usage of an abandoned task counts in the worker process."""
    with token_scope("a") as a:
        task = WorkerScope([Frame("scope", "x")])
        spend(1)
        task.abandon()

    assert [0, 1] == [spent(a), spent(tokenscope.report())]
    assert 1 == tokenscope.report().find("x/m/o").usage.calls


def test_coming_home_to_a_scope_that_has_ended():
    """Counts that come home to a scope that has ended are added once to it, and once to each scope above."""
    packed = pack(table_of([([Frame("scope", "x")], UsageKey("p/x"), 3, 1)], ROOT), ROOT)
    for before in (0, 1):
        clear()
        with token_scope("a") as a, token_scope("b") as b:
            if before:
                spend(before)
        bring_home(packed, b)

        assert [3 + before] * 3 == [spent(b), spent(a), spent(tokenscope.report())]
        assert 1 == tokenscope.report().find("a/b/x").entries


def test_too_many_names():
    """The limit of names also holds for counts that come home one by one, with one warning. No token is lost."""
    forget_warnings()
    one = {UsageKey("p/x"): Counts(calls=1, input_tokens=1)}
    with token_scope("full") as a, pytest.warns(TokenScopeWarning, match="more than 2,000 distinct names below 'full'"):
        for n in range(2_100):
            bring_home(((-1, Frame("scope", f"name {n}"), 1, 1, one, None),), a)
        tokenscope.report()

    assert 2_100 == spent(a)
    assert 100 == a.report().find("full/(other)").usage.calls
