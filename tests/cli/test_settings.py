"""What the commands take from `[tool.tokenscope]` in `pyproject.toml`."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.programs import program, run
from support.reports import made

from tokenscope import record_tokens, token_scope
from tokenscope._usage.custom_prices import forget_prices
from tokenscope._usage.warnings import forget_warnings
from tokenscope.cli.main import main

PRICE = "input = 1000\noutput = 0\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder below the project's, which has two reports and a call without a known price."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("TOKENSCOPE_PRICES", raising=False)
    forget_prices()
    forget_warnings()
    with token_scope("s") as scope:
        record_tokens("m", "o", "my-llama", "ollama", 1_000, 0)
    scope.report().save("it.json")
    made((-1, "scope", "s", 1, 1, 100)).save(tmp_path / "old.json")
    made((-1, "scope", "s", 1, 1, 110)).save("new.json")
    yield tmp_path
    forget_prices()


def project(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.tokenscope]\n{text}", "utf-8")


def ran(*arguments: str, status: int = 0, **environment: str) -> str:
    done = CliRunner(env=environment).invoke(main, arguments, prog_name="tokenscope")
    assert status == done.exit_code, done.output
    return done.output


def test_prices(folder):
    """Prices are those of the option, or else of the environment, or else of the project: of a file, or in the file itself."""
    for name, price in ("team", 1000), ("environment", 2000), ("option", 3000):
        (folder / f"{name}.toml").write_text(PRICE.replace("1000", str(price)).join(["[my-llama]\n", ""]), "utf-8")
    assert "No price is known" in ran("show", "it.json")

    project(folder, 'prices = "team.toml"')
    environment = {"TOKENSCOPE_PRICES": str(folder / "environment.toml")}
    assert "; $1.00" in ran("show", "it.json")
    assert "; $2.00" in ran("show", "it.json", **environment)
    assert "; $3.00" in ran("show", "it.json", "--prices", str(folder / "option.toml"), **environment)
    assert "TOKENSCOPE_PRICES" not in os.environ

    project(folder, f'[tool.tokenscope.prices."ollama/my-llama"]\n{PRICE.replace("1000", "4000")}')
    assert "; $4.00" in ran("show", "it.json")


def test_prices_of_a_program(folder):
    """`run` gives the project's prices to the program and to those that it starts."""
    project(folder, f"[tool.tokenscope.prices.my-llama]\n{PRICE}")
    source = (
        "import os; os.chdir('/')\nimport tokenscope as t\nt.record_tokens('m', 'o', 'my-llama', 'ollama', 1_000, 0)\n"
    )
    done = run(program(folder, f"{source}print(t.report().total.cost)"), cwd=folder / "work")

    assert 1 == Decimal(done.stdout.decode())
    assert "; $1.00" in done.told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('prices = "none.toml"', "none.toml: No such file or directory"),
        (
            "[tool.tokenscope.prices.m]\ninput = 1\noutput = -1",
            "pyproject.toml: 'm': output must be dollars per million",
        ),
        ("colour = 1", "pyproject.toml: [tool.tokenscope]: unknown key 'colour'; known are "),
    ],
)
@pytest.mark.parametrize("command", [["show", "it.json"], ["diff", "it.json", "it.json"], ["run", "it.py"], ["doctor"]])
def test_wrong_settings(folder, command, text, problem):
    """A wrong setting is one line that names the file and what is wrong, and exit status 2."""
    project(folder, text)
    line = ran(*command, status=2)

    assert line.startswith(f"tokenscope {command[0]}: {folder}{os.sep}")
    assert problem in line
    assert 1 == line.count("\n")


def test_prices_that_are_not_there():
    """A `pyproject.toml` that the environment names as the file of prices has to have some."""
    Path("pyproject.toml").write_text("[tool.other]\n", "utf-8")

    line = ran("show", "it.json", "--prices", "pyproject.toml", status=2)
    assert "tokenscope show: pyproject.toml: it has no [tool.tokenscope.prices]\n" == line


def test_the_default_format(folder):
    """The format is that of the option, or else of -o's suffix, or else of the project, if the command has it."""
    plain = ran("show", "it.json")
    project(folder, 'format = "markdown"')
    assert ran("show", "it.json", "--format", "markdown") == ran("show", "it.json")
    assert ran("diff", "it.json", "new.json", "--format", "markdown") == ran("diff", "it.json", "new.json")
    assert ran("analyze", "it.json", "--format", "markdown") == ran("analyze", "it.json")
    assert plain == ran("show", "it.json", "--format", "tree")
    ran("show", "it.json", "-o", "it.csv")
    assert Path("it.csv").read_text("utf-8").startswith("path,")

    analysis = ran("analyze", "it.json", "--format", "text")
    project(folder, 'format = "csv"')
    assert analysis == ran("analyze", "it.json")


def test_the_baseline_of_a_diff(folder):
    """`diff NEW` compares with the project's baseline, and fails above the project's limit, unless options say otherwise."""
    project(folder, 'fail_above = 5\nbaselines.report = "old.json"')
    shown = ran("diff", "new.json", status=1)

    assert "total tokens grew by 10.0%" in shown
    assert shown == ran("diff", str(folder / "old.json"), "new.json", status=1)
    assert "-> 121 (+11, +10.0%)" in ran("diff", "new.json", "--fail-above", "20")
    assert "-> 121 (+11, +10.0%)" in ran("diff", "new.json", "--fail-above", "10%")


def test_a_diff_without_a_baseline():
    """Without a baseline, the error says what is missing, and how a project names it."""
    line = ran("diff", "new.json", status=2)

    assert "Missing argument 'OLD'; [tool.tokenscope.baselines] in pyproject.toml may name it: report." in line
    assert "tokenscope diff: Missing argument 'NEW'." in ran("diff", status=2)
