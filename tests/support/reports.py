"""Reports made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenscope import Report, Usage
from tokenscope._report.formats.json import parse
from tokenscope._report.rows import Row
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.price_tiers import tier_of

Line = tuple[int, str, str, int, int, int]


def build(
    rows: Iterable[tuple[int, Frame, int, int, Mapping[str, Usage] | list[ModelUsage]]], *, scoped: bool
) -> Report:
    """Build a report of rows. Usage by model is taken as calls of average length with a reported cost."""
    return Report.from_rows(
        (
            Row(*row, [_reported(*each) for each in usages.items()] if isinstance(usages, Mapping) else usages)
            for *row, usages in rows
        ),
        scoped=scoped,
    )


def _reported(model: str, usage: Usage) -> ModelUsage:
    tier = tier_of(usage.input_tokens // max(1, usage.calls))
    return ModelUsage(UsageKey(model, tier, "provider"), usage)


def loaded(text: str) -> Report:
    """Return the report in a JSON text."""
    snapshot = parse(text)
    return Report(snapshot.rows, snapshot.scoped, attributes=snapshot.attributes)


def made(*lines: Line, scoped: bool = True) -> Report:
    """Build a report of lines. Output tokens are a tenth of the input tokens.

    A line is (row above or -1, kind, name, entries, milliseconds, input tokens).
    """
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
