"""How values show themselves: names without control characters, dollars of every size, and tables for notebooks."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from tokenscope._usage.shown import dollars, html_table, printable

LEFT, RIGHT = "text-align:left;padding:.2em .6em", "text-align:right;padding:.2em .6em"
ROW = '<tr style="border-top:1px solid rgba(128,128,128,.2)">'


def test_only_what_is_not_printable_is_escaped():
    """A name with a line break has that escaped, and nothing else."""
    assert "a\\b'\\n" == printable("a\\b'\n")
    assert "a\\b'" == printable("a\\b'")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("1E-8", "$0.000000010"),
        ("9E-9", "$9.0e-9"),
        ("9E-10", "$9.0e-10"),
        ("9E29", "$900,000,000,000,000,000,000,000,000,000.00"),
        ("1E30", "$1.0e+30"),
        ("1E31", "$1.0e+31"),
    ],
)
def test_amounts_that_would_fill_the_page(amount, shown):
    """Very large and very small amounts have an exponent."""
    assert shown == dollars(Decimal(amount))


def test_a_table():
    """Names are on the left, numbers on the right, and a row below another one is indented."""
    table = html_table(("name",), ("tokens",), [("a", "1"), ("b", "2")], [0, 1])

    assert (
        '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f'{ROW}<th style="{LEFT};opacity:.7">name</th><th style="{RIGHT};opacity:.7">tokens</th></tr>'
        f'{ROW}<td style="{LEFT};padding-left:0.6em"><bdi>a</bdi></td><td style="{RIGHT}"><bdi>1</bdi></td></tr>'
        f'{ROW}<td style="{LEFT};padding-left:1.8em"><bdi>b</bdi></td><td style="{RIGHT}"><bdi>2</bdi></td></tr>'
        "</table>"
    ) == table
    assert f'<td style="{LEFT}"><bdi>a</bdi></td>' in html_table(("name",), ("tokens",), [("a", "1")])


def test_many_rows():
    """Of more than 300 rows, the first 300 are shown, or those with the largest weights, in their order."""
    rows = [(str(number), "1") for number in range(301)]
    shown = lambda table: re.findall(r"<bdi>(\d+)</bdi></td><td", table)  # noqa: E731

    assert [str(number) for number in range(300)] == shown(html_table(("",), ("",), rows))
    assert [str(number) for number in range(1, 301)] == shown(html_table(("",), ("",), rows, (), range(301)))
    more = f'{ROW}<td style="{LEFT};opacity:.7" colspan="2">… 1 more</td></tr></table>'
    assert html_table(("",), ("",), rows).endswith(more)
    assert "more" not in html_table(("",), ("",), rows[:300])
