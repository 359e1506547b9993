"""Runs programs with `tokenscope run`, and with Python alone for comparison."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

LEFT_OUT = ("PYTEST_CURRENT_TEST", "FORCE_COLOR", "PYTHONUNBUFFERED")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in LEFT_OUT},
    "COLUMNS": "120",
    "PYTHONUTF8": "1",
}
SPEND = """
from tokenscope import record_tokens
def spend(tokens, operation="o"): record_tokens("m", operation, "x", None, tokens, 0, cost=0)
"""
HEAD = re.compile(r"^[\d,]+ tokens? \([\d,]+ in \+ [\d,]+ out\)", re.MULTILINE)
NOTHING = "tokenscope run: nothing was counted: DSPy made no LM call"


INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a program that Ctrl-C ends, as a shell shows it."""


class Done(NamedTuple):
    """How a program ended."""

    status: int  # as subprocess returns it: negative if a signal killed it
    stdout: bytes
    stderr: str  # before tokenscope's report
    told: str  # tokenscope's report


def program(folder: Path, source: str | bytes, name: str = "program.py") -> str:
    """Write a program, and return its path."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    return str(file)


def spender(folder: Path, source: str) -> str:
    """Write a program that can `spend`, and return its path."""
    return program(folder, SPEND + source)


def start(*arguments: str, ours: bool = True, flags: tuple[str, ...] = (), **options) -> subprocess.Popen[bytes]:
    """Start `tokenscope run`, or Python alone."""
    command = [sys.executable, *flags, *(["-m", "tokenscope", "run"] if ours else []), *arguments]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**ENVIRONMENT, **options.pop("env", {})}
    return subprocess.Popen(command, **{**streams, **options}, env=environment)


def end(process: subprocess.Popen[bytes], stdin: bytes = b"") -> Done:
    """Wait for the end of a program, and separate its output from tokenscope's."""
    stdout, stderr = process.communicate(stdin, timeout=60)
    text = (stderr or b"").decode("utf-8", "replace")
    began = HEAD.search(text)
    at = began.start() if began else text.find("tokenscope run: ")
    at = len(text) if at < 0 else at
    return Done(process.returncode, stdout or b"", text[:at], text[at:])


def run(*arguments: str, stdin: bytes = b"", **options) -> Done:
    """Run a program to its end."""
    return end(start(*arguments, **options), stdin)


def expected_status(alone: Done) -> int:
    """Return the status of `tokenscope run` for a program that ended like this with Python alone.

    Python dies of SIGINT. `tokenscope run` exits with the status that a shell shows for that.
    """
    return INTERRUPTED if alone.status == -signal.SIGINT else alone.status


def signalled(process: subprocess.Popen[bytes], number: int = signal.SIGINT, after: bytes = b"ready\n") -> None:
    """Send a signal when the program has printed that it is ready."""
    assert after == process.stdout.readline()
    time.sleep(0.1)  # until the program waits
    process.send_signal(number)
