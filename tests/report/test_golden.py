"""Golden files of rendered reports: a change of a format shows as a change of its file."""

from __future__ import annotations

import pytest
from support.formats import GOLDEN, PRICED, golden
from support.prompts import FEWER_DEMOS, MEASURED

from tokenscope import Report
from tokenscope._report.formats.analysis import render as analysis
from tokenscope._report.snapshot import cut, pivot
from tokenscope._version import __version__

VERSION = f"tokenscope {__version__}"


def test_tree():
    """The tree at its default width equals its golden file."""
    golden("report.txt", PRICED.render("tree") + "\n")


def test_narrow_tree():
    """The narrow tree in ASCII equals its golden file."""
    golden("report.narrow.txt", PRICED.render("tree", width=60, ascii_only=True) + "\n")


def test_json():
    """The JSON of the report equals its golden file, apart from the version."""
    golden("report.json", PRICED.render("json").replace(VERSION, "tokenscope X"))


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_analysis(form):
    """The analysis of 500 samples equals its golden file."""
    golden(f"analysis.{'md' if form == 'markdown' else 'txt'}", analysis(PRICED, 500, form).rstrip("\n") + "\n")


@pytest.mark.parametrize(("form", "suffix"), [("text", "txt"), ("markdown", "md"), ("json", "json")])
def test_diff(form, suffix):
    """The diff from two levels of the report to the doubled report equals its golden file."""
    text = cut(PRICED, 2).diff(PRICED + PRICED).render(form).replace(VERSION, "tokenscope X")
    golden(f"diff.{suffix}", text.rstrip("\n") + "\n")


@pytest.mark.parametrize("by", ["module", "model", "predictor", "operation"])
def test_flat(by):
    """Each flat report equals its golden file."""
    golden(f"report.by-{by}.txt", pivot(PRICED, by).render("tree") + "\n")


def test_parts():
    """The tree with the parts of prompts, at two widths, equals its golden files."""
    golden("parts.txt", MEASURED.render("tree", parts=True) + "\n")
    golden("parts.narrow.txt", MEASURED.render("tree", parts=True, width=60, ascii_only=True) + "\n")


def test_by_part():
    """The breakdown by part equals its golden file. Its total has no calls, because parts have these in common."""
    golden("parts.by-part.txt", MEASURED.render("tree", by="part") + "\n")


@pytest.mark.parametrize(("form", "suffix"), [("text", "txt"), ("markdown", "md")])
def test_diff_of_parts(form, suffix):
    """The diff of two reports with measured prompts equals its golden file."""
    golden(f"parts.diff.{suffix}", FEWER_DEMOS.diff(MEASURED).render(form).rstrip("\n") + "\n")


def test_markdown_of_parts():
    """The document with the parts by predictor equals its golden file."""
    golden("parts.md", MEASURED.render("markdown"))


def test_the_golden_report_loads():
    """The file in the repository is a report that this version reads."""
    assert Report.load(GOLDEN / "report.json") == PRICED
