"""`[tool.tokenscope]` in `pyproject.toml`: what it may hold, where it is looked for, and what is wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tokenscope._report.settings import Settings, read_settings

ALL = """
[tool.tokenscope]
prices = "prices.toml"
fail_above = "2.5%"
format = "markdown"
[tool.tokenscope.baselines]
report = "main.json"
tests = "tests/tokens.json"
"""


def read(folder: Path, text: str) -> Settings:
    (folder / "pyproject.toml").write_text(text, "utf-8")
    return read_settings(folder)


def test_all_settings(tmp_path):
    """Each setting is read; paths start at the folder of the file."""
    paths = [str(tmp_path / name) for name in ("prices.toml", "main.json", "tests/tokens.json")]

    assert Settings(paths[0], Decimal("2.5"), "markdown", *paths[1:]) == read(tmp_path, ALL)


@pytest.mark.parametrize(("given", "expected"), [("5", "5"), ("0.5", "0.5"), ('"5"', "5"), ('" 5% "', "5"), ("0", "0")])
def test_percentages(tmp_path, given, expected):
    """A percentage is a number, or text with or without a percent sign; it is read exactly."""
    assert Decimal(expected) == read(tmp_path, f"[tool.tokenscope]\nfail_above = {given}").fail_above


def test_prices_in_the_file_itself(tmp_path):
    """A table of prices stands for the file itself."""
    found = read(tmp_path, '[tool.tokenscope.prices."x/y"]\ninput = 1\noutput = 2')

    assert str(tmp_path / "pyproject.toml") == found.prices


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1", "tool = 1", "\N{BYTE ORDER MARK}[tool.tokenscope]"])
def test_a_file_without_settings(tmp_path, text):
    """A file without settings sets nothing, and the search ends there."""
    (tmp_path / "pyproject.toml").write_text(ALL, "utf-8")
    (tmp_path / "inner").mkdir()

    assert Settings() == read(tmp_path / "inner", text)


def test_the_nearest_file_counts(tmp_path):
    """The file is looked for in the folder, and then above it. Without any, nothing is set."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert Settings() == read_settings(below)

    read(tmp_path, ALL)
    assert str(tmp_path / "main.json") == read_settings(below).report
    (tmp_path / "a" / "pyproject.toml").mkdir()  # a folder is no such file
    assert str(tmp_path / "main.json") == read_settings(below).report
    assert str(tmp_path / "a" / "b" / "main.json") == read(below, ALL).report


PERCENT = 'fail_above must be a percentage of 0 or more, such as 5 or "0.5%", not '


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[tool", "pyproject.toml: this is no TOML: "),
        ("tool.tokenscope = 1", "[tool.tokenscope]: it must be a table, not 1"),
        ("fail-above = 1", "[tool.tokenscope]: unknown key 'fail-above'; did you mean fail_above?"),
        ("colour = 1", "[tool.tokenscope]: unknown key 'colour'; known are prices, fail_above, format, baselines"),
        ("baselines = 'x'", "baselines must be a table, not 'x'"),
        ("baselines.test = 'x'", "unknown key 'baselines.test'; did you mean baselines.tests?"),
        ("baselines.tests = 1", "baselines.tests must be the path of a file, not 1"),
        ("baselines.report = ''", "baselines.report must be the path of a file, not ''"),
        ("prices = 1.5", "prices must be the path of a file or a table for each model, not 1.5"),
        ("format = 'pdf'", "format must be one of tree, json, table, "),
        ("format = ['tree']", "format must be one of tree, json, table, "),
        ("fail_above = 'a lot'", PERCENT + "'a lot'"),
        ("fail_above = -1", PERCENT + "-1"),
        ("fail_above = inf", "not Infinity"),
        ("fail_above = true", "not True"),
        ("fail_above = []", "not []"),
    ],
)  # fmt: skip
def test_wrong_settings(tmp_path, text, problem):
    """An unknown key or a wrong value is an error that names the file, the key and what is meant."""
    with pytest.raises(ValueError, match=r"pyproject\.toml: ") as raised:
        read(tmp_path, text if text.startswith(("[", "tool")) else f"[tool.tokenscope]\n{text}")

    assert str(raised.value).startswith(str(tmp_path / "pyproject.toml"))
    assert problem in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    """A file that cannot be read is an error that names it."""

    def denied(self: Path, *_: object) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "pyproject.toml").write_text(ALL, "utf-8")
    monkeypatch.setattr(Path, "read_text", denied)  # the user of the tests may read everything
    with pytest.raises(OSError, match=r"pyproject\.toml: Permission denied$"):
        read_settings(tmp_path)


def test_a_format_that_a_command_lacks():
    """A command that lacks the format has its own default."""
    assert ("json", "text", "text") == (
        Settings(format="json").format_among(["text", "json"], "text"),
        Settings(format="csv").format_among(["text", "json"], "text"),
        Settings().format_among(["text", "json"], "text"),
    )
