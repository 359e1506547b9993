"""Columns of text: the one layout of the tree, the diff, the table, the analysis and pytest's summary.

Widths are those of a terminal, in which a wide character takes two cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size

from tokenscope._report.formats.terminal import Line

GAP: Final = "  "
DEEPEST_GUIDE: Final = 30  # levels that are drawn with guides; deeper ones show their number
_SHORTEST_NAME: Final = 12
_SCOPE: Final = "scope"


class Column(NamedTuple):
    """A column of numbers, or of other text."""

    head: str = ""
    blanks: tuple[str, ...] | None = None  # cells that say nothing: a column that has no other cells is left out
    align_left: bool = False  # as names are


class Columns:
    """Columns that are as wide as their widest cell."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        self._columns = columns
        self._widths = [_width(column, [row[i] for row in rows]) for i, column in enumerate(columns)]

    @property
    def width(self) -> int:
        """The width of all columns, with a gap before each."""
        return sum(len(GAP) + width for width in self._widths if width)

    def leave_out(self, *heads: str) -> None:
        """Leave out the columns with these headings."""
        self._widths = [
            0 if column.head in heads else width for column, width in zip(self._columns, self._widths, strict=True)
        ]

    @property
    def heads(self) -> list[str]:
        """The headings, as `fit` returns cells."""
        return self.fit([column.head for column in self._columns])

    def fit(self, row: Sequence[str]) -> list[str]:
        """Return the cells of a row, each as wide as its column. Those of columns that are left out are empty."""
        fitted: list[str] = []
        for cell, width, column in zip(row, self._widths, self._columns, strict=True):
            if not width:
                fitted.append("")
            elif column.align_left:
                fitted.append(set_cell_size(cell, width))
            else:
                fitted.append(cell.rjust(width if cell.isascii() else width + len(cell) - cell_len(cell)))
        return fitted

    def styled(self, row: Sequence[str], styles: Sequence[str]) -> Line:
        """Return the cells of a row, each after a gap and with its style, without the columns that are left out."""
        return [(GAP + cell, style) for cell, style in zip(self.fit(row), styles, strict=True) if cell]


def _width(column: Column, cells: Sequence[str]) -> int:
    if column.blanks is not None and all(cell in column.blanks for cell in cells):
        return 0
    texts = {column.head, *cells}
    return max(map(len if all(map(str.isascii, texts)) else cell_len, texts))


class ScopeColumn:
    """The first column of a tree: guides and names."""

    def __init__(self, guides: Iterable[str], names: Sequence[str]) -> None:
        self._lines = [
            (each, name, len(name) if name.isascii() else cell_len(name))
            for each, name in zip(guides, names, strict=True)
        ]
        self.width = max(len(_SCOPE), *[len(guide) + width for guide, _, width in self._lines])

    @property
    def head(self) -> str:
        """The heading, as wide as the column."""
        return set_cell_size(_SCOPE, self.width)

    def narrow(self, width: int) -> None:
        """Keep to a width if that leaves room for a short name."""
        self.width = min(self.width, max(_SHORTEST_NAME, width))

    def lines(self, styles: Iterable[str], *, ascii_only: bool) -> Iterator[Line]:
        """Yield the guide and the name of each row, cut to the width, the name in its style."""
        dots = "..." if ascii_only else "…"
        for (guide, name, width), style in zip(self._lines, styles, strict=True):
            room = self.width - len(guide)
            if width <= room:
                yield [(guide, "dim"), (name + " " * (room - width), style)]
                continue
            room = max(room, min(4, width))
            short = _without_middle(name, room, dots)
            yield [(guide[: self.width - room], "dim"), (set_cell_size(short, room), style)]


def shortened(name: str, width: int, dots: str = "…") -> str:
    """Return a name, cut if it is too wide."""
    return name if cell_len(name) <= width else set_cell_size(name, width - len(dots)).rstrip() + dots


def _without_middle(name: str, width: int, dots: str) -> str:
    """Return a name that is too wide with its ends, which tell it from its siblings."""
    end = set_cell_size(name[::-1], (width - len(dots)) // 2)[::-1].lstrip()
    return shortened(name, width - cell_len(end), dots) + end


def guides(depths: Sequence[int], *, ascii_only: bool) -> Iterator[str]:
    """Yield the guides of a tree's rows, parents before children: none at depth 0, and a corner for the last of siblings."""
    tee, corner, bar = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
    lasts: list[bool] = []
    later = [-1]  # ascending: the depths at which a sibling comes later
    for depth in reversed(depths):
        while later[-1] > depth:
            later.pop()
        lasts.append(later[-1] != depth)
        if lasts[-1]:
            later.append(depth)
    above: list[str] = []
    for depth, last in zip(depths, reversed(lasts), strict=True):
        if depth > DEEPEST_GUIDE:
            yield f"{depth:,}> "
            continue
        del above[max(0, depth - 1) :]
        yield "".join(above) + ((corner if last else tee) if depth else "")
        if depth:
            above.append("   " if last else bar)
