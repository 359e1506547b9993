"""The `json` format, number 1: totals for scripts at the top level, and the rows, from which the report loads again.

    {"format": 1, "generator": "tokenscope 0.1.0", "scoped": true,
     "summary": {...}, "by_module": {...}, "by_model": {...},
     "rows": [{"parent": null, "kind": "scope", "name": "pipeline", "entries": 1, "nanoseconds": 52000,
               "tallies": [{"model": "openai/gpt-5-mini", "calls": 1, "input_tokens": 10, "output_tokens": 2}]}, ...]}

A row's `parent` is the index of the row above it, which comes before it; counts that are 0 are left out. A tally holds calls of
one model that can be priced together: `prompts_over` tells that each of their prompts had more tokens than that (long ones may
be dearer), `own_price` that their provider told the cost, and `cached` that DSPy's cache answered: its counts were then saved.
One with `wasted` tells why calls that the others hold already bought nothing: `failed_parses`, `provider_errors`, ....
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from tokenscope._report.report import Report, build
from tokenscope._report.rows import Row, RowInput
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import WASTE_REASONS, PriceSource, UsageKey, tier_edges, tier_of
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.usage import FIELDS, MONEY, Usage, check_count, values_of
from tokenscope._usage.warnings import ReportFormatError
from tokenscope._version import __version__

FORMAT: Final = 1  # 1: the first


def render(report: Report) -> str:
    """Return the report as JSON."""
    return "".join(written(report))


def written(report: Report, records: Iterable[str] | None = None) -> Iterator[str]:
    """Yield the report as JSON in pieces, with records, each a line of JSON, where there are any to be told of.

    A reader of lines that wants no records can stop at the line that names them: they come last.
    """
    yield json.dumps(_head(report), indent=1)[:-2]
    yield from _lines("rows", (json.dumps(_row(row)) for row in report.rows))
    if records is not None:
        yield from _lines("records", records)
    yield "\n}\n"


def to_dict(report: Report) -> dict[str, Any]:
    """Return the same as a dict."""
    return {**_head(report), "rows": [_row(row) for row in report.rows]}


def line(record: dict[str, Any]) -> str:
    """Return a record as one line of JSON."""
    return json.dumps(record, allow_nan=False)


def _lines(name: str, values: Iterable[str]) -> Iterator[str]:
    yield f',\n "{name}": ['
    comma = "\n  "
    for value in values:
        yield comma + value
        comma = ",\n  "
    yield "\n ]"


def _head(report: Report) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "generator": f"tokenscope {__version__}",
        "scoped": report.scoped,
        **report.statistics(),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "parent": row.parent if row.parent >= 0 else None,
        "kind": row.frame.kind,
        "name": row.frame.name,
        "entries": row.entries,
        "nanoseconds": row.nanoseconds,
        "tallies": [_written(tally) for tally in row.tallies],
    }


def _written(tally: ModelUsage) -> dict[str, Any]:
    key = tally.key
    marks = {
        "wasted": key.wasted,
        "prompts_over": tier_edges()[key.tier - 1] if key.tier else 0,
        "own_price": key.source == "provider",
        "cached": key.source == "cache",
    }
    values = {
        name: str(value) if name in MONEY else value  # dollars as text: exact
        for name, value in zip(FIELDS, values_of(tally.usage), strict=True)
        if value
    }
    return {"model": key.model} | {name: value for name, value in marks.items() if value} | values


def parse(text: str, where: str = "<string>") -> Report:
    """Read a report from JSON text; `where` names it in errors.

    Raises:
        ReportFormatError: the text is no report, is damaged, or has another format.
    """
    if not text.strip():
        raise ReportFormatError(f"{where}: this is no tokenscope report: it is empty")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ReportFormatError(
            f"{where}: this is no tokenscope report, or a truncated one: line {error.lineno}, column {error.colno}: "
            f"{error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ReportFormatError(f"{where}: this is no tokenscope report: {error}") from None
    if not isinstance(data, dict) or "format" not in data:
        raise ReportFormatError(f"{where}: this is JSON, but no tokenscope report: it has no 'format'")
    if type(data["format"]) is not int or data["format"] != FORMAT:
        raise ReportFormatError(
            f"{where}: the report has format {data['format']!r}; this tokenscope ({__version__}) reads format {FORMAT}"
        )
    if not isinstance(data.get("rows"), list) or not isinstance(data.get("scoped"), bool):
        raise ReportFormatError(f"{where}: the report is incomplete: it lacks 'rows' or 'scoped'")
    return build(_rows(data["rows"], where), scoped=data["scoped"])


def _rows(rows: list[Any], where: str) -> Iterator[RowInput]:
    for index, row in enumerate(rows):
        try:
            parent = row["parent"]
            if parent is None:
                parent = -1
            elif type(parent) is not int or not 0 <= parent < index:
                raise ValueError(f"'parent' must be null or the index of an earlier row, not {parent!r}")  # noqa: TRY301
            frame = Frame(_text(row["kind"], "kind"), _text(row["name"], "name"))
            tallies = [_tally(each) for each in _list(row["tallies"], "tallies")]
            whole = Usage(calls=row["entries"], input_tokens=row["nanoseconds"])  # checked as counts are
            yield RowInput(parent, frame, whole.calls, whole.input_tokens, tallies)
        except KeyError as error:
            raise ReportFormatError(f"{where}: row {index} of the report lacks {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ReportFormatError(f"{where}: row {index} of the report is damaged: {error}") from None


def _tally(written: object) -> ModelUsage:
    if not isinstance(written, dict):
        raise TypeError(f"a tally must be an object, not {written!r}")
    values: dict[str, Any] = {**written}
    model = _text(values.pop("model"), "model")
    tier = tier_of(check_count("prompts_over", values.pop("prompts_over", 0)) + 1)
    own_price, cached = (_flag(name, values.pop(name, False)) for name in ("own_price", "cached"))
    why = values.pop("wasted", None)
    if why is not None and (why not in WASTE_REASONS or cached):
        reasons = ", ".join(WASTE_REASONS)
        raise ValueError(f"'wasted' must be one of {reasons}, of calls that spent something, not {why!r}")
    usage = _usage(values)
    source: PriceSource = "table" if usage.total_tokens else "none"
    if own_price:
        source = "provider"
    elif cached:
        source = "cache"
    return ModelUsage(UsageKey(model, 0 if source == "none" else tier, source, why), usage)


def _usage(values: dict[str, Any]) -> Usage:
    unknown = set(values) - set(FIELDS)
    if unknown:
        raise ValueError(f"unknown counts {sorted(unknown)}")
    checked: dict[str, Any] = {
        name: _dollars(name, value) if name in MONEY else value for name, value in values.items()
    }
    return Usage(**checked)


def _dollars(name: str, value: object) -> Decimal:
    try:
        return Decimal(_text(value, name))
    except InvalidOperation:
        raise ValueError(f"{name} must be a decimal number, not {value!r}") from None


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{what!r} must be a list, not {value!r}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name!r} must be true or false, not {value!r}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what!r} must be text, not {value!r}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
