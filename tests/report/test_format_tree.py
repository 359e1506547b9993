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
from support.reports import build, chain, made
from support.spending import python
from support.terminal import in_a_terminal

from tokenscope import Report, Usage
from tokenscope._usage.calls import Frame

REPORT = made(
    (-1, "scope", "pipeline", 1, 1234, 0),
    (0, "dspy", "研究エージェント", 1, 900, 1000),
    (1, "dspy", "planner", 2, 500, 20000),
    (0, "module", "evil\n\x1b[31mred\t", 1, 10, 300),
    (0, "scope", "e\u0301clair", 3, 75_000, 0),
)

WIDE = """\
scope                   calls   input  output   total  share             time
pipeline                    3  21,300   2,130  23,430  ██████████ 100%   1.2s
├─ 研究エージェント         2  21,000   2,100  23,100  █████████▉  99%  900ms
│  ├─ planner               1  20,000   2,000  22,000  █████████▍  94%  500ms
│  └─ [self]                1   1,000     100   1,100  ▌            5%
├─ evil\\n\\x1b[31mred\\t      1     300      30     330  ▏            1%   10ms
└─ e\u0301clair                   0       0       0       0               0%  1m15s
3 calls; 21,300 in + 2,130 out = 23,430 tokens"""

NARROW = """\
scope         calls   input  output   total  share   time
pipeline          3  21,300   2,130  23,430   100%   1.2s
|- 研究エ...      2  21,000   2,100  23,100    99%  900ms
|  |- pla...      1  20,000   2,000  22,000    94%  500ms
|  `- [self]      1   1,000     100   1,100     5%
|- evil\\n...      1     300      30     330     1%   10ms
`- e\u0301clair         0       0       0       0     0%  1m15s
3 calls; 21,300 in + 2,130 out = 23,430 tokens"""


def test_the_whole_tree():
    """Wide characters are aligned, control characters are escaped, and own tokens have a `[self]` line."""
    assert WIDE == REPORT.render(width=100)
    assert WIDE == REPORT.render()


def test_a_narrow_tree_in_ascii():
    """A narrow tree has no bars and cuts its names. With `ascii_only`, its guides are ASCII."""
    assert NARROW == REPORT.render(width=50, ascii_only=True)


def test_ascii_bars():
    """An ASCII tree with enough room has bars of `#`."""
    assert "##########  100%" in REPORT.render(ascii_only=True).splitlines()[1].replace("# 100", "#  100")


@pytest.mark.parametrize("width", [1, 20, 40, 57, 60, 70, 75, 78, 80, 100, 200])
def test_numbers_are_never_cut(width):
    """Numbers are whole and aligned at every width. The tree keeps to the width if its numbers fit."""
    head, *lines, _ = REPORT.render(width=width).splitlines()
    cells = [
        ["3", "21,300", "2,130", "23,430", "100%", "1.2s"],
        ["2", "21,000", "2,100", "23,100", "99%", "900ms"],
        ["1", "20,000", "2,000", "22,000", "94%", "500ms"],
        ["1", "1,000", "100", "1,100", "5%"],
    ]

    for expected, line in zip(cells, lines, strict=False):
        assert expected == [cell for cell in line.split() if cell[0].isdigit()]
    assert {cell_len(head)} == {cell_len(line) for line in lines if line.endswith("s")}
    assert cell_len(head) <= max(width, 57)


@pytest.mark.parametrize("width", range(57, 90))
def test_the_bar_shrinks_before_the_names(width):
    """Bars shrink before names: a tree that fits without bars shows its names whole."""
    text = REPORT.render(width=width)

    assert ("研究エージェント" in text) == (width >= 64)


def test_numbers_are_as_wide_as_they_need():
    """Huge counts widen their columns."""
    huge = made((-1, "scope", "s", 1, 1, 123_456_789_012))

    assert "123,456,789,012  12,345,678,901  135,802,467,913" in huge.render(width=40)


def test_an_empty_report():
    """An empty report says that nothing was counted yet."""
    assert "nothing was counted yet" == Report().render()


def test_a_scope_that_spent_nothing():
    """The share of a scope that spent nothing is 0%."""
    assert "0%" in made((-1, "scope", "s", 1, 1, 0)).render()


def test_several_top_level_names():
    """The process's report has no line for its nameless root."""
    report = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "B", 1, 1, 20), scoped=False)

    assert ["scope", "B", "a", "2"] == [line.split()[0] for line in report.render().splitlines()]


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

    assert (
        "5 calls; 10 in + 20 out = 30 tokens; 1 call answered by DSPy's cache; 2 calls failed; "
        "3 input tokens read from the provider's cache; 4 output tokens spent on reasoning"
    ) == report.render().splitlines()[-1]
    assert made((-1, "scope", "s", 1, 1, 10)).render().splitlines()[-1].startswith("1 call; ")


def test_a_deep_tree():
    """10,000 levels are drawn without recursion, within seconds. Below level 30 a line shows its level."""
    report = chain(10_000)
    began = time.process_time()
    lines = report.render().splitlines()

    assert time.process_time() - began < 5
    assert 20_001 == len(lines)
    assert all(cell_len(line) <= 120 for line in lines)
    assert any(line.startswith("9,999> level 9999") for line in lines)


def test_a_wide_tree():
    """A tree with 2,000 siblings has a line for each of them."""
    report = made((-1, "scope", "s", 1, 1, 0), *((0, "scope", f"n{n}", 1, 1, n + 1) for n in range(2_000)))

    assert 2_003 == len(report.render().splitlines())


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
        "scope      calls  input  output  total  share\n"
        "s              2  1,100     110  1,210  ██████████ 100%\n"
        "├─ t           1    100      10    110  ▉            9%\n"
        "└─ [self]      1  1,000     100  1,100  █████████▏  91%\n"
        "2 calls; 1,100 in + 110 out = 1,210 tokens"
    ) == report.render(width=100)
