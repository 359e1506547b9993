"""`tokenscope diff`: its output, and the check for CI."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli.test_cli import CLEAN, tokenscope_command
from cli.test_show import on_a_terminal, ran, refused
from click.testing import CliRunner
from support.formats import DIFF, NEW, OLD, PRICED, deep, hostile, huge, undated, usage
from support.reports import build

from tokenscope import Report
from tokenscope._report.formats import diff as _diff
from tokenscope._usage.calls import Frame
from tokenscope.cli import main

UNKNOWN = "the cost is not compared, because some calls have no known price: {} before, {} after"


def spent(tokens: int, cost: str | None) -> Report:
    """Return the report of a scope that spent these tokens at this cost."""
    return build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(1, tokens, 0, cost)})], scoped=True)


def judged(*arguments: str) -> tuple[int, str]:
    """Run a diff, and return its exit status and its standard error."""
    done = CliRunner().invoke(main, ["diff", *arguments], prog_name="tokenscope")
    return done.exit_code, done.stderr


# -- output ------------------------------------------------------------------------------------------------------------


def test_text(old_and_new):
    """Outside a terminal, the diff is plain text."""
    assert (
        DIFF.render("text") + "\n"
        == ran("diff", "old.json", "new.json")
        == ran("diff", "old.json", "new.json", "-o", "-")
    )
    assert NEW.diff(OLD).render("text") + "\n" == ran("diff", "new.json", "old.json")


def test_nothing_changed(old_and_new):
    """If nothing has changed, the diff says so, and the check passes."""
    assert f"{OLD.diff(OLD)}\n" == ran("diff", "old.json", "old.json", "--fail-above", "0")


@pytest.mark.parametrize("form", _diff.FORMATS)
def test_formats(form, old_and_new):
    """Every format is the same on standard output and in a file. The option wins over the suffix."""
    expected = undated(DIFF.render(form).rstrip("\n") + "\n")
    suffix = _diff.FORMATS[form]
    arguments = ("diff", "old.json", "new.json")

    assert expected == undated(ran(*arguments, "--format", form))
    ran(*arguments, "-o", f"diff{suffix}")
    ran(*arguments, "-o", "diff.other", "--format", form)
    assert [expected] * 2 == [undated(Path(name).read_text("utf-8")) for name in (f"diff{suffix}", "diff.other")]


def test_unknown_formats(old_and_new):
    """The error for an unknown format lists the formats."""
    assert "'pdf' is not one of 'text', 'markdown', 'html', 'json'" in refused(
        "diff", "old.json", "new.json", "--format", "pdf"
    )
    assert "must be one of .txt (text), .md (markdown), .html (html), .json (json)" in refused(
        "diff", "old.json", "new.json", "-o", "x.csv"
    )


def test_standard_input(old_and_new):
    """One side can be standard input, but not both."""
    text = DIFF.render() + "\n"

    assert text == ran("diff", "-", "new.json", given=OLD.render("json"))
    assert text == ran("diff", "old.json", "-", given=NEW.render("json"))
    assert "only one of them can be -, standard input" in refused("diff", "-", "-")


def test_in_a_terminal(old_and_new):
    """In a terminal, the diff is in colour and fits the width."""
    shown = on_a_terminal("diff", "old.json", "new.json", width=70)

    assert "\x1b[31m" in shown
    assert "\x1b[32m" in shown
    assert DIFF.render(width=70) + "\n" == re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "\x1b" not in on_a_terminal("diff", "old.json", "new.json", NO_COLOR="1")


def test_files_that_cannot_be_read(old_and_new):
    """A file that cannot be read leads to an error of one line, on either side."""
    Path("damaged.json").write_text("{")

    assert "tokenscope diff: none.json: No such file or directory" == refused("diff", "none.json", "new.json")
    assert "tokenscope diff: none.json: No such file or directory" == refused("diff", "old.json", "none.json")
    assert "tokenscope diff: damaged.json: this is no tokenscope report" in refused("diff", "old.json", "damaged.json")


# -- --fail-above ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "limit", "expected"),
    [
        ((1000, "1"), (1050, "1.05"), "5", (0, "")),
        ((1000, "1"), (1050, "1.05"), "5%", (0, "")),
        ((1000, "1"), (10, "0.1"), "0", (0, "")),
        ((1000, "1"), (1051, "1"), "5", (1, "total tokens grew by 5.1% (1,000 -> 1,051), more than 5%")),
        ((1000, "1"), (1000, "1.051"), "5 %", (1, "total cost grew by 5.1% ($1.00 -> $1.05), more than 5%")),
        ((0, "0"), (1, "0"), "900", (1, "total tokens grew from nothing (0 -> 1), more than 900%")),
        (
            (10, None),
            (10, "1"),
            "0.5",
            (0, UNKNOWN.format(1, 0)),
        ),
        (
            (10, "1"),
            (20, None),
            "0.5",
            (
                1,
                "total tokens grew by 100.0% (10 -> 20), more than 0.5%; " + UNKNOWN.format(0, 1),
            ),
        ),
    ],
)
def test_fail_above(old, new, limit, expected, old_and_new):
    """If tokens or cost grew by more than the limit, the exit status is 1, and one line says by how much."""
    spent(*old).save("a.json")
    spent(*new).save("b.json")
    status, said = expected

    assert (status, f"tokenscope diff: {said}\n" if said else "") == judged("a.json", "b.json", "--fail-above", limit)


def test_the_diff_is_shown_if_the_check_fails(old_and_new):
    """If the check fails, the diff is still shown or written."""
    done = tokenscope_command("diff", "old.json", "new.json", "--fail-above", "5")
    assert (1, DIFF.render() + "\n") == (done.returncode, done.stdout)
    assert re.fullmatch(
        r"tokenscope diff: total tokens grew by 34\.8% .* and total cost grew by 34\.9% .*\n", done.stderr
    )

    assert 1 == judged("old.json", "new.json", "--fail-above", "5", "-o", "diff.md")[0]
    assert DIFF.render("markdown") == Path("diff.md").read_text("utf-8")


def test_without_fail_above(old_and_new):
    """Without the option, the exit status is 0 and nothing is said about costs."""
    PRICED.save("priced.json")

    assert (0, "") == judged("old.json", "new.json")
    assert (0, "") == judged("old.json", "priced.json")


@pytest.mark.parametrize("limit", ["x", "", "nan", "inf", "-1", "1/2", "5%%", "1e999999999999999999999"])
def test_no_percentage(limit, old_and_new):
    """A wrong percentage leads to an error with an example of a right one."""
    assert f"Invalid value for '--fail-above': {limit!r} is not a percentage of 0 or more, such as 5 or 0.5%." in (
        refused("diff", "old.json", "new.json", "--fail-above", limit)
    )


def test_an_output_that_cannot_be_written_is_an_error(old_and_new):
    """If the output cannot be written, the status is 2, even if the check failed."""
    assert "tokenscope diff: old.json/x.md: Not a directory" == (
        refused("diff", "old.json", "new.json", "--fail-above", "5", "-o", "old.json/x.md")
    )


@pytest.mark.parametrize(("limit", "status", "lines"), [("5", 1, 1), ("500", 141, 0)])
def test_a_broken_pipe_does_not_hide_a_failed_check(limit, status, lines, old_and_new):
    """If the reader closes the pipe, a failed check still gives status 1."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tokenscope", "diff", "old.json", "new.json", "--fail-above", limit],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN,
        check=False,
    )
    os.close(writer)

    assert (status, lines) == (done.returncode, len(done.stderr.splitlines()))
    assert "Traceback" not in done.stderr


# -- extremes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize("form", _diff.FORMATS)
@pytest.mark.parametrize("report", [hostile, huge, deep])
def test_extreme_reports(report, form, old_and_new):
    """Names made to do harm, huge numbers and 1,100 levels come through in every format."""
    report().save("extreme.json")
    shown = ran("diff", "old.json", "extreme.json", "--format", form)

    assert undated(OLD.diff(report()).render(form)).strip() == undated(shown).strip()
    assert all(line.isprintable() for line in shown.splitlines())
    if form == "json":
        assert json.loads(shown)["after"]["total_tokens"] == report().total.total_tokens
