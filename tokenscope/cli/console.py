"""What the commands share: errors of one line, reports to read, and where the output goes."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tokenscope._report.files import write_whole
from tokenscope.errors import ReportFormatError, TokenScopeWarning

if TYPE_CHECKING:
    from tokenscope._report.report import Report

STANDARD: Final = "-"
"""What stands for standard input and standard output."""
_BLOCK: Final = 1_000
BROKEN_PIPE: Final = 141
"""The exit status that shells give to whoever writes to a pipe that nobody reads any more: 128 + SIGPIPE."""


class Failure(click.ClickException):
    """Something that ends a command with one line on standard error, and exit status 2."""

    exit_code = 2

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        context = click.get_current_context(silent=True)
        self.command = command or (context.command_path if context else "tokenscope")

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"{self.command}: {' '.join(self.message.split())}", file=file, err=file is None)


class Commands(click.Group):
    """A group whose wrong command lines are errors of one line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the options before the command."""
        with _one_line():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the command's own options, and run it."""
        with _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line() -> Generator[None]:
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tokenscope"
        message = error.format_message().rstrip()
        stop = "" if message.endswith((".", "?")) else "."
        raise Failure(f"{message}{stop} Try '{command} --help'.", command) from error


def percent(text: str) -> Decimal:
    """Read a number of percent, exactly as it is written: `5`, `5%` or `0.5`."""
    try:
        number = Decimal(text.strip().removesuffix("%"))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise click.BadParameter(f"{text!r} is not a number of percent, 0 or more, such as 5 or 0.5%.")
    return number


def dollars(text: str) -> Decimal:
    """Read an amount of dollars: `0.50` or `$0.50`."""
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise click.BadParameter(f"{text!r} is not an amount of dollars, 0 or more, such as 0.50.")
    return amount


def read(files: Sequence[str]) -> Report:
    """Return the reports of files added up; `-` is standard input."""
    from tokenscope._report.formats.text import printable
    from tokenscope._report.reading import read_report
    from tokenscope._report.report import Report

    if files.count(STANDARD) > 1:
        raise click.UsageError("Only one FILE can be '-', standard input.", click.get_current_context(silent=True))
    if STANDARD in files and sys.stdin is None:
        raise Failure("standard input is closed")
    total = Report()
    for file in files:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", TokenScopeWarning)
                total += read_report(file)
            for warning in caught:
                click.echo(f"tokenscope: {printable(str(warning.message))}", err=True)
        except ReportFormatError as error:
            raise Failure(printable(str(error))) from error
        except OSError as error:
            raise Failure(f"{printable(file)}: {error.strerror or error}") from error
    return total


def format_for(output: str | None, formats: Mapping[str, str], default: str) -> str:
    """Return the format that the output's suffix stands for; the default for standard output."""
    from tokenscope._report.formats import format_of

    if output in (None, STANDARD):
        return default
    try:
        return format_of(str(output), formats)
    except ValueError as error:
        other = "; --format names one" if len(formats) > 1 else ""
        raise click.BadParameter(f"{error}{other}", param_hint="'-o'") from None


def write(text: str | Iterable[str], output: str | None, *, drawn: bool = False) -> None:
    """Write to a file, whole or not at all, or to standard output.

    Args:
        text: What to write, whole or in pieces.
        output: The file; standard output where it is None or `-`.
        drawn: Whether the text was drawn for standard output, in its encoding; a file's format is UTF-8 in a pipe, too.
    """
    pieces: Iterable[str] = text
    if isinstance(text, str):
        pieces = (text if text.endswith("\n") else text + "\n",)
    if output is None or output == STANDARD:
        for piece in _blocks(pieces):
            _to_stdout(piece, drawn=drawn)
        return
    path = Path(output)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device: to be written to, not to be replaced
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(pieces)
        else:
            write_whole(path, pieces)
    except OSError as error:
        raise Failure(f"{click.format_filename(path)}: {error.strerror or error}") from error


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    block: list[str] = []
    for piece in pieces:
        block.append(piece)
        if len(block) == _BLOCK:
            yield "".join(block)
            block.clear()
    yield "".join(block)


def _to_stdout(text: str, *, drawn: bool) -> None:
    if sys.stdout is None:
        raise Failure("standard output is closed")
    encoding = sys.stdout.encoding if drawn or sys.stdout.isatty() else "utf-8"
    rest = memoryview(text.encode(encoding, "backslashreplace"))
    try:
        while rest:  # where it is unbuffered, a part may be all that is taken
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except OSError as error:
        # What is left in the buffer must not be tried again, and complained about, when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(BROKEN_PIPE) from None
        raise Failure(f"standard output: {error.strerror or error}") from error
