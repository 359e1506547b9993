"""CSV: columns that add up, and cells that a spreadsheet never reads as formulas."""

from __future__ import annotations

import csv
import io

import pytest
from support.formats import HOSTILE, HUGE, PRICED, deep, golden, hostile, huge

from tokenscope._report.formats.text import printable


def rows(report) -> list[dict[str, str]]:
    """Return the rows of a report's CSV, as Python's csv module reads them."""
    return list(csv.DictReader(io.StringIO(report.render("csv"), newline=""), strict=True))


def test_the_whole_file():
    """The CSV has one row for each path, parents before children."""
    golden("report.csv", PRICED.render("csv"))


def test_columns_add_up():
    """Each column of counts adds up to the report's total. The first row's subtree is the whole report."""
    read = rows(PRICED)

    for name, total in PRICED.total.to_dict().items():
        if name not in ("total_tokens", "cost", "saved_cost"):
            assert total == sum(int(row[name]) for row in read), name
    assert "33800" == read[0]["subtree_tokens"]
    assert float(PRICED.total.cost) == sum(float(row["cost"] or 0) for row in read)


def test_an_unknown_cost_is_no_number():
    """The cell of a cost is empty if no price is known, and 0 if nothing was spent."""
    costs = {row["path"].rpartition("/")[2]: (row["cost"], row["subtree_cost"]) for row in rows(PRICED)}

    assert ("", "") == costs["search_web"]
    assert ("0", "0.000195") == costs["ingest"]


def test_hostile_names():
    """Each row is one line, and each hostile name is in a path, with control characters escaped."""
    text = hostile().render("csv")
    read = rows(hostile())

    assert len(text.splitlines()) == 1 + len(read) == 2 + 2 * len(HOSTILE)
    assert {"top/" + printable(name) for name in HOSTILE} <= {row["path"] for row in read}


def test_formulas():
    """A path that would be a formula begins with an apostrophe, also after spaces and for wide characters."""
    for name in HOSTILE:
        (row,) = rows(_only(name))
        expected = printable(name)
        if name in ("\t=1", "  =1", "\N{FULLWIDTH EQUALS SIGN}1") or name[:1] in tuple("=+-@"):
            expected = "'" + expected
        assert expected == row["path"]


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize(
    "formula", ["=1+1", "+1", "-1", "@SUM(1)", ' "=1"', "\N{FULLWIDTH EQUALS SIGN}1", "\r=1"], ids=repr
)
def test_formulas_in_sheets_that_split_elsewhere(separator, formula):
    """No cell is a formula in a sheet that splits at commas, semicolons or tabs, whether or not it knows quotes."""
    text = _only(f"a{separator}{formula}{separator}{formula}").render("csv")
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    for split in (";", "\t"):
        cells += [cell for row in csv.reader(io.StringIO(text), delimiter=split) for cell in row]
        cells += [cell for line in text.splitlines() for cell in line.split(split)]

    assert [] == [cell for cell in cells if cell.lstrip(' "\r').startswith(tuple("=+-@\N{FULLWIDTH EQUALS SIGN}"))]


def test_huge_numbers():
    """Counts are written in full at any size."""
    (row,) = rows(huge())

    assert str(HUGE + 1) == row["input_tokens"]
    assert float(HUGE) == float(row["cost"])


def test_a_deep_tree():
    """Levels below the 1,000th are added up in one row, `(deeper)`."""
    read = rows(deep())

    assert 1_001 == len(read)
    assert 1_100 == sum(int(row["input_tokens"]) for row in read)
    assert ("(deeper)", "100", "100") == (
        read[-1]["path"].rpartition("/")[2],
        read[-1]["calls"],
        read[-1]["subtree_tokens"],
    )


def _only(name):
    from support.reports import made

    return made((-1, "scope", name, 1, 1, 10))
