"""The formats of a report, by name and by file suffix. Each is a module with a function `render(snapshot, ...) -> str`.

The options of `render`: `sort` is one of `order.SORTS`, `width` is in cells, and `ascii_only` draws with ASCII characters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

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
"""The name of each format and the suffix of its files. A table has no suffix of its own."""


def renderer(name: str) -> Callable[..., str]:
    """Return the function that renders a format, or raise a ValueError that names the formats."""
    if name not in FORMATS:
        raise ValueError(f"there is no report format {name!r}; there are {', '.join(FORMATS)}")
    render: Callable[..., str] = import_module(f"tokenscope._report.formats.{name}").render
    return render


def format_of(path: str | os.PathLike[str], formats: Mapping[str, str] = FORMATS) -> str:
    """Return the name of the format that has a file's suffix, or raise a ValueError that names the suffixes."""
    name = os.fspath(path).lower()
    by_suffix = {suffix: each for each, suffix in formats.items() if suffix}
    if found := [suffix for suffix in by_suffix if name.endswith(suffix)]:
        return by_suffix[max(found, key=len)]  # .speedscope.json ends with .json, too
    raise ValueError(
        f"{os.fspath(path)!r}: the suffix says the format, and must be one of "
        + ", ".join(f"{suffix} ({each})" for suffix, each in by_suffix.items())
    )
