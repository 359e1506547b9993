"""The flat table: one row for each module."""

from __future__ import annotations

from rich.cells import cell_len
from support.formats import HOSTILE, PRICED, golden, hostile
from support.reports import made

from tokenscope import Report


def test_the_whole_table():
    """The table lists modules by their total, with grouped and aligned numbers."""
    golden("report.table.txt", PRICED.render("table") + "\n")


def test_the_rows_are_the_modules():
    """There is a row for each module, the costliest first, and they add up to the total."""
    rows = [line.split(" | ") for line in PRICED.render("table").splitlines()[2:-3]]

    assert list(PRICED.by_module()) == [row[0].rstrip() for row in rows]
    assert PRICED.total.total_tokens == sum(int(row[3].replace(",", "")) for row in rows)


def test_columns_line_up_whatever_the_names():
    """Every row has the same width. Control characters are escaped, and long names are cut."""
    lines = hostile().render("table").splitlines()[:-2]

    assert {cell_len(lines[1])} == {cell_len(line) for line in lines}
    assert len(HOSTILE) * 2 + 2 >= len(lines)
    assert any(line.startswith("\\x1b[31mred\\x1b[0m\\x07 ") for line in lines)
    assert any("very long…" in line for line in lines)


def test_narrow_names():
    """Columns are at least as wide as their headings."""
    assert "Module | Input | Output | Total\n-------------------------------\na      |    10 |      1 |    11" == (
        made((-1, "scope", "a", 1, 1, 10)).render("table")
    )


def test_an_empty_report():
    """An empty report says that nothing was counted yet, and why that may be."""
    assert Report().render("table") == Report().render()


def test_the_costliest_rows():
    """`top` and `min_share` show the costliest rows, and one line says what the others spent."""
    rows = [line.split(" | ")[0].strip() for line in PRICED.render("table", top=2).splitlines()]

    assert ["ResearchAgent.searcher", "ResearchAgent.synthesizer", ""] == rows[2:5]
    assert "and 4 more rows with 4,690 tokens" == rows[5]
    assert PRICED.render("table", top=2) == PRICED.render("table", min_share=0.2)


def test_another_title():
    """`title` replaces the heading of the column of names."""
    assert (
        "Model | Input | Output | Total"
        == made((-1, "scope", "a", 1, 1, 10)).render("table", title="Model").split("\n")[0]
    )
