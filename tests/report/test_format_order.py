"""The orders of `render(sort=...)`: each format that accepts an order lists siblings in it."""

from __future__ import annotations

import re

import pytest
from support.formats import usage
from support.reports import build, made

from tokenscope import Report
from tokenscope._report.formats import SORTABLE
from tokenscope._report.formats.order import SORTS, lines
from tokenscope._usage.calls import Frame

REPORT = build(
    [
        (-1, Frame("scope", "top"), 1, 9, {}),
        (0, Frame("scope", "b"), 1, 3_000_000_000, {"p/big": usage(1, 400, 0, "0.01")}),
        (0, Frame("scope", "a"), 1, 1_000_000_000, {"p/dear": usage(5, 100, 0, "0.30")}),
        (0, Frame("scope", "d"), 1, 2_000_000_000, {"p/strange": usage(2, 300, 0, None)}),
        (0, Frame("scope", "c"), 1, 4_000_000_000, {"p/free": usage(2, 200, 0, "0")}),
    ],
    scoped=True,
)
ORDERS = {
    "tokens": "b d c a",
    "cost": "a b c d",  # an unknown cost comes last
    "calls": "a d c b",
    "time": "c b d a",
    "name": "a b c d",
}


def test_every_order_is_tested():
    """`ORDERS` has an entry for each order in `SORTS`."""
    assert sorted(ORDERS) == sorted(SORTS)


@pytest.mark.parametrize("sort", SORTS)
def test_siblings(sort):
    """The tree, Markdown and CSV list siblings in the given order, below their parents."""
    tree = [line.split()[1] for line in REPORT.render("tree", sort=sort).splitlines()[3:-1]]
    markdown = re.findall(r"^\| &nbsp;&nbsp;`(\w)`", REPORT.render("markdown", sort=sort), re.MULTILINE)
    csv = re.findall(r"^top/(\w),", REPORT.render("csv", sort=sort), re.MULTILINE)

    assert ORDERS[sort].split() == tree == markdown == csv


@pytest.mark.parametrize("sort", [sort for sort in SORTS if sort != "time"])
def test_breakdowns(sort):
    """The table and Markdown's breakdown by module are in the given order."""
    table = [line[0] for line in REPORT.render("table", sort=sort).splitlines()[2:6]]
    modules = REPORT.render("markdown", sort=sort).partition("### By module")[2].partition("### By model")[0]

    assert ORDERS[sort].split() == table == re.findall(r"^\| `(\w)`", modules, re.MULTILINE)


def test_models():
    """Markdown's models are in the given order. For `time` they are sorted by tokens, as they have no times."""
    models = {
        sort: re.findall(r"`p/(\w+)` \|", REPORT.render("markdown", sort=sort).partition("### By model")[2])
        for sort in SORTS
    }

    assert ["dear", "big", "free", "strange"] == models["cost"]
    assert ["big", "dear", "free", "strange"] == models["name"]
    assert ["big", "strange", "free", "dear"] == models["tokens"] == models["time"]


def test_the_top_level_is_sorted():
    """The top-level names of a process's report are sorted, too."""
    report = made((-1, "scope", "a", 1, 1, 10), (-1, "dspy", "b", 1, 1, 20), scoped=False)
    orders = {
        sort: [
            [line.split()[0] for line in report.render("tree", sort=sort).splitlines()[2:4]],
            re.findall(r"^(\w),", report.render("csv", sort=sort), re.MULTILINE),
            re.findall(r"^\| `(\w)` .*ms \|$", report.render("markdown", sort=sort), re.MULTILINE),
        ]
        for sort in ("tokens", "name")
    }

    assert {"tokens": [["b", "a"]] * 3, "name": [["a", "b"]] * 3} == orders


def test_own_tokens_stay_last():
    """The `[self]` row stays last if siblings are sorted by name."""
    report = made((-1, "scope", "top", 1, 1, 100), (0, "scope", "z", 1, 1, 10))

    assert ["top", "z", "[self]"] == re.findall(r"(top|z|\[self\]) ", report.render("tree", sort="name"))
    _, own = list(lines(report.tree(), "name"))[-1]
    assert (own.usage, own.usage, (), {}, own) == (report.tree().own, own.own, own.children, own.by_model, own.root)


@pytest.mark.parametrize("form", SORTABLE)
def test_an_order_that_is_not_there(form):
    """An unknown order raises a ValueError that names the known orders."""
    with pytest.raises(ValueError, match="cannot be sorted by 'size', but by tokens, cost, calls, time, name"):
        REPORT.render(form, sort="size")


@pytest.mark.parametrize("form", ["json", "html", "speedscope", "folded"])
def test_formats_with_an_order_of_their_own(form):
    """A format with a fixed order raises a TypeError for `sort`."""
    with pytest.raises(TypeError):
        REPORT.render(form, sort="name")


@pytest.mark.parametrize("form", SORTABLE)
@pytest.mark.parametrize("sort", SORTS)
def test_nothing_to_sort(form, sort):
    """Every order renders an empty report in the same way."""
    assert Report().render(form, sort=sort) == Report().render(form)
