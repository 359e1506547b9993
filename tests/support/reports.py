"""Reports made by hand."""

from __future__ import annotations

from tokenscope import Report, Usage
from tokenscope._report.report import build
from tokenscope._usage.calls import Frame

Line = tuple[int, str, str, int, int, int]


def made(*lines: Line, scoped: bool = True) -> Report:
    """Build a report of (row above or -1, kind, name, entries, milliseconds, input tokens); output is a tenth of that."""
    return build(
        (
            (
                above,
                Frame(kind, name),
                entries,
                milliseconds * 1_000_000,
                {"p/x": Usage(calls=1, input_tokens=tokens, output_tokens=tokens // 10)} if tokens else {},
            )
            for above, kind, name, entries, milliseconds, tokens in lines
        ),
        scoped=scoped,
    )


def chain(depth: int) -> Report:
    """Build a report of that many levels, each below the last."""
    return made(*((n - 1, "scope", f"level {n}", 1, 1, 10) for n in range(depth)))
