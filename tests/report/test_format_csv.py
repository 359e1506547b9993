"""CSV: columns that add up, cells that are never formulas."""

from __future__ import annotations

import csv
import io

from support.formats import HOSTILE, HUGE, PRICED, deep, golden, hostile, huge

from tokenscope._report.formats.text import printable


def rows(report) -> list[dict[str, str]]:
    """Read a report's rows as a program would."""
    return list(csv.DictReader(io.StringIO(report.render("csv"), newline=""), strict=True))


def test_the_whole_file():
    """A row a path, parents first."""
    golden("report.csv", PRICED.render("csv"))


def test_columns_add_up():
    """Every count's column adds up to the report's total; the first row's subtree is all of it."""
    read = rows(PRICED)

    for name, total in PRICED.total.to_dict().items():
        if name not in ("total_tokens", "cost", "saved_cost"):
            assert total == sum(int(row[name]) for row in read), name
    assert "33800" == read[0]["subtree_tokens"]
    assert float(PRICED.total.cost) == sum(float(row["cost"] or 0) for row in read)


def test_an_unknown_cost_is_no_number():
    """Where no price is known the cell is empty; where nothing was spent the cost is 0."""
    costs = {row["path"].rpartition("/")[2]: (row["cost"], row["subtree_cost"]) for row in rows(PRICED)}

    assert ("", "") == costs["search_web"]
    assert ("0", "0.000195") == costs["ingest"]


def test_hostile_names():
    """One line a row; no cell begins as a formula does; names are otherwise as they are."""
    text = hostile().render("csv")
    read = rows(hostile())

    assert len(text.splitlines()) == 1 + len(read) == 2 + 2 * len(HOSTILE)
    assert {"top/" + printable(name) for name in HOSTILE} <= {row["path"] for row in read}


def test_formulas():
    """What would be a formula gets an apostrophe, behind spaces and in wide characters, too."""
    for name in HOSTILE:
        (row,) = rows(_only(name))
        expected = printable(name)
        if name in ("\t=1", "  =1", "\N{FULLWIDTH EQUALS SIGN}1") or name[:1] in tuple("=+-@"):
            expected = "'" + expected
        assert expected == row["path"]


def test_huge_numbers():
    """Counts are whole at any size."""
    (row,) = rows(huge())

    assert str(HUGE + 1) == row["input_tokens"]
    assert float(HUGE) == float(row["cost"])


def test_a_deep_tree():
    """Below 1,000 levels what was spent is added up in one row."""
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
