"""The column layout that all drawings share: widths, alignment, hidden columns, names and guides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tokenscope._report.formats.columns import Column, Columns, ScopeColumn, guides, shortened


def test_cells_are_as_wide_as_their_column():
    """A column is as wide as its widest cell or heading. Numbers are aligned right, names left."""
    columns = Columns(
        [Column("name", align_left=True), Column("n"), Column("total")], [("研究", "1", "2"), ("a", "30", "4")]
    )

    assert ["name", " n", "total"] == columns.heads
    assert ["研究", " 1", "    2"] == columns.fit(("研究", "1", "2"))
    assert ["a   ", "30", "    4"] == columns.fit(("a", "30", "4"))
    assert 4 + 2 + 5 + 3 * 2 == columns.width


def test_wide_numbers_are_aligned_by_cells():
    """Cells with wide characters are padded to the same width in a terminal as other cells."""
    columns = Columns([Column()], [("研究",), ("12345",)])

    assert [" 研究", "12345"] == [columns.fit(row)[0] for row in (("研究",), ("12345",))]


@pytest.mark.parametrize(
    ("cells", "shown"),
    [(("", "0"), False), (("0", "0"), False), (("0", "1"), True), (("-", "1"), True)],
)
def test_columns_that_say_nothing(cells, shown):
    """A column whose cells are all blanks is left out, heading and gap included."""
    columns = Columns([Column("calls"), Column("cost", blanks=("", "0"))], [("1", cell) for cell in cells])

    assert ([" " * 4 + "1"] + (["   " + cells[1]] if shown else [""])) == columns.fit(("1", cells[1]))
    assert (["calls", "cost"] if shown else ["calls", ""]) == columns.heads
    assert [("  calls", "bold"), *([("  cost", "dim")] if shown else [])] == columns.styled(
        columns.heads, ["bold", "dim"]
    )
    assert (7 + 6 if shown else 7) == columns.width


def test_a_column_without_blanks_is_always_shown():
    """A column without `blanks` is shown even if all of its cells are empty."""
    assert ["total"] == Columns([Column("total")], [("",)]).heads


def test_names_are_cut_at_the_width():
    """Names lose their middle to fit the column, but keep at least four cells."""
    names = ScopeColumn(["", "├─ ", "│  └─ ", "│     └─ "], ["pipeline", "a rather long name", "inner", "innermost"])
    names.narrow(12)
    lines = list(names.lines(["bold", "cyan", "", ""], ascii_only=False))

    assert "scope       " == names.head
    assert [("", "dim"), ("pipeline    ", "bold")] == lines[0]
    assert [("├─ ", "dim"), ("a ra…name", "cyan")] == lines[1]
    assert [("│  └─ ", "dim"), ("inner ", "")] == lines[2]
    assert [("│     └─", "dim"), ("in…t", "")] == lines[3]
    assert "a r...ame" == list(names.lines([""] * 4, ascii_only=True))[1][1][0]


def test_a_width_without_room():
    """The column of names keeps at least twelve cells, and is unchanged if it fits."""
    names = ScopeColumn(["", ""], ["a rather long name", "b"])
    names.narrow(3)
    narrow = ScopeColumn([""], ["b"])
    narrow.narrow(100)

    assert (12, 5) == (names.width, narrow.width)


@given(st.text("ab 研究e\u0301", max_size=12), st.integers(2, 12))
def test_shortened_names_fit(name, width):
    """A name that fits is unchanged. A longer name is cut and ends with an ellipsis."""
    shown = shortened(name, width)

    assert cell_len(shown) <= width
    assert (shown == name) == (cell_len(name) <= width)
    assert shown == name or shown.endswith("…")


def drawn(tree: list, above: str = "", *, top: bool = True) -> list[str]:
    """Return the guides of a tree of lists, by recursion."""
    found = []
    for index, below in enumerate(tree):
        last = index == len(tree) - 1
        found.append("" if top else above + ("└─ " if last else "├─ "))
        found += drawn(below, "" if top else above + ("   " if last else "│  "), top=False)
    return found


def depths(tree: list, depth: int = 0) -> list[int]:
    """Return the depth of each node of a tree of lists, parents before children."""
    return [each for below in tree for each in (depth, *depths(below, depth + 1))]


@given(st.recursive(st.just([]), lambda below: st.lists(below, max_size=3), max_leaves=12))
def test_guides(tree):
    """A guide has a line for each level that continues below, and a corner at the last sibling."""
    assert drawn(tree) == list(guides(depths(tree), ascii_only=False))


def test_guides_of_deep_levels():
    """Guides can be ASCII. Below level 30, the number of the level replaces the guides."""
    found = list(guides([*range(33), 1], ascii_only=True))

    assert ["", "|- ", "|  `- "] == found[:3]
    assert found[30].endswith("  `- ")
    assert ["31> ", "32> ", "`- "] == found[31:]
