"""`--prices`, and TOKENSCOPE_PRICES, on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.programs import program, run

from tokenscope import JSONLSink, Report, get_tracker, record_tokens, token_scope
from tokenscope._usage.custom_prices import forget_prices
from tokenscope._usage.warnings import forget_warnings
from tokenscope.cli.main import main

TEAM = """
[my-llama]
input = 1000
output = 0

["openai/gpt-4o-mini"]
input = 1000
output = 0
"""
KNOWN, MISSING = "$0.00027", "$1.00"
COMMANDS = {
    "show": ["show", "it.json"],
    "diff": ["diff", "none.json", "it.json"],
    "merge": ["merge", "it.json", "-o", "-"],
    "analyze": ["analyze", "it.json"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder with a report, the same calls as records, and a file of prices."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENSCOPE_PRICES", raising=False)
    forget_prices()
    forget_warnings()
    sink = JSONLSink("it.jsonl")
    get_tracker().add_sink(sink)
    with token_scope("s") as scope:
        record_tokens("m", "known", "gpt-4o-mini", "openai", 1_000, 200)
        record_tokens("m", "missing", "my-llama", "ollama", 1_000, 200)
    scope.report().save("it.json")
    get_tracker().reset()
    sink.close()
    Report().save("none.json")
    Path("prices.toml").write_text(TEAM, "utf-8")
    yield tmp_path
    get_tracker().remove_sink(sink)
    forget_prices()


def ran(*arguments: str, status: int = 0, **environment: str) -> str:
    """Run a command, and return its standard output, or its standard error if it fails."""
    done = CliRunner(env=environment).invoke(main, arguments, prog_name="tokenscope")
    assert status == done.exit_code, done.output
    return done.stderr if status else done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_calls_without_a_price(command):
    """The file prices the calls that have no known price. Costs that are known stay as they were saved."""
    before, after = ran(*COMMANDS[command]), ran(*COMMANDS[command], "--prices", "prices.toml")

    assert before != after
    assert after == ran(*COMMANDS[command], TOKENSCOPE_PRICES="prices.toml")
    assert "TOKENSCOPE_PRICES" not in os.environ
    assert before == ran(*COMMANDS[command])


def test_costs_that_are_known_stay():
    """Known costs stay as they were saved, in a report and in records, and the sum is no lower bound any more."""
    for file in ("it.json", "it.jsonl"):
        shown = ran("show", file, "--prices", "prices.toml")
        assert KNOWN in shown
        assert "2,400 tokens (2,000 in + 400 out); $1.00; 2 calls" == shown.splitlines()[0]
        assert "≥ $0.00027" in ran("show", file)


def test_a_merged_report_keeps_the_prices():
    """A merged report keeps the costs, and where they come from."""
    ran("merge", "it.json", "-o", "all.json", "--prices", "prices.toml")
    forget_prices()
    merged = Report.load("all.json")

    assert 0 == merged.total.unpriced_calls
    assert [("ollama/my-llama", "set_price"), ("openai/gpt-4o-mini", "genai-prices")] == [
        (price.model, price.source) for price in merged.prices()
    ]


def test_a_name_that_no_call_has():
    """The report says which name of the file may be a mistake."""
    Path("prices.toml").write_text(TEAM.replace("my-llama", "my-lama"), "utf-8")
    for file in ("it.json", "it.jsonl"):
        last = ran("show", file, "--prices", "prices.toml").splitlines()[-1]
        assert last.startswith("A price is set for 'my-lama', but no call here has that name; did you mean 'ollama/my-")


@pytest.mark.parametrize("command", [*COMMANDS.values(), ["demo"], ["doctor"], ["run", "program.py"]], ids=" ".join)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "prices.toml: No such file or directory"),
        ("[m", "prices.toml: this is no TOML: "),
        (
            "[m]\ninput = 1\noutput = -1",
            "prices.toml: 'm': output must be dollars per million tokens, 0 or more, but is -1",
        ),
        ("[m]\ninput = 1\noutput = 1\ncached = 1", "prices.toml: 'm': unknown key 'cached'; known are "),
    ],
)
def test_wrong_files(command, text, problem):
    """A wrong file is one line that names it, the model and what is wrong, and exit status 2. No program starts."""
    program(Path(), "raise SystemExit(0)")
    Path("prices.toml").unlink()
    if text is not None:
        Path("prices.toml").write_text(text, "utf-8")
    line = ran(command[0], "--prices", "prices.toml", *command[1:], status=2)

    assert line.startswith(f"tokenscope {command[0]}: {problem}")
    assert 1 == line.count("\n")
    assert line == ran(*command, status=2, TOKENSCOPE_PRICES="prices.toml")


SPEND = """
import os, subprocess, sys, tokenscope
os.chdir("/")
tokenscope.record_tokens("m", "o", "my-llama", "ollama", 1_000, 0)
child = "import tokenscope as t; t.record_tokens('m', 'o', 'my-llama', 'vllm', 1_000, 0); print(t.report().total.cost)"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_run(tmp_path):
    """`run` gives the prices to the program, wherever it goes, to those that it starts, and to its own report."""
    path = program(tmp_path, SPEND)
    for arguments, environment in (["--prices", "prices.toml"], {}), ([], {"TOKENSCOPE_PRICES": "prices.toml"}):
        done = run(*arguments, "-o", "out.json", path, cwd=tmp_path, env=environment)
        assert (0, b"1\n", "") == (done.status, done.stdout.replace(b"\r", b""), done.stderr)
        assert "1,000 tokens (1,000 in + 0 out); $1.00; 1 call\n" in done.told
        assert 1 == json.loads((tmp_path / "out.json").read_text("utf-8"))["summary"]["total_cost"]


def test_run_with_a_budget(tmp_path):
    """The prices of the file count for `--max-cost`."""
    path = program(tmp_path, SPEND.partition("child")[0])
    done = run("--max-cost", "0.5", "--prices", "prices.toml", path, cwd=tmp_path)

    assert "budget: $1 of $0.5\n" in done.told
