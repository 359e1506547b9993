"""Type checkers accept the package and right uses of it, and find wrong uses."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import tokenscope

ROOT = Path(__file__).parents[1]
TYPING = ROOT / "tests" / "typing"
Checker = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    """Run mypy, strict, with a cache that other processes do not use."""
    return partial(_run, "mypy", "--strict", "--cache-dir", tmp_path_factory.mktemp("mypy"))


def pyright(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run pyright against this interpreter's packages."""
    return _run("pyright", "--pythonpath", sys.executable, *arguments)


def _run(checker: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    # Without this variable, pyright's wrapper asks PyPI for a newer version.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [sys.executable, "-m", checker, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[str, int]:
    """Return a checker's output, empty if it found nothing, and its exit status."""
    last = done.stdout.strip().rpartition("\n")[2]
    clean = done.returncode == 0 and ("Success" in last or last.startswith("0 errors"))
    return "" if clean else done.stdout + done.stderr, done.returncode


def test_mypy_passes_the_package_and_right_uses_and_finds_wrong_ones(mypy: Checker) -> None:
    """Under mypy the package has no errors, `api.py` has the stated types, and `wrong_uses.py` the stated errors."""
    assert outcome(mypy("tokenscope", TYPING / "api.py", TYPING / "wrong_uses.py")) == ("", 0)


def test_pyright_passes_the_package() -> None:
    """Under pyright the package has no errors, with the project's strict configuration."""
    assert outcome(pyright()) == ("", 0)


def test_pyright_agrees_with_right_uses_and_finds_wrong_ones() -> None:
    """Under pyright `api.py` has the stated types, and `wrong_uses.py` has the stated errors."""
    assert outcome(pyright("-p", TYPING)) == ("", 0)


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_wrong_use_that_is_no_longer_found_fails(checker: str, mypy: Checker, tmp_path: Path) -> None:
    """A comment that ignores an error is itself an error if the line has no error."""
    shutil.copy(TYPING / "pyrightconfig.json", tmp_path)
    (tmp_path / "api.py").touch()
    file = tmp_path / "wrong_uses.py"
    file.write_text(
        "from tokenscope import token_scope\n"
        'token_scope("right")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]\n'
    )
    done = mypy(file) if checker == "mypy" else pyright("-p", tmp_path)
    assert done.returncode == 1
    assert {"mypy": 'Unused "type: ignore"', "pyright": 'Unnecessary "# pyright: ignore"'}[checker] in done.stdout


def test_right_uses_cover_every_public_name() -> None:
    """No public name is left out of `typing/api.py`."""
    tree = ast.parse((TYPING / "api.py").read_text())
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set() == set(tokenscope.__all__) - used
