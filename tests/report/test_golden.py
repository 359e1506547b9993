"""Golden files of what is drawn and written as text: a change of a format is seen as a change of its file."""

from __future__ import annotations

import pytest
from support.formats import GOLDEN, PRICED, golden

from tokenscope import Report
from tokenscope._report.formats.analysis import render as analysis
from tokenscope._report.snapshot import cut, pivot
from tokenscope._version import __version__

VERSION = f"tokenscope {__version__}"


def test_tree():
    """The tree at its usual width."""
    golden("report.txt", PRICED.render("tree") + "\n")


def test_narrow_tree():
    """The tree in a narrow terminal, in ASCII."""
    golden("report.narrow.txt", PRICED.render("tree", width=60, ascii_only=True) + "\n")


def test_json():
    """The file that loads again."""
    golden("report.json", PRICED.render("json").replace(VERSION, "tokenscope X"))


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_analysis(form):
    """The analysis of a run of 500 samples."""
    golden(f"analysis.{'md' if form == 'markdown' else 'txt'}", analysis(PRICED, 500, form).rstrip("\n") + "\n")


@pytest.mark.parametrize(("form", "suffix"), [("text", "txt"), ("markdown", "md"), ("json", "json")])
def test_diff(form, suffix):
    """From two levels of the report to all of it, twice."""
    text = cut(PRICED, 2).diff(PRICED + PRICED).render(form).replace(VERSION, "tokenscope X")
    golden(f"diff.{suffix}", text.rstrip("\n") + "\n")


@pytest.mark.parametrize("by", ["module", "model", "predictor", "operation"])
def test_flat(by):
    """One row a name."""
    golden(f"report.by-{by}.txt", pivot(PRICED, by).render("tree") + "\n")


def test_the_golden_report_loads():
    """The file in the repository is a report that this version reads."""
    assert Report.load(GOLDEN / "report.json") == PRICED
