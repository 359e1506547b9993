"""JSONLSink: every record in a file, one whole line each, however many processes write to it, and whenever one is killed."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import Final

from tokenscope._report.formats.json import line as line_of
from tokenscope._report.record import Record
from tokenscope._scopes.process import STATE
from tokenscope._usage.prices import load_table
from tokenscope._usage.warnings import warn_once

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows, the file is safe for threads, but not for processes
    fcntl = None

_thread_lock: Final = threading.Lock()
_BEGIN: Final = b'{"module": "'  # of each of our records
_PATIENCE: Final = 1.0  # seconds that a record waits for the file's lock


class JSONLSink:
    """A file that keeps every record: one line of JSON each, safe for many threads and processes.

    Several processes may write to one file, also on several machines that share a folder with locks: each line is written whole,
    under the file's lock, at its end. If a writer is killed or the disk is full, the next writer removes the record that is cut
    off. Nothing else is ever removed: after a foreign line without an end, a new line begins. If a writer holds the lock for a
    second, as one does that was stopped (SIGSTOP), there is one warning, and the line is appended without the lock. A call's
    record is in the file when the call returns. `tokenscope show`, `merge` and `analyze`, and `Report.load`, read such files.

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
        STATE.loading(load_table)  # records have costs, and no call should wait for that
        self.path = Path(path)
        self._absolute = os.path.abspath(path)  # the program may change its directory
        self._closed = False
        self._is_patient = True  # until a lock was not released in time
        with open(self._absolute, "ab+", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(
                    f"{os.fspath(path)!r} is not a regular file, and only in such a file are lines written whole"
                )

    def __call__(self, record: Record) -> None:
        """Write one record.

        Raises:
            OSError: the record cannot be written, for example because the disk is full; the file is then as it was before.
            ValueError: the sink is closed.
        """
        if self._closed:
            raise ValueError(f"{self!r} is closed")
        line = (line_of(record.to_dict()) + "\n").encode()
        # Opened for each line: a file that stays open is shared with forked children, and so is its lock.
        with open(self._absolute, "ab+", buffering=0) as file:
            is_locked = self._lock(file)
            try:
                _append(file, line, is_locked=is_locked)
            finally:
                # Closing would not do: if the process has been forked meanwhile, its child has the file open, too.
                if fcntl is None:  # pragma: no cover
                    _thread_lock.release()
                elif is_locked:
                    fcntl.flock(file, fcntl.LOCK_UN)
        if not is_locked:
            warn_once(
                f"lock:{self._absolute}",
                f"another process has held the lock of {os.fspath(self.path)!r} for {_PATIENCE:.0f} s: {self!r} appends without "
                "it until it is released. Was that process stopped?",
            )

    def _lock(self, file: FileIO) -> bool:
        """Exclude other processes and, as each opens the file by itself, other threads; return whether that was possible."""
        if fcntl is None:  # pragma: no cover
            return _thread_lock.acquire()
        until = time.monotonic() + (_PATIENCE if self._is_patient else 0)
        pause = 0.0001
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._is_patient = time.monotonic() < until
                if not self._is_patient:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 0.005)
            else:
                self._is_patient = True
                return True

    def close(self) -> None:
        """End the sink: it writes no further record."""
        self._closed = True

    def __repr__(self) -> str:
        return f"JSONLSink({os.fspath(self.path)!r})"


def _append(file: FileIO, line: bytes, *, is_locked: bool) -> None:
    """Write a line at the end of a file, whole or not at all."""
    size = file.seek(0, os.SEEK_END)
    end = _end_of_lines(file, size)
    if end < size and is_locked and _is_torn(file, end, size):
        file.truncate(end)  # its writer is dead, or it would have the lock
        size = end
    elif end < size:
        line = b"\n" + line
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:
        written = len(line) - len(rest)
        if file.seek(0, os.SEEK_END) == size + written:  # or a writer without the lock has come between
            file.truncate(size)
        raise


def _end_of_lines(file: FileIO, size: int) -> int:
    """Return where the last line ends that has an end."""
    end = size
    while end:
        start = max(0, end - 4_096)
        file.seek(start)
        end = start + file.read(end - start).rfind(b"\n") + 1
        if end > start:
            break
    return end


def _is_torn(file: FileIO, start: int, end: int) -> bool:
    """Whether a file ends with a record of ours that is cut off. A whole one lacks nothing but the end of its line."""
    file.seek(start)
    rest = file.read(end - start)
    if not rest.startswith(_BEGIN):
        return len(rest) > 1 and _BEGIN.startswith(rest)
    try:
        json.loads(rest)
    except (ValueError, RecursionError):
        return True
    return False
