"""The HTML page in a real Chromium: folding, sorting, filtering, keys, sizes, colours and safety."""

from __future__ import annotations

import time

import pytest
from support.browser import BACKGROUNDS, chromium, look, press, problems
from support.formats import HOSTILE, PRICED, deep, hostile, huge
from support.reports import made

from tokenscope import Report
from tokenscope._report.formats.text import printable

pytestmark = pytest.mark.slow

DOWN, UP, LEFT, RIGHT = "\ue015", "\ue013", "\ue012", "\ue014"
HOME, END, ENTER, ESCAPE, TAB = "\ue011", "\ue010", "\ue007", "\ue00c", "\ue004"
NAMES = "return [...document.querySelectorAll('#tree [aria-level] .name')].map((name) => name.textContent)"
COSTLIEST = [
    "pipeline",
    "ResearchAgent",
    "searcher",
    "[self]",
    "search_web",
    "synthesizer",
    "planner",
    "[self]",
    "ingest",
    "chunk",
    "title",
    "研究エージェント",
]


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def show(chrome, tmp_path):
    def show(report, **options):
        file = tmp_path / "report.html"
        report.save(file)
        look(chrome, **options)
        chrome.get(file.as_uri())
        return chrome

    yield show
    assert [] == problems(chrome)


def run(chrome, script, *arguments):
    return chrome.execute_script(script, *arguments)


def names(chrome):
    return run(chrome, NAMES)


def click(chrome, selector):
    chrome.find_element("css selector", selector).click()


def focused(chrome):
    return run(chrome, "return document.activeElement.querySelector('.name')?.textContent")


def test_what_is_shown(show):
    """The page shows totals, modules, models without a price, and the tree with the costliest rows first."""
    chrome = show(PRICED)
    text = run(chrome, "return document.body.innerText")

    assert "pipeline · tokenscope" == chrome.title
    assert COSTLIEST == names(chrome)
    for shown in ("33,800", "≥ $0.054", "1 call failed", "ResearchAgent.synthesizer", "anthropic/claude-sonnet-4-5"):
        assert shown in text
    assert "No price is known for 9 calls of local/rerank, local/embed. A cost with ≥ is" in text


def test_folding_by_mouse(show):
    """A click on a row folds or unfolds it. The buttons fold or unfold all rows."""
    chrome = show(PRICED)

    click(chrome, "[aria-level='2']")
    assert ["pipeline", "ResearchAgent", "ingest", "chunk", "title", "研究エージェント"] == names(chrome)
    assert "false" == run(chrome, "return document.querySelector('[aria-level=\"2\"]').ariaExpanded")
    click(chrome, "[aria-level='2']")
    assert COSTLIEST == names(chrome)
    click(chrome, "#fold")
    assert ["pipeline"] == names(chrome)
    click(chrome, "#unfold")
    assert COSTLIEST == names(chrome)


def test_keys(show):
    """Keys move the focus, fold and unfold rows, and filter."""
    chrome = show(PRICED)
    run(chrome, "document.querySelector('[role=columnheader]:last-child button').focus()")

    press(chrome, TAB)
    assert "pipeline" == focused(chrome)
    press(chrome, DOWN, LEFT)
    assert ("ResearchAgent", 6) == (focused(chrome), len(names(chrome)))
    press(chrome, RIGHT, RIGHT, RIGHT)
    assert "[self]" == focused(chrome)
    press(chrome, LEFT, ENTER)
    assert ("searcher", len(COSTLIEST) - 2) == (focused(chrome), len(names(chrome)))
    press(chrome, " ", UP, UP, LEFT)
    assert ("pipeline", ["pipeline"]) == (focused(chrome), names(chrome))
    press(chrome, "*", END)
    assert "研究エージェント" == focused(chrome)
    press(chrome, HOME, "/")
    assert "filter" == run(chrome, "return document.activeElement.id")
    press(chrome, "title", DOWN)
    assert "pipeline" == focused(chrome)
    press(chrome, "/", ESCAPE)
    assert COSTLIEST == names(chrome)
    assert 1 == run(chrome, "return document.querySelectorAll('#tree [tabindex=\"0\"]').length")


def test_roles(show):
    """Each row tells assistive technology its level, its place among siblings, and whether it is folded."""
    chrome = show(PRICED)
    rows = run(
        chrome,
        "return [...document.querySelectorAll('#tree [aria-level]')].map((row) => "
        "[row.role, row.ariaLevel, row.ariaPosInSet, row.ariaSetSize, row.ariaExpanded])",
    )
    tree = chrome.find_element("id", "tree")

    assert ("treegrid", "Where it was spent") == (tree.aria_role, tree.accessible_name)
    assert ["row", "1", "1", "1", "true"] == rows[0]
    assert [["row", "3", str(n), "4", None] for n in (2, 3, 4)] == [row for row in rows if row[1] == "3"][1:4]
    assert "Filter" == chrome.find_element("id", "filter").accessible_name


@pytest.mark.parametrize(
    ("column", "first", "again"),
    [
        ("cost", ["ResearchAgent", "ingest", "研究エージェント"], ["研究エージェント", "ingest", "ResearchAgent"]),
        ("calls", ["ResearchAgent", "ingest", "研究エージェント"], ["研究エージェント", "ingest", "ResearchAgent"]),
        ("time", ["ResearchAgent", "ingest", "研究エージェント"], ["研究エージェント", "ingest", "ResearchAgent"]),
        ("name", ["ingest", "ResearchAgent", "研究エージェント"], ["研究エージェント", "ResearchAgent", "ingest"]),
    ],
)
def test_sorting(show, column, first, again):
    """A click on a column's heading sorts by the column, and the next click reverses the order."""
    chrome = show(PRICED)
    button = f"[data-name='{column}'] button"

    for order in (first, again):
        click(chrome, button)
        assert order == [name for name in names(chrome) if name in first]
    assert 1 == len(chrome.find_elements("css selector", "[aria-sort$='ending']"))


def test_sorting_by_cost(show):
    """Sorting by cost puts unknown costs last, and the bars show shares of the cost."""
    chrome = show(PRICED)

    click(chrome, "[data-name='cost'] button")
    agent = names(chrome)[2:7]
    assert ["synthesizer", "searcher", "[self]", "search_web", "planner"] == agent
    assert "Share of cost" == run(chrome, "return document.querySelector('.head .share').textContent")
    shares = run(chrome, "return [...document.querySelectorAll('[aria-level] .percent')].map((p) => p.textContent)")
    assert ["100%", "100%", "74%", "22%", "22%", "\N{EN DASH}"] == shares[:6]


def test_filter(show):
    """The filter shows matches with their parents, and counts the matches. Emptying it restores the tree."""
    chrome = show(PRICED)
    click(chrome, "#fold")

    click(chrome, "#filter")
    press(chrome, "SEARCH")
    assert COSTLIEST[:8] == names(chrome)  # ResearchAgent matches, too, with all rows below it
    assert "3 scopes match." == chrome.find_element("id", "status").text
    assert ["search"] * 3 == [mark.text for mark in chrome.find_elements("css selector", "mark")]
    press(chrome, "_w")
    assert ["pipeline", "ResearchAgent", "searcher", "search_web"] == names(chrome)
    assert "1 scope matches." == chrome.find_element("id", "status").text
    press(chrome, "nothing")
    assert [] == names(chrome)
    press(chrome, ESCAPE)
    assert ["pipeline"] == names(chrome)
    assert "" == chrome.find_element("id", "status").text


def test_names_are_never_executed(show):
    """Every name is shown as text. No script in a name runs, and nothing is fetched."""
    chrome = show(hostile())
    click(chrome, "#unfold")

    assert run(chrome, "return window.hacked") is None
    assert {"top", "[self]", *map(printable, HOSTILE)} == set(names(chrome))
    assert [] == run(chrome, "return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert 0 == run(chrome, "return document.querySelectorAll('img, svg, a, b').length")


def test_the_policy_holds(show):
    """The page's content security policy blocks an injected script."""
    chrome = show(PRICED)

    run(chrome, "const s = document.createElement('script'); s.append('window.hacked = 1'); document.body.append(s)")
    assert run(chrome, "return window.hacked") is None
    assert "TrustedScript" in problems(chrome)[0]


@pytest.mark.parametrize("scheme", BACKGROUNDS)
@pytest.mark.parametrize("width", [390, 1280])
def test_colours(show, scheme, width):
    """The page follows the user's light or dark scheme, and its text has the contrast that WCAG AA requires."""
    chrome = show(PRICED, scheme=scheme, width=width)

    assert BACKGROUNDS[scheme] == run(chrome, "return getComputedStyle(document.body).backgroundColor")
    contrasts = run(
        chrome,
        """
        const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
          .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const back = (e) => {
          for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
          }
        };
        return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
            && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
          const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort();
          return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className + " " + e.textContent];
        }).filter(([ratio]) => ratio < 4.5);
        """,
    )
    assert [] == contrasts


@pytest.mark.parametrize("width", [320, 390, 700, 1000])
@pytest.mark.parametrize("make", [lambda: PRICED, hostile, huge, deep], ids=["priced", "hostile", "huge", "deep"])
def test_narrow_windows(show, make, width):
    """The page never scrolls sideways, and on narrow screens its rows are tall enough to touch."""
    chrome = show(make(), width=width)
    click(chrome, "#unfold")

    assert width >= run(chrome, "return document.documentElement.scrollWidth")
    if width < 600:
        assert 44 <= run(chrome, "return document.querySelector('[aria-level]').offsetHeight")
        assert "none" == run(chrome, "return getComputedStyle(document.querySelector('.head')).display")


def test_sorting_on_a_phone(show):
    """On a phone, where columns have no headings, a list selects the order."""
    chrome = show(PRICED, width=390)

    click(chrome, "#sort option[value=name]")
    assert ["pipeline", "ingest"] == names(chrome)[:2]


def test_two_thousand_rows(show):
    """2,000 rows are drawn and sorted within five seconds, and a button shows the remaining rows."""
    report = made(
        (-1, "scope", "top", 1, 1, 0),
        *((0, "scope", f"part {n}", 1, 1, 10 + n) for n in range(100)),
        *((1 + n % 100, "dspy", f"leaf {n}", 1, 1, 10 + n) for n in range(1_900)),
    )
    chrome = show(report)

    began = time.perf_counter()
    click(chrome, "#unfold")
    click(chrome, "[data-name='name'] button")
    shown = names(chrome)
    assert ["top", "part 0", "[self]", "leaf 0", "leaf 100"] == shown[:5]
    assert 2_000 == len(shown)
    assert time.perf_counter() - began < 5
    assert 1 == run(chrome, "return document.getElementById('more').textContent.startsWith('2,000 of 2,101 rows') * 1")
    click(chrome, "#more")
    assert 2_101 == len(names(chrome))


def test_a_deep_tree(show):
    """Ten thousand levels can be unfolded and filtered."""
    chrome = show(deep(levels=10_000))

    click(chrome, "#unfold")
    assert 2_000 == len(names(chrome))
    press(chrome, "/", "level 12")
    assert "111 scopes match." == chrome.find_element("id", "status").text
    assert "level 0" == names(chrome)[0]


def test_an_empty_report(show):
    """The page of an empty report says that nothing was counted yet."""
    assert "Nothing was counted yet." in run(show(Report()), "return document.body.innerText")
