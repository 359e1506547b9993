"""The tree while it grows, in the bottom lines of a terminal. The lines above scroll as if the terminal ended there.

A terminal can be told to scroll some of its lines only (DECSTBM). Then nothing stands between the program and the terminal:
its output, its prompts and its progress bars go where they always go. rich's own Live has to pass all output on: under it,
each step of the bar that DSPy's Evaluate shows is a new line, and text typed at a prompt is wiped away (tried).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from tokenscope._report.report import Report

_PAUSE: Final = 0.25  # seconds between two pictures
_SHARE: Final = 9  # pauses are so many times as long as drawing took: a tree of thousands of lines is drawn less often
_LOWEST: Final = 6  # lines of a terminal that has room for a tree
_OTHERS: Final = 4  # lines of a picture beside the scopes: a rule, the total, the headings, and what is left out


def start(stream: TextIO | None) -> Live | None:
    """Begin to show the tree of this process, if the stream is a terminal that can show it."""
    if stream is None or stream.closed or not stream.isatty():
        return None
    console = Console(file=stream)
    if console.is_dumb_terminal or console.legacy_windows:
        return None
    return Live(console, stream.fileno(), stream.encoding)


class Live:
    """A picture of the process's report, drawn a few times a second by a thread of its own."""

    def __init__(self, console: Console, terminal: int, encoding: str) -> None:
        self._console = console
        self._terminal = terminal
        self._encoding = encoding
        self._size = (0, 0)
        self._height = 0  # lines at the bottom that the picture takes
        self._shown: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokenscope-live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Remove the picture. The terminal is as it was, with the cursor in its place."""
        self._stopping.set()
        self._thread.join(1.0)  # Ctrl-S may have stopped the terminal in the middle of a picture
        with contextlib.suppress(OSError):  # it may be gone
            self._write(self._cleared(os.get_terminal_size(self._terminal)))

    def _run(self) -> None:
        pause = _PAUSE
        try:
            while not self._stopping.wait(pause):
                began = time.perf_counter()
                self._draw()
                took = time.perf_counter() - began  # the first picture with a price has loaded the price table
                pause = max(_PAUSE, min(_SHARE * took, 2 * pause))
        except Exception:  # noqa: BLE001, S110 - the program goes on, and the report at its end shows the tree
            pass

    def _draw(self) -> None:
        from tokenscope import report

        size = os.get_terminal_size(self._terminal)
        lines = self._lines(report(), size.columns, size.lines * 2 // 3) if size.lines >= _LOWEST else []
        if self._stopping.is_set() or (size == self._size and lines == self._shown):
            return
        picture = ""
        if size != self._size:
            picture = self._cleared(size)
            self._height = 0
        self._size, self._shown = size, lines
        if len(lines) > self._height:
            # These codes move the program's lines up, and let only its own lines scroll.
            more = len(lines) - self._height
            picture += "\x1bD" * more + f"\x1b[{more}A\x1b7\x1b[1;{size.lines - len(lines)}r\x1b8"
            self._height = len(lines)
        top = size.lines - self._height + 1
        lines = lines + [""] * (self._height - len(lines))
        drawn = "".join(f"\x1b[{top + at};1H\x1b[0m\x1b[2K{line}" for at, line in enumerate(lines))
        self._write(f"{picture}\x1b7{drawn}\x1b8")  # saves and restores the cursor and its colours

    def _lines(self, report: Report, columns: int, most: int) -> list[str]:
        from tokenscope._report.formats.tree import drawing

        self._console.width = columns  # rich cuts longer lines
        with self._console.capture() as capture:
            self._console.rule(style="dim")
            self._console.print(drawing(report, top=max(1, most - _OTHERS)))
        return capture.get().splitlines()[:most]

    def _cleared(self, size: os.terminal_size) -> str:
        """Return the codes that give all lines back to the program."""
        if not self._height:
            return ""
        if size == self._size:
            return f"\x1b7\x1b[{size.lines - self._height + 1};1H\x1b[0m\x1b[J\x1b[r\x1b8"
        return "\x1b7\x1b[r\x1b8\x1b[J"  # the terminal has moved the picture, but it is still below the cursor

    def _write(self, text: str) -> None:
        os.write(self._terminal, text.encode(self._encoding, "replace"))
