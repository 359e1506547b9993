"""The command line, run in subprocesses."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

import tokenscope

CLEAN = {
    name: value for name, value in os.environ.items() if not (name.endswith("_API_KEY") or name.startswith("COVERAGE_"))
}


def tokenscope_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-m", "tokenscope", *arguments],
        capture_output=True,
        text=True,
        env={**CLEAN, **coverage, "COLUMNS": "120", **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.measured_programs
def test_demo() -> None:
    """The demo prints the tree of a real agent, and its total equals the bill of the server."""
    done = tokenscope_command("demo")
    assert 0 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert ["scope", "calls", "input", "output", "total", "share", "cost", "time"] == lines[1].split()
    for name in (
        "ResearchAgent",
        "planner",
        "searcher",
        "search",
        "summarizer",
        "synthesizer",
        "critic",
        "translation",
    ):
        assert re.search(rf"─ {name} +\d", done.stdout)
    for name in ("persona_formulation", "formulate_prompt", "interaction", "assistant_response"):
        assert re.search(rf"─ {name} +3 ", done.stdout)
    assert re.fullmatch(
        r"the tree: ([\d,]+) tokens in (\d+) calls; the server's bill: \1 tokens in \2 calls: equal", lines[-1]
    )
    assert "Traceback" not in done.stderr


@pytest.mark.unmeasured
def test_demo_without_a_key() -> None:
    """A real model without a key leads to one clear line and status 1, without a traceback."""
    done = tokenscope_command("demo", "--model", "openai/gpt-4o-mini")
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tokenscope demo: openai/gpt-4o-mini: ")
    assert "OPENAI_API_KEY" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_demo_without_a_provider() -> None:
    """A provider that cannot be reached leads to one clear line and status 1, without a traceback."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        done = tokenscope_command(
            "demo",
            "--model",
            "openai/gpt-4o-mini",
            OPENAI_API_KEY="none",
            OPENAI_BASE_URL=address,
            OPENAI_API_BASE=address,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().splitlines()[-1].startswith("tokenscope demo: openai/gpt-4o-mini: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_demo_with_a_model_of_the_users() -> None:
    """With --model, the demo calls the user's provider and prints the tree without a bill."""
    from tokenscope.testing import LoopbackProvider

    with LoopbackProvider() as provider:
        done = tokenscope_command(
            "demo", "--model", "openai/gpt-5-mini", OPENAI_API_KEY="none", OPENAI_API_BASE=provider.url
        )
        calls = provider.total.calls
    assert 0 == done.returncode, done.stderr
    assert f"; {calls} calls\n" in done.stdout
    assert calls > 5


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str) -> None:
    """Help lists the commands."""
    done = tokenscope_command(flag)
    assert 0 == done.returncode
    assert re.search(r"^  demo +\w", done.stdout, re.MULTILINE)


def test_version() -> None:
    """`--version` prints the package's version."""
    assert f"tokenscope, version {tokenscope.__version__}\n" == tokenscope_command("--version").stdout


def test_unknown_command() -> None:
    """A wrong command line ends with status 2."""
    done = tokenscope_command("frobnicate")
    assert 2 == done.returncode
    assert "No such command 'frobnicate'" in done.stderr


def test_demo_where_disabled() -> None:
    """If tokenscope is disabled, the demo says so in one line and shows no empty tree."""
    done = tokenscope_command("demo", TOKENSCOPE_DISABLED="1")
    assert (1, "") == (done.returncode, done.stdout)
    assert ["tokenscope demo: TOKENSCOPE_DISABLED is set, so nothing would be counted"] == done.stderr.splitlines()
