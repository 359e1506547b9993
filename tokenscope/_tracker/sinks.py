"""JSONLSink: every record in a file, one whole line each, however many processes write to it, and whenever one is killed."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tokenscope._report.formats import json
from tokenscope._tracker.record import Record

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows, the file is safe for threads, but not for processes
    fcntl = None

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_thread_lock: Final[AbstractContextManager[Any]] = contextlib.nullcontext() if fcntl is not None else threading.Lock()
"""A file's lock excludes the threads of a process, too, as each opens the file by itself."""


class JSONLSink:
    """A file that keeps every record: one line of JSON each, safe for many threads and processes.

    Several processes may write to one file, also on several machines with a shared folder that supports locks: each line is
    written whole, under the file's lock, at its end. If a writer is killed or the disk is full, the next writer removes the
    unfinished line. A call's record is in the file when the call returns. `tokenscope show`, `merge` and `analyze`, and
    `Report.load`, read such files.

    Args:
        path: The file. It is created if it does not exist, and appended to if it does. Name it `*.jsonl`.

    Raises:
        OSError: the file cannot be opened for writing.
        ValueError: it is not a regular file.

    Example:
        >>> import tempfile
        >>> from tokenscope import JSONLSink, Report, get_tracker, record_tokens
        >>> sink = JSONLSink(tempfile.mkdtemp() + "/calls.jsonl")
        >>> get_tracker().add_sink(sink)
        >>> record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        >>> get_tracker().remove_sink(sink)
        >>> Report.load(sink.path).total.total_tokens
        1200
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._absolute = os.path.abspath(path)  # the program may change its directory
        self._closed = False
        file = os.open(self._absolute, _FLAGS, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ValueError(
                    f"{os.fspath(path)!r} is not a regular file, and only in such a file are lines written whole"
                )
        finally:
            os.close(file)

    def __call__(self, record: Record) -> None:
        """Write one record.

        Raises:
            OSError: the record cannot be written, for example because the disk is full; the file is then as it was before.
            ValueError: the sink is closed.
        """
        if self._closed:
            raise ValueError(f"{self!r} is closed")
        line = (json.line(record.to_dict()) + "\n").encode()
        with _thread_lock:
            # Opened for each line: a file that stays open is shared with forked children, and so is its lock.
            file = os.open(self._absolute, _FLAGS, 0o666)
            try:
                _append(file, line)
            finally:
                os.close(file)

    def close(self) -> None:
        """End the sink: it writes no further record."""
        self._closed = True

    def __repr__(self) -> str:
        return f"JSONLSink({os.fspath(self.path)!r})"


def _append(file: int, line: bytes) -> None:
    """Write a whole line, or leave the file as it was."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        end = _end_of_lines(file)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except BaseException:
            os.ftruncate(file, end)
            raise
    finally:
        if fcntl is not None:
            # Closing would not do: if the process has been forked meanwhile, its child has the file open, too.
            fcntl.flock(file, fcntl.LOCK_UN)


def _end_of_lines(file: int) -> int:
    """Return where the last whole line ends. Remove what follows it: its writer is dead, or it would have the lock."""
    size = end = os.lseek(file, 0, os.SEEK_END)
    while end:
        start = max(0, end - 4_096)
        os.lseek(file, start, os.SEEK_SET)
        found = os.read(file, end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(file, end)
    return end
