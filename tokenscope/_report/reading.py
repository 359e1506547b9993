"""Reading files: a report from JSON as it was saved, or from lines of records, which are added up one by one and not kept."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from itertools import chain, takewhile
from typing import Any, BinaryIO, Final, NamedTuple

from tokenscope._report.formats.json import parse, part_of
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import NO_SCOPE, ROOT, Frame, ScopePath, check_name, is_failure, model_name, value_path
from tokenscope._usage.keys import PriceSource, Terms, UsageKey, key_of, usage_key
from tokenscope._usage.price_dates import HALF_HOUR, moment_of
from tokenscope._usage.price_list import BY_HAND, TABLE
from tokenscope._usage.price_tiers import tier_of
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import TOKENS, ZERO_COUNTS, Counts, Usage, check_count, check_money
from tokenscope._usage.warnings import ReportFormatError, warn_once

_MOST_PATHS: Final = 50_000  # and groups, that are remembered by the names in a record
_BUFFER: Final = 1 << 18
_RECORDS: Final = b'"records": ['
_BOM: Final = b"\xef\xbb\xbf"


def read_file(path: str | os.PathLike[str]) -> Snapshot:
    """Read a report, or add up records, from a file. It raises what `Report.load` says."""
    with open(path, "rb", buffering=_BUFFER) as file:
        return read_stream(file, os.fspath(path))


def read_stream(file: BinaryIO, where: str) -> Snapshot:
    """Read a report, or add up records, from an open file, which `where` names in errors."""
    first, lines = _lines(file)
    if not first and where.lower().endswith(".jsonl"):
        return Snapshot()  # a sink's file before the first call
    return _add_up(lines, where) if _is_record(first) else parse(_without_records(lines, where), where)


def record_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the records in a file that `read_file` can read, each as a line of JSON; none if it has none."""
    with open(path, "rb") as file:
        first, lines = _lines(file)
        if _is_record(first):
            for line in lines:
                if line.strip() and (line.endswith(b"\n") or _is_record(line)):
                    yield line.decode().strip()
            return
        for line in lines:
            if line.strip() == _RECORDS:
                first = next(lines, b"")
                if first.strip() != b"]" and not _is_record(first.strip().removesuffix(b",")):
                    break
                for record in takewhile(lambda each: each.strip() != b"]", chain([first], lines)):
                    yield record.decode().strip().removesuffix(",")
                return
        file.seek(0)
        # Another program has formatted it. Such a file is not too large for the memory.
        yield from map(json.dumps, json.loads(file.read().decode("utf-8-sig")).get("records", []))


def _lines(file: BinaryIO) -> tuple[bytes, Iterator[bytes]]:
    """Return the first line of a file that is not blank, without a byte order mark; and this one and all that follow it."""
    first = next((line for line in file if line.strip()), b"").removeprefix(_BOM)
    return first, chain([first], file)


def _is_record(line: bytes) -> bool:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "format" not in data and "input_tokens" in data


def _without_records(lines: Iterator[bytes], where: str) -> str:
    """Return a report's text without its records: they are not needed, and there may be millions."""
    text = bytearray()
    for line in lines:
        if line.strip() == _RECORDS:
            end = deque(chain([b"", b""], filter(None, map(bytes.strip, lines))), maxlen=2)
            if list(end) != [b"]", b"}"]:
                problem = f"its records end with {_shown(end[1])}"
                raise ReportFormatError(f"{where}: this is a truncated tokenscope report: {problem}")
            del text[text.rstrip().rfind(b",") :]
            text += b"}"
            break
        text += line
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReportFormatError(f"{where}: this is no tokenscope report: it is not text ({error.reason})") from None


_decode: Final[Callable[[str], Any]] = json.JSONDecoder().decode
_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # what a damaged record raises
_LARGEST_INTEGER: Final = 2**64 - 1  # of those that orjson reads as integers
_DISSIMILAR: Final = frozenset(
    {
        "attributes",
        "calls",
        "error",
        "prompt",
        "cached",
        "saved",
        "terms",
        "cache_write_1h_tokens",
        "input_audio_tokens",
        "output_audio_tokens",
    }
)
"""What few records have, and is not added up in groups."""


def _add_up(lines: Iterator[bytes], where: str) -> Snapshot:
    records = _Records()
    for number, line in enumerate(lines, 1):
        try:
            records.add_line(line)
        except _ERRORS as error:
            if not line.strip():
                continue
            if not line.endswith(b"\n"):
                cut = f"line {number:,}, the last one, is cut off, as if its writer was killed"
                warn_once(f"cut:{where}", f"{where}: {cut}; the lines before it are read")
                break
            problem = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
            raise ReportFormatError(f"{where}: line {number:,} {problem}; it begins {_shown(line)}") from None
    records.finish()
    for each in (records.table, records.reckoned):
        each.warn_of_overflow()
    known = Snapshot.from_table(records.reckoned, ROOT, scoped=False, price=lambda _, spent: Usage.from_counts(spent))
    return Snapshot.from_table(records.table, ROOT, scoped=False) + known


@dataclass(slots=True)
class _Sum:
    """What similar records have spent so far; the names are those of `Counts`."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: Decimal = ZERO_COUNTS.cost


class _Group(NamedTuple):
    frames: list[list[str]]
    path: ScopePath
    model: str
    sums: defaultdict[tuple[int, str, bool], _Sum]  # by price tier, moment, and whether the costs are known


class _Records:
    """Adds up records in a table.

    Most records are similar to an earlier one: they have the same path and model, and no error. Their names need no check, their
    path is known, and their numbers are added to those of their group. That is three times as fast. Costs that were reckoned
    with prices when the records were written are added up as they are.
    """

    def __init__(self) -> None:
        self.table = UsageTable(ROOT)
        self.reckoned = UsageTable(ROOT)
        self._parse = _parser()
        self._groups: dict[tuple[str, str, str | None], _Group] = {}
        self._paths: dict[tuple[tuple[str, ...], ...], ScopePath] = {}

    def add_line(self, line: bytes) -> None:
        """Check a record and add it, or raise one of `_ERRORS` if it is damaged."""
        try:
            record = self._parse(line)
            if not self._add_similar(record):
                if type(record.get("cost")) is float and record["cost"] > _LARGEST_INTEGER:
                    raise ValueError("an integer may have been read as a float")
                self._add(record)
        except _ERRORS:
            # Python's own parser reads integers of any size, and says better what is wrong.
            self._add(_decode(line.decode()))

    def _add_similar(self, record: Any) -> bool:
        """Add a record if it is similar to an earlier one; return whether it is."""
        get: Callable[..., Any] = record.get
        group = self._groups.get((get("scope") or get("module"), get("model"), get("provider") or None))
        if group is None or group.frames != frames_of(record) or not _DISSIMILAR.isdisjoint(record):
            return False
        input_tokens, output_tokens = get("input_tokens"), get("output_tokens")
        read, write, reasoning = get("cache_read_tokens", 0), get("cache_write_tokens", 0), get("reasoning_tokens", 0)
        if not type(input_tokens) is type(output_tokens) is type(read) is type(write) is type(reasoning) is int:
            return False
        if input_tokens <= 0 or min(output_tokens, read, write, reasoning) < 0:
            return False
        if (cost := get("cost")) is None:
            dollars = ZERO_COUNTS.cost
        elif type(cost) is float and 0 <= cost <= _LARGEST_INTEGER and get("price_source") in (BY_HAND, TABLE):
            dollars = Decimal(str(cost))
        else:
            return False
        moment = _moment(group.model, get("timestamp", ""))
        found = group.sums[tier_of(input_tokens), moment, cost is not None]
        found.cost += dollars
        found.calls += 1
        found.input_tokens += input_tokens
        found.output_tokens += output_tokens
        found.cache_read_tokens += read
        found.cache_write_tokens += write
        found.reasoning_tokens += reasoning
        return True

    def _add(self, record: dict[str, Any]) -> None:
        if not isinstance(record, dict):
            raise TypeError("a record must be an object")
        get = record.get
        frames, provider = frames_of(record), get("provider") or None
        model = model_name(record["model"], provider)
        cached, error, saved = bool(get("cached")), get("error"), get("saved")
        spent = record if saved is None else saved
        cost = spent.get("cost")
        tokens = [check_count(name, spent.get(name, 0)) for name in TOKENS]
        counts = Counts._make((int(get("calls") != 0), int(cached), int(error is not None), *tokens, ZERO_COUNTS.cost))
        told_by = None if cost is None else get("price_source", "provider")
        is_reckoned = told_by in (BY_HAND, TABLE)
        terms = _terms(record)
        source: PriceSource | None = "cache" if saved is not None else "provider" if told_by == "provider" else None
        key = key_of(model, counts, _started(record), terms, source=source)
        if cost is not None:
            counts = counts._replace(cost=_dollars(cost))

        path = self._path(frames)
        table = self.reckoned if is_reckoned else self.table
        values = (value_path(name, value) for name, value in get("attributes", {}).items() if value is not None)
        for each in (path, *values):
            table.add(each, key, counts)
            if error is not None and is_failure(error):
                table.add(each, key._replace(wasted="provider_errors"), counts)
        if get("prompt") is not None:
            self._add_prompt(path, key, counts, record)
        scope = get("scope") or get("module")
        if isinstance(scope, str) and len(self._groups) < _MOST_PATHS:
            group = _Group(frames, path, model, defaultdict(_Sum))
            self._groups.setdefault((scope, record["model"], provider), group)

    def _add_prompt(self, path: ScopePath, key: UsageKey, counts: Counts, record: dict[str, Any]) -> None:
        """Add the parts of a call's prompt. They are priced when the report is read, as of when the call was made."""
        prompt = record["prompt"]
        measured_by = check_name("measured_by", prompt["measured_by"])
        started = _started(record)
        own = key_of(key.model, counts._replace(cost=ZERO_COUNTS.cost), started, _terms(record), source="table")
        for values in prompt["parts"]:
            part = part_of(values)
            calls = check_count("calls", values.get("calls", 1))
            tokens = [check_count(name, values.get(name, 0)) for name in TOKENS]
            self.table.add(path, own._replace(part=part), Counts._make((calls, 0, 0, *tokens, ZERO_COUNTS.cost)))
        seconds = record.get("seconds", 0.0)
        call = key.model, counts.input_tokens, counts.output_tokens, float(seconds), measured_by
        self.table.row(path).add_sizes(CallSizes.of([call]))

    def finish(self) -> None:
        """Add the sums of similar records to the table."""
        for group in self._groups.values():
            for (tier, moment, is_reckoned), found in group.sums.items():
                table = self.reckoned if is_reckoned else self.table
                table.add(group.path, usage_key(group.model, tier, "table", moment), Counts(**asdict(found)))

    def _path(self, frames: list[list[str]]) -> ScopePath:
        names = tuple(map(tuple, frames))
        if (path := self._paths.get(names)) is None:
            path = ROOT if names else ROOT.child(NO_SCOPE)
            for kind, name in names:
                path = path.child(Frame(check_name("kind", kind), check_name("name", name)))
            if len(self._paths) < _MOST_PATHS:
                self._paths[names] = path
        return path


def _parser() -> Callable[[bytes], Any]:
    """Return orjson's parser, which takes a third of the time of json's, if it is installed. dspy depends on it."""
    try:
        from orjson import loads
    except ImportError:
        return lambda line: _decode(line.decode())
    return loads


def frames_of(record: dict[str, Any]) -> list[list[str]]:
    """Return the path of a record; if another program wrote it, as its module and operation say."""
    frames: list[list[str]] | None = record.get("frames")
    if frames is None:
        operation = record.get("operation")
        frames = [["module", record["module"]], *([["operation", operation]] if operation else [])]
    return frames


def _terms(record: dict[str, Any]) -> Terms:
    return tuple(sorted(record.get("terms", {}).items()))


def _started(record: dict[str, Any]) -> float:
    """Return when a call was made, in seconds since 1970; now, if the record does not tell."""
    try:
        return datetime.fromisoformat(record["timestamp"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return time.time()


def _moment(model: str, timestamp: str) -> str:
    """Return the moment as of which a call is priced. It is looked up once for all calls of ten minutes."""
    has_offset = timestamp[-6:-5] in ("+", "-")
    return _moment_at(model, f"{timestamp[:15]}0:00{timestamp[-6:]}" if has_offset else timestamp)


@lru_cache(maxsize=4_096)
def _moment_at(model: str, timestamp: str) -> str:
    return moment_of(model, int(_started({"timestamp": timestamp}) // HALF_HOUR))


def _dollars(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"cost must be a number, not {value!r}")
    return check_money("cost", Decimal(str(value)))


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip("\n")
    return repr(text if len(text) <= 40 else text[:39] + "…")
