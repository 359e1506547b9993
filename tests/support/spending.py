"""Spending tokens without a model, and running code in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tokenscope import record_tokens

if TYPE_CHECKING:
    from tokenscope import Report, Scope


def spend(tokens: int = 1, module: str = "m", operation: str = "o") -> None:
    """Record so many input tokens where this is called."""
    record_tokens(module, operation, "model", "provider", input_tokens=tokens, output_tokens=0)


def spent(scope: Scope | Report) -> int:
    """Return the input tokens of a scope or a report, everything inside included."""
    from tokenscope import Scope

    return (scope.usage if isinstance(scope, Scope) else scope.total).input_tokens


def python(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a fresh interpreter, and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1", **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
