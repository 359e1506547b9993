"""The formats of a diff: text, Markdown and JSON."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from law.test_properties import QUICK, reports
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console
from support.formats import DIFF, HOSTILE, HUGE, NEW, OLD, PRICED, deep, hostile, huge, usage
from support.prompts import FEWER_DEMOS, MEASURED, call, measured_row
from support.reports import build, made
from support.spending import python

from tokenscope import Report, Usage
from tokenscope._report.formats.text import printable
from tokenscope._usage.calls import Frame

TEXT = """\
scope           before  after  change   growth  calls      cost
pipeline         2,297  3,097    +800   +34.8%     +2  +$0.0080
├─ Agent         1,397  3,097  +1,700  +121.7%     +5   +$0.017
│  ├─ planner    1,200  2,310  +1,110   +92.5%     +1   +$0.011
│  └─ + 研究\\n       0    590    +590      new     +4  +$0.0059
└─ - ingest        900      0    -900     gone     -3  -$0.0090
tokens 2,297 -> 3,097 (+800, +34.8%); calls 7 -> 9 (+2); cost $0.023 -> $0.031 (+$0.0080, +34.9%)"""

NARROW = """\
scope         before  after  change   growth  calls      cost
pipeline       2,297  3,097    +800   +34.8%     +2  +$0.0080
|- Agent       1,397  3,097  +1,700  +121.7%     +5   +$0.017
|  |- pl...r   1,200  2,310  +1,110   +92.5%     +1   +$0.011
|  `- +...n        0    590    +590      new     +4  +$0.0059
`- - ingest      900      0    -900     gone     -3  -$0.0090
tokens 2,297 -> 3,097 (+800, +34.8%); calls 7 -> 9 (+2); cost $0.023 -> $0.031 (+$0.0080, +34.9%)"""


@QUICK
@given(reports(), reports())
def test_any_diff_can_be_drawn(a, b):
    """Any diff has at least one line per change, no control characters, and the same changes in JSON."""
    diff = a.diff(b)
    lines = diff.render().split("\n")

    assert len(lines) >= len(diff.changes)
    assert all(line.isprintable() for line in lines + diff.render("markdown").split("\n"))
    assert [list(change.path) for change in diff.changes] == [
        each["path"] for each in json.loads(diff.render("json"))["changes"]
    ]


# -- text -------------------------------------------------------------------------------------------------------------------


def test_the_whole_text():
    """The text has signed, grouped and aligned numbers, and leaves out unchanged paths."""
    assert TEXT == DIFF.render() == DIFF.render("text", width=100)
    assert TEXT == f"{DIFF}"
    assert {cell_len(TEXT.splitlines()[0])} == {cell_len(line) for line in TEXT.splitlines()[:-1]}


def test_a_narrow_text_in_ascii():
    """In a narrow text, names are cut and numbers stay whole."""
    assert NARROW == DIFF.render(width=40, ascii_only=True)


def test_columns_of_nothing_are_left_out():
    """Calls and costs have no column if they are unchanged or unknown."""
    old, new = made((-1, "scope", "s", 1, 1, 10)), made((-1, "scope", "s", 1, 1, 20))
    unknown = build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(1, 30, 0, None)})], scoped=True)

    assert ["scope", "before", "after", "change", "growth"] == old.diff(new).render().split("\n")[0].split()
    assert "tokens 11 -> 22 (+11, +100.0%); calls 1 -> 1 (0)" == old.diff(new).render().split("\n")[-1]
    assert ["scope", "before", "after", "change", "growth"] == new.diff(unknown).render().split("\n")[0].split()
    assert "No price is known for 1 call of x." == new.diff(unknown).render().split("\n")[-1]
    assert "No price is known for 1 call of x." == unknown.diff(new).render().split("\n")[-1]


def test_costs_that_are_not_wholly_known():
    """Partly known costs are shown as lower bounds, and their difference as a dash."""
    text = PRICED.diff(PRICED + PRICED).render().splitlines()

    assert "\N{EN DASH}" == text[1].split()[-1]
    assert text[-2].endswith("cost ≥ $0.054 -> ≥ $0.10")
    assert "No price is known for 18 calls of local/rerank, local/embed." == text[-1]


def test_nothing_changed():
    """A diff without changes is one sentence in text and Markdown, and an empty list in JSON."""
    same = OLD.diff(OLD)

    assert "nothing changed: 2,297 tokens (2,070 in + 227 out); $0.023; 7 calls" == str(same)
    assert f"## Token usage: unchanged\n\n**{same}**\n" == same.render("markdown")
    assert [] == json.loads(same.render("json"))["changes"]


def test_a_new_cost_from_nothing():
    """Growth from an empty report is shown without a percentage."""
    text = Report().diff(OLD).render()

    assert "tokens 0 -> 2,297 (+2,297); calls 0 -> 7 (+7); cost $0.00 -> $0.023 (+$0.023)" == text.split("\n")[-1]
    assert "0  2,297  +2,297     new" in text


def test_a_scope_that_began_to_spend():
    """A path that existed before but spent nothing is shown without a percentage."""
    diff = made((-1, "scope", "s", 1, 1, 0)).diff(made((-1, "scope", "s", 1, 1, 10)))

    assert ["s", "0", "11", "+11", "+1"] == diff.render().split("\n")[1].split()


def test_guides():
    """The guide of a level ends at its last child."""
    empty = made((-1, "scope", "r", 1, 1, 0))
    report = made(
        (-1, "scope", "r", 1, 1, 0),
        (0, "scope", "a", 1, 1, 900),
        (1, "scope", "a1", 1, 1, 800),
        (2, "scope", "a11", 1, 1, 700),
        (1, "scope", "a2", 1, 1, 90),
        (0, "scope", "b", 1, 1, 100),
        (5, "scope", "b1", 1, 1, 10),
    )
    lines = empty.diff(report).render().splitlines()[1:-1]

    assert ["r", "├─ + a", "│  ├─ + a1", "│  │  └─ + a11", "│  └─ + a2", "└─ + b", "   └─ + b1"] == [
        re.split(r"  +\d", line)[0].rstrip() for line in lines
    ]


def test_formats():
    """An unknown diff format raises an error that names the four known formats."""
    with pytest.raises(ValueError, match="there is no diff format 'pdf'; there are text, markdown, html, json"):
        DIFF.render("pdf")


def test_rich_prints_it_in_colour():
    """Rich prints the same text as without colours, with growth in red and shrinkage in green."""
    console = Console(force_terminal=True, color_system="standard", width=100, file=io.StringIO(), _environ={})
    console.print(DIFF)
    lines = console.file.getvalue().splitlines()

    assert TEXT == re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).rstrip("\n")
    assert "\x1b[31m    +800\x1b[0m" in lines[1]
    assert "\x1b[32m    -900\x1b[0m" in lines[5]
    assert not any("\x1b[31m" in line for line in lines[5:])


def test_a_change_of_cost_alone_has_a_colour():
    """If tokens are equal, the cost decides the colour, then the calls."""
    old, dear, often, both = (
        build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(calls, 10, 0, cost)})], scoped=True)
        for calls, cost in ((2, "1"), (2, "2"), (3, "1"), (2, None))
    )
    shown = []
    for new in (dear, often, both):
        console = Console(force_terminal=True, color_system="standard", width=100, file=io.StringIO(), _environ={})
        console.print(old.diff(new))
        shown.append("\x1b[31m" in console.file.getvalue())
        assert "10     10" in console.file.getvalue()

    assert [True, True, False] == shown


PRINT = "import sys; sys.path.insert(0, {tests!r}); from support.formats import DIFF; print(DIFF)"


def test_plain_in_a_pipe():
    """Output to a pipe has no colours, and is ASCII if the encoding lacks the guides."""
    code = PRINT.format(tests=str(Path(__file__).parents[1]))

    assert TEXT + "\n" == python(code, COLUMNS="40", FORCE_COLOR="", NO_COLOR="")
    assert r"`- + \u7814\u7a76\n" in python(code, PYTHONIOENCODING="ascii", PYTHONUTF8="0")


# -- markdown, JSON ---------------------------------------------------------------------------------------------------------

MARKDOWN = """\
## Token usage: +34.8%

**tokens 2,297 -> 3,097 (+800, +34.8%); calls 7 -> 9 (+2); cost $0.023 -> $0.031 (+$0.0080, +34.9%)**

| Scope | Before | After | Change | Growth | Calls | Cost |
|:--|--:|--:|--:|--:|--:|--:|
| `pipeline` | 2,297 | 3,097 | +800 | +34.8% | +2 | +$0.0080 |
| &nbsp;&nbsp;`Agent` | 1,397 | 3,097 | +1,700 | +121.7% | +5 | +$0.017 |
| &nbsp;&nbsp;&nbsp;&nbsp;`planner` | 1,200 | 2,310 | +1,110 | +92.5% | +1 | +$0.011 |
| &nbsp;&nbsp;&nbsp;&nbsp;<code>研究&#92;n</code> | 0 | 590 | +590 | new | +4 | +$0.0059 |
| &nbsp;&nbsp;`ingest` | 900 | 0 | -900 | gone | -3 | -$0.0090 |
"""


def test_the_whole_markdown():
    """The Markdown has a title, a sentence with the totals and a table of the changes."""
    assert MARKDOWN == DIFF.render("markdown")


def test_hostile_names_in_markdown():
    """No name becomes a tag, a link or emphasis, nor breaks the table."""
    document = MarkdownIt("commonmark").enable("table").render(Report().diff(hostile()).render("markdown"))

    assert {"h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary"} == set(
        re.findall(r"<([a-z0-9]+)", document)
    )
    assert 1 + 20 + 2 + 2 * len(HOSTILE) == document.count("<tr>")


def test_the_title_of_the_markdown():
    """The title says by how much the tokens grew, also from nothing, and if only something else changed."""
    called_twice = build([(-1, Frame("scope", "pipeline"), 1, 1, {"p/x": usage(2, 10, 0, None)})], scoped=True)
    called = build([(-1, Frame("scope", "pipeline"), 1, 1, {"p/x": usage(1, 10, 0, None)})], scoped=True)
    titles = [diff.render("markdown").splitlines()[0] for diff in (Report().diff(OLD), called.diff(called_twice))]

    assert ["## Token usage: +2,297 tokens", "## Token usage: unchanged"] == titles


def test_a_long_diff_in_markdown():
    """Of a long diff, the 20 largest changes are shown, and all in a fold."""
    rows = [(0, "scope", f"s{n}", 1, 1, 10 * n) for n in range(1, 31)]
    text = Report().diff(made((-1, "scope", "top", 1, 1, 1), *rows)).render("markdown")
    shown, folded = text.split("<details><summary>31 changes</summary>")
    assert 20 == shown.count("`s") + shown.count("`top`")
    assert "`s30`" in shown
    assert "`s11`" not in shown
    assert "11 of 31 rows are left out here, those with the fewest tokens." in shown
    assert [f"`s{n}`" in folded for n in range(1, 31)] == [True] * 30


def test_changes_that_cancel_out_are_shown_below_their_row():
    """A row without a change of its own is shown, if large changes below it cancel out."""
    small = [(0, "scope", f"s{n:02}", 1, 1, 100 + n) for n in range(25)]
    old = made(
        (-1, "scope", "top", 1, 1, 0), *small, (0, "scope", "moved", 1, 1, 0), (26, "dspy", "before", 1, 1, 5_000)
    )
    new = made((-1, "scope", "top", 1, 1, 0), (0, "scope", "moved", 1, 1, 0), (1, "dspy", "now", 1, 1, 5_000))
    shown = old.diff(new).render("markdown").partition("<details>")[0]

    assert [True, True, True, False] == [f"`{name}`" in shown for name in ("moved", "before", "now", "s00")]


@QUICK
@given(reports(), reports())
def test_any_markdown_fits_into_a_comment(a, b):
    """The Markdown of any diff has a title, at most 65,000 characters, and closes what it opens."""
    text = a.diff(b).render("markdown")

    assert text.startswith("## Token usage: ")
    assert len(text) <= 65_000
    assert text.count("<details>") == text.count("</details>")


def test_unpriced_models_in_markdown():
    """The names of models without a price are inline code."""
    last = PRICED.diff(PRICED + PRICED).render("markdown").splitlines()[-1]

    assert "No price is known for 18 calls of `local/rerank`, `local/embed`." == last


def test_the_whole_json():
    """The JSON has totals, growth, and changes with their usage before and after."""
    read = json.loads(DIFF.render("json"))

    assert ["diff", "generator", "before", "after", "growth", "changes"] == list(read)
    assert (1, OLD.total.to_dict(), NEW.total.to_dict()) == (read["diff"], read["before"], read["after"])
    assert DIFF.growth._asdict() == read["growth"]
    assert {
        "path": ["pipeline", "Agent", "研究\n"],
        "kind": "dspy",
        "status": "new",
        "tokens": 590,
        "calls": 4,
        "cost": 0.0059,
        "before": Usage().to_dict(),
        "after": NEW.find("pipeline/Agent/研究\n").usage.to_dict(),
    } == read["changes"][3]


def test_an_unknown_cost_in_json():
    """An unknown cost is null in JSON, in the growth and in each change."""
    read = json.loads(PRICED.diff(PRICED + PRICED).render("json"))

    assert {"tokens": 100.0, "cost": None} == read["growth"]
    assert None is read["changes"][0]["cost"]


def test_a_diff_is_no_report(tmp_path):
    """Loading a saved diff as a report raises a ReportFormatError."""
    from tokenscope import ReportFormatError

    (tmp_path / "diff.json").write_text(DIFF.render("json"))
    with pytest.raises(ReportFormatError, match="this is JSON, but no tokenscope report"):
        Report.load(tmp_path / "diff.json")


# -- extremes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
def test_deep_reports():
    """10,000 levels are compared and drawn without recursion, within a minute."""
    old = deep(levels=10_000)
    new = old + old
    began = time.process_time()
    diff = old.diff(new)
    lines = diff.render().splitlines()

    assert time.process_time() - began < 60
    assert old.diff(new) == diff
    assert (10_000, 10_002) == (len(diff.changes), len(lines))
    assert ("level 9999", 1) == (diff.changes[-1].path[-1], diff.changes[-1].tokens)
    assert lines[-2].startswith("9,999> level 9999 ")


def test_deep_reports_in_other_formats():
    """Markdown has as many rows as a comment holds. JSON ends at the 1,000th level to stay small."""
    diff = deep().diff(deep() + deep())
    rows = diff.render("markdown").splitlines()
    changes = json.loads(diff.render("json"))["changes"]

    assert 60_000 < len("\n".join(rows)) < 65_000
    assert "</details>" == rows[-1]
    assert rows[-3].endswith("those with the fewest tokens: GitHub takes no comment with more than 65,536 characters.")
    assert (shown := 1_100 - int(rows[-3].split()[0])) > 700
    assert rows[-5].startswith(f"| {shown - 1}&gt; `level {shown - 1}` |")
    assert all(row.endswith("|") for row in rows if row.startswith("|"))
    assert [f"level {n}" for n in range(1_000)] == changes[-1]["path"]


def test_hostile_names():
    """Every line is as wide as the heading, and has no control characters."""
    lines = Report().diff(hostile()).render().splitlines()

    assert {cell_len(lines[0])} == {cell_len(line) for line in lines[1:-2]}
    assert all(line.isprintable() for line in lines)
    assert 1 == sum(f"├─ + {printable(HOSTILE[6])}  " in line for line in lines)


def test_huge_numbers():
    """Differences of counts and costs are exact at any size."""
    diff = huge().diff(huge() + huge())

    assert 2 * HUGE + 1 == diff.total.tokens
    assert f"+{2 * HUGE + 1:,}" in str(diff)
    assert (100.0, 100.0) == pytest.approx(diff.growth)
    one = build([(-1, Frame("scope", "huge"), 1, 1, {"x": usage(1, 1, 0, "1E-30")})], scoped=True)
    assert one.diff(huge()).growth.cost > 1e70
    assert "e+" in one.diff(huge()).render("markdown")


def test_importing_reports_loads_no_formats():
    """Importing `Report` loads neither the formats nor rich."""
    code = "import sys; from tokenscope import Report; print('tokenscope._report.formats' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False False\n" == done.stdout


def test_parts_of_prompts():
    """Below the table, a line for each predictor says which parts of its prompts changed, as many as fit into the width."""
    diff = FEWER_DEMOS.diff(MEASURED)
    back = MEASURED.diff(FEWER_DEMOS)

    assert [
        "Research.writer: demos +1,380 tokens a call (460 -> 1,840)",
        "Research.judge: history -90 tokens a call (gone)",
    ] == diff.render().splitlines()[-2:]
    assert "Research.judge: history +90 tokens a call (new)" == back.render().splitlines()[-1]
    assert [("demos", 460, 1840), ("history", 90, 0)] == [
        (each["part"], each["before"], each["after"]) for each in json.loads(diff.render("json"))["tokens_a_call"]
    ]
    assert "tokens_a_call" not in json.loads(DIFF.render("json"))


def test_many_parts_of_prompts():
    """Of many parts and predictors, those that changed most are named, and it is said how many there are besides."""

    def report(tokens: int) -> Report:
        pieces = {f"input_{name}": tokens + 10 * n for n, name in enumerate("abcdefgh")}
        rows = [measured_row(-1, Frame("dspy", f"p {n:02}"), 1, 1.0, [call(**pieces)]) for n in range(12)]
        return Report.from_rows(rows, scoped=False)

    lines = report(100).diff(report(200)).render(width=80).splitlines()

    assert "The prompts of 2 more predictors changed." == lines[-1]
    assert "p 00: input:a +100 tokens a call (100 -> 200), and 7 more" == lines[-11]
    assert all(cell_len(line) <= 80 for line in lines[-11:])


def test_parts_that_changed_while_tokens_did_not():
    """If only the split of the input changed, the diff says so, though nothing else has changed."""

    def report(**pieces: float) -> Report:
        return Report.from_rows([measured_row(-1, Frame("dspy", "p"), 1, 1.0, [call(**pieces)])], scoped=True)

    text = report(demos=60, fields=40).diff(report(demos=70, fields=30)).render()

    assert text.startswith("nothing changed")
    assert text.endswith("\np: demos +10 tokens a call (60 -> 70), fields -10 (40 -> 30)")
