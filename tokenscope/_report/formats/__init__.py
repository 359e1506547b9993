"""The formats of a report, by name and by file suffix. Each is a module with a function `render(snapshot, ...) -> str`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from typing import Any, Final, TypedDict, TypeVar

from tokenscope._report.parts import measured_by
from tokenscope._report.snapshot import Snapshot, view

S = TypeVar("S", bound=Snapshot)


class Options(TypedDict, total=False):
    """How a report is shown: what `Report.render` and `Report.save` take.

    `by` and `depth` choose what is shown, in every format. The others are options of some formats.
    """

    by: str | None
    """A flat list with a row for each `module`, `model`, `predictor`, `operation` or `part`, or each value of an attribute."""
    depth: int | None
    """How many levels are shown. Deeper ones are added to the last one."""
    sort: str
    """The order of siblings: one of `order.SORTS`."""
    top: int | None
    """How many rows are shown: the costliest and their parents. None for all."""
    min_share: float | None
    """Rows with a smaller share of the total, from 0 to 1, are left out."""
    width: int
    """In cells."""
    ascii_only: bool
    """Whether to draw with ASCII characters."""
    title: str
    """The heading of a table's names."""
    parts: bool
    """Whether to show the parts of prompts by predictor, if they were measured."""


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
SORTABLE: Final = ("tree", "table", "markdown", "csv")
"""The formats that can be sorted. The others have a fixed order."""
_MEASURED_BY: Final = "measured_by"
"""What formats are given that say what has measured prompts, if the rows of a view do not: no option for users."""


def renderer(name: str) -> Callable[..., str]:
    """Return the function that renders a format, or raise a ValueError that names the formats."""
    if name not in FORMATS:
        raise ValueError(f"there is no report format {name!r}; there are {', '.join(FORMATS)}")
    render: Callable[..., str] = import_module(f"tokenscope._report.formats.{name}").render
    return render


def arranged(
    snapshot: S, form: str, *, by: str | None = None, depth: int | None = None, **options: Any
) -> tuple[Callable[..., str], S, dict[str, Any]]:
    """Return the function that renders a format, the view of a snapshot that it is to render, and its options.

    Raises:
        ValueError: there is no such format, breakdown or level, or a breakdown is to be sorted by time.
        TypeError: the format does not take one of the options. The message names those that it takes.
    """
    render = renderer(form)
    parameters = [*signature(render).parameters][1:]
    known = [name for name in parameters if name != _MEASURED_BY]
    for name in options:
        if name == "sort" and form not in SORTABLE:
            raise TypeError(f"{form} has a fixed order; {', '.join(SORTABLE)} can be sorted")
        if name not in known:
            raise TypeError(f"{form} has no option {name!r}; it has {', '.join(['by', 'depth', *known])}")
    if by and options.get("sort") == "time":
        raise ValueError("a breakdown has no times")
    if by and "title" in known:
        options.setdefault("title", by.capitalize())
    if by and _MEASURED_BY in parameters:  # a breakdown does not keep it
        options[_MEASURED_BY] = measured_by(snapshot.rows)
    return render, view(snapshot, by, depth), options


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
