"""The speedscope file, checked by its format's rules. `test_format_speedscope_app.py` opens it in the real app."""

from __future__ import annotations

import json

import pytest
from support.formats import HOSTILE, PRICED, deep, empty_and_free, golden, hostile, huge

from tokenscope._report.formats.text import printable


def profiles(report) -> dict[str, dict[str, int]]:
    """Check a file against the format and return each profile's weights by path."""
    data = json.loads(report.render("speedscope"))
    names = [frame["name"] for frame in data["shared"]["frames"]]
    found = {}
    assert "https://www.speedscope.app/file-format-schema.json" == data["$schema"]
    for profile in data["profiles"]:
        assert ("sampled", "none", 0) == (profile["type"], profile["unit"], profile["startValue"])
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] == pytest.approx(sum(profile["weights"]))
        stacks = ["/".join(names[frame] for frame in stack) for stack in profile["samples"]]
        found[profile["name"]] = dict(zip(stacks, profile["weights"], strict=True))
    assert list(found) == [profile["name"] for profile in data["profiles"]]
    return found


def test_the_whole_file():
    """The file has frames, a profile for tokens and a profile for cost."""
    golden("report.speedscope.json", PRICED.render("speedscope"))


def test_weights_are_own_values():
    """The weight of a stack is the own value of its last frame, and its first frame is the outermost."""
    tokens, cost = profiles(PRICED).values()

    assert PRICED.total.total_tokens == sum(tokens.values())
    assert 18_680 == tokens["pipeline/ResearchAgent/searcher"]
    assert 11_880 == cost["pipeline/ResearchAgent/searcher"]
    assert float(PRICED.total.cost * 1_000_000) == pytest.approx(sum(cost.values()))


def test_the_cost_says_whether_it_is_whole():
    """The cost profile's name says `at least` if a price is unknown. Without costs there is no such profile."""
    assert ["tokens", "cost (millionths of a dollar), at least"] == list(profiles(PRICED))
    assert ["tokens", "cost (millionths of a dollar)"] == list(profiles(deep()))
    for report in empty_and_free():
        assert ["tokens"] == list(profiles(report))


def test_hostile_names():
    """Each hostile name is the name of a frame, with control characters escaped."""
    frames = json.loads(hostile().render("speedscope"))["shared"]["frames"]

    assert {"top", *map(printable, HOSTILE)} == {frame["name"] for frame in frames}


def test_huge_numbers_and_deep_trees():
    """Huge numbers and deep trees give valid files."""
    assert profiles(huge())
    tokens = profiles(deep())["tokens"]
    assert (1_001, 1_100) == (len(tokens), sum(tokens.values()))
