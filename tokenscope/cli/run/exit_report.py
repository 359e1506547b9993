"""What `tokenscope run` does when the program's process ends: writes the report, and shows the tree on standard error.

It is an atexit handler that is registered before the program starts: so it runs after the program's own, and after its
threads, whose calls are counted too.
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

from tokenscope._report.formats import format_of, save
from tokenscope._scopes.budget import Budget
from tokenscope._scopes.enforcement import Purse, limit_process, settle
from tokenscope._scopes.scope import DISABLED
from tokenscope.errors import BudgetExceeded

if TYPE_CHECKING:
    from tokenscope._report.report import Report
    from tokenscope.cli.run.live import Live

_NOTHING = (
    "tokenscope run: nothing was counted: DSPy made no LM call, and record_tokens and record_response told of none"
)


class Ending:
    """The end of a program's process.

    Args:
        output: The file to write the report to, or None.
        live: Show the tree while it grows, where standard error is a terminal.
        budget: How much the program may spend.

    Raises:
        ValueError: no format has the file's suffix.
        OSError: the file cannot be written.
    """

    def __init__(self, output: str | None, *, live: bool, budget: Budget | None = None) -> None:
        self._output = output
        self._file = None if output is None else _writable(output)
        self._wants_live = live and not DISABLED
        self._live: Live | None = None
        self._path = sys.path[0 if sys.flags.safe_path else 1 :]  # without the folder that Python was started in
        self._budget = budget
        self._purse: Purse | None = None
        self._telling = False
        self._terminated = False
        self.began = True  # whether the program came to its first line

    def prepare(self) -> None:
        """From now on, tell when the process ends; not when a forked child does."""
        atexit.register(self._at_exit)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._at_sigterm)
        if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
            os.register_at_fork(after_in_child=self._forget_in_child)
        if self._budget is not None and not DISABLED:
            self._purse = limit_process(self._budget)
        if self._wants_live:
            from tokenscope.cli.run import live as _live

            self._live = _live.start(sys.__stderr__)

    def has_stopped(self, error: BaseException | None) -> bool:
        """Whether the program, at the end of its main thread, was ended by its budget."""
        if self._purse is None:
            return False
        try:
            return settle(self._purse, error)
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
        """Tell, and then die of the signal as though nobody had handled it."""
        again, self._terminated = self._terminated, True
        if self._telling and not again:
            return  # the report is being written, and the process dies when it is
        self._at_exit()
        self._release_sigterm()
        signal.raise_signal(number)

    def _at_exit(self) -> None:
        for _ in range(2):  # an interrupt may come before it can be held off
            with contextlib.suppress(KeyboardInterrupt):
                self._tell()

    def _tell(self) -> None:
        if self._telling:
            return
        with _uninterrupted():
            self._telling = True
            if self._live is not None:
                self._live.stop()
            if not self._terminated:  # then, what the program has not written would not be
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
            with _import_path(self._path):
                lines = self._lines()
            if lines:
                _print("\n".join(lines))
        self._release_sigterm()
        if self._terminated:
            signal.raise_signal(signal.SIGTERM)

    def _lines(self) -> list[str]:
        from tokenscope import report as take_report

        try:
            report = take_report()
            spent = bool(report.total.calls)
        except Exception as error:  # noqa: BLE001 - the program's own end is not to be disturbed
            return [f"tokenscope run: the report cannot be made: {_one_line(error)}"]
        if not spent and not self.began:
            return []
        if DISABLED:
            return ["tokenscope run: TOKENSCOPE_DISABLED is set, so nothing was counted"]
        written = [] if self._file is None else [self._write(report, self._file)]
        budget = [] if self._purse is None else [f"budget: {self._purse.balance()}"]
        return [_drawn(report) if spent else _NOTHING, *_wasted(report), *budget, *written]

    def _write(self, report: Report, file: Path) -> str:
        try:
            save(report, file)
        except Exception as error:  # noqa: BLE001
            return f"tokenscope run: the report cannot be written to {self._output}: {_one_line(error)}"
        return f"report written to {self._output}"


def _drawn(report: Report) -> str:
    try:
        from tokenscope._report.formats import tree

        return tree.for_stderr(report)
    except Exception as error:  # noqa: BLE001
        return f"tokenscope run: the tree cannot be drawn: {_one_line(error)}"


def _wasted(report: Report) -> list[str]:
    """Say in a line what bought nothing, where anything did."""
    try:
        from tokenscope._report.formats.wasted import wasted

        said = wasted(report)
    except Exception as error:  # noqa: BLE001
        return [f"tokenscope run: what was wasted cannot be told: {_one_line(error)}"]
    return [f"wasted: {said}"] if said else []


def _writable(output: str) -> Path:
    """Return the path of a report, once it is known that it can be written: not only when the tokens are spent."""
    format_of(output)
    file = Path(output).absolute()
    if file.is_dir():
        raise IsADirectoryError(f"cannot write the report to {output}: that is a folder")
    try:
        tempfile.TemporaryFile(dir=Path(os.path.realpath(file)).parent).close()
    except OSError as error:
        raise OSError(f"cannot write the report to {output}: {error.strerror}") from None
    return file


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Hold off Ctrl-C: the report is a matter of moments."""
    handler = signal.signal(signal.SIGINT, lambda *_: None)  # not ignored: that would be passed on to subprocesses
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _import_path(path: list[str]) -> Generator[None]:
    """Import from where tokenscope was: the program's folder may hold modules of the same names as those that draw."""
    theirs, sys.path = sys.path, path
    try:
        yield
    finally:
        sys.path = theirs


def _print(text: str) -> None:
    """Write to standard error, past Python's own buffer.

    SIGTERM may have come within a write to that; and what cannot be written must not be tried again when Python flushes it,
    which would change the exit status.
    """
    stream = sys.__stderr__
    if stream is None:
        return
    with (
        contextlib.suppress(OSError, ValueError),  # it may be closed, at this end or the other
        open(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="backslashreplace") as file,
    ):
        file.write(text + "\n")
