"""JSONLSink: every record in a file, one whole line each, however many processes write to it, and whenever one is killed."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Generator
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import Final

from tokenscope._report.formats import json
from tokenscope._tracker.record import Record

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows, the file is safe for threads, but not for processes
    fcntl = None

_thread_lock: Final = threading.Lock()


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
        line = (json.line(record.to_dict()) + "\n").encode()
        # Opened for each line: a file that stays open is shared with forked children, and so is its lock.
        with open(self._absolute, "ab+", buffering=0) as file, _locked(file):
            end = _end_of_lines(file)
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                file.truncate(end)
                raise

    def close(self) -> None:
        """End the sink: it writes no further record."""
        self._closed = True

    def __repr__(self) -> str:
        return f"JSONLSink({os.fspath(self.path)!r})"


@contextlib.contextmanager
def _locked(file: FileIO) -> Generator[None]:
    """Exclude other processes and, as each opens the file by itself, other threads."""
    if fcntl is None:
        with _thread_lock:
            yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # Closing would not do: if the process has been forked meanwhile, its child has the file open, too.
        fcntl.flock(file, fcntl.LOCK_UN)


def _end_of_lines(file: FileIO) -> int:
    """Return where the last whole line ends. Remove what follows it: its writer is dead, or it would have the lock."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4_096)
        file.seek(start)
        end = start + file.read(end - start).rfind(b"\n") + 1
        if end > start:
            break
    if end != size:
        file.truncate(end)
    return end
