"""What the commands share: errors of one line, arguments and reports to read, and where the output goes."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tokenscope._report.files import write_whole
from tokenscope._report.formats import format_of
from tokenscope._report.formats.text import printable
from tokenscope._usage.custom_prices import PRICES_VARIABLE, load_prices
from tokenscope._usage.warnings import ReportFormatError, TokenScopeWarning

if TYPE_CHECKING:
    from tokenscope._report.report import Report
    from tokenscope._report.settings import Settings

STANDARD: Final = "-"  # the name of standard input and standard output on a command line
BROKEN_PIPE: Final = 141  # the exit status of a command whose output pipe was closed: 128 + SIGPIPE


class CommandError(click.ClickException):
    """An error that ends a command with one line on standard error and exit status 2."""

    exit_code = 2

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        context = click.get_current_context(silent=True)
        self.command = command or (context.command_path if context else "tokenscope")

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"{self.command}: {' '.join(self.message.split())}", file=file, err=file is None)


@contextlib.contextmanager
def _usage_errors_in_one_line() -> Generator[None]:
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tokenscope"
        message = error.format_message().rstrip()
        stop = "" if message.endswith((".", "?")) else "."
        raise CommandError(f"{message}{stop} Try '{command} --help'.", command) from error


class Commands(click.Group):
    """A group of commands that reports a wrong command line in one line."""

    @_usage_errors_in_one_line()
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options before the command."""
        return super().make_context(*args, **extra)

    @_usage_errors_in_one_line()
    def invoke(self, ctx: click.Context) -> Any:
        """Read the options of the command, and run it."""
        return super().invoke(ctx)


def percent(text: str) -> Decimal:
    """Read a percentage exactly as it is written: `5`, `5%` or `0.5`."""
    return _amount(text, text.strip().removesuffix("%"), "a percentage of 0 or more, such as 5 or 0.5%")


def dollars(text: str) -> Decimal:
    """Read an amount of dollars: `0.50` or `$0.50`."""
    return _amount(text, text.strip().removeprefix("$"), "an amount of dollars, 0 or more, such as 0.50")


def _amount(text: str, number: str, expected: str) -> Decimal:
    try:
        amount = Decimal(number)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise click.BadParameter(f"{text!r} is not {expected}.")
    return amount


def settings() -> Settings:
    """Return what `[tool.tokenscope]` of the project in the working directory sets."""
    from tokenscope._report.settings import read_settings

    try:
        return read_settings(Path.cwd())
    except (OSError, ValueError) as error:
        raise CommandError(printable(str(error))) from None


def use_prices(context: click.Context, _: click.Parameter, file: str | None) -> None:
    """Use the prices in a file as those of TOKENSCOPE_PRICES: during a command, or during the program that `run` runs."""
    if context.resilient_parsing or (file := file or settings().prices) is None:
        return
    try:
        path = load_prices(file)
    except (OSError, ValueError) as error:
        raise CommandError(printable(str(error))) from None
    if context.info_name != "run":  # the report of a program is made later, when its process ends
        context.call_on_close(partial(_set_variable, os.environ.get(PRICES_VARIABLE)))
    _set_variable(path)


def _set_variable(value: str | None) -> None:
    if value is None:
        del os.environ[PRICES_VARIABLE]
    else:
        os.environ[PRICES_VARIABLE] = value


def read(files: Sequence[str]) -> Report:
    """Return the sum of the reports in files, with the prices that are set for calls without one; `-` is standard input."""
    from tokenscope._report.reading import read_file, read_stream
    from tokenscope._report.report import Report
    from tokenscope._report.snapshot import with_missing_costs

    if files.count(STANDARD) > 1:
        raise click.UsageError("Only one FILE can be '-', standard input.")
    if STANDARD in files and sys.stdin is None:
        raise CommandError("standard input is closed")
    total = Report()
    for file in files:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", TokenScopeWarning)
                found = read_stream(sys.stdin.buffer, "<stdin>") if file == STANDARD else read_file(file)
                total += with_missing_costs(found)
        except ReportFormatError as error:
            raise CommandError(printable(str(error))) from error
        except OSError as error:
            raise CommandError(f"{printable(file)}: {error.strerror or error}") from error
        for warning in caught:
            click.echo(f"tokenscope: {printable(str(warning.message))}", err=True)
    return total


def format_for(output: str | None, formats: Mapping[str, str], default: str) -> str:
    """Return the format for an output file's suffix, or the default for standard output."""
    if output in (None, STANDARD):
        return default
    try:
        return format_of(str(output), formats)
    except ValueError as error:
        advice = "; --format names one" if len(formats) > 1 else ""
        raise click.BadParameter(f"{error}{advice}", param_hint="'-o'") from None


def write(text: str | Iterable[str], output: str | None, *, drawn: bool = False, failed: bool = False) -> None:
    """Write a text, or its pieces, to a file, whole or not at all, or to standard output.

    Args:
        text: The text. One that is not in pieces gets a line break at its end.
        output: The file; None or `-` for standard output.
        drawn: The text was drawn for standard output and its encoding. Other text is UTF-8 in a pipe, as in a file.
        failed: A check failed. It decides the exit status, even if the reader has closed the pipe.
    """
    pieces: Iterable[str] = text
    if isinstance(text, str):
        pieces = (text if text.endswith("\n") else text + "\n",)
    if output is None or output == STANDARD:
        _write_to_stdout(pieces, drawn=drawn, failed=failed)
        return
    path = Path(output)
    try:
        if path.exists() and not path.is_file():  # replacing a pipe or a device would remove it
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(pieces)
        else:
            write_whole(path, pieces)
    except OSError as error:
        raise CommandError(f"{click.format_filename(path)}: {error.strerror or error}") from error


def _write_to_stdout(pieces: Iterable[str], *, drawn: bool, failed: bool) -> None:
    if sys.stdout is None:
        raise CommandError("standard output is closed")
    encoding = sys.stdout.encoding if drawn or sys.stdout.isatty() else "utf-8"
    try:
        for piece in pieces:
            rest = memoryview(piece.encode(encoding, "backslashreplace"))
            while rest:  # an unbuffered stream may take a part only
                rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except OSError as error:
        # The interpreter flushes the buffer again when it exits, and would complain a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise CommandError(f"standard output: {error.strerror or error}") from error
        if not failed:
            raise SystemExit(BROKEN_PIPE) from None


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep log lines, warnings and litellm's printed advice out of a command's output."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    litellm: Any = sys.modules.get("litellm")
    dspys_mark = getattr(litellm, "_dspy_logging_configured", None)
    talkative = getattr(litellm, "suppress_debug_info", None) is False
    if talkative:
        litellm.suppress_debug_info = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        # DSPy keeps litellm quiet from its first call on, and marks that it has done so.
        if talkative and dspys_mark == getattr(litellm, "_dspy_logging_configured", None):
            litellm.suppress_debug_info = False
