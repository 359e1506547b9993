"""`tokenscope show`, `merge` and `analyze`, help and completion."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from cli.test_cli import CLEAN, tokenscope_command
from click.testing import CliRunner
from support.formats import HOSTILE, PRICED, deep, hostile, huge, undated, usage
from support.prompts import MEASURED
from support.reports import build, made
from support.spending import spend
from support.terminal import in_a_terminal

from tokenscope import Report, Usage, token_scope
from tokenscope._report.formats import FORMATS, SORTABLE
from tokenscope._report.formats.analysis import FORMATS as ANALYSES
from tokenscope._report.formats.analysis import render as analysis
from tokenscope._report.formats.diff import FORMATS as DIFFS
from tokenscope._report.formats.order import SORTS
from tokenscope._report.snapshot import cut, pivot
from tokenscope._usage.calls import Frame
from tokenscope.cli.console import CommandError, write
from tokenscope.cli.main import BREAKDOWNS, analyze, main, show

ONE = made((-1, "scope", "s", 1, 1000, 100), (0, "dspy", "a", 1, 500, 20))
TWO = made((-1, "scope", "s", 1, 1000, 50), (0, "dspy", "b", 1, 500, 30))
FILES = ["one.json", "two.json", "priced.json", "hostile.json", "huge.json", "deep.json", "empty.json"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a few reports in it."""
    monkeypatch.chdir(tmp_path)
    for name, report in zip(FILES, [ONE, TWO, PRICED, hostile(), huge(), None, Report()], strict=True):
        if report is not None:
            report.save(name)
    return tmp_path


def ran(*arguments: str, given: str | None = None, status: int = 0) -> str:
    """Run a command that succeeds, and return its standard output."""
    done = CliRunner().invoke(main, arguments, input=given, prog_name="tokenscope")
    assert (status, "") == (done.exit_code, done.stderr), done
    return done.stdout


def refused(*arguments: str, given: str | None = None) -> str:
    """Run a command that fails, and return its one line on standard error."""
    done = CliRunner().invoke(main, arguments, input=given, prog_name="tokenscope")
    assert (2, "") == (done.exit_code, done.stdout), done
    assert done.stderr.endswith("\n")
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    return line


# -- show -------------------------------------------------------------------------------------------------------------------


def test_show(folder):
    """The default format is the tree, as plain text outside a terminal."""
    assert PRICED.render("tree") + "\n" == ran("show", "priced.json")


def test_show_several(folder):
    """Several files are added up."""
    assert (ONE + TWO).render("tree") + "\n" == ran("show", "one.json", "two.json")
    assert (ONE + ONE).render("tree") + "\n" == ran("show", "one.json", "one.json")


def test_show_standard_input(folder):
    """`-` is standard input, alone and among other files."""
    text = ONE.render("json")

    assert ONE.render("tree") + "\n" == ran("show", "-", given=text)
    assert (ONE + TWO).render("tree") + "\n" == ran("show", "-", "two.json", given=text)


@pytest.mark.parametrize("form", FORMATS)
def test_show_formats(form, folder):
    """Every format is the same on standard output and in a file."""
    expected = undated(PRICED.render(form))
    expected = expected if expected.endswith("\n") else expected + "\n"
    suffix = FORMATS[form] or ".anything"

    assert expected == undated(ran("show", "priced.json", "--format", form))
    assert expected == undated(ran("show", "priced.json", "--format", form, "-o", "-"))
    assert "" == ran("show", "priced.json", "--format", form, "-o", f"a{suffix}")
    assert expected == undated(Path(f"a{suffix}").read_text("utf-8"))
    if FORMATS[form]:
        assert "" == ran("show", "priced.json", "-o", f"b{suffix}")
        assert expected == undated(Path(f"b{suffix}").read_text("utf-8"))


def test_the_option_wins_over_the_suffix(folder):
    """`--format` wins over the suffix of the file."""
    ran("show", "priced.json", "--format", "markdown", "-o", "x.html")

    assert PRICED.render("markdown") == Path("x.html").read_text("utf-8")


@pytest.mark.parametrize("by", BREAKDOWNS)
@pytest.mark.parametrize("form", FORMATS)
def test_show_by(by, form, folder):
    """`--by` shows a flat report, in every format."""
    options = {"title": by.capitalize()} if form == "table" else {}

    shown = ran("show", "priced.json", "--by", by, "--format", form)
    assert undated(pivot(PRICED, by).render(form, **options)).strip() == undated(shown).strip()


def test_show_parts(folder):
    """`--parts` shows the parts of prompts in the formats that have a place for them."""
    MEASURED.save("measured.json")

    assert MEASURED.render("tree", parts=True) + "\n" == ran("show", "measured.json", "--parts")
    assert MEASURED.render("tree") + "\n" == ran("show", "measured.json")
    assert MEASURED.render("markdown") == ran("show", "measured.json", "--parts", "--format", "markdown")
    assert "csv has no option 'parts'" in refused("show", "measured.json", "--parts", "--format", "csv")
    assert MEASURED.render("tree", by="part") + "\n" == ran("show", "measured.json", "--by", "part")
    assert "No prompt was measured" in ran("show", "priced.json", "--parts")


def test_by_what_there_is():
    """The command line offers every breakdown."""
    with pytest.raises(ValueError, match="no breakdown by 'size'") as error:
        pivot(PRICED, "size")

    assert str(error.value).endswith(f"there are {', '.join(sorted(BREAKDOWNS, key=['model', *BREAKDOWNS].index))}")


def test_by_an_attribute(folder):
    """`--by` takes the name of an attribute that scopes had, and names those that there are."""
    with token_scope("service") as service:
        for user, tokens in (("alice", 2), ("bob", 4)):
            with token_scope("request", user=user):
                spend(tokens)
        spend(1)
    service.report().save("users.json")

    lines = ran("show", "users.json", "--by", "user", "--format", "csv").splitlines()
    assert ["bob,scope", "alice,scope", "(none),scope"] == [",".join(line.split(",")[:2]) for line in lines[1:]]
    assert "no breakdown by 'usr'; there are model, module, predictor, operation, part, user. Try" in refused(
        "show", "users.json", "--by", "usr"
    )


def test_tables_by_something_else_say_so(folder):
    """The title of the table's first column is the breakdown."""
    assert re.match(r"Model +\| +Input", ran("show", "priced.json", "--by", "model", "--format", "table"))
    assert re.match(r"Module +\| +Input", ran("show", "priced.json", "--format", "table"))


def test_show_depth(folder):
    """Deeper levels are added to the last one that is shown."""
    assert cut(PRICED, 2).render("tree") + "\n" == ran("show", "priced.json", "--depth", "2")
    assert "planner" not in ran("show", "priced.json", "--depth", "2", "--format", "json")


@pytest.mark.parametrize("form", SORTABLE)
@pytest.mark.parametrize("sort", SORTS)
def test_show_sorted(form, sort, folder):
    """Siblings are in the order that `--sort` names."""
    arguments = ("show", "priced.json", "--format", form, "--sort", sort)
    if (form, sort) == ("table", "time"):
        assert "tokenscope show: Invalid value for '--sort': a breakdown has no times. Try " in refused(*arguments)
    else:
        assert PRICED.render(form, sort=sort).rstrip("\n") + "\n" == ran(*arguments)


def test_show_the_costliest(folder):
    """`--top`, `--all` and `--min-share` say which rows are shown."""
    assert PRICED.render(top=3) + "\n" == ran("show", "priced.json", "--top", "3")
    assert PRICED.render(min_share=0.105) + "\n" == ran("show", "priced.json", "--min-share", "10.5%")
    hostile_report = Report.load("hostile.json")
    assert hostile_report.render(top=None) + "\n" == ran("show", "hostile.json", "--all", "--top", "3")
    assert hostile_report.render(top=60) + "\n" == ran("show", "hostile.json") != ran("show", "hostile.json", "--all")
    assert PRICED.render("table", by="model", top=2) + "\n" == (
        ran("show", "priced.json", "--format", "table", "--by", "model", "--top", "2")
    )
    assert "Invalid value for '--top': csv has no option 'top'" in refused(
        "show", "x.json", "--format", "csv", "--top", "3"
    )
    assert "Invalid value for '--min-share': min_share must be a share from 0 to 1" in (
        refused("show", "x.json", "--min-share", "300%")
    )


def test_what_cannot_be_sorted(folder):
    """Formats with a fixed order reject `--sort`. A flat report cannot be sorted by time."""
    for form in set(FORMATS) - set(SORTABLE):
        line = refused("show", "one.json", "--format", form, "--sort", "name")
        assert f"Invalid value for '--sort': {form} has a fixed order; tree, table, markdown, csv can" in line
    assert "a breakdown has no times" in refused("show", "one.json", "--by", "model", "--sort", "time")
    assert "html has a fixed order" in refused("show", "one.json", "-o", "x.html", "--sort", "name")


def test_an_empty_report(folder):
    """An empty report is shown as a sentence."""
    assert Report().render() + "\n" == ran("show", "empty.json")
    assert Report().render() + "\n" == ran("show", "empty.json", "--by", "model", "--depth", "1")


# -- merge ------------------------------------------------------------------------------------------------------------------


def test_merge(folder):
    """The sum of reports is a report."""
    assert "" == ran("merge", "one.json", "two.json", "priced.json", "-o", "all.json")
    assert Report.load("all.json") == ONE + TWO + PRICED


def test_merge_through_pipes(folder):
    """`merge` reads standard input and writes standard output."""
    assert (ONE + TWO).render("json") == ran("merge", "-", "two.json", "-o", "-", given=ONE.render("json"))


def test_merge_into_an_input(folder):
    """An input may be the output: it is read before it is written."""
    ran("merge", "one.json", "two.json", "-o", "one.json")

    assert Report.load("one.json") == ONE + TWO


def test_merge_writes_reports_only(folder):
    """Another suffix, or no output, leads to an error, and nothing is written."""
    line = refused("merge", "one.json", "two.json", "-o", "all.html")

    assert (
        "tokenscope merge: Invalid value for '-o': 'all.html': the suffix says the format, and must be one of .json (json). "
        "Try 'tokenscope merge --help'."
    ) == line
    assert not Path("all.html").exists()
    assert "tokenscope merge: Missing option '-o' / '--output'. Try 'tokenscope merge --help'." == (
        refused("merge", "one.json")
    )


# -- analyze ----------------------------------------------------------------------------------------------------------------


def test_analyze(folder):
    """The analysis is text, or Markdown by suffix or by option."""
    both = PRICED + ONE

    assert analysis(both) == ran("analyze", "priced.json", "one.json")
    assert analysis(both, 7) == ran("analyze", "priced.json", "-", "--samples", "7", given=ONE.render("json"))
    assert analysis(PRICED, 7, "markdown") == ran("analyze", "priced.json", "--samples", "7", "--format", "markdown")
    for name, form in (("report.md", "markdown"), ("report.txt", "text")):
        assert "" == ran("analyze", "priced.json", "--samples", "7", "-o", name)
        assert analysis(PRICED, 7, form) == Path(name).read_text("utf-8")


@pytest.mark.parametrize("samples", ["0", "-1", "x", "1.5"])
def test_samples(samples, folder):
    """The number of samples is 1 or more."""
    assert "Invalid value for '--samples'" in refused("analyze", "one.json", "--samples", samples)


def test_suffixes_of_an_analysis(folder):
    """An analysis can be written as text or Markdown."""
    assert "must be one of .txt (text), .md (markdown)" in refused("analyze", "one.json", "-o", "x.html")
    assert {"text", "markdown"} == set(ANALYSES)


# -- errors -----------------------------------------------------------------------------------------------------------------

READERS = {
    "show": ["show", "{}"],
    "merge": ["merge", "{}", "-o", "out.json"],
    "analyze": ["analyze", "{}"],
    "diff": ["diff", "one.json", "{}"],
}


@pytest.mark.parametrize("command", READERS)
def test_files_that_cannot_be_read(command, folder):
    """Missing, damaged and foreign files lead to one line that names them, and to no output."""

    def error(name):
        return refused(*(argument.format(name) for argument in READERS[command]))

    Path("damaged.json").write_text(ONE.render("json")[:100])
    Path("strange.json").write_bytes(b"\xff\xfe\x00")
    Path("empty.json").write_text("")
    Path("row.json").write_text(ONE.render("json").replace('"entries": 1', '"entries": -1', 1))

    assert f"tokenscope {command}: missing.json: No such file or directory" == error("missing.json")
    assert f"tokenscope {command}: .: Is a directory" == error(".")
    for name in ("damaged", "strange", "empty"):
        assert re.match(rf"tokenscope {command}: {name}\.json: this is no tokenscope report", error(f"{name}.json"))
    assert re.match(rf"tokenscope {command}: row\.json: row 0 of the report is damaged: ", error("row.json"))
    assert not Path("out.json").exists()


def test_standard_input_that_is_no_report(folder):
    """An error about standard input names it."""
    assert re.match("tokenscope show: <stdin>: this is no tokenscope report", refused("show", "-", given="nothing"))
    assert "tokenscope show: Only one FILE can be '-', standard input. Try 'tokenscope show --help'." == (
        refused("show", "-", "-", given="{}")
    )


def test_names_of_files_that_break_lines(folder):
    """Control characters in a file's name cannot break the line."""
    assert r"tokenscope show: two\nlines.json: No such file or directory" == refused("show", "two\nlines.json")
    Path("two\nlines.json").write_text("nothing")
    assert r"tokenscope show: two\nlines.json: this is no" in refused("show", "two\nlines.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "one.json", "-o", "two.json/x.json"),
        ("merge", "one.json", "-o", "two.json/x.json"),
        ("analyze", "one.json", "-o", "two.json/x.json", "--format", "text"),
        ("diff", "one.json", "two.json", "-o", "two.json/x.json"),
    ],
    ids=" ".join,
)
def test_outputs_that_cannot_be_written(arguments, folder):
    """A file in the place of the output's folder leads to an error of one line."""
    assert f"tokenscope {arguments[0]}: two.json/x.json: Not a directory" == refused(*arguments)


def test_a_missing_folder(folder):
    """A folder that the output names is made."""
    assert "" == ran("merge", "one.json", "-o", "new/folder/x.json")
    assert Report.load("new/folder/x.json") == ONE


def test_a_folder_as_output(folder):
    """A folder as the output is an error."""
    Path("folder.json").mkdir()

    assert "Invalid value for '-o' / '--output': File 'folder.json' is a directory." in (
        refused("show", "one.json", "-o", "folder.json")
    )


def test_an_output_that_fails_leaves_the_old_file(folder, monkeypatch):
    """If writing fails, the old file stays."""
    Path("x.json").write_text("old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert "tokenscope show: x.json: No space left on device" == refused("show", "one.json", "-o", "x.json")
    assert "old" == Path("x.json").read_text()
    assert [*sorted([*FILES, "x.json"])] == sorted({*os.listdir(), "deep.json"})


def test_an_error_without_a_reason(folder, monkeypatch):
    """An error without a reason of the system is shown as it is."""

    def fail(*arguments):
        raise OSError("strange")

    monkeypatch.setattr(os, "replace", fail)
    assert "tokenscope show: x.json: strange" == refused("show", "one.json", "-o", "x.json")


def test_unknown_suffixes(folder):
    """An unknown suffix leads to an error that lists the known ones, before anything is read."""
    line = refused("show", "missing.json", "-o", "x.pdf")

    assert (
        "tokenscope show: Invalid value for '-o': 'x.pdf': the suffix says the format, and must be one of .txt" in line
    )
    assert "--format names one" in line


def test_unknown_formats(folder):
    """The error for an unknown format lists the formats."""
    line = refused("show", "one.json", "--format", "pdf")

    assert all(f"'{form}'" in line for form in FORMATS)
    assert "tokenscope show: Invalid value for '--format': 'pdf' is not one of " in line


@pytest.mark.parametrize(
    "arguments", [("show",), ("merge",), ("analyze",), ("diff",), ("diff", "one.json")], ids=" ".join
)
def test_missing_files(arguments, folder):
    """A command without files leads to one line that points to its help."""
    assert re.fullmatch(
        rf"tokenscope {arguments[0]}: Missing argument '\w+(\.\.\.)?'(; .*)?\. Try 'tokenscope {arguments[0]} --help'\.",
        refused(*arguments),
    )


def test_unknown_options_and_commands():
    """An unknown option or command leads to one line."""
    assert "tokenscope: No such command 'frob'. Try 'tokenscope --help'." == refused("frob")
    assert re.match(r"tokenscope: No such option '?--frob'?\. Try 'tokenscope --help'\.", refused("--frob"))
    assert re.match(r"tokenscope show: No such option '?--sorted'?.*--sort", refused("show", "--sorted", "name"))


def test_failures_outside_of_a_command():
    """Outside of a command, the error names the program."""
    shown = io.StringIO()
    CommandError("it broke").show(shown)

    assert "tokenscope: it broke\n" == shown.getvalue()
    with pytest.raises(CommandError, match="No such command 'x'"), click.Context(click.Command("x")):
        main.main(["x"], standalone_mode=False)


# -- processes --------------------------------------------------------------------------------------------------------------


def test_nothing_but_a_line_on_standard_error(folder):
    """In a subprocess, an error is status 2 and one line, without a traceback."""
    done = tokenscope_command("show", "missing.json")

    assert (2, "", "tokenscope show: missing.json: No such file or directory\n") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["show", "deep.json"], ["analyze", "one.json"], ["--help"]], ids=" ".join)
def test_a_broken_pipe_is_quiet(arguments, unbuffered, folder):
    """If the reader closes the pipe, nothing is printed about it, for long and for short output."""
    deep().save("deep.json")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tokenscope", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**CLEAN, "PYTHONUNBUFFERED": unbuffered},
        timeout=60,
        check=False,
    )
    os.close(writer)

    assert b"" == done.stderr
    assert done.returncode == (1 if "--help" in arguments else 141)  # click's own status for its help


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_head(unbuffered, folder):
    """A pipe into `head` shows the first line and nothing else."""
    deep().save("deep.json")
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m tokenscope show deep.json --all | head -1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env={**CLEAN, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )

    assert (141, "") == (done.returncode, done.stderr)
    assert "1,100 tokens (1,100 in + 0 out); $0.0011; 1,100 calls\n" == done.stdout


def test_a_full_disk(folder):
    """If standard output cannot be written, one line says so."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tokenscope", "show", "one.json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=CLEAN,
            check=False,
        )

    assert (2, "tokenscope show: standard output: No space left on device\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("redirection", "message"),
    [("one.json >&-", "standard output is closed"), ("- <&-", "standard input is closed")],
)
def test_closed_streams(redirection, message, folder):
    """If a standard stream is closed, one line says so."""
    done = subprocess.run(
        f"{sys.executable} -m tokenscope show {redirection}",
        shell=True,
        capture_output=True,
        text=True,
        env=CLEAN,
        check=False,
    )

    assert (2, f"tokenscope show: {message}\n") == (done.returncode, done.stderr)


def test_pipes_and_devices_are_written_to(folder):
    """A pipe or a device as the output is written to, not replaced."""
    os.mkfifo("pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append(Path("pipe").read_text("utf-8")))
    reader.start()
    done = tokenscope_command("show", "one.json", "--format", "json", "-o", "pipe")
    reader.join(30)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert [ONE.render("json")] == found
    assert Path("pipe").is_fifo()
    assert "" == ran("show", "one.json", "--format", "json", "-o", os.devnull)
    assert not os.path.isfile(os.devnull)


def test_formats_of_files_are_utf_8_in_a_pipe(folder):
    """A page or a table is UTF-8 in a pipe, whatever the locale. The tree uses the locale's encoding."""
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}

    def shown(*arguments):
        command = [sys.executable, "-m", "tokenscope", "show", "priced.json", *arguments]
        return subprocess.run(command, capture_output=True, env={**CLEAN, **environment}, check=True).stdout

    assert PRICED.render("markdown").encode() == shown("--format", "markdown")
    assert rb"`- \u7814\u7a76" in shown()


def on_a_terminal(*arguments: str, width: int = 80, **environment: str) -> str:
    """Run a command in a terminal of some width, and return the terminal's input."""
    kept = {name: value for name, value in CLEAN.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    shown, _, error = in_a_terminal(
        lambda terminal: subprocess.Popen(
            [sys.executable, "-m", "tokenscope", *arguments],
            stdout=terminal,
            stdin=terminal,
            stderr=subprocess.PIPE,
            env={**kept, "COLUMNS": str(width), "TERM": "xterm-256color", **environment},
        )
    )
    assert b"" == error
    return shown


def test_in_a_terminal(folder):
    """In a terminal the tree is in colour, fits the width, and can be sorted."""
    shown = on_a_terminal("show", "priced.json", "--sort", "name", width=90)

    assert "\x1b[" in shown
    assert PRICED.render("tree", width=90, sort="name") + "\n" == re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_a_file_s_format_on_a_terminal(folder):
    """Other formats are the same as in a file. Characters that the terminal cannot show are escaped."""
    assert PRICED.render("markdown") == on_a_terminal("show", "priced.json", "--format", "markdown")
    assert r"\u7814" in on_a_terminal(
        "show", "priced.json", "--format", "table", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )


# -- extremes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", ["hostile.json", "huge.json", "deep.json"])
@pytest.mark.parametrize("form", FORMATS)
def test_extreme_reports(name, form, folder):
    """Names made to do harm, huge numbers and 1,100 levels come through in every format."""
    if name == "deep.json":
        deep().save(name)
    report = Report.load(name)

    assert undated(report.render(form)).strip() == undated(ran("show", name, "--format", form)).strip()


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", ["hostile.json", "huge.json", "deep.json"])
def test_extreme_reports_through_the_rest(name, folder):
    """Extreme reports can be merged, analyzed, broken down and cut."""
    if name == "deep.json":
        deep().save(name)
    report = Report.load(name)
    ran("merge", name, name, "-o", "both.json")

    assert Report.load("both.json") == report + report
    assert analysis(report, 3) == ran("analyze", name, "--samples", "3")
    assert analysis(report, None, "markdown") == ran("analyze", name, "--format", "markdown")
    for by in BREAKDOWNS:
        assert all(line.isprintable() for line in ran("show", name, "--by", by).splitlines())
    assert 3 <= len(ran("show", name, "--depth", "1").splitlines()) <= 4


def test_terminals_are_safe_from_names(folder):
    """Escape codes in names do not reach the terminal."""
    shown = on_a_terminal("show", "hostile.json", NO_COLOR="1")

    assert "\x1b" not in shown
    assert r"\x1b[31mred" in shown
    assert len(HOSTILE) * 2 < len(shown.splitlines())


# -- help, completion -------------------------------------------------------------------------------------------------------


def test_help_without_arguments():
    """The command without arguments shows help."""
    shown = ran()

    assert shown == ran("--help") == ran("-h")
    for word in ("show", "diff", "merge", "analyze", "demo", "_TOKENSCOPE_COMPLETE=bash_source tokenscope"):
        assert word in shown
    assert "..." not in shown.partition("Commands:")[2].partition("\n\n")[0]  # no summary is cut


@pytest.mark.parametrize("command", ["show", "diff", "merge", "analyze"])
def test_help_of_commands(command, folder):
    """Each command shows examples, one per line, and every example is a valid command line."""
    shown = ran(command, "--help")
    examples = re.findall(
        rf"^    (?:[\w. -]+\| )?(tokenscope {command} .*?)(?: {{2,}}.*| \| .*)?$", shown, re.MULTILINE
    )

    assert shown == ran(command, "-h")
    assert 3 <= len(examples)
    assert all(len(line) <= 100 for line in shown.splitlines())
    for example in examples:
        arguments = example.split()[2:]
        main.commands[command].make_context(command, arguments)


def test_help_is_quick():
    """Neither help nor completion imports rich, prices or DSPy."""
    code = (
        "import sys; from tokenscope.cli import main; main(['show', '--help'], standalone_mode=False)\n"
        "print(sorted({'rich', 'dspy', 'litellm', 'genai_prices', 'wrapt', 'tokenscope._report.report'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=CLEAN, check=True)

    assert "[]" == done.stdout.splitlines()[-1]


def completed(words: str) -> set[str]:
    """Return the completions of the last word of a command line for bash."""
    count = len(words.split(" ")) - 1
    done = tokenscope_command(_TOKENSCOPE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(count))
    assert "" == done.stderr
    return set(done.stdout.split())


def test_completion():
    """Commands, options, the values of options, and file names are completed."""
    assert {"plain,show"} == completed("tokenscope sh")
    assert {f"plain,{name}" for name in main.commands} == completed("tokenscope ")
    assert {f"plain,{form}" for form in FORMATS} == completed("tokenscope show --format ")
    assert {"plain,markdown"} == completed("tokenscope show x.json --format ma")
    assert {f"plain,{form}" for form in DIFFS} == completed("tokenscope diff --format ")
    assert {"plain,module", "plain,model"} == completed("tokenscope show --by mod")
    assert {f"plain,{sort}" for sort in SORTS} == completed("tokenscope show --sort ")
    assert {"plain,--samples", "plain,--scale-to"} == completed("tokenscope analyze --s")
    assert {"file,to"} == completed("tokenscope show to") == completed("tokenscope merge a.json -o to")


@pytest.fixture
def script(tmp_path):
    """Return a folder with the command `tokenscope`."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "tokenscope"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tokenscope "$@"\n')
    command.chmod(0o755)
    return command.parent


def test_completion_in_bash(script):
    """The line for the start file works in a real bash: it completes commands, formats and files."""
    lines = [
        'eval "$(_TOKENSCOPE_COMPLETE=bash_source tokenscope)"',
        "complete -p tokenscope",
        "COMP_WORDS=(tokenscope show --format spe); COMP_CWORD=3",
        "_tokenscope_completion tokenscope",
        'echo "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**CLEAN, "PATH": f"{script}{os.pathsep}{os.environ['PATH']}"},
        check=False,
    )

    assert "speedscope" == done.stdout.splitlines()[-1], done
    assert "-F _tokenscope_completion tokenscope" in done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_in_other_shells(shell):
    """zsh and fish get their completion scripts."""
    done = tokenscope_command(_TOKENSCOPE_COMPLETE=f"{shell}_source")

    assert (0, "") == (done.returncode, done.stderr)
    assert f"_TOKENSCOPE_COMPLETE={shell}_complete" in done.stdout


# -- the page ---------------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md"
MINI, SONNET = "openai/gpt-5-mini", "anthropic/claude-sonnet-4-5"


def a_run(*more: tuple) -> Report:
    """Return the report of an agent that answered 20 questions."""
    rows = [
        (-1, "scope", "answering", 1, 9_200, {}),
        (0, "dspy", "Agent", 20, 9_100, {}),
        (1, "dspy", "planner", 20, 2_400, {MINI: usage(20, 6_200, 1_900, "0.00535")}),
        (0, "module", "ingest", 3, 90, {}),
        (3, "operation", "embed", 3, 80, {"local/minilm": usage(3, 4_800, 0, "0")}),
        *more,
    ]
    return build(
        [(above, Frame(kind, name), n, ms * 10**6, models) for above, kind, name, n, ms, models in rows], scoped=True
    )


def spent(tokens: int) -> Usage:
    return usage(1, tokens, tokens // 10, str(tokens * 0.21 / 1_000_000))


def test_the_page(folder, script):
    """The commands on the how-to page print the output shown below them."""
    before = a_run((1, "dspy", "writer", 20, 6_500, {SONNET: usage(20, 18_400, 7_800, "0.1722")}))
    after = a_run(
        (1, "dspy", "writer", 20, 6_300, {SONNET: usage(20, 17_100, 6_900, "0.1548")}),
        (1, "dspy", "critic", 20, 3_900, {MINI: usage(20, 14_300, 3_100, "0.009775")}),
        (-1, "scope", "answering", 0, 3_700, {}),
        (7, "dspy", "Agent", 0, 3_700, {}),
        (8, "dspy", "planner", 0, 100, {}),
    )
    steps = {"index": 5_000, **{f"sample {n}": 900 + n * 100 for n in range(3)}}
    rows = [(0, Frame("scope", name), 1, 1, {"openai/gpt-4o-mini": spent(n)}) for name, n in steps.items()]
    pilot = build([(-1, Frame("scope", "run"), 1, 1, {}), *rows], scoped=True)
    saved = {"before": before, "after": after, "worker-1": before, "worker-2": after, "pilot": pilot}
    for name, report in saved.items():
        report.save(f"{name}.json")
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)

    assert 10 <= len(blocks)
    for block in blocks:
        commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
        done = subprocess.run(
            ["/bin/bash", "--norc", "-c", "\n".join(commands)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**CLEAN, "PATH": f"{script}{os.pathsep}{os.environ['PATH']}"},
            check=False,
        )
        assert re.sub(r"^\$ .*\n", "", block, flags=re.MULTILINE) == done.stdout, commands
    assert {"after.html", "diff.md", "all.json"} <= set(os.listdir())


def test_functions_for_programs(folder, capsysbinary):
    """Standard output ends with exactly one line break."""
    write("text", None)
    write("text\n", "-")

    assert b"text\ntext\n" == capsysbinary.readouterr().out
    assert ("show", "analyze") == (show.name, analyze.name)
    assert 1 == json.loads(Path("one.json").read_text())["format"]
