"""Reports: the tree, breakdowns, finding nodes, and adding reports."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from support.prompts import MEASURED
from support.reports import build, chain, made
from support.spending import spend

import tokenscope
from tokenscope import Breakdown, Report, Usage, record_tokens, set_price, token_scope, track_tokens
from tokenscope._report.formats.order import self_line
from tokenscope._report.snapshot import cut, pivot
from tokenscope._usage.calls import ROOT, Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts

AGENT = made(
    (-1, "scope", "pipeline", 1, 1000, 0),
    (0, "dspy", "Agent", 1, 900, 10),
    (1, "dspy", "planner", 2, 300, 100),
    (1, "tool", "search", 1, 300, 0),
    (3, "dspy", "Predict(q -> a)", 1, 200, 1000),
    (0, "module", "ingest", 0, 0, 0),
    (5, "operation", "ocr", 1, 20, 500),
    (0, "scope", "plain", 1, 20, 30),
)


def tokens(breakdown):
    """Return input tokens by name."""
    return {name: usage.input_tokens for name, usage in breakdown.items()}


def test_the_tree():
    """A node has its total usage, its own usage, and its children with the costliest first."""
    root = AGENT.tree()

    assert ("pipeline", "scope", 1640, 0) == (root.name, root.kind, root.usage.input_tokens, root.own.input_tokens)
    assert ["Agent", "ingest", "plain"] == [node.name for node in root.children]
    assert [1110, 10] == [root.children[0].usage.input_tokens, root.children[0].own.input_tokens]
    assert {"p/x": 1640} == tokens(root.by_model)
    assert 1.0 == root.seconds
    assert "<Node 'Agent', 1,221 tokens, 2 below>" == repr(root.children[0])


def test_walking_the_tree():
    """`walk` yields each node with its depth, in the order of the tree."""
    found = [(depth, node.name) for depth, node in AGENT.tree().walk()]

    assert [(0, "pipeline"), (1, "Agent"), (2, "search"), (3, "Predict(q -> a)"), (2, "planner")] == found[:5]
    assert 8 == len(found)


def test_the_process_tree_has_a_nameless_root():
    """The root of a process's report has no name, and its children are the top-level names."""
    spend(1, "a")
    spend(2, "b")
    root = tokenscope.report().tree()

    assert ("", "root", ["b", "a"]) == (root.name, root.kind, [node.name for node in root.children])
    assert 3 == root.usage.input_tokens


def test_partitions():
    """The breakdowns by module, by operation and by model each add up to the report's total."""
    assert {"ingest": 500, "Agent": 10, "Agent.planner": 100, "Agent.Predict(q -> a)": 1000, "plain": 30} == tokens(
        AGENT.by_module()
    )
    assert {"ingest.ocr": 500} == {
        name: count for name, count in tokens(AGENT.by_operation()).items() if name.startswith("ingest")
    }
    assert {"Agent": 10, "Agent.planner": 100, "Agent.Predict(q -> a)": 1000} == tokens(AGENT.predictors())
    assert {"p/x": 1640} == tokens(AGENT.by_model())
    for breakdown in (AGENT.by_module(), AGENT.by_operation(), AGENT.by_model()):
        assert AGENT.total == sum(breakdown.values())


def test_ties_are_in_the_order_of_names():
    """Names with equal tokens are sorted by name, not by the order of the calls."""
    with token_scope("run") as scope:
        for name in ("b", "c", "a"):
            record_tokens(f"module {name}", "o", f"model {name}", None, input_tokens=7, output_tokens=0)
    report = scope.report()

    assert ["model a", "model b", "model c"] == list(report.by_model()) == list(report.tree().by_model)
    assert ["module a", "module b", "module c"] == list(report.by_module())
    assert ["module a", "module b", "module c"] == [node.name for node in report.tree().children]


def test_partitions_are_costliest_first():
    """Breakdowns list the costliest name first."""
    assert ["Agent.Predict(q -> a)", "ingest", "Agent.planner", "plain", "Agent"] == list(AGENT.by_module())


def test_a_call_without_any_scope_has_a_name():
    """`by_module()` and `by_operation()` list calls outside of any scope as `(no scope)`."""
    report = made((-1, "none", "(no scope)", 0, 0, 7), scoped=False)

    assert {"(no scope)": 7} == tokens(report.by_module()) == tokens(report.by_operation())


def test_operations_without_a_module():
    """`by_operation()` names calls by their module or operation alone if they have only one of them."""
    report = made(
        (-1, "operation", "lone", 1, 1, 5),
        (-1, "module", "m", 1, 1, 7),
        (1, "operation", "o", 1, 1, 11),
        (2, "module", "inner", 1, 1, 13),
        scoped=False,
    )

    assert {"lone": 5, "m": 7, "m.o": 11, "inner": 13} == tokens(report.by_operation())


def test_a_missing_name_shows_the_nearest():
    """A missing name raises a KeyError that shows the nearest name, in breakdowns and in `find`."""
    with pytest.raises(KeyError, match=r"no 'Agent\.plannner'; the nearest: 'Agent\.planner'"):
        AGENT.by_module()["Agent.plannner"]
    with pytest.raises(KeyError, match="no 'x'; there is nothing"):
        Breakdown()["x"]
    with pytest.raises(KeyError, match="no 'serch' below 'pipeline/Agent'; the nearest: 'search'"):
        AGENT.find("pipeline/Agent/serch")
    with pytest.raises(KeyError, match="no 'nothing'; the nearest: 'pipeline'"):
        AGENT.find("nothing")
    with pytest.raises(KeyError, match="there is nothing"):
        Report().find("x")


def test_finding_nodes():
    """`find` takes a path of names. It accepts names with slashes, and predictors without their signature."""
    assert 100 == AGENT.find("pipeline/Agent/planner").usage.input_tokens
    assert 1000 == AGENT.find("pipeline/Agent/search/Predict").usage.input_tokens
    assert 1000 == AGENT.find("pipeline/Agent/search/Predict(q -> a)").usage.input_tokens
    assert "root" == AGENT.find("").kind
    slashes = made((-1, "scope", "a/b", 1, 1, 3), (0, "scope", "c", 1, 1, 5), (-1, "scope", "a", 1, 1, 7), scoped=False)
    assert 5 == slashes.find("a/b/c").usage.input_tokens
    assert 7 == slashes.find("a").usage.input_tokens


def test_finding_nodes_by_their_last_names():
    """`find` takes the last names of a path where only one path has them. A whole path comes first."""
    assert {("pipeline", "Agent", "planner")} == {AGENT.find(path).path for path in ("planner", "Agent/planner")}
    assert ("pipeline", "Agent", "search", "Predict(q -> a)") == AGENT.find("search/Predict").path
    assert () == AGENT.tree().root.path
    twice = made(
        (-1, "scope", "a", 1, 1, 1),
        (0, "scope", "b", 1, 1, 2),
        (1, "scope", "c", 1, 1, 3),
        (-1, "scope", "b", 1, 1, 4),
        (3, "scope", "c", 1, 1, 5),
        (0, "scope", "d", 1, 1, 6),
        scoped=False,
    )
    assert (5, 4, 6) == tuple(
        twice.find(path).usage.input_tokens - more for path, more in (("b/c", 0), ("b", 5), ("d", 0))
    )
    assert 3 == twice.find("a/b/c").usage.input_tokens
    with pytest.raises(
        KeyError, match=r"'c' is at several paths: 'a/b/c', 'b/c'|'c' is at several paths: 'b/c', 'a/b/c'"
    ):
        twice.find("c")


def test_a_name_at_very_many_paths():
    """The error shows ten of the paths that have a name, and how many more there are."""
    rows = [(-1, "scope", "top", 1, 1, 1)]
    for number in range(1, 24, 2):
        rows += [(0, "scope", f"n{number}", 1, 1, 1), (number, "scope", "same", 1, 1, 1)]
    with pytest.raises(KeyError, match=r"'same' is at several paths: 'top/n1/same', .* and 2 more") as error:
        made(*rows).find("same")

    assert 10 == str(error.value).count("/same'")


def test_what_was_spent_since():
    """A later report minus an earlier one is what was spent in between: calls, times, entries and costs."""
    with token_scope("run") as scope:
        with token_scope("ingest"):
            record_tokens("ocr", "page", "gpt-4o-mini", "openai", input_tokens=1_000_000, output_tokens=0)
        earlier = scope.report()
        with token_scope("ingest"):
            record_tokens("ocr", "page", "gpt-4o-mini", "openai", input_tokens=2_000_000, output_tokens=0)
        with token_scope("answer"):
            spend(7)
        later = scope.report()
    since = later - earlier

    assert {"ocr": 2_000_000, "m": 7} == tokens(since.by_module())
    assert Decimal("0.3") == since.by_model()["openai/gpt-4o-mini"].cost
    assert since.by_model()["provider/model"].cost is None
    assert 1 == since.find("run/ingest").entries
    assert 0 < since.find("run/ingest").seconds < later.find("run/ingest").seconds
    assert later == since + earlier
    assert later.total == since.total + earlier.total
    assert ["openai/gpt-4o-mini"] == [price.model for price in since.prices()]
    assert "page" not in (scope.report() - later).render("json")


def test_nothing_was_spent_since():
    """A report minus itself is empty, and a report minus an empty one is itself."""
    assert not AGENT - AGENT
    assert AGENT == AGENT - Report()
    assert Report() == Report() - Report()
    assert AGENT == (AGENT + AGENT) - AGENT


def test_the_difference_is_a_report(tmp_path):
    """What was spent since can be saved, loaded and shown."""
    since = (AGENT + made((-1, "scope", "pipeline", 1, 5, 7))) - AGENT
    since.save(tmp_path / "since.json")

    assert since == Report.load(tmp_path / "since.json")
    assert "7 tokens (7 in + 0 out); 1 call" == since.render().splitlines()[0]


def test_a_price_that_was_set_meanwhile(monkeypatch):
    """If a price was set in between, the earlier calls are priced with it, too, so that the difference has a cost."""
    monkeypatch.setattr("tokenscope._usage.custom_prices._custom", {})
    with token_scope("run") as scope:
        spend(1_000_000)
        earlier = scope.report()
        set_price("provider/model", input=2, output=0)
        spend(3_000_000)

    assert earlier.total.cost is None
    assert Decimal(6) == (scope.report() - earlier).total.cost


def test_calls_without_a_price():
    """The difference of two lower bounds is that of the known costs, and calls without a price stay without."""
    known, unknown = (
        build([(-1, Frame("scope", "s"), 1, 0, {"p/x": usage})], scoped=True)
        for usage in (
            Usage(calls=2, input_tokens=5, cost=Decimal("0.5")),
            Usage(calls=1, input_tokens=7, unpriced_calls=1),
        )
    )
    both = known + unknown

    assert known.total == (both - unknown).total
    assert unknown.total == (both - known).total


@pytest.mark.parametrize(
    ("newer", "message"),
    [
        (Report(), "'pipeline' is gone in the newer report; only a later report of the same run has more"),
        (
            made((-1, "scope", "pipeline", 0, 1000, 0), (0, "dspy", "Agent", 1, 900, 10)),
            "'pipeline' was entered less often, or for less time, in the newer",
        ),
        (
            made((-1, "scope", "pipeline", 1, 1, 0), (0, "dspy", "Agent", 1, 900, 10)),
            "'pipeline' was entered less often, or for less time, in the newer",
        ),
        (made((-1, "scope", "pipeline", 1, 1000, 9)), "'pipeline/Agent' is gone"),
        (
            made((-1, "scope", "pipeline", 1, 1000, 9), (0, "dspy", "Agent", 1, 900, 9)),
            r"'pipeline/Agent' has less input_tokens of p/x \(9, before 10\)",
        ),
        (
            made((-1, "scope", "pipeline", 1, 1000, 9), (0, "dspy", "Agent", 1, 900, 0)),
            "has less calls of p/x .0, before 1",
        ),
    ],
    ids=["empty", "entries", "time", "path", "tokens", "model"],
)
def test_a_report_that_is_not_later(newer, message):
    """A path that has shrunk cannot be subtracted. The error says which."""
    older = made((-1, "scope", "pipeline", 1, 1000, 0), (0, "dspy", "Agent", 1, 900, 10))
    with pytest.raises(ValueError, match=message):
        newer - older


@pytest.mark.parametrize("other", [1, "x", None, Usage()])
def test_subtracts_nothing_else(other):
    """Anything but a report raises a TypeError."""
    with pytest.raises(TypeError, match="unsupported operand"):
        AGENT - other


def test_adding_up():
    """Reports add up path by path, and keep paths that only one of them has."""
    other = made((-1, "scope", "pipeline", 1, 500, 0), (0, "dspy", "Agent", 1, 100, 5), (0, "scope", "new", 1, 1, 7))
    both = AGENT + other

    assert both == other + AGENT
    assert 15 == both.find("pipeline/Agent").own.input_tokens
    assert 7 == both.find("pipeline/new").usage.input_tokens
    assert (2, 1.5) == (both.tree().entries, both.tree().seconds)
    assert AGENT.total + other.total == both.total
    assert both == sum([AGENT, other])


def test_the_sum_of_different_scopes():
    """Reports of two scopes stand side by side below a nameless root."""
    both = made((-1, "scope", "a", 1, 1000, 3)) + made((-1, "scope", "b", 1, 2000, 4))

    assert ("root", ["b", "a"], 3.0) == (both.tree().kind, [n.name for n in both.tree().children], both.tree().seconds)
    assert 3 == both.find("a").usage.input_tokens


@pytest.mark.parametrize("other", [1, "x", None, Usage(), True, False])
def test_adds_to_nothing_else(other):
    """Adding a value of another type to a report raises a TypeError."""
    with pytest.raises(TypeError):
        AGENT + other
    with pytest.raises(TypeError):
        other + AGENT


def test_the_empty_report():
    """An empty report is false, changes no sum, and has empty breakdowns."""
    empty = Report()

    assert not empty
    assert empty == tokenscope.report()
    assert AGENT == AGENT + empty == empty + AGENT
    assert Usage() == empty.total
    assert {} == empty.by_module() == empty.by_model() == empty.predictors()
    assert () == empty.tree().children
    assert "<Report of 0 scopes, 0 tokens>" == repr(empty)
    assert 0 == empty.statistics()["summary"]["total_calls"]


def test_equal_reports_are_equal_and_hash_alike():
    """Reports with the same rows are equal and have equal hashes, in any order of siblings."""
    one = made((-1, "scope", "a", 1, 1, 1), (0, "scope", "b", 1, 1, 1), (0, "scope", "c", 1, 1, 1))
    other = made((-1, "scope", "a", 1, 1, 1), (0, "scope", "c", 1, 1, 1), (0, "scope", "b", 1, 1, 1))

    assert one == other
    assert hash(one) == hash(other)


def test_statistics():
    """`statistics()` has the keys that scripts rely on."""
    with token_scope("s") as scope:
        record_tokens("m", "o", "x", "p", 10, 5, cache_read_tokens=4)
    found = scope.report().statistics()

    assert {"summary", "by_module", "by_model"} == set(found)
    assert 1 == found["summary"]["total_calls"]
    assert (10, 5, 15) == tuple(found["summary"][f"total_{name}_tokens"] for name in ("input", "output")) + (
        found["summary"]["total_tokens"],
    )
    assert 4 == found["summary"]["total_cache_read_tokens"]
    assert ["input_tokens", "output_tokens", "total_tokens", "call_count"] == list(found["by_module"]["m"])[:4]
    assert 1 == found["by_model"]["p/x"]["call_count"]


def test_a_report_is_a_snapshot():
    """A report cannot be changed, and does not include tokens that are spent later."""
    with token_scope("s") as scope:
        spend(1)
        report = scope.report()
        spend(2)

    assert 1 == report.total.input_tokens
    with pytest.raises(AttributeError):
        report.rows = ()  # type: ignore[misc]


def test_tools_that_spent_nothing_are_left_out():
    """Tool and evaluate frames are shown only if something was spent in or below them."""
    table = UsageTable(ROOT)
    top = ROOT.child(Frame("scope", "report test"))
    for kind, name, spent in (
        ("tool", "idle", 0),
        ("tool", "busy", 5),
        ("evaluate", "outer", 0),
        ("scope", "empty", 0),
    ):
        path = top.child(Frame(kind, name))
        table.add_entries(path, top, 1, 0)
        if kind == "evaluate":
            table.row(path.child(Frame("dspy", "Predict")))
        if spent:
            table.add(path, UsageKey("x"), Counts(calls=1, input_tokens=spent))
    names = [node.name for _, node in Report.from_table(table, ROOT, scoped=True).tree().walk()]

    assert ["report test", "busy", "empty"] == names
    only = UsageTable(ROOT)
    only.add_entries(ROOT.child(Frame("tool", "idle")), ROOT, 1, 0)
    assert Report() == Report.from_table(only, ROOT, scoped=False)


def test_deep_reports():
    """The tree, `find`, sums and breakdowns of 10,000 levels need no recursion, and take less than a minute."""
    began = time.process_time()
    report = chain(10_000)
    deepest = list(report.tree().walk())[-1]

    assert (9_999, "level 9999") == (deepest[0], deepest[1].name)
    assert 100_000 == (report + Report()).total.input_tokens
    assert 10 == report.find("/".join(f"level {n}" for n in range(10_000))).usage.input_tokens
    assert 100_000 == sum(usage.input_tokens for usage in report.by_module().values())
    assert time.process_time() - began < 60


def test_formats():
    """`render` draws the tree by default. An unknown format raises an error that names the known formats."""
    assert AGENT.render() == AGENT.render("tree")
    assert AGENT.render("json").startswith("{")
    with pytest.raises(ValueError, match="there is no report format 'pdf'; there are tree, json"):
        AGENT.render("pdf")


@pytest.mark.parametrize("form", ["tree", "table", "markdown", "html", "json", "csv", "speedscope", "folded"])
def test_views_in_every_format(form):
    """`by` and `depth` choose what every format shows, as the command line does."""
    assert cut(AGENT, 2).render(form) == AGENT.render(form, depth=2)
    assert pivot(AGENT, "module").render(form).replace("Module", "?") == AGENT.render(form, by="module").replace(
        "Module", "?"
    )
    assert "planner" not in AGENT.render(form, by="model")


def test_options_of_a_format():
    """A format that does not have an option says which it has. A breakdown has no times, and a table says what it lists."""
    with pytest.raises(TypeError, match="csv has no option 'top'; it has by, depth, sort"):
        AGENT.render("csv", top=3)
    with pytest.raises(TypeError, match="html has a fixed order; tree, table, markdown, csv can be sorted"):
        AGENT.render("html", sort="cost")
    with pytest.raises(ValueError, match="a breakdown has no times"):
        AGENT.render(by="model", sort="time")
    with pytest.raises(ValueError, match="no breakdown by 'colour'; there are model, module, predictor, operation"):
        AGENT.render(by="colour")
    assert AGENT.render("table", by="model").startswith("Model ")
    assert AGENT.render("table", by="model", title="LM").startswith("LM ")
    assert "planner" not in AGENT.render(depth=2, by=None, sort="calls", top=20, min_share=0.01, width=80)


def test_format_strings():
    """In an f-string, a report is its tree in plain text."""
    assert AGENT.render("tree") == f"{AGENT}"


def test_decorated_functions_in_a_report():
    """A decorated function adds two levels, module and operation, with equal numbers of entries."""

    @track_tokens("module", "operation")
    def function():
        spend(1)

    with token_scope("s") as scope:
        function()
        function()

    report = scope.report()
    assert [2, 2] == [report.find(path).entries for path in ("s/module", "s/module/operation")]


def test_a_predictor_names_a_thousand_modules_at_most():
    """The name of a predictor holds at most 1,000 modules, or deep recursion would fill the memory."""
    path = ROOT
    for _ in range(1_200):
        path = path.child(Frame("dspy", "M"))
    table = UsageTable(ROOT)
    table.add(path, UsageKey("x"), Counts(calls=1, input_tokens=5))

    (name,) = Report.from_table(table, ROOT, scoped=False).predictors()
    assert ".".join(["M"] * 1_000) == name


def test_parts_of_a_node():
    """A node tells the parts of its own prompts, and of those below; a line `[self]` of a drawing tells none."""
    searcher = MEASURED.find("searcher")

    assert (44_600, 22_800) == tuple(
        parts["input:trajectory"].input_tokens for parts in (searcher.parts, searcher.own_parts)
    )
    assert (
        {}
        == MEASURED.tree().root.own_parts
        == MEASURED.find("Research").own_parts
        == self_line(searcher, searcher.children)[0].own_parts
    )
    assert MEASURED.total.input_tokens == sum(usage.input_tokens for usage in MEASURED.tree().parts.values())
