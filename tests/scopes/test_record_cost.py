"""`record_cost`: an amount of dollars that no model call cost, in the tree, budgets, records and all formats."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import dspy
import pytest

from tokenscope import (
    Budget,
    BudgetExceeded,
    JSONLSink,
    Report,
    Usage,
    get_tracker,
    receive,
    record_cost,
    record_tokens,
    report,
    ship,
    token_scope,
    track_tokens,
)
from tokenscope._report.formats import analysis
from tokenscope.testing import LoopbackProvider

PAID = Usage(cost=Decimal("0.003"))


@pytest.fixture
def research():
    """The report of a scope with two searches, and one model call beside them."""
    with token_scope("research") as scope:
        record_cost("search", "web", cost=0.001)
        record_cost("search", "web", 0.002, {"query": 7})
        record_tokens("draft", "write", "x", None, 90, 10, cost=Decimal("0.5"))
    return scope.report()


@pytest.fixture
def paid():
    """The report of a scope in which there was no model call."""
    with token_scope("research") as scope:
        record_cost("search", "web", Decimal("0.003"))
    return scope.report()


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"cost": "1"}, TypeError, "cost must be a Decimal, in dollars, not str '1'"),
        ({"cost": None}, TypeError, "cost must be a Decimal, in dollars, not NoneType None"),
        ({"cost": True}, TypeError, "cost must be a Decimal, in dollars, not bool True"),
        ({"cost": -0.1}, ValueError, "cost must be dollars, 0 or more, but is -0.1"),
        ({"cost": math.nan}, ValueError, "cost must be dollars, 0 or more, but is NaN"),
        ({"cost": Decimal("inf")}, ValueError, "cost must be dollars, 0 or more, but is Infinity"),
        ({"module": ""}, ValueError, "the module of record_cost must not be empty, but is ''"),
        ({"operation": 3}, TypeError, "the operation of record_cost must be a str, not int 3"),
        ({"metadata": "query 7"}, TypeError, "metadata must be a mapping, not str 'query 7'"),
    ],
)
def test_errors(wrong, kind, message):
    """An impossible amount or name raises an error that names the argument, and nothing is counted."""
    with token_scope("work") as scope, pytest.raises(kind) as caught:
        record_cost(**{"module": "search", "operation": "web", "cost": 1, **wrong})

    assert message == str(caught.value)
    assert Usage() == scope.usage


@pytest.mark.parametrize("cost", [1, 1.0, Decimal(1)])
def test_an_amount(cost):
    """An amount may be an int, a float or a Decimal. It is no call and has no tokens."""
    with token_scope("outer") as outer, token_scope("inner") as inner:
        record_cost("search", "web", cost)

    assert Usage(cost=Decimal(1)) == outer.usage == inner.usage
    assert ("search", "web") == tuple(node.name for _, node in inner.report().tree().walk())[1:]


def test_floats_are_what_they_look_like():
    """Three times a tenth of a cent is 0.003 dollars exactly."""
    with token_scope("work") as scope:
        for _ in range(3):
            record_cost("search", "web", 0.001)

    assert Decimal("0.003") == scope.usage.cost


def test_nothing_is_harmless():
    """An amount of 0 changes no total, and makes no unknown cost 0."""
    with token_scope("work") as scope:
        record_tokens("draft", "write", "no-such-model", None, 1, 0)
        record_cost("search", "web", 0)

    assert (1, 1, None) == (scope.usage.calls, scope.usage.unpriced_calls, scope.usage.cost)


def test_beside_unknown_prices():
    """With a call whose price is not known, the amount is a lower bound."""
    with token_scope("work") as scope:
        record_tokens("draft", "write", "no-such-model", None, 1, 0)
        record_cost("search", "web", 0.25)

    assert (1, Decimal("0.25")) == (scope.usage.unpriced_calls, scope.usage.cost)
    assert "≥ $0.25" in str(scope)


def test_breakdowns(research):
    """Each breakdown partitions the total. By model, amounts are under `(no model)`."""
    drafts = Usage(calls=1, input_tokens=90, output_tokens=10, cost=Decimal("0.5"))
    assert {"x": drafts, "(no model)": PAID} == research.by_model()
    assert {"draft": drafts, "search": PAID} == research.by_module()
    assert {"draft.write": drafts, "search.web": PAID} == research.by_operation()
    assert drafts + PAID == research.total == sum(research.by_model().values())
    assert (0, 0.003) == tuple(research.statistics()["by_model"]["(no model)"][name] for name in ("call_count", "cost"))
    assert {"x": "provider", "(no model)": "provider"} == {price.model: price.source for price in research.prices()}


def test_another_model_answers(research):
    """`reprice` keeps amounts: another model does not change what a search costs."""
    repriced = research.reprice("openai/gpt-4o-mini")

    assert PAID == repriced.by_model()["(no model)"]
    assert PAID.cost < repriced.total.cost < Decimal("0.5")


def test_the_tree(research, paid):
    """The tree shows each scope's amount, and a line of its own for what a scope paid beside those below it."""
    rows = [line.split() for line in research.render("tree", ascii_only=True).splitlines()[-2:]]
    assert [["0", "0", "0", "0", "0%", "$0.0030"]] * 2 == [row[-6:] for row in rows]
    assert paid.render("tree").startswith("0 tokens (0 in + 0 out); $0.0030; 0 calls\n")

    @track_tokens("search", "web")
    def look_up():
        with token_scope("rank"):
            record_cost("search", "rank", 1)

    with token_scope("work") as scope:
        record_cost("search", "web", 2)
        look_up()
    assert "$2.00" == next(line for line in str(scope).splitlines() if "[self]" in line).split()[-1]


@pytest.mark.parametrize("name", ["tree", "markdown", "html", "csv", "json", "speedscope"])
def test_every_format(research, paid, name):
    """The formats that show costs show amounts, alone and beside calls."""
    for each in (research, paid):
        assert any(amount in each.render(name) for amount in ("0.003", "3000.0]"))


@pytest.mark.parametrize("name", ["table", "folded"])
def test_formats_of_tokens(research, paid, name):
    """The formats that show tokens alone draw such reports, too."""
    assert "write" in research.render(name) or "draft" in research.render(name)
    assert "$" not in paid.render(name)


def test_speedscope_begins_with_costs(paid):
    """The flame graph of a report without tokens begins with that of costs."""
    file = json.loads(paid.render("speedscope"))

    assert [3000.0] == file["profiles"][file["activeProfileIndex"]]["weights"]


def test_analysis(paid, research):
    """The analysis and the notebook have the amounts."""
    assert "(no model): 0.0%  0 tokens  0 calls  $0.0030" in analysis.render(paid)
    assert all("$0.0030" in each._repr_html_() for each in (paid, research))


def test_saved(research, paid, tmp_path):
    """A saved report loads again as it was. Merging adds up amounts, and a diff shows their growth."""
    for each in (research, paid):
        each.save(tmp_path / "r.json")
        assert each == Report.load(tmp_path / "r.json")
    assert 2 * PAID.cost == (paid + Report.load(tmp_path / "r.json")).total.cost
    diff = paid.diff(paid + paid)
    assert {("changed", Decimal("0.003"), 0)} == {(change.status, change.cost, change.calls) for change in diff.changes}
    assert "cost $0.0030 -> $0.0060 (+$0.0030, +100.0%)" in str(diff)
    assert 100.0 == diff.growth.cost


def test_records(tmp_path):
    """A record of an amount has its cost and metadata. Files of records load again as what was counted."""
    tracker, sink = get_tracker(), JSONLSink(tmp_path / "calls.jsonl")
    tracker.reset()
    tracker.add_sink(sink)
    with token_scope("research"):
        tracker.record_cost("search", "web", cost=0.001, metadata={"query": 7})
        record_tokens("search", "web", "x", None, 1, 0, cost=0)
        record_cost("search", "web", cost=0.002)
        record_cost("search", "web", cost=0)
    tracker.remove_sink(sink)
    record = tracker.records[0]

    assert ("search", "web", "research/search/web") == (record.module, record.operation, record.scope)
    assert (Decimal("0.001"), 0, "(no model)", "") == (record.cost, record.total_tokens, record.model, record.provider)
    assert (0, "provider", {"query": 7}) == tuple(record[name] for name in ("calls", "price_source", "metadata"))
    assert "calls" not in tracker.records[1]
    loaded = Report.load(sink.path)
    assert tracker.report().by_model() == loaded.by_model()
    assert (1, Decimal("0.003")) == (loaded.total.calls, loaded.total.cost)


def test_budgets():
    """An amount is charged to budgets in dollars. It is no call of theirs, and the run ends at the next scope or LM call."""
    with pytest.raises(BudgetExceeded) as caught, token_scope("work", budget=Budget(cost=0.01, calls=1, tokens=1)):
        record_cost("search", "web", 0.004)
        record_cost("search", "web", 0.005)
        with token_scope("fits"):
            record_cost("search", "web", 0.002)
        with token_scope("too much"):
            pytest.fail("the budget is spent")

    assert (Decimal("0.011"), 0) == (caught.value.spent.cost, caught.value.spent.calls)


def test_from_another_process():
    """A shipment carries amounts."""
    with token_scope("here") as here:
        receive(ship(record_cost)("search", "web", 0.003))

    assert PAID == here.usage == here.report().find("here/search/web").usage


def test_in_tools_and_outside_of_scopes():
    """A tool in which only an amount was recorded has a scope; outside of any scope, it is at the top level."""
    get_tracker().reset()
    record_cost("search", "web", 0.002)

    def search(query: str) -> str:
        record_cost("search", "web", 0.001)
        return query

    with token_scope("agent") as scope:
        dspy.Tool(search)(query="Why?")

    assert Decimal("0.001") == scope.report().find("agent/search/search/web").usage.cost
    assert ["search", "agent"] == [
        node.name for node in sorted(report().tree().children, key=lambda node: -node.usage.cost)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inside_an_lm():
    """An amount that an LM records in its own code is counted beside the LM's tokens."""

    class Searching(dspy.LM):
        def forward(self, *args, **kwargs):
            record_cost("search", "web", 0.003)
            return super().forward(*args, **kwargs)

    with LoopbackProvider() as provider, token_scope("work") as scope:
        plain = provider.lm()
        lm = Searching(plain.model, cache=False, **plain.kwargs)
        lm("Why?")

    assert provider.total.total_tokens == scope.usage.total_tokens
    assert (1, PAID) == (scope.usage.calls, scope.report().by_model()["(no model)"])


def test_waste():
    """What a discarded attempt paid is wasted, too."""

    class Searching(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question):
            record_cost("search", "web", 0.003)
            return self.answer(question=question)

    best_of = dspy.BestOfN(Searching(), N=2, reward_fn=lambda *_: 0.0, threshold=1.0)
    with LoopbackProvider() as provider, token_scope("work") as scope, dspy.context(lm=provider.lm()):
        best_of(question="Why?")

    assert PAID == scope.report().waste()["search"].retries
    assert Decimal("0.006") == scope.report().by_module()["search"].cost


def test_an_amount_of_nothing_has_a_source():
    """An amount of 0 dollars was told, as any other amount."""
    with token_scope("run") as scope:
        record_cost(cost=0)

    assert [("(no model)", "provider")] == [(price.model, price.source) for price in scope.report().prices()]
