"""What `tokenscope diff --github` tells GitHub Actions: warnings for what grew, the summary of the job, a comment."""

from __future__ import annotations

import os
import secrets
from decimal import Decimal
from typing import Final

import click

from tokenscope._report.changes import EXACT, Change, Comparison
from tokenscope._report.formats.text import plural, printable
from tokenscope.cli.console import CommandError
from tokenscope.cli.fail_above import grown

MARKER: Final = "<!-- tokenscope -->"
"""The first line of a comment, which GitHub does not show: by it, a workflow finds the comment to update."""
_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
_MOST: Final = 10  # GitHub shows no more warnings of a step: github.com/actions/toolkit, docs/problem-matchers.md
_LONGEST_PATH: Final = 200  # characters
# As github.com/actions/toolkit escapes them, packages/core/src/command.ts.
_DATA: Final = {ord(char): f"%{ord(char):02X}" for char in "%\r\n"}
_PROPERTY: Final = {ord(char): f"%{ord(char):02X}" for char in "%\r\n:,"}
_NOTHING: Final = (0, Decimal(0))


def summary_file() -> str:
    """Return the file of the job's summary, or raise a usage error outside of GitHub Actions."""
    if not (path := os.environ.get(_SUMMARY)):
        problem = f"{_SUMMARY} is not set. GitHub Actions sets it; elsewhere, write the diff with '-o diff.md'."
        raise click.BadParameter(problem, param_hint="'--github'")
    return path


def add_to_summary(path: str, markdown: str) -> None:
    """Add a document to the summary of the job."""
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(f"\n{markdown}")  # what is there may lack its last line break
    except OSError as error:
        raise CommandError(f"{_SUMMARY}: {printable(path)}: {error.strerror or error}") from error


def harmless(shown: str) -> str:
    """Return a text for a log in which GitHub Actions runs no command, whatever names are in the text."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{shown.rstrip()}\n::{token}::\n"


def warning_lines(diff: Comparison, limit: Decimal | None) -> str:
    """Return a warning for the totals, and one for each path that grew itself, if they grew by more than a limit in percent.

    The largest growth comes first. The last of 10 warnings says how many more there would be.
    """
    limit = limit or Decimal(0)
    found: list[tuple[int, Decimal, Change]] = []
    below: dict[int, tuple[int, Decimal]] = {}  # by depth: the growth of paths whose parent is still to come
    for change in reversed(diff.changes):
        depth, tokens, cost = change.where.depth, change.tokens, change.cost or Decimal(0)
        inner, beside = below.pop(depth + 1, _NOTHING), below.get(depth, _NOTHING)
        below[depth] = beside[0] + tokens, EXACT.add(beside[1], cost)
        own_tokens, own_cost = tokens - inner[0], EXACT.subtract(cost, inner[1])
        if (own_tokens > 0 or own_cost > 0) and grown(change, limit):
            found.append((own_tokens, own_cost, change))
    found.sort(key=lambda each: each[:2], reverse=True)
    lines = [_warning("Token usage", more)] if (more := grown(diff.total, limit, "total ")) else []
    room = _MOST - len(lines)
    shown = found if len(found) <= room else found[: room - 1]
    lines += [_warning(_path(change), grown(change, limit)) for *_, change in shown]
    if rest := len(found) - len(shown):
        lines.append(_warning("Token usage", [f"{plural(rest, 'more scope')} grew: see the summary of the job"]))
    return "".join(f"{line}\n" for line in lines)


def _path(change: Change) -> str:
    path = " > ".join(map(printable, change.path[-_LONGEST_PATH:]))
    return path if len(path) <= _LONGEST_PATH else f"…{path[1 - _LONGEST_PATH :]}"


def _warning(title: str, sentences: list[str]) -> str:
    return f"::warning title={title.translate(_PROPERTY)}::{' and '.join(sentences).translate(_DATA)}"
