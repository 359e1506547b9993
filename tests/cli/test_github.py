"""`tokenscope diff --github`: the summary of a job, a comment, and warnings that GitHub Actions reads on standard output."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli.test_cli import CLEAN
from cli.test_show import ran, refused
from support.formats import DIFF, NEW, OLD, PRICED, hostile, usage
from support.reports import build, made

from tokenscope import Report
from tokenscope._usage.calls import Frame

ESCAPES = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}


@pytest.fixture
def summary(old_and_new, monkeypatch):
    """Return the file of a job's summary, in which another step has written."""
    file = old_and_new / "summary.md"
    file.write_text("# Tests\nall passed", "utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    return file


def log(*arguments: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Run a diff, and return what GitHub Actions reads: the lines it only shows, and the title and text of each warning."""
    shown, warnings, token = [], [], None
    for line in ran("diff", *arguments).splitlines():
        command = re.fullmatch(r"::([\w-]+)(?: title=([^,:]*))?::(.*)", line.lstrip())
        if token is not None:
            token = None if line == f"::{token}::" else token
            shown += [line] if token else []
        elif command and command[1] == "stop-commands":
            token = command[3]
            assert re.fullmatch("[0-9a-f]{32}", token)
        else:
            assert command, line
            assert "warning" == command[1]
            warnings.append(tuple(re.sub("%..", lambda code: ESCAPES[code[0]], part) for part in command.group(2, 3)))
    assert token is None
    return shown, warnings


def grown(tokens: int, cost: str | None = "0") -> Report:
    """Return the report of a scope that spent these tokens at this cost."""
    return build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(1, tokens, 0, cost)})], scoped=True)


def compared(old: Report, new: Report, *arguments: str) -> list[tuple[str, str]]:
    """Save two reports, and return the warnings of their diff."""
    old.save("a.json")
    new.save("b.json")
    return log("a.json", "b.json", "--github", *arguments)[1]


def test_the_log(summary):
    """The log shows the diff, and has a warning for the totals and for each path that grew itself, the largest growth first."""
    shown, warnings = log("old.json", "new.json", "--github")

    assert DIFF.render().splitlines() == shown
    assert [
        (
            "Token usage",
            "total tokens grew by 34.8% (2,297 -> 3,097) and total cost grew by 34.9% ($0.023 -> $0.031)",
        ),
        (
            "pipeline > Agent > planner",
            "tokens grew by 92.5% (1,200 -> 2,310) and cost grew by 92.5% ($0.012 -> $0.023)",
        ),
        (
            r"pipeline > Agent > 研究\n",
            "tokens grew from nothing (0 -> 590) and cost grew from nothing ($0.00 -> $0.0059)",
        ),
    ] == warnings


def test_the_summary(summary):
    """The summary has the diff below what other steps have written."""
    ran("diff", "old.json", "new.json", "--github")

    assert f"# Tests\nall passed\n{DIFF.render('markdown')}" == summary.read_text("utf-8")


@pytest.mark.parametrize("github", [(), ("--github",)])
def test_the_comment(github, summary):
    """The comment is the diff, below a line that marks it. It needs no job."""
    ran("diff", "old.json", "new.json", *github, "--comment", "comment.md")

    assert f"<!-- tokenscope -->\n{DIFF.render('markdown')}" == Path("comment.md").read_text("utf-8")


def test_a_file_and_other_formats(summary):
    """What is written to a file is as ever, and only warnings are on standard output."""
    shown, warnings = log("old.json", "new.json", "--github", "-o", "diff.json")

    assert ([], 3) == (shown, len(warnings))
    assert DIFF.render("json") == Path("diff.json").read_text("utf-8")
    assert DIFF.render("markdown").splitlines() == log("old.json", "new.json", "--github", "--format", "markdown")[0]


def test_nothing_grew(summary):
    """If nothing grew, there is no warning."""
    assert [] == log("old.json", "old.json", "--github")[1]
    assert [] == compared(grown(10, "1"), grown(5, "0.5"))


def test_the_limit(summary):
    """`--fail-above` is the limit of the warnings, too."""
    old = made((-1, "scope", "top", 1, 1, 1_000), (0, "dspy", "a", 1, 1, 100), (0, "dspy", "b", 1, 1, 100))
    new = made((-1, "scope", "top", 1, 1, 1_000), (0, "dspy", "a", 1, 1, 110), (0, "dspy", "b", 1, 1, 120))

    assert ["Token usage", "top > b", "top > a"] == [title for title, _ in compared(old, new)]
    assert ["top > b"] == [title for title, _ in compared(old, new, "--fail-above", "10")]


def test_a_failed_check(summary):
    """If the check fails, all is written before the command ends with status 1."""
    done = subprocess.run(
        [sys.executable, "-m", "tokenscope", "diff", "old.json", "new.json"]
        + ["--github", "--comment", "comment.md", "--fail-above", "5%"],
        capture_output=True,
        text=True,
        env={**CLEAN, "GITHUB_STEP_SUMMARY": str(summary)},
        check=False,
    )

    assert (1, 3) == (done.returncode, done.stdout.count("\n::warning title="))
    assert done.stderr.startswith("tokenscope diff: total tokens grew by 34.8%")
    assert summary.read_text("utf-8").endswith(DIFF.render("markdown"))
    assert Path("comment.md").is_file()


def test_growth_of_the_cost_alone(summary):
    """A path whose calls became more expensive has a warning. An unknown cost has none."""
    assert [
        ("Token usage", "total cost grew by 100.0% ($1.00 -> $2.00)"),
        ("s", "cost grew by 100.0% ($1.00 -> $2.00)"),
    ] == (compared(grown(10, "1"), grown(10, "2")))
    assert [] == compared(grown(10, "1"), grown(10, None))


def test_growth_of_what_has_parts(summary):
    """A path has a warning for what it spent itself, beside those below it, but not for what those spent."""
    old = made(
        (-1, "scope", "top", 1, 1, 0),
        (0, "dspy", "a", 1, 1, 100),
        (1, "dspy", "b", 1, 1, 100),
        (1, "dspy", "c", 1, 1, 100),
    )
    new = made(
        (-1, "scope", "top", 1, 1, 0),
        (0, "dspy", "a", 1, 1, 900),
        (1, "dspy", "b", 1, 1, 200),
        (1, "dspy", "c", 1, 1, 300),
    )

    assert [
        ("top > a", "tokens grew by 366.7% (330 -> 1,540)"),
        ("top > a > c", "tokens grew by 200.0% (110 -> 330)"),
        ("top > a > b", "tokens grew by 100.0% (110 -> 220)"),
    ] == compared(old, new)[1:]


@pytest.mark.parametrize(
    ("scopes", "shown", "rest"), [(9, 10, None), (10, 9, "2 more scopes"), (300, 9, "292 more scopes")]
)
def test_warnings_are_bounded(scopes, shown, rest, summary):
    """There are at most ten warnings, as GitHub shows no more. The last one says how many more scopes grew."""
    new = made((-1, "scope", "top", 1, 1, 0), *((0, "scope", f"s{n}", 1, 1, 1_000 - n) for n in range(scopes)))
    warnings = compared(Report(), new)

    assert ["Token usage", *(f"top > s{n}" for n in range(shown - 1))] == [title for title, _ in warnings[:shown]]
    assert [("Token usage", f"{rest} grew: see the summary of the job")] * bool(rest) == warnings[shown:]


def test_long_paths(summary):
    """A long path is cut at its beginning: the last names say where."""
    rows = [(n - 1, "scope", f"level {n}", 1, 1, 10 * (n == 1_099)) for n in range(1_100)]
    title = compared(Report(), made(*rows))[1][0]

    assert 200 == len(title)
    assert (title[0], "level 1098 > level 1099") == ("…", title[-23:])


def test_names_run_no_commands(summary):
    """No name ends a command, begins one, or has a property of its own."""
    commands = ["::add-mask::x", "##[add-mask]x", "a%0Ab::c,file=x,line=1", "::stop-commands::x"]
    new = build([(-1, Frame("scope", name), 1, 1, {"x": usage(1, 10, 0, "0")}) for name in commands], scoped=False)
    shown, warnings = (new.save("b.json"), Report().save("a.json"), log("a.json", "b.json", "--github"))[2]

    assert sorted(commands) == sorted(title for title, _ in warnings[1:])
    assert all(any(name in line for line in shown) for name in commands)
    hostile().save("b.json")
    assert 10 == len(log("a.json", "b.json", "--github")[1])


def test_outside_of_github(old_and_new, monkeypatch):
    """Without the variable of GitHub Actions, an error says what to do instead, and nothing is written."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    assert (
        "Invalid value for '--github': GITHUB_STEP_SUMMARY is not set. GitHub Actions sets it; elsewhere, write the diff with "
        "'-o diff.md'." in refused("diff", "old.json", "new.json", "--github", "--comment", "comment.md")
    )
    assert {"old.json", "new.json"} == {path.name for path in old_and_new.iterdir()}


def test_json_on_standard_output(summary):
    """Warnings would damage JSON on standard output."""
    wanted = "Invalid value for '--github': warnings go to standard output, so JSON needs -o FILE."

    assert wanted in refused("diff", "old.json", "new.json", "--github", "--format", "json")


def test_files_that_cannot_be_written(summary, monkeypatch):
    """A summary or a comment that cannot be written leads to an error of one line."""
    message = "tokenscope diff: old.json/c.md: Not a directory"
    assert message == refused("diff", "old.json", "new.json", "--comment", "old.json/c.md")

    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "none/summary.md")
    message = "tokenscope diff: GITHUB_STEP_SUMMARY: none/summary.md: No such file or directory"
    assert message == refused("diff", "old.json", "new.json", "--github")


def test_unknown_prices_are_in_the_summary(summary):
    """The summary names the models without a price."""
    compared(PRICED, PRICED + PRICED)

    assert summary.read_text("utf-8").endswith("No price is known for 18 calls of `local/rerank`, `local/embed`.\n")


def test_old_and_new(summary):
    """The first file is the older report."""
    assert ["Token usage", "pipeline > ingest"] != [title for title, _ in compared(OLD, NEW)]
    assert ["pipeline > ingest"] == [title for title, _ in compared(NEW, OLD)]
