"""The HTML page as a file: its content and its safety. `test_format_html_page.py` opens it in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from support.formats import HOSTILE, HUGE, PRICED, deep, golden, hostile, huge
from support.reports import made

from tokenscope import Report
from tokenscope._report.formats.text import printable


class Page(HTMLParser):
    """A parser that keeps a page's tags and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in ("script", "style") else ""
        if self._open:
            self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open:
            self.inside[self._open][-1] += data

    def content(self):
        return json.loads(self.inside["script"][0])


def page(report: Report) -> Page:
    return Page(report.render("html"))


def test_what_the_page_shows():
    """The page's data has totals, rows with shares, modules, models and models without a price."""
    golden("report.html.json", json.dumps(page(PRICED).content(), indent=1, ensure_ascii=False) + "\n")


def test_the_page_stands_alone():
    """The page loads nothing, contains no address, and its policy allows only its own script and style."""
    text = PRICED.render("html")
    parts = page(PRICED)
    policy = next(attrs["content"] for tag, attrs in parts.tags if "http-equiv" in attrs)

    assert not {"link", "img", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in parts.tags}
    assert not {"src", "href", "style", "onload", "onclick"} & {name for _, attrs in parts.tags for name in attrs}
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|import\(", text)
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(parts.inside[tag][-1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_script_makes_text_only():
    """The page's script never turns a string into HTML or into code."""
    script = page(PRICED).inside["script"][1]

    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|\.href|DOMParser", script)


@pytest.mark.parametrize("report", [hostile(), huge(), deep(), PRICED], ids=["hostile", "huge", "deep", "priced"])
def test_the_page_has_the_same_tags_whatever_is_in_it(report):
    """No name adds a tag, and the block of data contains no character with a meaning in HTML."""
    parts = page(report)

    assert [tag for tag, _ in page(Report()).tags] == [tag for tag, _ in parts.tags]
    assert not set("<>&\u2028\u2029") & set(parts.inside["script"][0])


def test_hostile_names():
    """Each hostile name is in the data, whole and with control characters escaped."""
    nodes = page(hostile()).content()["nodes"]

    assert {"top", "[self]", *map(printable, HOSTILE)} == {node[2] for node in nodes}
    assert 1 + 3 * len(HOSTILE) == len(nodes)


@pytest.mark.parametrize(
    ("own", "below", "rows"),
    [
        (10, 5, ["top", "[self]", "inner"]),
        (10, 0, ["top", "inner"]),
        (0, 5, ["top", "inner"]),
        (0, 0, ["top", "inner"]),
    ],
)
def test_what_a_scope_spent_itself(own, below, rows):
    """A scope has a `[self]` row only if tokens were spent both in it and below it."""
    report = made((-1, "scope", "top", 1, 1, own), (0, "scope", "inner", 1, 1, below))

    assert rows == [node[2] for node in page(report).content()["nodes"]]


def test_huge_numbers():
    """Huge numbers are written in full as text, and rows are sorted by shares."""
    content = page(huge()).content()

    assert f"{2 * HUGE + 1:,}" == content["facts"][0][1]
    assert [1.0, 1.0, 1.0, 1.0] == content["nodes"][0][5]


def test_deep_trees():
    """The rows of a deep tree are a flat list, in which each row holds the index of its parent."""
    nodes = page(deep()).content()["nodes"]

    assert [-1, 0, 1, 2] == [node[0] for node in nodes if node[1] != "self"][:4]
    assert 1_100 == sum(node[1] == "scope" for node in nodes)
    assert all(node[0] < index for index, node in enumerate(nodes))


def test_an_unknown_cost_is_no_zero():
    """An unknown cost is shown as a dash and sorts below a cost of zero."""
    rows = {node[2]: node for node in page(PRICED).content()["nodes"]}

    assert ("\N{EN DASH}", -1.0) == (rows["search_web"][4][4], rows["search_web"][5][1])
    assert "≥ $0.011" == rows["searcher"][4][4]


def test_the_title():
    """The title is the name of the scope, or `All scopes` for a process's report."""
    several = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert "pipeline" == page(PRICED).content()["title"]
    assert "All scopes" == page(several).content()["title"]
    assert ["B", "a"] == [node[2] for node in page(several).content()["nodes"]]


def test_an_empty_report():
    """The page of an empty report says that nothing was counted yet."""
    assert "Nothing was counted yet." == page(Report()).content()["empty"]
