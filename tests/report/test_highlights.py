"""Highlights: sentences about what stands out, with the report's own numbers, and none where nothing does."""

from __future__ import annotations

import pytest
from hypothesis import given
from law.test_properties import QUICK, reports
from support.formats import DIFF, NEW, OLD, PRICED, hostile, usage
from support.reports import build, made

from tokenscope import Report
from tokenscope._report.highlights import highlights, highlights_of_diff
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage


def of(*modules):
    """Return the highlights on modules, each a tuple of a name and what it spent."""
    return highlights(
        build([(-1, Frame("module", name), 1, 0, {"p/x": spent}) for name, spent in modules], scoped=False)
    )


def wasted(*modules):
    """Return a report of modules, each a tuple of a name, its calls' tokens, and (reason, calls, tokens) of the wasted ones."""
    rows = []
    for name, tokens, *reasons in modules:
        key = UsageKey("p/x", 0, "provider")
        spent = [ModelUsage(key, usage(10, tokens, 0, "1"))]
        spent += [ModelUsage(key._replace(wasted=why), usage(calls, lost, 0, "0.1")) for why, calls, lost in reasons]
        rows.append((-1, Frame("module", name), 1, 0, spent))
    return build(rows, scoped=False)


def test_what_a_report_says():
    """The sentences name who spends most tokens and dollars, the dearest model, and what the cache answered."""
    assert [
        "ResearchAgent.searcher spends 65% of the tokens.",
        "ResearchAgent.synthesizer spends 74% of the known cost.",
        "anthropic/claude-sonnet-4-5 answers 4% of the calls and takes 74% of the known cost.",
        "DSPy's cache answered 2 of 24 calls and saved 240 tokens, worth $0.00013.",
        "1 of 24 calls failed.",
    ] == highlights(PRICED)


def test_one_module_around_the_whole_program():
    """If all is one module's, the sentences name the DSPy modules in it, if there are several."""
    rows = [(-1, Frame("module", "serving"), 1, 0, {}), (0, Frame("dspy", "Rag"), 1, 0, {})]
    rows += [
        (1, Frame("dspy", name), 1, 0, {"p/x": usage(1, tokens, 0, "1")}) for name, tokens in (("a", 80), ("b", 20))
    ]
    assert ["Rag.a spends 80% of the tokens."] == highlights(build(rows, scoped=False))
    assert [] == highlights(build(rows[:3], scoped=False))


def test_one_module_that_leads_in_both():
    """If one module spends most tokens and most of the cost, one sentence says both."""
    assert ["a spends 90% of the tokens and over 99% of the cost."] == of(
        ("a", usage(1, 90, 0, "100")), ("b", usage(1, 10, 0, "0.5"))
    )


@pytest.mark.parametrize(
    "modules",
    [
        [],
        [("a", usage(1, 10, 0, "1"))],  # all is one module's
        [("a", usage(1, 10, 0, "1")), ("b", usage(1, 10, 0, "1"))],  # equal
        [(f"m{n}", usage(1, 100 + n, 0, str(100 + n))) for n in range(10)],  # nobody stands out
        [("a", usage(1, 0, 0, "0")), ("b", usage(1, 0, 0, "0"))],
    ],
    ids=["empty", "one", "equal", "many", "free"],
)
def test_nothing_to_say(modules):
    """Where nobody stands out, there is no sentence."""
    assert [] == of(*modules)


def test_models():
    """A model is named only if its share of the cost is twice its share of the calls, and an amount without a model is not."""

    def dearest(*models):
        report = build([(-1, Frame("module", "m"), 1, 0, dict(models))], scoped=False)
        return [each for each in highlights(report) if "answers" in each]

    assert [] == dearest(("a", usage(6, 10, 0, "9")), ("b", usage(4, 10, 0, "1")))
    assert [] == dearest(("(no model)", usage(0, 0, 0, "9")), ("b", usage(4, 10, 0, "1")))
    assert ["a answers under 1% of the calls and takes 90% of the cost."] == dearest(
        ("a", usage(1, 10, 0, "9")), ("b", usage(400, 10, 0, "1"))
    )


def test_waste():
    """What was wasted has its share, its cost, its reasons and the module with most of it."""
    one = wasted(("a", 900, ("failed_parses", 2, 100)), ("b", 100))
    two = wasted(("a", 700, ("failed_parses", 2, 60)), ("b", 300, ("retries", 1, 20), ("provider_errors", 1, 0)))
    nothing = wasted(("a", 900, ("provider_errors", 3, 0)))

    assert "10% of the tokens ($0.10) were wasted on failed parses, all in a." in highlights(one)
    assert "8% of the tokens ($0.30) were wasted: failed parses 6%, retries 2%, most in a." in highlights(two)
    assert ["3 calls came to nothing: provider errors, all in a."] == highlights(nothing)


def test_free_answers_of_the_cache():
    """If it is not known what the cache saved, the sentence says only how many calls it answered."""
    several = [("a", usage(2, 0, 0, "0", cached_calls=1)), ("b", usage(2, 0, 0, "0", cached_calls=1, saved_tokens=0))]
    saved = [("a", usage(1, 0, 0, "0", cached_calls=1, saved_tokens=1))]

    assert ["DSPy's cache answered 2 of 4 calls."] == of(*several)
    assert ["DSPy's cache answered 1 of 1 call and saved 1 token."] == of(*saved)


def test_names_as_a_format_writes_them():
    """A function writes the names. By default, control characters are made visible."""
    report = made((-1, "scope", "a\n", 1, 1, 90), (-1, "scope", "b", 1, 1, 10), scoped=False)

    assert ["a\\n spends 90% of the tokens."] == highlights(report)
    assert ["<b> spends 90% of the tokens."] == highlights(report, lambda _: "<b>")


def test_what_a_diff_says():
    """The sentences tell by how much the totals grew, and where most was added and most went away."""
    assert [
        "Tokens grew by 34.8%, from 2,297 to 3,097.",
        "The cost grew by 34.9%, from $0.023 to $0.031.",
        "planner grew most, by 1,110 tokens.",
        "ingest is gone, with 900 tokens.",
    ] == highlights_of_diff(DIFF)
    assert [
        "Tokens shrank by 25.8%, from 3,097 to 2,297.",
        "The cost shrank by 25.9%, from $0.031 to $0.023.",
        "ingest is new, with 900 tokens.",
        "planner shrank most, by 1,110 tokens.",
    ] == highlights_of_diff(NEW.diff(OLD))


def test_a_diff_with_nothing_to_say():
    """Equal reports, and changes of nothing but calls, have no highlights. Growth from nothing has no percentage."""
    old, new = (made((-1, "scope", "s", 1, 1, tokens)) for tokens in (0, 10))
    calls = [build([(-1, Frame("scope", "s"), 1, 0, {"x": usage(n, 5, 0, "0")})], scoped=True) for n in (1, 2)]

    assert [] == highlights_of_diff(OLD.diff(OLD)) == highlights_of_diff(Report().diff(Report()))
    assert [] == highlights_of_diff(calls[0].diff(calls[1]))
    assert ["Tokens grew from 0 to 11.", "s grew most, by 11 tokens."] == highlights_of_diff(old.diff(new))


def test_the_scope_that_changed_itself():
    """The scope that is named is the one whose own calls changed, and not one above it."""
    old = made((-1, "scope", "top", 1, 1, 10), (0, "scope", "low", 1, 1, 10))
    new = made((-1, "scope", "top", 1, 1, 100), (0, "scope", "low", 1, 1, 20))

    assert "top grew most, by 99 tokens." in highlights_of_diff(old.diff(new))


@QUICK
@given(reports(), reports())
def test_any_report_has_highlights_that_can_be_printed(a, b):
    """Every sentence ends with a full stop, and has no control character."""
    for sentence in [*highlights(a), *highlights_of_diff(a.diff(b)), *highlights(hostile())]:
        assert sentence.endswith(".")
        assert sentence.isprintable()
