"""The HTML page as a file: its content and its safety. `test_format_html_page.py` opens it in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError, version

import pytest
from support.formats import DIFF, HOSTILE, HUGE, PRICED, deep, golden, hostile, huge, usage
from support.reports import build, made

import tokenscope
from tokenscope import Diff, Report, record_tokens, token_scope
from tokenscope._report.formats.text import printable
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage


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


def shown(report: Report | Diff) -> str:
    """Return what a page shows, apart from when and with what it was made."""
    content = Page(report.render("html")).content()
    del content["when"], content["made"]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def page(report: Report | Diff) -> Page:
    return Page(report.render("html"))


def test_what_the_page_shows():
    """The page's data has totals, rows with shares, modules, models and models without a price."""
    golden("report.html.json", shown(PRICED))


def test_what_the_page_of_a_diff_shows():
    """The page's data of a diff has both sides, the change and its sign, and numbers to sort and to draw by."""
    golden("diff.html.json", shown(DIFF))


def test_when_and_with_what_it_was_made(monkeypatch):
    """The page says when it was made, by which program, and with which versions. It holds no path."""
    programs = {
        "/home/ada/secret/report.py": "Made by report.py with Python ",
        "/usr/lib/python3/site-packages/pytest/__main__.py": "Made by pytest with Python ",
        "-c": "Made with Python ",
        "": "Made with Python ",
        None: "Made with Python ",
        "a\x07b.py": "Made by a\\x07b.py with Python ",
    }
    for program, expected in programs.items():
        monkeypatch.setattr(sys, "argv", [program, "--password=x"] if program is not None else [])
        text = PRICED.render("html")
        content = Page(text).content()
        before = datetime.now(UTC).replace(second=0, microsecond=0)

        assert (
            timedelta(minutes=-5)
            < datetime.strptime(f"{content['when']}+0000", "%Y-%m-%d %H:%M UTC%z") - before
            <= timedelta(0)
        )
        assert content["made"].startswith(expected)
        assert content["made"].endswith(f", DSPy {version('dspy')}, tokenscope {tokenscope.__version__}.")
        assert not re.search("home|secret|site-packages|password", text)
        assert socket.gethostname() not in content["made"]


def test_a_page_without_dspy(monkeypatch):
    """Where DSPy is not installed, the page names no version of it."""

    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr("tokenscope._report.formats.html.version", missing)
    assert "DSPy" not in page(PRICED).content()["made"]


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


@pytest.mark.parametrize(
    "report",
    [hostile(), huge(), deep(), PRICED, hostile().diff(PRICED), deep().diff(hostile())],
    ids=["hostile", "huge", "deep", "priced", "diff", "deep diff"],
)
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
    assert [1.0, 1.0, 1.0, 1.0, 1.0, 1.0] == content["nodes"][0][5]
    assert [0.0, 1.0, 1.0, 1e15] == page(Report().diff(huge())).content()["nodes"][0][5][:4]


def test_deep_trees():
    """The rows of a deep tree are a flat list, in which each row holds the index of its parent."""
    nodes = page(deep()).content()["nodes"]

    assert [-1, 0, 1, 2] == [node[0] for node in nodes if node[1] != "self"][:4]
    assert 1_100 == sum(node[1] == "scope" for node in nodes)
    assert all(node[0] < index for index, node in enumerate(nodes))


def test_an_unknown_cost_is_no_zero():
    """An unknown cost is shown as a dash and sorts below a cost of zero."""
    rows = {node[2]: node for node in page(PRICED).content()["nodes"]}

    assert ("\N{EN DASH}", -1.0) == (rows["search_web"][4][4], rows["search_web"][5][4])
    assert "≥ $0.011" == rows["searcher"][4][4]


def test_the_title():
    """The title is the name of the only scope at the top level, or `All scopes` if there are several."""
    several = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert "pipeline" == page(PRICED).content()["title"]
    assert "a" == page(made((-1, "scope", "a", 1, 1, 10), scoped=False)).content()["title"]
    assert "All scopes" == page(several).content()["title"]
    assert ["B", "a"] == [node[2] for node in page(several).content()["nodes"]]
    assert "What changed in pipeline" == page(DIFF).content()["title"]
    assert "What changed" == page(PRICED.diff(several)).content()["title"]


def test_an_empty_report():
    """The page of an empty report says that nothing was counted yet."""
    assert "Nothing was counted yet." == page(Report()).content()["empty"]
    assert "Nothing changed: 33,800 tok" == page(PRICED.diff(PRICED)).content()["empty"][:27]


def test_names_in_sentences():
    """Names in sentences are isolated, so that the page can make them bold, and long ones are cut."""
    names = ("a\u2068b", "long " * 100)
    report = build(
        [(-1, Frame("module", name), 1, 0, {"x": usage(1, 90 - n, 0, "1")}) for n, name in enumerate(names)],
        scoped=False,
    )

    assert ["\u2068a\\u2068b\u2069 spends 50% of the tokens."] == page(report).content()["findings"]
    assert len(page(hostile()).content()["notes"]) < 600


def test_tables():
    """The page has tables of modules, of models, of what was wasted, and of prices; those without rows are left out."""
    tables = {each["title"]: each for each in page(PRICED).content()["tables"]}

    assert ["By module", "By model"] == list(tables)
    for each in tables.values():
        assert {len(each["heads"])} == {len(row) for texts, numbers in each["rows"] for row in (texts, numbers)}


def test_tables_of_attributes_and_waste():
    """Each attribute has a table of its values, and waste has one with the module and the reason."""
    with token_scope("requests") as scope:
        for user, tokens in (("bob", 10), ("alice\n", 30)):
            with token_scope("request", user=user):
                record_tokens(model="p/x", input_tokens=tokens, output_tokens=0)
        record_tokens(model="p/x", input_tokens=60, output_tokens=0)
    key = UsageKey("p/x", 0, "provider", "failed_parses")
    lost = build([(-1, Frame("module", "m"), 1, 0, [ModelUsage(key, usage(2, 50, 0, "0.1"))])], scoped=False)
    users = page(scope.report()).content()["tables"][-1]
    waste = page(lost).content()["tables"][-1]

    assert ("By user", ["User", "Calls", "Tokens", "Share", "Cost"]) == (users["title"], users["heads"])
    assert [("(none)", "60%"), ("alice\\n", "30%"), ("bob", "10%")] == [(row[0], row[3]) for row, _ in users["rows"]]
    assert ["m", "failed parses", "2", "50"] == waste["rows"][0][0][:4]
