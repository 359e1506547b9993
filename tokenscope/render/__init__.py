"""The formats of a report, by name and by file suffix: each a module with one function, `render(report, ...) -> str`."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenscope._files import write_whole

if TYPE_CHECKING:
    from tokenscope._report import Report

FORMATS: Final = {
    "tree": ".txt",
    "json": ".json",
    "table": "",
    "markdown": ".md",
    "html": ".html",
    "csv": ".csv",
    "speedscope": ".speedscope.json",
    "folded": ".folded",
}
"""Each format's name and the suffix of its files; the table has none of its own."""
_BY_SUFFIX: Final = {suffix: name for name, suffix in FORMATS.items() if suffix}


def renderer(name: str) -> Callable[..., str]:
    """Return the function that renders a format.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"there is no report format {name!r}; there are {', '.join(FORMATS)}")
    render: Callable[..., str] = import_module(f"tokenscope.render.{name}").render
    return render


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the name of the format that a file's suffix stands for.

    Raises:
        ValueError: no format has that suffix.
    """
    name = os.fspath(path).lower()
    for suffix in sorted(_BY_SUFFIX, key=len, reverse=True):  # .speedscope.json before .json
        if name.endswith(suffix):
            return _BY_SUFFIX[suffix]
    raise ValueError(
        f"{os.fspath(path)!r}: the suffix says the format, and must be one of "
        + ", ".join(f"{suffix} ({each})" for suffix, each in _BY_SUFFIX.items())
    )


def save(report: Report, path: str | os.PathLike[str]) -> None:
    """Write a report to a file, whole or not at all, in the format of its suffix."""
    write_whole(Path(path), renderer(format_of(path))(report))
