"""The HTML page in a real Chromium: folding, sorting, filtering, keys, sizes, colours and safety."""

from __future__ import annotations

import re
import time

import pytest
from support.browser import BACKGROUNDS, chromium, look, press, problems, violations
from support.formats import DIFF, HOSTILE, PRICED, deep, hostile, huge, usage
from support.prompts import FEWER_DEMOS, MEASURED
from support.reports import build, made

from tokenscope import Report
from tokenscope._report.formats.text import printable
from tokenscope._report.snapshot import pivot
from tokenscope._usage.calls import Frame

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
        file.write_text(report.render("html"), "utf-8")
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
    for shown in (
        "33,800",
        "≥ $0.054",
        "1 of 24 calls failed.",
        "ResearchAgent.synthesizer",
        "anthropic/claude-sonnet-4-5",
    ):
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
    bar(chrome, "level 11").click()
    assert ["Everything", "level 0", "level 1", "…", "level 9", "level 10", "level 11"] == zoomed(chrome)
    assert [f"level {n}" for n in range(11, 23)] == list(bars(chrome))[::-1]


def test_an_empty_report(show):
    """The page of an empty report says that nothing was counted yet."""
    assert "Nothing was counted yet." in run(show(Report()), "return document.body.innerText")


# -- the chart --------------------------------------------------------------------------------------------------------------

WIDTH = "Math.round(bar.offsetWidth / document.getElementById('chart').offsetWidth * 100)"
AMOUNT = "bar.querySelector('.amount').textContent"


def bars(chrome, what=WIDTH):
    """Return what each bar of the chart has, by name: by default its width, in percent of the chart's."""
    bar = f"(bar) => [bar.querySelector('.name').textContent, {what}]"
    return dict(reversed(run(chrome, f"return [...document.querySelectorAll('button.block')].map({bar})")))


def zoomed(chrome):
    """Return the path above the chart; an empty one if the whole chart is shown."""
    crumbs = "#crumbs:not([hidden]) .crumb"
    return run(chrome, f"return [...document.querySelectorAll('{crumbs}')].map((crumb) => crumb.textContent)")


def bar(chrome, name):
    blocks = chrome.find_elements("css selector", "button.block")
    return next(each for each in blocks if each.get_property("textContent").startswith(f"{name} "))


def at_bar(chrome):
    return run(chrome, "return document.activeElement.bar?.node?.name")


def measure(chrome, name):
    chrome.find_element("xpath", f"//fieldset/label[.='{name}']").click()


def test_the_chart(show):
    """A bar is as wide as its share, below the bar of the scope that holds it. Narrow ones are merged."""
    chrome = show(PRICED, width=800)
    widths = bars(chrome)
    levels = bars(chrome, "Math.round(bar.offsetTop / bar.offsetHeight)")

    assert [100, 96, 65, 21] == [widths[name] for name in ("pipeline", "ResearchAgent", "searcher", "synthesizer")]
    assert [0, 1, 2, 3] == [levels[name] for name in ("pipeline", "ResearchAgent", "searcher", "search_web")]
    assert "1 more" == run(chrome, "return document.querySelector('.block.rest').title")


def test_zooming_by_click(show):
    """A click on a bar makes it as wide as the chart. A click on it again, or on the path above, goes back."""
    chrome = show(PRICED)

    bar(chrome, "searcher").click()
    assert {"searcher": 100, "[self]": 85, "search_web": 15} == bars(chrome)
    assert ["Everything", "pipeline", "ResearchAgent", "searcher"] == zoomed(chrome)
    assert "searcher" == at_bar(chrome)
    assert "searcher" == run(chrome, "return document.querySelector('#tree [tabindex=\"0\"]').node.name")
    bar(chrome, "searcher").click()
    assert ["Everything", "pipeline", "ResearchAgent"] == zoomed(chrome)
    click(chrome, "#crumbs button")
    assert [] == zoomed(chrome)
    assert "ResearchAgent" in bars(chrome)


def test_zooming_by_keys(show):
    """Arrow keys move among bars, Enter zooms in, and Escape zooms out. The Tab key reaches one bar."""
    chrome = show(PRICED)
    run(chrome, "document.querySelector('#measures input:checked').focus()")

    press(chrome, TAB)
    assert "pipeline" == at_bar(chrome)
    press(chrome, DOWN, RIGHT, LEFT, DOWN)
    assert "searcher" == at_bar(chrome)
    press(chrome, RIGHT)
    assert "synthesizer" == at_bar(chrome)
    assert "tokens 7,230  ·  cost $0.040" in run(chrome, "return document.getElementById('chart-note').textContent")
    press(chrome, LEFT, ENTER)
    assert ("searcher", 100) == (at_bar(chrome), bars(chrome)["searcher"])
    press(chrome, ESCAPE)
    assert ["Everything", "pipeline", "ResearchAgent"] == zoomed(chrome)
    press(chrome, ESCAPE, ESCAPE, ESCAPE)
    assert [] == zoomed(chrome)
    press(chrome, DOWN, UP, UP, DOWN, HOME, "a")
    assert "pipeline" == at_bar(chrome)
    assert 1 == run(chrome, "return document.querySelectorAll('.block[tabindex=\"0\"]').length")


def test_the_chart_folds_with_the_tree(show):
    """A scope that is folded in the tree has nothing below it in the chart. Zooming to it unfolds it in both."""
    chrome = show(PRICED)

    click(chrome, "[aria-level='2']")
    assert {"pipeline", "ResearchAgent", "ingest"} <= set(bars(chrome)) <= {*COSTLIEST[:2], *COSTLIEST[8:]}
    assert "ResearchAgent folded 96%" == run(chrome, "return document.querySelector('.folded').textContent")
    bar(chrome, "ResearchAgent").click()
    assert {"ResearchAgent", "searcher", "synthesizer", "planner", "search_web"} <= set(bars(chrome))
    assert COSTLIEST == names(chrome)


def test_a_filter_in_the_chart(show):
    """Bars that do not match the filter fade."""
    chrome = show(PRICED)

    press(chrome, "/", "search_web")
    assert {"planner", "synthesizer"} <= {
        name for name, faded in bars(chrome, "bar.matches('.aside')").items() if faded
    }
    assert not bars(chrome, "bar.matches('.aside')")["search_web"]


def test_measures(show):
    """The chart is by tokens, by cost or by time, and the tree is sorted by the same. Unknown costs have no bar."""
    chrome = show(PRICED)

    measure(chrome, "Cost")
    assert (74, 22) == (bars(chrome)["synthesizer"], bars(chrome)["searcher"])
    assert "search_web" not in bars(chrome)
    assert "descending" == run(chrome, "return document.querySelector('[data-name=cost]').ariaSort")
    measure(chrome, "Time")
    assert 51 == bars(chrome)["searcher"]
    click(chrome, "[data-name='tokens'] button")
    assert 65 == bars(chrome)["searcher"]
    assert run(chrome, "return document.querySelector('#measures input').checked")


def test_a_measure_of_nothing_is_left_out(show):
    """If there are no costs and no times, the chart is by tokens, and there is nothing to choose."""
    chrome = show(build([(-1, Frame("scope", "s"), 1, 0, {"x": usage(1, 10, 0, None)})], scoped=True))

    assert not chrome.find_element("id", "measures").is_displayed()
    assert {"s": 100} == bars(chrome)


def test_scopes_that_run_at_once(show):
    """Scopes that are open at the same time take longer than the one that holds them, and stay within its bar."""
    chrome = show(made((-1, "scope", "top", 1, 100, 1), *((0, "scope", f"task {n}", 1, 90, 1) for n in range(4))))

    measure(chrome, "Time")
    assert {"top": 100, **{f"task {n}": 25 for n in range(4)}} == bars(chrome)


def test_the_chart_follows_the_window(show):
    """If the window becomes narrower, the chart is drawn anew: more bars are merged."""
    chrome = show(hostile())
    before = len(bars(chrome))

    look(chrome, width=120)
    chrome.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"  # then it has been resized
    )
    assert len(bars(chrome)) < before


# -- findings, and tables that sort -----------------------------------------------------------------------------------------


def test_findings(show):
    """The page begins with what stands out, in which names are bold, and says when and with what it was made."""
    chrome = show(PRICED)
    sentences = [item.text for item in chrome.find_elements("css selector", "header li")]

    assert "ResearchAgent.searcher spends 65% of the tokens." == sentences[0]
    assert "ResearchAgent.searcher" == chrome.find_element("css selector", "header li strong").text
    assert "1 of 24 calls failed." == sentences[-1]
    assert chrome.find_element("id", "when").text.endswith(" UTC")
    assert re.fullmatch(r"Made (by .+ )?with Python .+, tokenscope .+\.", chrome.find_element("id", "made").text)


def column(chrome, number=0):
    """Return the texts of a column of the table of models."""
    rows = "document.querySelectorAll('.table-model tbody tr')"
    return run(chrome, f"return [...{rows}].map((row) => row.cells[{number}].textContent)")


def test_tables_sort(show):
    """A click or the Enter key on any heading of a table sorts by it: numbers by size, names as people count."""
    models = {"m2": usage(2, 200, 0, None), "m10": usage(10, 300, 0, "0.9"), "m3": usage(3, 400, 0, "0.3")}
    chrome = show(build([(-1, Frame("scope", "s"), 1, 0, models)], scoped=True))
    orders = {
        "first": ["m2", "m3", "m10"],
        "calls": ["m10", "m3", "m2"],
        "tokens": ["m3", "m10", "m2"],
        "share": ["m3", "m10", "m2"],
        "cost": ["m10", "m3", "m2"],
    }

    for heading, order in orders.items():
        click(chrome, f".table-model .{heading} button")
        assert order == column(chrome)
        press(chrome, ENTER)
        assert order[::-1] == column(chrome)
    assert ["\N{EN DASH}", "$0.30", "$0.90"] == column(chrome, 4)
    assert 1 == len(chrome.find_elements("css selector", ".table-model [aria-sort$='ending']"))


@pytest.mark.parametrize("name", ["input", "output", "calls"])
def test_every_column_of_the_tree_sorts(show, name):
    """Every column of the tree sorts by its numbers, whatever the bars show."""
    chrome = show(PRICED)

    click(chrome, f"[data-name='{name}'] button")
    cells = [cell.text for cell in chrome.find_elements("css selector", f"[aria-level='2'] .cell.{name}")]
    numbers = [int(text.replace(",", "")) for text in cells]
    assert sorted(numbers, reverse=True) == numbers
    assert "Share of tokens" == run(chrome, "return document.querySelector('.head .share').textContent")


def test_long_tables(show):
    """A long table shows its first rows, sorted among all, and a button shows the others."""
    modules = [(-1, Frame("module", f"m{n}"), 1, 0, {"x": usage(1, n + 1, 0, "0")}) for n in range(40)]
    chrome = show(build(modules, scoped=False))
    cells = "return [...document.querySelectorAll('.table-module tbody th')].map((cell) => cell.textContent)"

    assert [f"m{n}" for n in range(39, 27, -1)] == run(chrome, cells)
    click(chrome, ".table-module .first button")
    assert [f"m{n}" for n in range(12)] == run(chrome, cells)
    click(chrome, ".table-module > button")
    assert [f"m{n}" for n in range(40)] == run(chrome, cells)


# -- a diff -----------------------------------------------------------------------------------------------------------------


def test_a_diff(show):
    """A diff shows both sides. What grew and what shrank differ in sign and in colour."""
    chrome = show(DIFF)
    cells = chrome.find_elements("css selector", "#tree [aria-level] .change")
    colours = {cell.text: cell.value_of_css_property("color") for cell in cells}

    assert "What changed in pipeline · tokenscope" == chrome.title
    assert ["pipeline", "Agent", "planner", "研究\\n", "ingest"] == names(chrome)
    assert "Tokens grew by 34.8%, from 2,297 to 3,097." in chrome.find_element("css selector", "header").text
    assert ["+800", "+1,700", "+1,110", "+590", "-900"] == list(colours)
    assert len(set(colours.values())) == 2
    assert colours["-900"] not in [colours["+800"], colours["+590"]]
    assert ["new", "gone"] == [mark.text for mark in chrome.find_elements("css selector", "#tree .mark")]
    assert ("+1,110", "-900") == tuple(bars(chrome, AMOUNT)[name] for name in ("planner", "ingest"))
    shades = bars(chrome, "getComputedStyle(bar).backgroundColor")
    assert shades["ingest"] != shades["planner"]
    assert (["p/x"], ["+800"]) == (column(chrome), column(chrome, 3))


def test_the_order_and_the_measure_of_a_diff(show):
    """A diff begins with the largest changes, and sorts by their sign. Its chart is by tokens or by cost."""
    chrome = show(DIFF)

    click(chrome, "[data-name='change'] button")
    assert ["pipeline", "Agent", "planner", "研究\\n", "ingest"] == names(chrome)
    click(chrome, "[data-name='change'] button")
    assert ["pipeline", "ingest", "Agent", "研究\\n", "planner"] == names(chrome)
    measure(chrome, "Cost")
    assert "Change in cost" == run(chrome, "return document.querySelector('.head .share').textContent")
    assert "-$0.0090" == bars(chrome, AMOUNT)["ingest"]
    look(chrome, width=390)
    click(chrome, "#sort option[value='']")
    assert ["pipeline", "Agent", "planner", "研究\\n", "ingest"] == names(chrome)


def test_an_empty_diff(show):
    """The page of a diff of equal reports says that nothing changed."""
    assert "Nothing changed: 33,800 tokens" in run(show(PRICED.diff(PRICED)), "return document.body.innerText")


# -- prompts by part ---------------------------------------------------------------------------------------------------------


def test_parts_of_prompts(show):
    """Rows have a bar of their input by part, which text repeats, and a section tells the parts of each predictor's prompts."""
    chrome = show(MEASURED)
    rows = "return [...document.querySelectorAll('#tree [aria-level]')].map((row) => row.querySelector('.prompt').textContent)"
    tables = "return [...document.querySelectorAll('#predictors [open] table')].map((table) => table.innerText)"
    shares = dict(zip(names(chrome), run(chrome, rows), strict=True))

    assert (
        "demos 66%, input:context 18%, instructions 6%, format 5%, fields 3%, input:question 1%, other <1%"
        == shares["writer"]
    )
    assert "" == shares["search"] == shares["ingest"]
    assert ["Parts", "Input by turn", "Tools"] == [
        text.splitlines()[0] for text in run(chrome, tables) if not text.startswith("Size of a call")
    ]
    click(chrome, "#predictors details:nth-child(2) summary")
    assert "demos\t36,800\t66%\t1,840\t4,370\t$0.0082" in "".join(run(chrome, tables))
    assert "measured with o200k_base and by bytes" in run(chrome, "return document.body.innerText")


def test_without_measured_prompts(show):
    """A page of a report without measured prompts has no column, legend and section of them."""
    chrome = show(PRICED)

    assert not run(chrome, "return document.querySelector('.prompt, .stack')")
    assert not run(
        chrome, "return ['prompts', 'tree-legend'].some((id) => document.getElementById(id).checkVisibility())"
    )


def test_a_bar_by_part_is_as_wide_as_its_shares(show):
    """The pieces of a bar are as wide as their shares. On a phone, too, the bar and the tables fit on the page."""
    chrome = show(MEASURED)
    widths = """
        const rows = [...document.querySelectorAll('#tree [aria-level]')];
        const bar = rows.find((row) => row.querySelector('.name').textContent === 'writer').querySelector('.stack');
        return [...bar.children].map((piece) => piece.getBoundingClientRect().width / bar.getBoundingClientRect().width);
    """  # instructions, fields, format, demos, the inputs, other

    assert [0.06, 0.03, 0.05, 0.66, 0.18, 0.01, 0.0] == pytest.approx(run(chrome, widths), abs=0.03)
    look(chrome, width=390)
    assert run(chrome, "return document.documentElement.scrollWidth") <= 390


# -- for everybody, and for large reports -----------------------------------------------------------------------------------


def ten_thousand():
    """Return a report of 10,000 scopes on three levels."""
    return made(
        (-1, "scope", "top", 1, 1, 0),
        *((0, "scope", f"part {n}", 1, 1, 10 + n) for n in range(100)),
        *((1 + n % 100, "dspy", f"leaf {n}", 1, 1, 10 + n) for n in range(9_899)),
    )


PAGES = {
    "priced": lambda: PRICED,
    "measured": lambda: MEASURED,
    "by part": lambda: pivot(MEASURED, "part"),
    "measured diff": lambda: FEWER_DEMOS.diff(MEASURED),
    "hostile": hostile,
    "diff": lambda: DIFF,
    "hostile diff": lambda: hostile().diff(PRICED),
    "10,000": ten_thousand,
    "empty": Report,
}


@pytest.mark.parametrize("scheme", BACKGROUNDS)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_accessibility(show, page, width, scheme):
    """axe-core finds nothing that would keep anybody from reading the page, wide or narrow, light or dark."""
    assert [] == violations(show(PAGES[page](), width=width, scheme=scheme))


def test_accessibility_while_zoomed_and_filtered(show):
    """axe-core finds nothing either after zooming, filtering and sorting."""
    chrome = show(PRICED)

    bar(chrome, "searcher").click()
    press(chrome, "/", "search")
    click(chrome, ".table-model .cost button")
    assert [] == violations(chrome)


def test_ten_thousand_scopes(show):
    """A page of 10,000 scopes holds few elements until somebody unfolds them. The chart merges what is too narrow to see."""
    chrome = show(ten_thousand())

    assert run(chrome, "return document.querySelectorAll('*').length") < 3_000
    assert 101 == len(names(chrome))
    click(chrome, "#unfold")
    assert 2_000 == len(names(chrome))
    assert run(chrome, "return document.querySelectorAll('.block').length") < 1_000
    assert "more" in run(chrome, "return document.querySelector('.block.rest').title")
    bar(chrome, "part 99").click()
    assert 100 == bars(chrome)["part 99"]
    assert 50 < run(chrome, "return document.querySelectorAll('.block').length")
