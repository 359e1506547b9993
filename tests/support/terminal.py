"""Runs programs in a terminal of their own."""

from __future__ import annotations

import os
import pty
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def in_a_terminal(start: Callable[[int], subprocess.Popen[bytes]]) -> tuple[str, bytes, bytes]:
    """Start a process on a terminal, and return its output to the terminal, to stdout and to stderr."""
    leader, follower = pty.openpty()
    process = start(follower)
    os.close(follower)
    parts: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(leader, 65536):
                parts.append(part)
        except OSError:
            pass  # on Linux, this means that the terminal was closed

    reader = threading.Thread(target=read)
    reader.start()
    stdout, stderr = process.communicate(timeout=60)
    reader.join(10)
    os.close(leader)
    return b"".join(parts).replace(b"\r\n", b"\n").decode(), stdout or b"", stderr or b""
