"""Diffs, usage, breakdowns and waste in a notebook: tables of HTML that escape every name and have no colours of their own."""

from __future__ import annotations

import re
from decimal import Decimal
from html import unescape

import dspy
import pytest
from report.test_format_notebook import Fragment
from support.browser import chromium, look, problems
from support.formats import DIFF, HOSTILE, OLD, PRICED, deep, hostile, huge, usage
from support.reports import build, made

from tokenscope import Report, Usage, Waste, record_tokens, token_scope
from tokenscope._report.formats.text import printable
from tokenscope._usage.calls import Frame
from tokenscope.testing import LoopbackProvider

WASTED = Waste(failed_parses=usage(2, 100, 10, "0.5"), retries=usage(1, 7, 0, None))
VALUES = {
    "diff": lambda: Report().diff(hostile()),
    "deep diff": lambda: Report().diff(deep()),
    "huge diff": lambda: Report().diff(huge()),
    "unpriced diff": lambda: OLD.diff(PRICED),
    "usage": lambda: huge().total,
    "breakdown": lambda: hostile().by_module(),
    "models": lambda: hostile().by_model(),
    "waste": lambda: WASTED,
}


def table(value) -> list[list[str]]:
    """Return the cells of a table, as text."""
    rows = re.findall("<tr[^>]*>(.*?)</tr>", value._repr_html_())
    return [
        [unescape(re.sub("<[^>]+>", "", cell)) for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows
    ]


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_only_harmless_tags(make):
    """No name adds a tag, and there are no scripts, classes, ids or addresses. The size is bounded."""
    parts = Fragment(make()._repr_html_())

    assert {"div", "b", "table", "tr", "th", "td", "bdi"} >= parts.tags
    assert {"style", "colspan"} >= parts.attributes
    assert len(make()._repr_html_()) < 300_000


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_no_colours(make):
    """Text has the colour of the page. The only colour is that of lines, which is seen on white and on black."""
    html = make()._repr_html_()

    assert {"rgba(128,128,128,.2)"} == set(re.findall(r"rgba?\([^)]*\)|#[0-9a-f]{3,6}\b(?=[;\"])", html))
    assert not re.search(r"[;\"](color|background)", html)


def test_hostile_names():
    """Each name is shown whole, with control characters escaped."""
    names = {row[0] for row in table(hostile().by_module())[1:]}

    assert names == {printable(name) for name in hostile().by_module()}
    assert {f"+ {printable(name)}" for name in HOSTILE} <= {row[0] for row in table(Report().diff(hostile()))}


def test_a_diff():
    """A diff has its headline and a table of the changes, the rows below indented."""
    html = DIFF._repr_html_()

    assert html.startswith("<div><b>tokens 2,297 -&gt; 3,097 (+800, +34.8%); calls 7 -&gt; 9 (+2); cost")
    assert [
        ["scope", "before", "after", "change", "growth", "calls", "cost"],
        ["pipeline", "2,297", "3,097", "+800", "+34.8%", "+2", "+$0.0080"],
        ["Agent", "1,397", "3,097", "+1,700", "+121.7%", "+5", "+$0.017"],
        ["planner", "1,200", "2,310", "+1,110", "+92.5%", "+1", "+$0.011"],
        ["+ 研究\\n", "0", "590", "+590", "new", "+4", "+$0.0059"],
        ["- ingest", "900", "0", "-900", "gone", "-3", "-$0.0090"],
    ] == table(DIFF)
    assert ["0.6", "1.8", "3.0", "3.0", "1.8"] == re.findall(r"padding-left:([\d.]+)em", html)


def test_a_diff_without_changes():
    """A diff without changes is one sentence."""
    assert "<div><b>nothing changed: 2,297 tokens (2,070 in + 227 out); $0.023; 7 calls</b></div>" == (
        OLD.diff(OLD)._repr_html_()
    )


def test_a_diff_with_unknown_prices():
    """The models without a price are named below."""
    end = '<div style="opacity:.7">No price is known for 9 calls of local/rerank, local/embed.</div>'

    assert OLD.diff(PRICED)._repr_html_().endswith(end)


def test_the_largest_changes_are_shown():
    """Of many changes the 300 largest are shown, with the number of the others, and the deepest rows are not indented further."""
    rows = [(0, "scope", f"s{n:03}", 1, 1, n) for n in range(1, 401)]
    shown = table(Report().diff(made((-1, "scope", "top", 1, 1, 0), *rows)))

    assert ["scope", "+ top", "+ s400"] == [row[0] for row in shown[:3]]
    assert (302, ["… 101 more"]) == (len(shown), shown[-1])
    assert "padding-left:36.6em" in Report().diff(deep())._repr_html_()
    assert "padding-left:37" not in Report().diff(deep())._repr_html_()


def test_usage():
    """A usage has its total and what is not 0. An unknown cost is a dash, a lower bound a bound."""
    assert [
        ["total tokens", "33,800"],
        ["calls", "24"],
        ["cached calls", "2"],
        ["failed calls", "1"],
        ["input tokens", "27,140"],
        ["output tokens", "6,660"],
        ["cache read tokens", "9,000"],
        ["reasoning tokens", "500"],
        ["cost", "≥ $0.054"],
        ["unpriced calls", "9"],
        ["saved tokens", "240"],
        ["saved cost", "$0.00013"],
    ] == table(PRICED.total)
    assert ["cost", "\N{EN DASH}"] == table(usage(1, 10, 0, None))[4 - 1]
    assert [["total tokens", "0"]] == table(Usage())
    for unpriced, shown in ((0, "$0.50"), (1, "≥ $0.50")):
        assert ["cost", shown] in table(Usage(calls=2, cost=Decimal("0.5"), unpriced_calls=unpriced))


def test_a_breakdown():
    """A breakdown has a row for each name, the costliest first; of very many, 300."""
    assert ["name", "calls", "input", "output", "total", "cost"] == table(PRICED.by_model())[0]
    assert ["openai/gpt-5-mini", "14", "17,370", "5,100", "22,470", "$0.015"] == table(PRICED.by_model())[1]
    assert ["local/embed", "3", "900", "0", "900", "\N{EN DASH}"] == table(PRICED.by_model())[4]
    assert "<div>Nothing.</div>" == Report().by_model()._repr_html_()

    models = {f"m{n}": usage(1, 1_000 - n, 0, "1") for n in range(1_000)}
    many = build([(-1, Frame("scope", "s"), 1, 1, models)], scoped=True).by_model()
    assert ["name", *(f"m{n}" for n in range(300)), "… 700 more"] == [row[0] for row in table(many)]


def test_waste():
    """Waste has a row for each reason, and for each module and reason."""
    assert [
        ["reason", "calls", "input", "output", "total", "cost"],
        ["failed parses", "2", "100", "10", "110", "$0.50"],
        ["retries", "1", "7", "0", "7", "\N{EN DASH}"],
    ] == table(WASTED)
    assert "<div>Nothing.</div>" == Waste()._repr_html_() == PRICED.waste()._repr_html_()


def test_waste_by_module():
    """The waste of a report names modules and reasons."""
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()), token_scope("s") as scope:
        with pytest.raises(Exception, match="500"):
            dspy.Predict("question -> answer")(question="<<fail 500>>")
        record_tokens("m", "o", "x", None, input_tokens=5, output_tokens=1)

    assert [["module", "reason", "calls"], ["Predict", "provider errors", "1"]] == [
        [cell.partition("(")[0] for cell in row[:3]] for row in table(scope.report().waste())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(scheme, tmp_path):
    """On a light and on a dark page, all text has the page's own colour, and no name runs a script."""
    values = [DIFF, PRICED.total, PRICED.by_model(), WASTED, Report().diff(hostile()), PRICED]
    page = "<!doctype html><meta charset=utf-8><meta name=color-scheme content='light dark'><body>"
    file = tmp_path / "cells.html"
    file.write_text(page + "<p>".join(value._repr_html_() for value in values), "utf-8")
    with chromium(tmp_path / "profile") as chrome:
        look(chrome, scheme=scheme)
        chrome.get(file.as_uri())
        colours = "return [...new Set([...document.querySelectorAll('*')].map((each) => getComputedStyle(each).color))]"

        assert {"light": ["rgb(0, 0, 0)"], "dark": ["rgb(255, 255, 255)"]}[scheme] == chrome.execute_script(colours)
        assert chrome.execute_script("return window.hacked") is None
        assert [] == problems(chrome)
