"""What `tokenscope run` does when the program's process ends: it writes the report, and shows the tree on standard error.

This is an exit handler that is registered before the program starts. So it runs after the program's own exit handlers and
after its threads, whose calls are counted too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tokenscope._report.formats import format_of
from tokenscope._report.formats.text import READ_ON, one_line
from tokenscope._scopes.budget import Budget, BudgetExceeded
from tokenscope._scopes.enforcement import BudgetAccount, conclude, limit_process
from tokenscope._scopes.process import DISABLED
from tokenscope.integrations import instrument

if TYPE_CHECKING:
    from tokenscope.cli.run.live import Live

_PARTS_VARIABLE = "TOKENSCOPE_PROMPT_PARTS"
_NOTHING = f"tokenscope run: nothing was counted: DSPy made no LM call, and the program recorded no tokens; {READ_ON}"


class ExitReport:
    """The report at the end of a program's process. A file that cannot be written raises a ValueError or an OSError."""

    def __init__(self, output: str | None, *, live: bool, parts: bool, budget: Budget | None) -> None:
        self._output = output
        self._file = None if output is None else _writable(output)
        self._wants_live = live and not DISABLED
        self._live: Live | None = None
        self._parts = parts and not DISABLED
        self._path = sys.path[0 if sys.flags.safe_path else 1 :]  # without the folder that Python was started in
        self._budget = None if DISABLED else budget
        self._account: BudgetAccount | None = None
        self._reporting = False
        self._terminated = False
        self.began = True  # the program's first line has run

    def register(self) -> None:
        """Report when this process ends. Forked children do not report."""
        atexit.register(self._at_exit)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._at_sigterm)
        if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
            os.register_at_fork(after_in_child=self._forget_in_child)
        if self._parts:
            os.environ[_PARTS_VARIABLE] = "1"  # for the processes that the program starts
            instrument(prompt_parts=True)
        if self._budget is not None:
            self._account = limit_process(self._budget)
        if self._wants_live:
            from tokenscope.cli.run import live

            self._live = live.start(sys.__stderr__)

    def ended_by_budget(self, error: BaseException | None) -> bool:
        """Return whether the budget ended the program, at the end of its main thread."""
        if self._account is None:
            return False
        try:
            return conclude(self._account, error)
        except BudgetExceeded:
            return True

    def _forget_in_child(self) -> None:  # pragma: no cover - in children, which nothing measures
        atexit.unregister(self._at_exit)
        self._live = None
        self._release_sigterm()

    def _release_sigterm(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._at_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _at_sigterm(self, number: int, _: FrameType | None) -> None:
        """Report, and then die of the signal as if it had no handler."""
        again, self._terminated = self._terminated, True
        if self._reporting and not again:
            return  # the process dies when the report is written
        self._at_exit()
        self._release_sigterm()
        signal.raise_signal(number)

    def _at_exit(self) -> None:
        for _ in range(2):  # Ctrl-C may come before it is ignored
            with contextlib.suppress(KeyboardInterrupt):
                self._report()

    def _report(self) -> None:
        if self._reporting:
            return
        with _ignoring_interrupts():
            self._reporting = True
            if self._live is not None:
                self._live.stop()
            if not self._terminated:  # a process that dies of SIGTERM does not write what it has buffered
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
            # The program's folder may hold modules with the names of those that draw.
            programs, sys.path = sys.path, self._path
            try:
                lines = self._lines()
            finally:
                sys.path = programs
            if lines:
                _print("\n".join(lines))
        self._release_sigterm()
        if self._terminated:
            signal.raise_signal(signal.SIGTERM)

    def _lines(self) -> list[str]:
        from tokenscope import report as take_report

        try:
            report = take_report()
            spent = bool(report.total)
        except Exception as error:  # noqa: BLE001 - no fault of ours may change how the program ends
            return [f"tokenscope run: the report cannot be made: {one_line(error)}"]
        if not spent and not self.began:
            return []
        if DISABLED:
            return ["tokenscope run: TOKENSCOPE_DISABLED is set, so nothing was counted"]
        lines: list[str] = []
        written: list[str] = []  # first, but it is the last line
        with _or_why_not(written, f"the report cannot be written to {self._output}"):
            if self._file is not None:
                report.save(self._file)
                written.append(f"report written to {self._output}")
        with _or_why_not(lines, "the tree cannot be drawn"):
            from tokenscope._report.formats.tree import drawing

            lines.append(drawing(report, parts=self._parts).on(sys.__stderr__) if spent else _NOTHING)
        if self._account is not None:
            lines.append(f"budget: {self._account.balance()}")
        with _or_why_not(lines, "what could be saved cannot be told"):
            lines += [f"- {finding}" for finding in report.findings()]
        return lines + written


@contextlib.contextmanager
def _or_why_not(lines: list[str], failure: str) -> Generator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001
        lines.append(f"tokenscope run: {failure}: {one_line(error)}")


def _writable(output: str) -> Path:
    """Return the path of a report, once a test has shown that it can be written: afterwards the tokens are spent."""
    format_of(output)
    file = Path(output).absolute()
    if file.is_dir():
        raise IsADirectoryError(f"cannot write the report to {output}: that is a folder")
    try:
        folder = Path(os.path.realpath(file)).parent
        if not folder.exists():
            os.makedirs(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write the report to {output}: {error.strerror}") from None
    return file


@contextlib.contextmanager
def _ignoring_interrupts() -> Generator[None]:
    handler = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which subprocesses would inherit
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def _print(text: str) -> None:
    """Write to standard error, past Python's own buffer.

    SIGTERM may interrupt a write to that buffer. And if its text cannot be written, Python changes the exit status at its end.
    """
    if (stream := sys.__stderr__) is None:
        return
    with (
        contextlib.suppress(OSError, ValueError),  # either end may be closed
        open(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="backslashreplace") as file,
    ):
        file.write(text + "\n")
