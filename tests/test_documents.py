"""The README's and the documentation's examples run, and say what they print."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

import tokenscope
from tokenscope.testing import LoopbackProvider

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language in a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_readme_gives_two_commands() -> None:
    """The README gives exactly two commands for a fresh machine, each on one line."""
    commands = blocks(ROOT / "README.md", "bash")
    assert [command.count("\n") for command in commands] == [1, 1]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)


def test_readme_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's Python blocks run one after the other, like a session, and print trees."""
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md", "python")
    namespace: dict[str, Any] = {"__name__": "readme"}
    output = io.StringIO()
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()), contextlib.redirect_stdout(output):
        for number, block in enumerate(code):
            exec(compile(block, f"README.md, block {number + 1}", "exec"), namespace)
        assert provider.total.calls + 1 == tokenscope.report().total.calls
    printed = output.getvalue()
    assert len(code) >= 4
    for line in ("answering", "├─ planner", "review_answer", "summarize_page", "ocr"):
        assert line in printed
    assert 2 * namespace["report"].total.calls == namespace["both"].total.calls


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example: Path, tmp_path: Path) -> None:
    """Each script in docs/examples runs by itself and prints a tree."""
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert re.search(r"^scope +calls +input +output +total +share +(cost +)?time$", done.stdout, re.MULTILINE)


def test_examples_for_each_use() -> None:
    """There is an example for each thing the package is for, and the README names the folder."""
    names = {example.stem for example in EXAMPLES}
    assert {"decorate_functions", "scope_blocks", "tree_summaries", "asyncio_pipeline"} <= names
    assert "docs/examples" in (ROOT / "README.md").read_text(encoding="utf-8")
