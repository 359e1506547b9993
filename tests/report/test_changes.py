"""Diffs of two reports: changes by path, totals, growth, and their algebra."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from law.test_properties import QUICK, reports
from support.formats import DIFF, NEW, OLD, PRICED, usage
from support.reports import build, made

from tokenscope import Report, Usage
from tokenscope._usage.calls import Frame


def deltas(diff) -> dict[tuple[str, ...], int]:
    """Return the difference in tokens of each change, by path."""
    return {change.path: change.tokens for change in diff.changes}


# -- changes -----------------------------------------------------------------------------------------------------------


def test_changes():
    """A diff lists each changed subtree with its usage before and after, the largest change of siblings first."""
    assert [
        (("pipeline",), "scope", "changed", 800, 2, Decimal("0.0080")),
        (("pipeline", "Agent"), "dspy", "changed", 1700, 5, Decimal("0.0170")),
        (("pipeline", "Agent", "planner"), "dspy", "changed", 1110, 1, Decimal("0.0111")),
        (("pipeline", "Agent", "研究\n"), "dspy", "new", 590, 4, Decimal("0.0059")),
        (("pipeline", "ingest"), "module", "gone", -900, -3, Decimal("-0.009")),
    ] == [(each.path, each.kind, each.status, each.tokens, each.calls, each.cost) for each in DIFF.changes]
    assert [(2297, 3097), (1397, 3097), (1200, 2310), (0, 590), (900, 0)] == [
        (each.before.total_tokens, each.after.total_tokens) for each in DIFF.changes
    ]
    assert ["pipeline", "Agent", "planner", "研究\n", "ingest"] == [each.name for each in DIFF.changes]
    assert (OLD, NEW) == (DIFF.before, DIFF.after)


def test_times_are_no_change():
    """The diff of reports that differ only in entries and times is empty."""
    again = build(
        [(row.parent, row.frame, 7, 7, {each.key.model: each.spent for each in row.usages}) for row in OLD.rows],
        scoped=True,
    )

    assert not OLD.diff(again)
    assert () == OLD.diff(again).changes


def test_the_total():
    """`diff.total` is the change of the whole report, with an empty path."""
    assert (800, 2, Decimal("0.0080"), ()) == (
        DIFF.total.tokens,
        DIFF.total.calls,
        DIFF.total.cost,
        DIFF.total.path,
    )


def test_growth():
    """`diff.growth` is the change of the totals in percent, for tokens and cost."""
    assert (100 * 800 / 2297, 100 * 0.008 / 0.0229) == pytest.approx(DIFF.growth)
    assert (-50.0, -50.0) == (OLD + OLD).diff(OLD).growth


def test_growth_from_nothing():
    """`diff.growth` is None for growth from zero, and -100 for a total that shrank to zero."""
    assert (None, None) == Report().diff(OLD).growth == Report().diff(Report()).growth
    assert (-100.0, -100.0) == OLD.diff(Report()).growth


@pytest.mark.parametrize(("old", "new"), [(None, "1"), ("1", None), (None, None)], ids=str)
def test_an_unknown_cost(old, new):
    """If a call on either side has no known price, the change and the growth of the cost are None."""
    before, after = (
        build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(1, tokens, 0, cost)})], scoped=True)
        for tokens, cost in ((10, old), (20, new))
    )
    diff = before.diff(after)

    assert (None, None) == (diff.total.cost, diff.changes[0].cost)
    assert (100.0, None) == diff.growth


def test_a_lower_bound_is_no_cost():
    """If the prices of some calls are unknown, the growth of the cost is None."""
    assert PRICED.total.cost > 0
    assert PRICED.diff(PRICED + PRICED).growth == (100.0, None)


def test_names_of_different_kinds():
    """Two scopes with the same name and different kinds are different paths."""
    diff = made((-1, "scope", "x", 1, 1, 10)).diff(made((-1, "module", "x", 1, 1, 10)))

    assert {("scope", "gone", -11), ("module", "new", 11)} == {(c.kind, c.status, c.tokens) for c in diff.changes}
    assert 0 == diff.total.tokens
    assert 2 == len({change.where for change in diff.changes})


def test_what_moved_below_a_sum_that_stayed():
    """A level whose total stayed the same is in the diff if levels below it changed."""
    old = made((-1, "scope", "s", 1, 1, 0), (0, "scope", "a", 1, 1, 10), (0, "scope", "b", 1, 1, 20))
    new = made((-1, "scope", "s", 1, 1, 0), (0, "scope", "a", 1, 1, 20), (0, "scope", "b", 1, 1, 10))

    assert {("s",): 0, ("s", "a"): 11, ("s", "b"): -11} == deltas(old.diff(new))
    assert ["scope", "s", "├─ a", "└─ b"] == [line[:5].strip() for line in str(old.diff(new)).splitlines()[:4]]


def test_scopes_that_spent_nothing():
    """A scope that appeared or vanished is a change, even if it spent nothing."""
    old = made((-1, "scope", "s", 1, 1, 10))
    new = made((-1, "scope", "s", 1, 1, 10), (0, "scope", "idle", 1, 1, 0))

    assert [("s", "changed"), ("idle", "new")] == [(each.name, each.status) for each in old.diff(new).changes]
    assert "idle" in str(new.diff(old))


def test_a_report_of_a_process():
    """A scope's report is compared with the scope of the same name at the top level of a process's report."""
    process = made((-1, "scope", "a", 1, 1, 10), (-1, "scope", "b", 1, 1, 20), scoped=False)
    scope = made((-1, "scope", "a", 1, 1, 10))

    assert {("b",): 22} == deltas(scope.diff(process))
    assert ["scope", "+ b"] == [line[:5].strip() for line in scope.diff(process).render().splitlines()[:2]]


@pytest.mark.parametrize("other", [1, "x", None, Usage()])
def test_a_report_differs_from_reports_only(other):
    """`diff()` raises a TypeError if its argument is not a report."""
    with pytest.raises(TypeError, match="a report is compared with a Report, not with " + type(other).__name__):
        OLD.diff(other)


def test_a_diff_is_frozen():
    """A diff cannot be changed, and it equals another diff of the same reports."""
    with pytest.raises(AttributeError):
        DIFF.changes = ()  # type: ignore[misc]
    assert OLD.diff(NEW) == DIFF
    assert hash(OLD.diff(NEW)) == hash(DIFF)
    assert "<Diff of 5 changes, +800 tokens>" == repr(DIFF)


# -- algebra ----------------------------------------------------------------------------------------------------------------


@QUICK
@given(reports())
def test_no_difference_to_itself(a):
    """The diff of a report with itself is empty."""
    assert not a.diff(a)
    assert () == a.diff(a).changes
    assert (0, 0) == (a.diff(a).total.tokens, a.diff(a).total.calls)


@QUICK
@given(reports(), reports())
def test_adding_is_what_changed(a, b):
    """The diff from a to a + b holds exactly the usage of b, at the paths of b."""
    diff = a.diff(a + b)
    added = {}
    stack = [((), (b + Report()).tree())]
    while stack:
        path, node = stack.pop()
        if node.kind != "root":
            path = (*path, (node.kind, node.name))
            added[path] = node.usage
        stack += [(path, child) for child in node.children]

    assert b.total.total_tokens == diff.total.tokens
    for change in diff.changes:
        path = tuple((frame.kind, frame.name) for frame in change.where)
        assert change.after == change.before + added.pop(path)
        assert change.tokens == change.after.total_tokens - change.before.total_tokens
        assert change.status in ("new", "changed")
    assert not any(added.values())  # a path of b that is not in the diff spent nothing


@pytest.mark.unmeasured
@QUICK
@given(reports(), reports())
def test_the_other_way_round(a, b):
    """Swapping the reports swaps before and after, swaps new and gone, and negates the differences."""
    there, back = a.diff(b), b.diff(a)
    swapped = {"new": "gone", "gone": "new", "changed": "changed"}

    assert bool(there) == bool(back)
    assert -there.total.tokens == back.total.tokens
    assert [
        (*each.where, swapped[each.status], each.after, each.before, -each.tokens, -each.calls)
        for each in there.changes
    ] == [(*each.where, each.status, each.before, each.after, each.tokens, each.calls) for each in back.changes]
    assert [None if each.cost is None else -each.cost for each in there.changes] == [each.cost for each in back.changes]


@QUICK
@given(reports(), reports())
def test_equal_diffs_have_equal_changes(a, b):
    """Two diffs of the same reports have equal changes with equal hashes."""
    once, again = a.diff(b), a.diff(b)

    assert once.changes == again.changes
    assert set(once.changes) == set(again.changes)
    assert len(once.changes) == len(set(once.changes))


def test_of_equal_tokens_the_largest_change_of_cost_comes_first():
    """Changes with equal tokens are sorted by the absolute change of the cost, savings and rises alike."""

    def costs(**dollars):
        lines = [(0, Frame("scope", name), 1, 0, {"p/x": usage(1, 100, 20, each)}) for name, each in dollars.items()]
        return build([(-1, Frame("scope", "run"), 1, 0, {}), *lines], scoped=True)

    diff = costs(a="1.00", b="1.00", c="1.00").diff(costs(a="0.90", b="0.20", c="1.30"))

    assert ["run", "b", "c", "a"] == [change.name for change in diff.changes]
    assert {0} == {change.tokens for change in diff.changes}


def own_usages(report):
    """Return the own usage of each path, in which each level has a kind and a name."""
    found = {}
    stack = [((), report.tree())]
    while stack:
        above, node = stack.pop()
        path = above if node.kind == "root" else (*above, (node.kind, node.name))
        if path:
            found[path] = node.own
        stack += [(path, child) for child in node.children]
    return found


@QUICK
@given(reports(), reports())
def test_changes_add_up(a, b):
    """Top-level changes add up to the total. Parents come before children, larger changes before smaller ones."""
    diff = a.diff(b)
    top = [change for change in diff.changes if change.where.depth == 1]
    below = {}

    assert b.total.total_tokens - a.total.total_tokens == diff.total.tokens == sum(change.tokens for change in top)
    assert bool(diff) == (own_usages(a) != own_usages(b))
    above = set()
    for change in diff.changes:
        assert change.where.depth == 1 or change.where.parent in above
        above.add(change.where)
        below.setdefault(change.where.parent, []).append(abs(change.tokens))
    for siblings in below.values():
        assert all(first >= second for first, second in pairwise(siblings))
