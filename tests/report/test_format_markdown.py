"""Markdown: a real parser finds the tables, and finds no markup in names."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt
from support.formats import HOSTILE, PRICED, golden, hostile
from support.reports import chain, made

from tokenscope import Price, Report
from tokenscope._report.formats.columns import shortened
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
    """The parser reads each name as code, with nothing changed but escaped control characters. Long ones are cut."""
    report = made((-1, "scope", name, 1, 1, 10))
    first = next(row for row in cells(report.render("markdown")) if row)[0]

    assert f"<code>{shortened(printable(name), 200)}</code>" == first


def test_hostile_names_are_no_markup():
    """No name becomes a tag, a link or emphasis, nor breaks a table."""
    document = parsed(hostile().render("markdown"))

    tags = {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "h2", "h3", "details", "summary"}
    assert tags == set(re.findall(r"<([a-z0-9]+)", document))
    assert 2 * 3 == document.count("<table>")


def test_simple_names_stay_readable():
    """A name without special characters is plain inline code."""
    assert "`Agent.plan_it[0]`" == code("Agent.plan_it[0]")
    assert "<code>a&#124;b</code>" == code("a|b")


def test_a_deep_tree():
    """Below level 30, a row shows the number of its level instead of an indent."""
    lines = chain(100).render("markdown").splitlines()

    assert next(line for line in lines if "`level 30`" in line).startswith("| " + "&nbsp;" * 60 + "`")
    assert any(line.startswith("| 99&gt; `level 99` |") for line in lines)


def test_several_top_level_names():
    """The process's report has no row for its nameless root."""
    report = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert ["| `B` |", "| `a` |"] == [line[:7] for line in report.render("markdown").splitlines()[6:8]]


def test_a_long_table_is_folded():
    """The 20 costliest rows are shown, in the order that was asked for. A fold has all rows."""
    rows = [(0, "scope", f"s{n:02}", 1, 1, 10 * n) for n in range(1, 41)]
    text = made((-1, "scope", "top", 1, 1, 0), *rows).render("markdown", sort="name")
    shown, folded = text.split("<details><summary>41 scopes</summary>\n\n")

    assert ["top", *(f"s{n}" for n in range(22, 41))] == re.findall(r"`(\w+)`", shown)
    assert shown.endswith("\n\n21 of 41 rows are left out here, those with the fewest tokens.\n\n")
    table, _, rest = folded.partition("\n\n</details>\n\n### By module\n\n")
    assert ["top", *(f"s{n:02}" for n in range(1, 41))] == re.findall(r"`(\w+)`", table)
    assert "<details><summary>40 modules</summary>" in rest
    assert 5 == parsed(text).count("<table>")


def test_a_table_of_twenty_rows_is_not_folded():
    """A table without more rows than are shown anyway has no fold."""
    rows = [(0, "scope", f"s{n}", 1, 1, n) for n in range(1, 20)]

    assert "<details>" not in made((-1, "scope", "top", 1, 1, 0), *rows).render("markdown")


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", ["m", "<|>" * 60], ids=["short", "escaped"])
def test_a_document_fits_into_a_comment(name):
    """Of 10,000 scopes, as many rows are shown as fit into 65,000 characters. A sentence tells how many are left out."""
    rows = [(0, "scope", f"{name}{n}", 1, 1, 10_001 - n) for n in range(10_000)]
    text = made((-1, "scope", "top", 1, 1, 0), *rows).render("markdown")
    told = re.findall(
        r"^([\d,]+) of (10,00[01]) rows are left out here, those with the fewest tokens(.*)\.$", text, re.MULTILINE
    )

    assert 55_000 < len(text) < 65_000
    assert (4, 2) == (len(told), text.count("</details>"))
    assert 2 == sum(": GitHub takes no comment with more than 65,536 characters" in why for *_, why in told)
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
    shown = sum(int(whole.replace(",", "")) - int(out.replace(",", "")) for out, whole, _ in told)
    assert shown + len(["p/x"]) == len([row for row in cells(text) if row])


def test_many_prices_fit_into_a_comment():
    """Prices of thousands of models are cut as other tables are."""
    prices = tuple(Price(f"{'<|>' * 60}{n}", 0, "set_price") for n in range(2_000))
    text = Report(PRICED.rows, PRICED.scoped, prices).render("markdown")
    end = text.partition("<details><summary>Prices</summary>")[2].split("\n\n", 2)[2]

    assert 60_000 < len(text) < 65_000
    assert re.fullmatch(
        r"Dollars per million tokens\.\n\n"
        r"[\d,]+ of 2,000 rows are left out here: GitHub takes no comment .*\.\n\n"
        r"</details>\n\n2 calls answered .*\n\nNo price is known for 9 calls of .*\n",
        end,
    )


def test_an_empty_report():
    """An empty report says that nothing was counted yet, and why that may be."""
    assert Report().render("markdown").startswith("Nothing was counted yet: DSPy made no LM call, ")
