"""JSONLSink: every record in a file, one whole line each, whoever else writes to it and whoever is killed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from types import ModuleType
from typing import Final
from weakref import WeakSet

from tokenscope._report.formats import json
from tokenscope._tracker.record import Record

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows, where the file is safe for threads, not for processes
    fcntl = None

_OPEN: Final[WeakSet[JSONLSink]] = WeakSet()


class JSONLSink:
    """A file that keeps every record: one line of JSON each, safe for many threads and processes.

    Several processes, also on several machines with a shared folder that supports locks, may write to one file: each line is
    written whole, under the file's lock, at its end. What a writer left half-written when it was killed, or when the disk was
    full, the next one takes away. A record is in the file when the call that it tells of returns. `tokenscope show`, `merge`
    and `analyze`, and `Report.load`, read such files.

    Args:
        path: The file; it is made where there is none, and added to where there is one. Name it `*.jsonl`.

    Raises:
        OSError: the file cannot be opened for writing.
        ValueError: it is no regular file.

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
        self._lock = threading.Lock()
        self._file: int | None = None
        self._closed = False
        self._open()
        _OPEN.add(self)

    def __call__(self, record: Record) -> None:
        """Write one record.

        Raises:
            OSError: the disk is full, for example; the file is then as it was before.
            ValueError: the sink is closed.
        """
        line = (json.line(record.to_dict()) + "\n").encode()
        with self._lock:
            if self._closed:
                raise ValueError(f"{self!r} is closed")
            _append(self._open(), line)

    def close(self) -> None:
        """Close the file; a closed sink writes no more."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> int:
        if self._file is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            file = os.open(self.path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                raise ValueError(f"{os.fspath(self.path)!r} is no regular file, and lines are written whole only there")
            self._file = file
        return self._file

    def __repr__(self) -> str:
        return f"JSONLSink({os.fspath(self.path)!r})"


def _append(file: int, line: bytes) -> None:
    """Write a line whole, or leave the file as it was."""
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
            fcntl.flock(file, fcntl.LOCK_UN)


def _end_of_lines(file: int) -> int:
    """Return where the last whole line ends, and cut off what stands behind it: its writer is dead, for the lock is ours."""
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


def _open_anew_in_child() -> None:  # pragma: no cover - in children, which nothing measures
    """In a forked child: a lock may be held by a thread that is not there, and a file that is shared has one lock for both."""
    for sink in list(_OPEN):
        sink._lock = threading.Lock()
        if sink._file is not None:
            os.close(sink._file)
            sink._file = None


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_open_anew_in_child)
