"""Reports made from a report: flat by a breakdown, cut at a depth, or repriced for another model."""

from __future__ import annotations

import json
import pickle
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from hypothesis import given, settings
from hypothesis import strategies as st
from law.test_properties import QUICK, reports
from support.formats import HOSTILE, HUGE, PRICED, deep, empty_and_free, hostile, huge
from support.reports import loaded, made
from support.spending import count

from tokenscope import Report, Usage, get_tracker, record_tokens, set_price, token_scope
from tokenscope._report.formats import FORMATS
from tokenscope._report.snapshot import cut, pivot
from tokenscope._usage.custom_prices import forget_prices

if TYPE_CHECKING:
    from collections.abc import Iterator

BREAKDOWNS = {
    "module": Report.by_module,
    "model": Report.by_model,
    "predictor": Report.predictors,
    "operation": Report.by_operation,
}


def rows(report: Report) -> list[tuple[int, str, str]]:
    """Return level, kind and name of each line of a report's tree."""
    root = report.tree()
    found = [(depth, node.kind, node.name) for depth, node in root.walk()]
    return found[1:] if root.kind == "root" else [(depth + 1, kind, name) for depth, kind, name in found]


# -- flat -------------------------------------------------------------------------------------------------------------------


def test_by_module():
    """A flat report by module has one row for each module, the costliest first, with its models."""
    flat = pivot(PRICED, "module")

    assert [(1, "module", name) for name in PRICED.by_module()] == rows(flat)
    assert ["openai/gpt-5-mini", "local/rerank"] == list(flat.find("ResearchAgent.searcher").by_model)
    assert (0, 0.0) == (flat.find("ingest").entries, flat.find("ingest").seconds)


def test_by_model():
    """A flat report by model has one row for each model."""
    assert [(1, "scope", name) for name in PRICED.by_model()] == rows(pivot(PRICED, "model"))


def test_by_predictor():
    """A flat report by predictor has one row for each DSPy path, and holds the usage of DSPy modules only."""
    flat = pivot(PRICED, "predictor")

    assert [(1, "dspy", name) for name in PRICED.predictors()] == rows(flat)
    assert PRICED.find("pipeline/ResearchAgent").usage == flat.total
    assert Report() == pivot(made((-1, "scope", "s", 1, 1, 10)), "predictor")


def test_by_operation():
    """A flat report by operation has one row for each operation, named with its module."""
    flat = pivot(PRICED, "operation")

    assert ["ingest.chunk", "ingest.title"] == [name for _, _, name in rows(flat) if name.startswith("ingest")]


def test_a_breakdown_that_is_not_there():
    """An unknown breakdown raises a ValueError that names the known breakdowns."""
    with pytest.raises(ValueError, match="no breakdown by 'size'; there are model, module, predictor, operation"):
        pivot(PRICED, "size")


@QUICK
@given(reports(), st.sampled_from(list(BREAKDOWNS)))
def test_flat_reports_are_partitions(report, by):
    """The rows of a flat report equal the breakdown, and its total is their sum."""
    flat = pivot(report, by)
    expected = BREAKDOWNS[by](report)

    assert expected == {node.name: node.usage for node in flat.tree().children}
    assert flat.total == sum(expected.values(), Usage())
    assert all(not node.children for node in flat.tree().children)
    assert list(expected) == [node.name for node in flat.tree().children]
    if by != "predictor":
        assert report.by_model() == flat.by_model()
        assert expected == flat.by_module()  # the table format draws `by_module()`
    else:
        assert expected == flat.predictors()


@pytest.mark.unmeasured
@QUICK
@given(reports(), reports(), st.sampled_from(list(BREAKDOWNS)))
def test_adding_up_flat_reports(a, b, by):
    """Flattening the sum of two reports equals adding two flat reports."""
    assert pivot(a + b, by) == pivot(a, by) + pivot(b, by)


# -- cut --------------------------------------------------------------------------------------------------------------------


def test_cut():
    """`cut` adds deeper usage to the deepest remaining level, and keeps the times of remaining levels."""
    two = cut(PRICED, 2)

    assert [
        (1, "scope", "pipeline"),
        (2, "dspy", "ResearchAgent"),
        (2, "module", "ingest"),
        (2, "scope", "研究エージェント"),
    ] == rows(two)
    for path in ("pipeline", "pipeline/ResearchAgent", "pipeline/ingest"):
        whole, left = PRICED.find(path), two.find(path)
        assert (whole.usage, whole.by_model, whole.entries, whole.seconds) == (
            left.usage,
            left.by_model,
            left.entries,
            left.seconds,
        )
    assert two.find("pipeline/ResearchAgent").own == PRICED.find("pipeline/ResearchAgent").usage


def test_one_level():
    """A cut at depth 1 keeps the scope itself, or the top-level names of a process."""
    process = made((-1, "scope", "a", 1, 1, 10), (0, "dspy", "B", 1, 1, 5), (-1, "scope", "c", 1, 1, 2), scoped=False)

    assert [(1, "scope", "pipeline")] == rows(cut(PRICED, 1))
    assert [(1, "scope", "a"), (1, "scope", "c")] == rows(cut(process, 1))
    assert not cut(process, 1).scoped


@pytest.mark.parametrize("depth", [0, -1])
def test_no_level(depth):
    """A depth below 1 raises a ValueError."""
    with pytest.raises(ValueError, match=f"depth must be 1 or more, but is {depth}"):
        cut(PRICED, depth)


@QUICK
@given(reports(), st.integers(1, 9))
def test_cutting_loses_nothing(report, depth):
    """A cut keeps the total, the models, and the usage of every level down to its depth."""
    left = cut(report, depth)
    whole = {}
    for source, into in ((report, whole), (left, found := {})):
        stack = [((), source.tree())]
        while stack:
            path, node = stack.pop()
            path = path if node.kind == "root" else (*path, (node.kind, node.name))
            if node.kind != "root":
                into[path] = (node.usage, node.by_model, node.entries, node.seconds)
            stack += [(path, child) for child in node.children]

    assert report.total == left.total
    assert report.by_model() == left.by_model()
    assert {path: said for path, said in whole.items() if len(path) <= depth} == found


@QUICK
@given(reports(), st.integers(1, 9), st.integers(1, 9))
def test_cutting_twice(report, one, other):
    """Of two cuts the shallower one decides. A cut below the deepest level changes nothing."""
    assert cut(report, min(one, other)) == cut(cut(report, one), other)
    assert report == cut(report, 9)


@pytest.mark.unmeasured
@QUICK
@given(reports(), reports(), st.integers(1, 9))
def test_adding_up_cut_reports(a, b, depth):
    """Cutting the sum of two reports equals adding two cut reports."""
    assert cut(a + b, depth) == cut(a, depth) + cut(b, depth)


def test_views_keep_calls_apart_as_prices_need():
    """Flat and cut reports keep long and short prompts apart, so that repricing them is exact."""
    with token_scope("run") as scope:
        for tokens in (1_000, 300_000):
            record_tokens("m", "o", "gpt-4o", "openai", input_tokens=tokens, output_tokens=10)
    report = scope.report()
    dearer = report.reprice("google/gemini-2.5-pro").total

    assert dearer == cut(report, 1).reprice("google/gemini-2.5-pro").total
    for by in ("module", "model", "operation"):
        assert dearer == pivot(report, by).reprice("google/gemini-2.5-pro").total


# -- extremes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("by", BREAKDOWNS)
def test_every_format_shows_them(form, by):
    """Every format renders flat and cut reports with hostile names and huge numbers."""
    for report in (hostile(), huge(), PRICED, *empty_and_free()):
        for view in (pivot(report, by), cut(report, 1)):
            assert {"\n"} >= {c for c in view.render(form) if not c.isprintable()}
            if form == "json":
                assert view == loaded(view.render("json"))


def test_hostile_names():
    """Flat and cut reports keep hostile names unchanged."""
    assert set(HOSTILE) == {name for _, _, name in rows(pivot(hostile(), "model"))}
    assert {"top", *HOSTILE} == {name for _, _, name in rows(cut(hostile(), 2))}


def test_huge_numbers():
    """Sums are exact at any size."""
    assert HUGE + 1 == pivot(huge(), "model").total.input_tokens == cut(huge(), 1).total.input_tokens


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", ["scope", "dspy"])
def test_deep_reports(kind):
    """10,000 levels are flattened and cut without recursion."""
    report = deep(kind, 10_000)
    began = time.process_time()

    assert 10_000 == pivot(report, "module").total.input_tokens
    assert 10_000 == cut(report, 5).total.input_tokens
    assert 5 == len(rows(cut(report, 5)))
    assert 9_996 == cut(report, 5).find("/".join(f"level {n}" for n in range(5))).own.input_tokens
    assert time.process_time() - began < 60


@pytest.mark.unmeasured
def test_many_rows():
    """A report of 20,000 rows is flattened within seconds."""
    wide = made((-1, "scope", "s", 1, 1, 0), *((0, "scope", f"n{n}", 1, 1, n + 1) for n in range(20_000)))
    began = time.process_time()

    assert 20_000 == len(json.loads(pivot(wide, "module").render("json"))["rows"])
    assert time.process_time() - began < 30


# -- repriced for another model ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_prices_by_hand() -> Iterator[None]:
    forget_prices()
    yield
    forget_prices()


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["openai/gpt-4o", "anthropic/claude-sonnet-4-5", "local/nobody-knows"]),
        st.one_of(st.integers(0, 1_000_000), st.sampled_from([15_999, 16_000, 128_000, 200_000, 200_001, 272_001])),
        st.integers(0, 10_000),
        st.sampled_from([None, Decimal("0.25")]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(
    calls=CALLS, target=st.sampled_from(["gemini/gemini-2.5-pro", "openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"])
)
def test_each_call_is_priced_by_itself(calls, target):
    """A repriced report costs the sum of genai-prices' price of each call, with tiers for long prompts."""
    with token_scope("run") as scope:
        for model, spent, gained, cost in calls:
            record_tokens("m", "o", model, None, spent, gained, cost=cost)
    report = scope.report()
    other = report.reprice(target)
    provider, _, name = target.partition("/")
    prices = [
        calc_price(TheirUsage(input_tokens=spent, output_tokens=gained), name, provider_id=provider).total_price
        for _, spent, gained, _ in calls
    ]

    assert sum(prices, Decimal(0)) == other.total.cost
    assert 0 == other.total.unpriced_calls
    assert report.total.total_tokens == other.total.total_tokens
    assert [target] * bool(calls) == list(other.by_model())
    assert [row[:4] for row in report.rows] == [row[:4] for row in other.rows]


def test_a_price_that_a_provider_told_is_of_its_own_model():
    """`reprice` ignores a cost that a provider reported, and the report itself keeps it."""
    with token_scope("run") as scope:
        record_tokens("m", "o", "anthropic/claude-3.5-haiku", "openrouter", 1_000_000, 0, cost=Decimal(7))
    report = scope.report()

    assert Decimal("0.15") == report.reprice("openai/gpt-4o-mini").total.cost
    assert Decimal(7) == report.total.cost


def test_who_told_the_old_price_makes_no_difference(tmp_path):
    """Repriced reports of the same calls are equal, with or without costs that a provider reported."""
    repriced = []
    for cost in (Decimal(7), None):
        get_tracker().reset()
        for tokens in (10, 250_000):
            record_tokens("m", "o", "openai/gpt-4o", None, tokens, 10, cost=cost)
        repriced.append(get_tracker().report().reprice("gemini/gemini-2.5-pro"))
    told, listed = repriced

    assert told == listed
    assert told.render("json") == listed.render("json")
    told.save(tmp_path / "report.json")
    assert listed == Report.load(tmp_path / "report.json")


def test_what_the_cache_saved_is_repriced_too():
    """An answer from DSPy's cache costs nothing on any model, and its saved cost uses the other model's price."""
    with token_scope("run") as scope:
        saved = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
        count(scope, "openai/gpt-4o", Usage(calls=1, cached_calls=1), saved=saved)
    total = scope.report().reprice("openai/gpt-4o-mini").total

    assert (Decimal(0), Decimal("0.75"), 2_000_000) == (total.cost, total.saved_cost, total.saved_tokens)


def test_repricing_again_and_after_loading(tmp_path):
    """A repriced report, a loaded report and a sum can be repriced as exactly as the first report."""
    with token_scope("run") as scope:
        record_tokens("m", "o", "openai/gpt-4o", None, 250_000, 10)
        record_tokens("m", "o", "openai/gpt-4o", None, 10, 10)
    report = scope.report()
    report.save(tmp_path / "report.json")
    there = report.reprice("gemini/gemini-2.5-pro")

    assert there == there.reprice("openai/gpt-5-mini").reprice("gemini/gemini-2.5-pro")
    assert there == Report.load(tmp_path / "report.json").reprice("gemini/gemini-2.5-pro")
    assert 2 * there.total.cost == (report + report).reprice("gemini/gemini-2.5-pro").total.cost


def test_a_price_set_by_hand_and_calls_without_tokens():
    """`reprice` uses prices from `set_price`, and calls without tokens cost nothing."""
    set_price("local/mine", input=1, output=2)
    with token_scope("run") as scope:
        record_tokens("m", "o", "openai/gpt-4o", None, 1_000_000, 1_000_000)
        record_tokens("m", "o", "openai/gpt-4o", None, 0, 0)

    assert Decimal(3) == scope.report().reprice("local/mine").total.cost
    assert Report() == Report().reprice("local/mine")


def test_a_model_without_a_price():
    """A model without a price raises a ValueError that names the nearest model and `set_price`."""
    with pytest.raises(
        ValueError, match=r"no price is known of 'openai/gpt-5-mni'; the nearest: 'openai/gpt-5-mini'.*set_price"
    ):
        Report().reprice("openai/gpt-5-mni")
    with pytest.raises(ValueError, match=r"no price is known of 'zzz'\. set_price"):
        Report().reprice("zzz")
    with pytest.raises(TypeError, match="model must be a str, not int 3"):
        Report().reprice(3)


def test_nodes_are_looked_up_again():
    """A node is made when somebody asks for it: those of one scope are equal, and those of two reports are not."""
    tree = PRICED.tree()
    first, second = tree.children[:2]
    assert first == tree.children[0] != second
    assert {first: 1, second: 2} == dict(zip(tree.children, (1, 2), strict=False))
    assert first != PRICED.tree().children[0]
    assert first != first.name
    assert tree == first.root.children[0]
    copy = pickle.loads(pickle.dumps(first))
    assert (first.name, first.usage, len(first.children)) == (copy.name, copy.usage, len(copy.children))
