"""Lines of styled text as plain text, as rich prints them, and as standard output can show them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TextIO

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

WIDTH: Final = 120
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"

Line = list[tuple[str, str]]
"""Pieces of text, each with its style."""
Layout = Callable[[int, bool], Iterable[Line]]
"""What draws a picture: given a width in cells, and whether to draw with ASCII characters only."""


def plain(lines: Iterable[Line]) -> str:
    """Return the lines without their styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def for_stdout(layout: Layout) -> str:
    """Return a picture as standard output can show it."""
    return for_stream(layout, sys.stdout)


def for_stream(layout: Layout, stream: TextIO | None) -> str:
    """Return a picture as a stream can show it: its width, its colours, its encoding."""
    from rich.console import Console

    console = Console(file=stream)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if console.is_terminal and console.color_system and not console.no_color and not console.legacy_windows:
        with console.capture() as capture:
            console.print(Printable(layout), end="", crop=False)
        text = capture.get().rstrip("\n")  # rich draws in ASCII where the encoding is not UTF
    else:
        width = console.width if console.is_terminal else WIDTH
        text = plain(layout(width, not _shows_bars(encoding)))
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _shows_bars(encoding: str) -> bool:
    try:
        f"├─└│…{EIGHTHS}".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


class Printable:
    """A picture as something rich can print."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines, in the width that rich grants."""
        from rich.text import Text

        for line in self._layout(options.max_width, options.ascii_only):
            text = Text(no_wrap=True, overflow="ignore", end="\n")
            for part, style in line:
                text.append(part, style or None)
            text.rstrip()
            yield text


def fit(name: str, room: int, ascii_only: bool) -> str:
    """Return a name in exactly that many cells, cut where it is too long."""
    if cell_len(name) <= room:
        return set_cell_size(name, room)
    dots = "..." if ascii_only else "…"
    return set_cell_size(set_cell_size(name, room - len(dots)).rstrip() + dots, room)
