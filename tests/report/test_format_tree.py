"""The tree as text: columns that fit, numbers that are never cut, names that have no effect on a terminal."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.formats import usage
from support.reports import build, chain, made
from support.spending import python
from support.terminal import in_a_terminal

from tokenscope import Report, Usage
from tokenscope._report.formats.order import SORTS
from tokenscope._usage.calls import Frame

REPORT = made(
    (-1, "scope", "pipeline", 1, 1234, 0),
    (0, "dspy", "研究エージェント", 1, 900, 1000),
    (1, "dspy", "planner", 2, 500, 20000),
    (0, "module", "evil\n\x1b[31mred\t", 1, 10, 300),
    (0, "scope", "e\u0301clair", 3, 75_000, 0),
)

WIDE = """\
23,430 tokens (21,300 in + 2,130 out); 3 calls
scope                   calls   input  output   total  share             time
pipeline                    3  21,300   2,130  23,430  ██████████ 100%   1.2s
├─ 研究エージェント         2  21,000   2,100  23,100  █████████▉  99%  900ms
│  ├─ planner               1  20,000   2,000  22,000  █████████▍  94%  500ms
│  └─ [self]                1   1,000     100   1,100  ▌            5%
├─ evil\\n\\x1b[31mred\\t      1     300      30     330  ▏            1%   10ms
└─ e\u0301clair                   0       0       0       0               0%  1m15s"""

NARROW = """\
23,430 tokens (21,300 in + 2,130 out); 3 calls
scope                   calls   total  share
pipeline                    3  23,430  ###### 100%
|- 研究エージェント         2  23,100  #####   99%
|  |- planner               1  22,000  #####   94%
|  `- [self]                1   1,100           5%
|- evil\\n\\x1b[31mred\\t      1     330           1%
`- e\u0301clair                   0       0           0%"""


def test_the_whole_tree():
    """Wide characters are aligned, control characters are escaped, and own tokens have a `[self]` line."""
    assert WIDE == REPORT.render(width=100)
    assert WIDE == REPORT.render()


def test_a_narrow_tree_in_ascii():
    """In a narrow tree, whole columns give way to the names. With `ascii_only`, its guides are ASCII."""
    assert NARROW == REPORT.render(width=50, ascii_only=True)


def test_ascii_bars():
    """An ASCII tree with enough room has bars of `#`."""
    assert "##########  100%" in REPORT.render(ascii_only=True).splitlines()[2].replace("# 100", "#  100")


@pytest.mark.parametrize("width", [1, 20, 40, 57, 60, 70, 75, 78, 80, 100, 200])
def test_numbers_are_never_cut(width):
    """Numbers are whole and aligned at every width. The tree keeps to the width if its names and totals fit."""
    _, head, *lines = REPORT.render(width=width).splitlines()
    cells = [
        {"3", "21,300", "2,130", "23,430", "100%", "1.2s"},
        {"2", "21,000", "2,100", "23,100", "99%", "900ms"},
        {"1", "20,000", "2,000", "22,000", "94%", "500ms"},
        {"1", "1,000", "100", "1,100", "5%"},
    ]

    for expected, line in zip(cells, lines, strict=False):
        found = {cell for cell in line.split() if cell[0].isdigit()}
        assert found <= expected
        assert width < 70 or found == expected
    assert {True} == {cell_len(line) <= max(width, 27) for line in [head, *lines]}


@pytest.mark.parametrize("width", range(41, 90))
def test_the_bar_and_columns_give_way_before_the_names(width):
    """Bars shrink before names, and below 70 columns whole columns give way, the least important first."""
    text = REPORT.render(width=width)
    columns = text.splitlines()[1].split()[1:]

    assert "研究エージェント" in text
    assert "evil\\n\\x1b[31mred\\t" in text
    if width >= 70:
        assert ["calls", "input", "output", "total", "share", "time"] == columns
    else:
        assert columns in (
            ["calls", "input", "output", "total", "share", "time"],
            ["calls", "input", "output", "total", "share"],
            ["calls", "output", "total", "share"],
            ["calls", "total", "share"],
            ["total", "share"],
        )


def test_the_column_of_the_order_stays():
    """Below 70 columns, the column that the tree is sorted by gives way to nothing."""
    assert "calls" in REPORT.render(width=42, sort="calls").splitlines()[1]
    assert "time" in REPORT.render(width=42, sort="time").splitlines()[1]
    assert ["scope", "total", "share"] == REPORT.render(width=42).splitlines()[1].split()


def test_a_name_that_is_too_long_keeps_its_ends():
    """A name that is too long for any tree loses its middle."""
    names = made((-1, "scope", "first " * 20 + "last", 1, 0, 10)).render(width=40).splitlines()[2]

    assert re.match(r"first first [\w ]*…[\w ]*first last +11 +100%$", names)
    assert 40 == cell_len(names)


def test_numbers_are_as_wide_as_they_need():
    """Huge counts widen their columns."""
    huge = made((-1, "scope", "s", 1, 1, 123_456_789_012))

    assert "123,456,789,012  12,345,678,901  135,802,467,913" in huge.render(width=70)


def test_an_empty_report():
    """An empty report says that nothing was counted yet, why that may be, and where to read on."""
    empty = Report().render()

    assert empty.startswith(
        "nothing was counted yet: DSPy made no LM call, nothing was recorded, or TOKENSCOPE_DISABLED is"
    )
    assert 'the page "Nothing is counted" (how-to/nothing-is-counted)' in empty
    assert empty == str(Report())
    assert 1 == len(empty.splitlines())


def test_a_report_of_scopes_alone():
    """A report of scopes in which nothing was counted says the same in its last line."""
    last = made((-1, "scope", "s", 1, 1, 0)).render().splitlines()[-1]

    assert last == Report().render()[0].upper() + Report().render()[1:] + "."


def test_a_scope_that_spent_nothing():
    """The share of a scope that spent nothing is 0%."""
    assert "0%" in made((-1, "scope", "s", 1, 1, 0)).render()


def test_several_top_level_names():
    """The process's report has no line for its nameless root."""
    report = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert ["33", "scope", "B", "a"] == [line.split()[0] for line in report.render().splitlines()]


def test_the_footer_says_what_the_columns_do_not():
    """The footer names cached calls, failed calls, cache reads and reasoning tokens if there are any."""
    usage = Usage(
        calls=5,
        cached_calls=1,
        failed_calls=2,
        input_tokens=10,
        output_tokens=20,
        cache_read_tokens=3,
        reasoning_tokens=4,
    )
    report = build([(-1, Frame("scope", "s"), 1, 0, {"x": usage})], scoped=True)

    lines = report.render().splitlines()
    assert "30 tokens (10 in + 20 out); 5 calls" == lines[0]
    assert (
        "1 call answered by DSPy's cache; 2 calls failed; "
        "3 input tokens read from the provider's cache; 4 output tokens spent on reasoning"
    ) == lines[-1]
    assert made((-1, "scope", "s", 1, 1, 10)).render().splitlines()[-1].startswith("s ")


@pytest.mark.unmeasured
def test_a_deep_tree():
    """10,000 levels are drawn without recursion, in about ten times as long as 1,000. Below level 30 a line shows its level."""
    times: list[float] = []
    lines: list[str] = []
    for depth in (1_000, 1_000, 10_000):
        report = chain(depth)
        began = time.process_time()
        lines = report.render(top=None).splitlines()
        times.append(time.process_time() - began)

    assert times[2] < 40 * min(times[:2])
    assert 20_001 == len(lines)
    assert all(cell_len(line) <= 120 for line in lines)
    assert any(line.startswith("9,999> level 9999") for line in lines)


def test_a_wide_tree():
    """A tree with 2,000 siblings has a line for each of them, if all are asked for."""
    report = made((-1, "scope", "s", 1, 1, 0), *((0, "scope", f"n{n}", 1, 1, n + 1) for n in range(2_000)))

    assert 2_003 == len(report.render(top=None).splitlines())


def many() -> Report:
    """Build a report of 81 rows: a scope, and 40 others below it with one more each, of which the last ones spent most."""
    rows = [(-1, "scope", "s", 1, 100, 0)]
    for number in range(40):
        rows += [
            (0, "scope", f"a{number}", 1, 40 - number, 0),
            (len(rows), "scope", f"b{number}", 1, 1, 1_000 + number),
        ]
    return made(*rows)


def names(text: str) -> list[str]:
    """Return the names in the lines of a tree."""
    return re.findall(r"^[├─└│ ]*(\w+) +\d.*%", text, re.MULTILINE)


def test_the_costliest_rows_are_shown():
    """Of more than 60 rows, the costliest and their parents are shown. One line says how many more there are."""
    text = many().render()
    left = sum(1_000 + n + (1_000 + n) // 10 for n in range(11))

    assert ["s", *(name for n in range(39, 10, -1) for name in (f"a{n}", f"b{n}")), "a10"] == names(text)
    assert f"and 21 more rows with {left:,} tokens (--all or top=None shows all)" == text.splitlines()[-1]
    assert 81 == len(names(many().render(top=None))) == len(many().render(top=None).splitlines()) - 2
    assert many().render(top=81) == many().render(top=None)
    assert "and 1 more row with 1,100 tokens" in many().render(top=80)


@pytest.mark.parametrize("sort", SORTS)
def test_the_order_says_which_rows_are_shown(sort):
    """Rows with most cost, calls or time are shown if the order is by these, and otherwise those with most tokens."""
    shown = names(many().render(top=3, sort=sort, ascii_only=False))

    assert (["s", "a0", "a1"] if sort == "time" else ["s", "a39", "b39"]) == shown


def test_parents_of_what_is_shown_are_shown():
    """A row that took longer than the one above it is not shown without it."""
    report = made(
        (-1, "scope", "s", 1, 1, 10),
        (0, "scope", "a", 1, 1, 10),
        (1, "scope", "b", 9, 900, 1),
        (0, "scope", "c", 1, 2, 30),
    )

    assert ["s", "a", "b"] == names(report.render(top=1, sort="time"))
    assert "and 3 more rows with 55 tokens (" in report.render(top=1, sort="time")


def test_the_least_share():
    """Rows with a smaller share than `min_share` are left out, also if they are their scope's own."""
    text = REPORT.render(min_share=0.02)

    assert ["pipeline", "研究エージェント", "planner"] == names(text)
    assert "[self]" in text
    assert "and 2 more rows with 330 tokens" == text.splitlines()[-1]
    assert "and 3 more rows with 1,430 tokens" == REPORT.render(min_share=0.9).splitlines()[-1]
    assert REPORT.render() == REPORT.render(min_share=0.0)


@pytest.mark.parametrize("options", [{"top": 0}, {"top": -1}, {"min_share": -0.1}, {"min_share": 5}], ids=str)
@pytest.mark.parametrize("form", ["tree", "table", "markdown"])
def test_limits_that_make_no_sense(options, form):
    """A wrong limit is an error that says what to write instead, also for an empty report."""
    name = next(iter(options))
    for report in (REPORT, Report()):
        with pytest.raises(ValueError, match=f"{name} must be "):
            report.render(form, **options)


def test_bars_of_cost():
    """A tree that is sorted by cost shows shares of the cost. A tree without costs shows shares of the tokens."""
    report = build(
        [
            (-1, Frame("scope", "s"), 1, 0, {}),
            (0, Frame("scope", "a"), 1, 0, {"p/x": usage(1, 900, 0, "0.25")}),
            (0, Frame("scope", "b"), 1, 0, {"p/x": usage(1, 100, 0, "0.75")}),
            (0, Frame("scope", "c"), 1, 0, {"p/y": usage(1, 10, 0, None)}),
        ],
        scoped=True,
    )
    head, *lines = report.render(sort="cost").splitlines()[1:]

    assert ["scope", "calls", "input", "output", "total", "of", "cost", "cost"] == head.split()
    assert [("b", "75"), ("a", "25"), ("c", "0")] == [
        re.search(r"─ (\w) .* (\d+)%", line).groups() for line in lines[1:4]
    ]
    assert "cost%" in report.render(sort="cost", width=22).splitlines()[1]
    assert REPORT.render(sort="cost") == REPORT.render()


def test_equal_siblings_are_in_counting_order():
    """Siblings with equal tokens are in the order in which people count: 2 before 10."""
    found = ["page 10", "page 2", "page 1", "page 02", "b2x10", "b2x9", "²", "9" * 5_000, "!"]
    report = made(*((-1, "scope", name, 1, 1, 10) for name in found), scoped=False)
    expected = ["!", "9" * 5_000, "b2x9", "b2x10", "page 1", "page 02", "page 2", "page 10", "²"]

    assert expected == [node.name for node in report.tree().children] == list(report.by_module())
    assert expected == re.findall(r"^(.*?),scope", report.render("csv", sort="name"), re.MULTILINE)


def test_rich_prints_it_in_colour():
    """Rich prints the tree with styles and the same text."""
    console = Console(force_terminal=True, color_system="truecolor", width=100, file=io.StringIO(), _environ={})
    console.print(REPORT)
    text = console.file.getvalue()

    assert "\x1b[" in text
    assert WIDE == re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip("\n")
    assert "\x1b[31mred" not in text


def test_rich_fits_it_into_a_panel():
    """In a rich panel, the tree keeps to the width of the panel."""
    from rich.panel import Panel

    console = Console(width=70, file=io.StringIO(), _environ={})
    console.print(Panel(REPORT))

    assert all(cell_len(line) == 70 for line in console.file.getvalue().splitlines())


PRINT = """
import sys; sys.path.insert(0, {tests!r})
from report.test_format_tree import REPORT
print(REPORT)
"""


def code():
    return PRINT.format(tests=str(Path(__file__).parents[1]))


def test_plain_in_a_pipe():
    """Output to a pipe has no colours and ignores the terminal's width."""
    assert WIDE + "\n" == python(code(), COLUMNS="40", FORCE_COLOR="", NO_COLOR="", TERM="xterm-256color")


def test_ascii_where_the_encoding_knows_no_bars():
    """If the encoding lacks the bars, the tree is ASCII and its names are escaped."""
    for encoding in ("ascii", "latin-1", "cp1252"):
        text = python(code(), PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert r"|- \u7814\u7a76" in text
        assert "##########" in text


def on_a_terminal(width, **environment):
    """Print the report in a terminal of the given width, and return the bytes that the terminal received."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    shown, _, error = in_a_terminal(
        lambda terminal: subprocess.Popen(
            [sys.executable, "-c", code()],
            stdout=terminal,
            stdin=terminal,
            stderr=subprocess.PIPE,
            env={**kept, "COLUMNS": str(width), "TERM": "xterm-256color", **environment},
        )
    )
    assert b"" == error
    return shown.encode()


def test_in_colour_on_a_terminal():
    """In a terminal the tree has colours, keeps to the terminal's width, and has the same text."""
    shown = on_a_terminal(60).decode()

    assert "\x1b[" in shown
    assert REPORT.render(width=60) == re.sub(r"\x1b\[[0-9;]*m", "", shown).rstrip("\n")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_plain_in_a_terminal_that_wants_no_colour(environment):
    """With NO_COLOR or in a dumb terminal, the tree has no colours."""
    shown = on_a_terminal(60, **environment).decode()

    assert "\x1b[" not in shown
    assert len(shown.splitlines()) == len(REPORT.render().splitlines())


def test_a_terminal_without_unicode():
    """A coloured tree escapes characters of a name that the encoding lacks."""
    shown = on_a_terminal(80, PYTHONIOENCODING="ascii", PYTHONUTF8="0").decode("ascii")

    assert r"\u7814" in shown
    assert "\x1b[" in shown


def test_without_a_standard_output(monkeypatch):
    """Without a standard output, `str(report)` is the plain tree."""
    monkeypatch.setattr(sys, "stdout", None)

    assert str(REPORT) == WIDE


def test_no_column_for_times_that_nobody_took():
    """If no scope has a time, the tree has no column of times."""
    report = made((-1, "scope", "s", 1, 0, 1000), (0, "scope", "t", 1, 0, 100))

    assert (
        "1,210 tokens (1,100 in + 110 out); 2 calls\n"
        "scope      calls  input  output  total  share\n"
        "s              2  1,100     110  1,210  ██████████ 100%\n"
        "├─ t           1    100      10    110  ▉            9%\n"
        "└─ [self]      1  1,000     100  1,100  █████████▏  91%"
    ) == report.render(width=100)
