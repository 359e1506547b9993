"""Markdown: a real parser finds the tables, and finds no markup in names."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt
from support.formats import HOSTILE, PRICED, golden, hostile
from support.reports import chain, made

from tokenscope import Report
from tokenscope._report.formats.markdown import code
from tokenscope._report.formats.text import printable


def parsed(text: str) -> str:
    """Return the HTML that a Markdown parser makes of a text."""
    return MarkdownIt("commonmark").enable("table").render(text)


def cells(text: str) -> list[list[str]]:
    """Return the cells of all tables' bodies, as text."""
    rows = re.findall(r"<tr>\n(.*?)</tr>", parsed(text), re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def test_the_whole_document():
    """The document has the tree, the modules, the models, and the models without a price."""
    golden("report.md", PRICED.render("markdown"))


def test_tables_are_tables():
    """A parser finds three tables, and each row has as many cells as its heading."""
    document = parsed(PRICED.render("markdown"))

    assert 3 == document.count("<table>")
    assert {0, 7, 8} == {len(row) for row in cells(PRICED.render("markdown"))}


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_shown_as_they_are(name):
    """The parser reads each name as code, with nothing changed but escaped control characters."""
    report = made((-1, "scope", name, 1, 1, 10))
    first = next(row for row in cells(report.render("markdown")) if row)[0]

    assert f"<code>{printable(name)}</code>" == first


def test_hostile_names_are_no_markup():
    """No name becomes a tag, a link or emphasis, nor breaks a table."""
    document = parsed(hostile().render("markdown"))

    assert {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "h3"} == set(
        re.findall(r"<([a-z0-9]+)", document)
    )
    assert 3 == document.count("<table>")


def test_simple_names_stay_readable():
    """A name without special characters is plain inline code."""
    assert "`Agent.plan_it[0]`" == code("Agent.plan_it[0]")
    assert "<code>a&#124;b</code>" == code("a|b")


def test_a_deep_tree():
    """Below level 30, a row shows the number of its level instead of an indent."""
    lines = chain(1_100).render("markdown").splitlines()

    assert next(line for line in lines if "`level 30`" in line).startswith("| " + "&nbsp;" * 60 + "`")
    assert any(line.startswith("| 1,099&gt; `level 1099` |") for line in lines)


def test_several_top_level_names():
    """The process's report has no row for its nameless root."""
    report = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert ["| `B` |", "| `a` |"] == [line[:7] for line in report.render("markdown").splitlines()[4:6]]


def test_an_empty_report():
    """An empty report says that nothing was counted yet."""
    assert "Nothing was counted yet.\n" == Report().render("markdown")
