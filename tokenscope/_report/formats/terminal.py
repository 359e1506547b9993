"""Drawings: lines of styled text as plain text, as rich prints them, and as a stream can show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

WIDTH: Final = 120
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"

Line = list[tuple[str, str]]  # pieces of text, each with its style


class Drawing:
    """Lines of styled text, which depend on where they are drawn. Something that rich can print."""

    def __init__(self, lines: Callable[[int, bool], Iterable[Line]]) -> None:
        self._lines = lines  # given a width in cells, and whether to draw with ASCII characters only

    def plain(self, width: int = WIDTH, *, ascii_only: bool = False) -> str:
        """Return the lines without their styles."""
        return "\n".join("".join([text for text, _ in line]).rstrip() for line in self._lines(width, ascii_only))

    def on(self, stream: TextIO | None) -> str:
        """Return what a stream can show: in its width, its colours and its encoding."""
        from rich.console import Console

        console = Console(file=stream)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if console.is_terminal and console.color_system and not console.no_color and not console.legacy_windows:
            with console.capture() as capture:
                console.print(self, end="", crop=False)
            text = capture.get().rstrip("\n")  # rich draws in ASCII where the encoding is not UTF
        else:
            width = console.width if console.is_terminal else WIDTH
            text = self.plain(width, ascii_only=not _shows_bars(encoding))
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines, in the width that rich grants."""
        from rich.text import Text

        for line in self._lines(options.max_width, options.ascii_only):
            text = Text(no_wrap=True, overflow="ignore", end="\n")
            for part, style in line:
                text.append(part, style or None)
            text.rstrip()
            yield text


def _shows_bars(encoding: str) -> bool:
    bars = f"├─└│…{EIGHTHS}"
    return bars.encode(encoding, "ignore").decode(encoding) == bars
