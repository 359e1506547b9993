"""Style: ruff finds nothing, and its formatter changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(arguments: list[str]) -> None:
    """The whole project passes ruff's checks and its formatter, with the rules of pyproject.toml."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
