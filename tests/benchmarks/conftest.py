"""The fixture that checks ratios against their bounds, and the table at the end of a run."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.ratios import Line, Ratios

LINES = pytest.StashKey[list[Line]]()


@pytest.fixture
def ratios(benchmark: Any, pytestconfig: pytest.Config) -> Ratios:
    return Ratios(benchmark, pytestconfig.stash.setdefault(LINES, []))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table of ratios at the end of the run."""
    lines = config.stash.get(LINES, [])
    if not lines:
        return
    rows = [("measured", "", "compared to", "result", "bound", "")]
    rows += [(*line[:5], "" if line.kept else "MISSED") for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("ratios")
    for row in rows:
        cells = [
            cell.rjust(width) if column in {1, 3, 4} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        terminalreporter.write_line("  ".join(cells).rstrip())
