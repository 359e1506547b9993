"""Freight: what is packed in one process and unpacked in another is the same, wherever it is unpacked."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st
from support.spending import spend, spent

import tokenscope
from tokenscope import current_scope, token_scope
from tokenscope._processes.worker_scope import Task, pack, unload, unpack
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._usage.calls import NO_SCOPE, OTHER, ROOT, Frame
from tokenscope._usage.table import Row, row_at

FRAMES = st.sampled_from([Frame("scope", name) for name in "abc"] + [Frame("dspy", "a"), OTHER])
BASES = st.lists(FRAMES, max_size=3)
KEYS = st.tuples(st.sampled_from(["p/x", "p/y"]), st.sampled_from([0, -1, -10, -100_000]))
SPENT = st.tuples(st.lists(FRAMES, max_size=4), KEYS, st.integers(1, 9), st.integers(0, 3))


def path_of(frames, base=ROOT):
    """Return the path of frames below another."""
    for frame in frames:
        base = base.child(frame)
    return base


def rows_of(spent, base):
    """Return rows below a path."""
    rows: dict = {}
    for frames, key, tokens, entries in spent:
        row = row_at(rows, base, path_of(frames, base))
        row.add(key, (1, 0, 0, tokens, *([0] * 10)))
        if frames:
            row.entries += entries
    return rows


def plain(rows):
    """Return rows as they can be compared; those that hold nothing are left out."""
    return {path: (row.entries, row.models) for path, row in rows.items() if row.entries or row.models}


@given(st.lists(SPENT, max_size=12), BASES, BASES)
def test_there_and_back(spent, there, here):
    """What lies below one path lies below the other then; what was spent at the path itself is at the other itself."""
    there, here = path_of(there), path_of(here)
    freight = pickle.loads(pickle.dumps(pack(rows_of(spent, there), there)))
    found = plain(unpack(freight, here))
    expected = plain(rows_of(spent, here))
    if here is ROOT and ROOT in expected:
        entries, models = expected.pop(ROOT)
        expected[ROOT.child(NO_SCOPE)] = entries, models

    assert expected == found


@given(st.lists(SPENT, max_size=12), st.lists(SPENT, max_size=12))
def test_unloading_adds_up(first, second):
    """Two loads are as one of both."""
    apart, together = Ledger(ROOT), Ledger(ROOT)
    for each in (first, second):
        unload(pack(rows_of(each, ROOT), ROOT), apart)
    unload(pack(rows_of(first + second, ROOT), ROOT), together)

    assert plain(together.view()) == plain(apart.view())


def test_deep_paths():
    """Rows of any depth are packed without recursion, each level once."""
    path = path_of([Frame("scope", "deep")] * 20_000)
    freight = pack({path: Row()}, ROOT)
    assert 20_000 == len(freight)
    assert [path] == [each for each in unpack(pickle.loads(pickle.dumps(freight)), ROOT) if each.depth == 20_000]


def test_a_task_stands_alone():
    """What is spent in it is its own; afterwards, what is late is the process's."""
    with token_scope("a") as a:
        task = Task(Frame("scope", name) for name in "xy")
        assert current_scope() is task
        assert "y" == task.name
        assert task.parent is None
        spend(1)
        with token_scope("inner") as inner:
            spend(2)
            visit = tokenscope.carry(spend)
        assert ["y"] == [node.name for node in [task.report().tree()]]
        late = tokenscope.carry(spend)
        freight = task.end()
        assert current_scope() is a
        late(4)
        visit(8)

    rows = unpack(freight, ROOT)
    assert 3 == sum(values[3] for row in rows.values() for values in row.models.values())
    assert [0, 10] == [spent(a), spent(inner)]
    report = tokenscope.report()
    assert 12 == spent(report)
    assert 8 == report.find("x/y/inner").usage.input_tokens


def test_scopes_that_are_open_when_a_task_ends():
    """What they spent is in the freight, what they spend from then on is the process's; each token once."""
    task = Task()
    scope = token_scope("open")
    scope.__enter__()
    spend(1)
    freight = task.end()
    spend(2)
    with token_scope("inner"):
        spend(4)
    scope.__exit__(None, None, None)

    assert 1 == sum(values[3] for _, _, _, _, models in freight for values in models.values())
    assert 6 == spent(tokenscope.report())
    assert 4 == tokenscope.report().find("open/inner").usage.input_tokens
    assert not PROCESS.books.inner


def test_a_task_that_is_abandoned():
    """What it spent is the process's."""
    with token_scope("a") as a:
        task = Task([Frame("scope", "x")])
        spend(1)
        task.abandon()

    assert [0, 1] == [spent(a), spent(tokenscope.report())]
    assert 1 == tokenscope.report().find("x/m/o").usage.calls


def test_unloading_into_a_scope_that_has_closed():
    """It counts there and above, once, whether or not anything was counted there before."""
    freight = pack(rows_of([([Frame("scope", "x")], ("p/x", 0), 3, 1)], ROOT), ROOT)
    for before in (0, 1):
        PROCESS.clear()
        with token_scope("a") as a, token_scope("b") as b:
            if before:
                spend(before)
        unload(freight, b)

        assert [3 + before] * 3 == [spent(b), spent(a), spent(tokenscope.report())]
        assert 1 == tokenscope.report().find("a/b/x").entries


def test_too_many_names():
    """What comes home in many loads is held to the limit of names, with one warning; no token is lost."""
    import pytest

    from tokenscope.errors import TokenScopeWarning

    with token_scope("a") as a, pytest.warns(TokenScopeWarning, match="more than 2,000 distinct names below 'a'"):
        for n in range(2_100):
            unload(((-1, Frame("scope", f"name {n}"), 1, 1, {("p/x", 0): (1, 0, 0, 1, *([0] * 10))}),), a)

    assert 2_100 == spent(a)
    assert 100 == a.report().find("a/(other)").usage.calls
