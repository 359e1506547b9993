"""The report in a notebook: an HTML fragment that folds, escapes every name and has no scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from support.browser import chromium, look, problems
from support.formats import HOSTILE, PRICED, deep, golden, hostile, huge
from support.prompts import MEASURED, call, measured_row
from support.reports import made

from tokenscope import Report, record_tokens, token_scope
from tokenscope._report.formats.text import printable
from tokenscope._usage.calls import Frame


class Fragment(HTMLParser):
    """A parser that keeps a fragment's tags and names, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.names: list[str] = []
        self.deepest = 0
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert [] == self._open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open.append(tag)
        self.deepest = max(self.deepest, len(self._open))
        if tag == "bdi":
            self.names.append("")

    def handle_endtag(self, tag):
        assert tag == self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1] == "bdi":
            self.names[-1] += data


def fragment(report) -> Fragment:
    return Fragment(report._repr_html_())


def test_the_whole_fragment():
    """The fragment has totals, the tree with its costs, and the models without a price."""
    golden("report.notebook.html", PRICED._repr_html_() + "\n")


@pytest.mark.parametrize("make", [lambda: PRICED, hostile, huge, deep], ids=["priced", "hostile", "huge", "deep"])
def test_only_harmless_tags(make):
    """No name adds a tag. The fragment has no scripts, classes, ids or addresses, and its size is bounded."""
    parts = fragment(make())

    assert {"div", "b", "details", "summary", "bdi", "span"} >= parts.tags
    assert {"style", "open"} >= parts.attributes
    assert parts.deepest < 50
    assert len(make()._repr_html_()) < 300_000


def test_hostile_names():
    """Each hostile name is in the fragment, whole and with control characters escaped."""
    assert {"top", *map(printable, HOSTILE)} == set(fragment(hostile()).names)


def test_the_costliest_rows_are_shown():
    """Of many rows the 300 costliest are shown, and the number and tokens of the others."""
    rows = [(0, "scope", f"s{n}", 1, 1, 10 * n) for n in range(1, 1_001)]
    report = made((-1, "scope", "top", 1, 1, 0), *rows)
    parts = fragment(report)

    assert ["top", "s1000", "s999"] == parts.names[:3]
    assert 300 == len(parts.names)
    left_out = sum(11 * n for n in range(1, 702))
    assert f"… 701 more, {left_out:,} tokens</div></details></div>" in report._repr_html_()


def test_several_top_level_names():
    """The process's report has no row for its nameless root."""
    report = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert ["B", "a"] == fragment(report).names


def test_a_scope():
    """A scope shows the same as its report."""
    with token_scope("a") as scope:
        record_tokens("m", "o", "x", None, input_tokens=5, output_tokens=1)

    assert "<b>6 tokens</b>" in scope._repr_html_()
    assert ["a", "m", "o"] == fragment(scope).names


def test_an_empty_report():
    """An empty report says that nothing was counted yet."""
    assert "<div>Nothing was counted yet.</div>" == Report()._repr_html_()


@pytest.mark.slow
def test_in_a_browser(tmp_path):
    """A real browser folds the fragment, runs no script, and fits it into the window."""
    file = tmp_path / "cell.html"
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{hostile()._repr_html_()}", "utf-8")
    with chromium(tmp_path / "profile") as chrome:
        look(chrome, width=800)
        chrome.get(file.as_uri())
        rows = "return [...document.querySelectorAll('bdi')].filter((row) => row.checkVisibility()).length"
        shown = chrome.execute_script(rows)
        chrome.find_element("css selector", "summary").click()

        assert chrome.execute_script("return window.hacked") is None
        assert len(HOSTILE) < shown
        assert 1 == chrome.execute_script(rows)
        assert 800 >= chrome.execute_script("return document.documentElement.scrollWidth")
        assert [] == problems(chrome)


def test_no_more_rows_than_needed():
    """A row without anything below it does not fold."""
    assert 5 == len(re.findall("<details", PRICED._repr_html_())) + 1


def test_parts_of_prompts():
    """Below each predictor with measured prompts stands a line of their parts; hostile names of parts are escaped."""
    shown = MEASURED._repr_html_()

    assert 4 == shown.count("</bdi></div>")
    assert "demos 66% · input:context 18% · " in shown
    assert "measured with o200k_base and by bytes" in shown
    row = measured_row(-1, Frame("dspy", "it"), 1, 1.0, [call(**{"input_<script>": 9})])
    assert "input:&lt;script&gt; 100%" in Report.from_rows([row], scoped=True)._repr_html_()
