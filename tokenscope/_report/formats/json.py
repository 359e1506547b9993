"""The `json` format, number 1: totals for scripts at the top level, and the rows, from which the report loads again.

    {"format": 1, "generator": "tokenscope 0.1.0", "scoped": true,
     "summary": {...}, "by_module": {...}, "by_model": {...}, "prices": [...],
     "rows": [{"parent": null, "kind": "scope", "name": "pipeline", "entries": 1, "nanoseconds": 52000,
               "tallies": [{"model": "openai/gpt-5-mini", "calls": 1, "input_tokens": 10, "output_tokens": 2}]}, ...]}

A row's `parent` is the index of the row above it, which comes before it. Counts that are 0 are left out. `tallies` has a sum of
calls for each model, and for each group of calls that are priced together (without a `cost`, if no
price was known of them):

- `prompts_over`: each prompt had more tokens than that. (Some models cost more for long prompts.)
- `own_price`: the cost of each call was known by itself, as the provider reported it.
- `cached`: DSPy's cache answered, so the counts were saved and not spent.
- `wasted`: why calls were wasted: `failed_parses`, `provider_errors`, .... The other sums count these calls, too.

Version 0.1 reads such files, too, and knows no other names in a tally. So `more` of a row has, for each tally, what 0.2 adds:

- `priced_as_of`: since when the price of these calls has held, in UTC: a date, or a date and a time of day.
- `terms`: which service was used, if not the usual one: `{"service_tier": "flex"}`.
- `priced_by_call`: the price table gave the cost of each call, which used more than tokens, such as searches.
- `cache_write_1h_tokens`

If prompts were measured, a row has `parts`, sums of input by `part` of the prompt, with the other names of a tally, and:

- `turn`: in which call of its predictor within one entry of the module around it; the first, if it is left out.
- `view`: `carried`, `made`, `reread`, `changed` or `items`, for counts that repeat others of `parts`.

And it has `call_sizes`: quantiles of the calls' sizes, as `CallSizes.to_dict` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn, TypeVar

from tokenscope._report.rows import Row
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import Frame, check_name
from tokenscope._usage.keys import COST_IS_KNOWN, PART_VIEWS, WASTE_REASONS, PriceSource, PromptPart, Terms, UsageKey
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.price_dates import moment_as_datetime
from tokenscope._usage.price_list import SOURCES, Price, merged
from tokenscope._usage.price_tiers import tier_edges, tier_of
from tokenscope._usage.usage import FIELDS, MONEY, Usage, check_count, check_money, values_of
from tokenscope._usage.warnings import ReportFormatError
from tokenscope._version import __version__

T = TypeVar("T")
FORMAT: Final = 1  # 1: the first
_MORE: Final = ("priced_as_of", "terms", "priced_by_call", "cache_write_1h_tokens")
_LONGEST: Final = 10**300  # more nanoseconds than a float can hold cannot be shown


def render(snapshot: Snapshot) -> str:
    """Return the report as JSON."""
    return "".join(pieces(snapshot))


def pieces(snapshot: Snapshot, records: Iterable[str] | None = None) -> Iterator[str]:
    """Yield the report as JSON in pieces. The records, lines of JSON, come last, so a reader can stop before them."""
    yield json.dumps(_head(snapshot), indent=1)[:-2]
    yield from _lines("rows", (json.dumps(_row(row)) for row in snapshot.rows))
    if snapshot.attributes:
        yield from _lines("attributes", (json.dumps(_row(row)) for row in snapshot.attributes))
    if records is not None:
        yield from _lines("records", records)
    yield "\n}\n"


def to_dict(snapshot: Snapshot) -> dict[str, Any]:
    """Return the report as a dict."""
    attributes = {"attributes": [_row(row) for row in snapshot.attributes]} if snapshot.attributes else {}
    return {**_head(snapshot), "rows": [_row(row) for row in snapshot.rows], **attributes}


def line(record: dict[str, Any]) -> str:
    """Return a record as one line of JSON."""
    return json.dumps(record, allow_nan=False)


def _lines(name: str, values: Iterable[str]) -> Iterator[str]:
    yield f',\n "{name}": ['
    for index, value in enumerate(values):
        yield (",\n  " if index else "\n  ") + value
    yield "\n ]"


def _head(snapshot: Snapshot) -> dict[str, Any]:
    head = {"format": FORMAT, "generator": f"tokenscope {__version__}", "scoped": snapshot.scoped}
    prices = {"prices": [_price(price) for price in snapshot.prices()]} if snapshot.prices() else {}
    return head | snapshot.statistics() | prices


def _price(price: Price) -> dict[str, Any]:
    values = {name: value for name, value in price._asdict().items() if value}
    return values | {"rates": {name: str(rate) for name, rate in price.rates.items()}}


def _row(row: Row) -> dict[str, Any]:
    tallies = [_tally(key, usage) for key, usage in row.usages if key.part is None]
    parts = [{**key.part.to_dict(), **_tally(key, usage)} for key, usage in row.usages if key.part is not None]
    more = [{name: tally.pop(name) for name in _MORE if name in tally} for tally in tallies]
    return {
        "parent": row.parent if row.parent >= 0 else None,
        "kind": row.frame.kind,
        "name": row.frame.name,
        "entries": row.entries,
        "nanoseconds": row.nanoseconds,
        "tallies": tallies,
        **({"more": more} if any(more) else {}),
        **({"parts": parts} if parts else {}),
        **({"call_sizes": row.sizes.to_dict()} if row.sizes else {}),
    }


def _tally(key: UsageKey, usage: Usage) -> dict[str, Any]:
    marks = {
        "wasted": key.wasted,
        "prompts_over": tier_edges()[key.tier - 1] if key.tier else 0,
        "own_price": key.source in ("provider", "call"),
        "cached": key.source == "cache",
        "priced_as_of": key.moment,
        "terms": dict(key.terms),
        "priced_by_call": key.source == "call",
    }
    values = {
        name: str(value) if name in MONEY else value  # dollars as text: exact
        for name, value in zip(FIELDS, values_of(usage), strict=True)
        if value or (name == "cost" and value is not None and usage.unpriced_calls)
    }
    return {"model": key.model} | {name: value for name, value in marks.items() if value} | values


def parse(text: str, where: str = "<string>") -> Snapshot:
    """Read a report from JSON text, or raise a ReportFormatError; `where` names the text in it."""
    if not text.strip():
        raise ReportFormatError(f"{where}: this is no tokenscope report: it is empty")
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("<"):
            raise ReportFormatError(f"{where}: this is a web page, and no report; save reports as .json, too") from None
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ReportFormatError(f"{where}: this is no tokenscope report, or a truncated one: {problem}") from None
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
    if not isinstance(data.get("attributes", []), list):
        raise ReportFormatError(f"{where}: the report is damaged: 'attributes' must be a list")
    prices = _prices(data.get("prices", []), where)
    rows, attributes = (
        _rows(data["rows"], where),
        _rows(data.get("attributes", []), where),
    )
    return Snapshot.from_rows(rows, scoped=data["scoped"], prices=prices, attributes=attributes)


def _prices(prices: Any, where: str) -> tuple[Price, ...]:
    try:
        return merged(_parsed_price(each) for each in _checked("prices", prices, list))
    except KeyError as error:
        raise ReportFormatError(f"{where}: a price of the report lacks {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ReportFormatError(f"{where}: a price of the report is damaged: {error}") from None


def _parsed_price(price: Any) -> Price:
    model, source, version, since = (
        _checked(name, price[name] if name in ("model", "source") else price.get(name, ""), str)
        for name in ("model", "source", "version", "since")
    )
    if source not in SOURCES:
        raise ValueError(f"'source' must be one of {', '.join(SOURCES)}, not {source!r}")
    rates = {
        _checked("rates", name, str): check_money("a rate", _dollars("a rate", value))
        for name, value in price.get("rates", {}).items()
    }
    return Price(model, check_count("tier", price.get("tier", 0)), source, version, since, dict(_terms(price)), rates)


def _terms(values: Any) -> Terms:
    return tuple(sorted((name, _checked(name, term, str)) for name, term in values.pop("terms", {}).items()))


def _rows(rows: list[Any], where: str) -> Iterator[Row]:
    for index, row in enumerate(rows):
        try:
            if (parent := row["parent"]) is None:
                parent = -1
            elif type(parent) is not int or not 0 <= parent < index:
                raise ValueError(f"'parent' must be null or the index of an earlier row, not {parent!r}")  # noqa: TRY301
            frame = Frame(_checked("kind", row["kind"], str), _checked("name", row["name"], str))
            tallies = _checked("tallies", row["tallies"], list)
            more = _checked("more", row.get("more", [{}] * len(tallies)), list)
            usages = [_model_usage(*each) for each in zip(tallies, more, strict=True)]
            parts = _checked("parts", row.get("parts", []), list)
            usages += [_part_usage(_checked("a part", each, dict)) for each in parts]
            sizes = CallSizes.from_dict(row["call_sizes"]) if row.get("call_sizes") is not None else None
            entries, nanoseconds = (check_count(name, row[name]) for name in ("entries", "nanoseconds"))
            if nanoseconds > _LONGEST:
                raise ValueError(f"'nanoseconds' must be at most {_LONGEST:.0e}")  # noqa: TRY301
            yield Row(parent, frame, entries, nanoseconds, usages, sizes)
        except KeyError as error:
            raise ReportFormatError(f"{where}: row {index} of the report lacks {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ReportFormatError(f"{where}: row {index} of the report is damaged: {error}") from None


def _part_usage(values: dict[str, Any]) -> ModelUsage:
    part = part_of(values)
    found = _model_usage({name: value for name, value in values.items() if name not in ("part", "turn", "view")}, {})
    return found._replace(key=found.key._replace(part=part))


def part_of(values: dict[str, Any]) -> PromptPart:
    """Return the part of prompts that a tally is of, or raise for damaged values."""
    turn, view = check_count("turn", values.get("turn", 1)), values.get("view", "part")
    if view not in PART_VIEWS:
        raise ValueError(f"'view' must be one of {', '.join(PART_VIEWS)}, not {view!r}")
    return PromptPart(check_name("part", values["part"]), turn, view)


def _model_usage(tally: object, more: object) -> ModelUsage:
    if not isinstance(tally, dict) or not isinstance(more, dict):
        raise TypeError(f"a tally must be an object, not {more if isinstance(tally, dict) else tally!r}")
    values: dict[str, Any] = tally | more
    model = _checked("model", values.pop("model"), str)
    tier = tier_of(check_count("prompts_over", values.pop("prompts_over", 0)) + 1)
    own_price, by_call, cached = (
        _checked(name, values.pop(name, False), bool) for name in ("own_price", "priced_by_call", "cached")
    )
    moment, terms = _checked("priced_as_of", values.pop("priced_as_of", ""), str), _terms(values)
    if moment:
        moment_as_datetime(moment)  # raises if it is none
    why = values.pop("wasted", None)
    if why is not None and (why not in WASTE_REASONS or cached):
        reasons = ", ".join(WASTE_REASONS)
        raise ValueError(f"'wasted' must be one of {reasons}, of calls that spent something, not {why!r}")
    if unknown := set(values) - set(FIELDS):
        raise ValueError(f"unknown counts {sorted(unknown)}")
    counts: dict[str, Any] = {name: _dollars(name, value) if name in MONEY else value for name, value in values.items()}
    if counts.get("unpriced_calls"):
        counts.setdefault("cost", None)
    usage = Usage(**counts)
    told: PriceSource = "cache" if cached else "table" if usage.total_tokens else "none"
    source: PriceSource = "call" if by_call else "provider" if own_price else told
    if source in COST_IS_KNOWN:
        moment, terms = "", ()
    return ModelUsage(UsageKey(model, 0 if source == "none" else tier, source, why, moment, terms), usage)


def _dollars(name: str, value: object) -> Decimal:
    try:
        return Decimal(_checked(name, value, str))
    except InvalidOperation:
        raise ValueError(f"{name} must be a decimal number, not {value!r}") from None


_KINDS: Final[dict[type, str]] = {list: "a list", bool: "true or false", str: "text"}


def _checked(name: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{name!r} must be {_KINDS[kind]}, not {value!r}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
