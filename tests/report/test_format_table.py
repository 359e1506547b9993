"""The flat table: the seed's shape, one row a module."""

from __future__ import annotations

from rich.cells import cell_len
from support.formats import HOSTILE, PRICED, golden, hostile
from support.reports import made

from tokenscope import Report


def test_the_whole_table():
    """Modules by their total, numbers grouped and lined up, wide characters too."""
    golden("report.table.txt", PRICED.render("table") + "\n")


def test_the_rows_are_the_modules():
    """There is a row for each module, the costliest first, and they add up to the total."""
    rows = [line.split(" | ") for line in PRICED.render("table").splitlines()[2:]]

    assert list(PRICED.by_module()) == [row[0].rstrip() for row in rows]
    assert PRICED.total.total_tokens == sum(int(row[3].replace(",", "")) for row in rows)


def test_columns_line_up_whatever_the_names():
    """Every line is as wide as the line below the head; escapes are made visible, long names cut."""
    lines = hostile().render("table").splitlines()

    assert {cell_len(lines[1])} == {cell_len(line) for line in lines}
    assert len(HOSTILE) * 2 + 2 >= len(lines)
    assert any(line.startswith("\\x1b[31mred\\x1b[0m\\x07 ") for line in lines)
    assert any("very long…" in line for line in lines)


def test_narrow_names():
    """The columns are as wide as their heads at least."""
    assert "Module | Input | Output | Total\n-------------------------------\na      |    10 |      1 |    11" == (
        made((-1, "scope", "a", 1, 1, 10)).render("table")
    )


def test_an_empty_report():
    """Nothing counted is said in words."""
    assert "nothing was counted yet" == Report().render("table")


def test_another_title():
    """The names' column can have another head, for tables of something else than modules."""
    assert (
        "Model | Input | Output | Total"
        == made((-1, "scope", "a", 1, 1, 10)).render("table", title="Model").split("\n")[0]
    )
