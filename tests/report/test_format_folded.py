"""Folded stacks, as flamegraph.pl reads them."""

from __future__ import annotations

import re

from support.formats import HOSTILE, HUGE, PRICED, deep, golden, hostile, huge

from tokenscope import Report
from tokenscope._report.formats.text import printable

LINE = re.compile(r"^(.*)\s+(\d+(?:\.\d*)?)$")  # the pattern of flamegraph.pl


def read(text: str) -> list[tuple[list[str], int]]:
    """Read stacks as flamegraph.pl does."""
    matches = [LINE.match(line) for line in text.split("\n")[:-1]]
    return [(match[1].split(";"), int(match[2])) for match in matches if match]


def test_the_whole_file():
    """The file has one line for each stack with own tokens."""
    golden("report.folded", PRICED.render("folded"))


def test_the_lines_add_up():
    """The lines hold own tokens, which add up to the total."""
    assert PRICED.total.total_tokens == sum(weight for _, weight in read(PRICED.render("folded")))


def test_hostile_names():
    """No name adds a level or a line."""
    stacks = read(hostile().render("folded"))

    assert 2 * len(HOSTILE) == len(stacks)
    assert {2, 3} == {len(names) for names, _ in stacks}
    assert {printable(name).replace(";", ",") for name in HOSTILE} == {names[-1] for names, _ in stacks}


def test_huge_numbers_and_deep_trees():
    """Huge numbers are written in full. Levels below the 1,000th are one line, `(deeper)`."""
    assert [(["huge"], 2 * HUGE + 1)] == read(huge().render("folded"))
    stacks = read(deep().render("folded"))
    assert (1_001, 1_100) == (len(stacks), sum(weight for _, weight in stacks))
    assert ("(deeper)", 100) == (stacks[-1][0][-1], stacks[-1][1])


def test_nothing():
    """An empty report is an empty file."""
    assert "" == Report().render("folded")
