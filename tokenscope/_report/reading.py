"""Reading a report: from JSON as it was saved, or from lines of records, which are added up one by one and never kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Any, BinaryIO, Final

from tokenscope._report.formats.json import parse
from tokenscope._report.report import Report
from tokenscope._usage.calls import ROOT, Frame, ScopePath, check_name, is_failure, model_name
from tokenscope._usage.keys import UsageKey, key_of, tier_of, usage_key
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import TOKENS, ZERO_COUNTS, Counts, check_count, check_money
from tokenscope._usage.warnings import ReportFormatError, warn_once

_KNOWN: Final = 50_000
"""How many paths are remembered by the text that names them."""
_RECORDS: Final = b'"records": ['


def read_report(path: str | os.PathLike[str]) -> Report:
    """Read a report from a file; the text `-` is standard input.

    Raises:
        ReportFormatError: what is there is neither a report nor a file of records, or is damaged.
        OSError: the file cannot be read.
    """
    if path == "-":
        return read(sys.stdin.buffer, "<stdin>")
    with open(path, "rb") as file:
        return read(file, os.fspath(path))


def read(file: BinaryIO, where: str) -> Report:
    """Read a report from an open file; `where` names it in errors."""
    first = next((line for line in file if line.strip()), b"")
    if first.startswith(b"\xef\xbb\xbf"):
        first = first[3:]
    lines = chain([first], file) if first else iter(())
    if not first and where.lower().endswith(".jsonl"):
        return Report()  # of a sink that was told of nothing
    return _add_up(lines, where) if _is_record(first) else parse(_head(lines, where), where)


def _is_record(line: bytes) -> bool:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "format" not in data and "input_tokens" in data


def record_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the records of a file that `read_report` has read, each as a line of JSON; none where it holds none."""
    with open(path, "rb") as file:
        first = next((line for line in file if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
        if _is_record(first):
            for line in chain([first], file):
                if line.strip() and (line.endswith(b"\n") or _is_record(line)):
                    yield line.decode().strip()
            return
        for line in chain([first], file):
            if line.strip() == _RECORDS:
                record = next(file, b"")
                if record.strip() != b"]" and not _is_record(record.strip().removesuffix(b",")):
                    break
                while record and record.strip() != b"]":
                    yield record.decode().strip().removesuffix(",")
                    record = next(file, b"")
                return
        file.seek(0)
        # Another program has laid it out otherwise. There are no such files of a size that memory cannot hold.
        data = json.loads(file.read().decode("utf-8-sig"))
        yield from map(json.dumps, data.get("records", []))


# -- reports ------------------------------------------------------------------------------------------------------------


def _head(lines: Iterator[bytes], where: str) -> str:
    """Return a report's text without its records, which are not needed, and may be very many."""
    text = bytearray()
    for line in lines:
        if line.strip() == _RECORDS:
            _skip_records(lines, where)
            del text[text.rstrip().rfind(b",") :]
            text += b"}"
            break
        text += line
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReportFormatError(f"{where}: this is no tokenscope report: it is not text ({error.reason})") from None


def _skip_records(lines: Iterator[bytes], where: str) -> None:
    last: list[bytes] = [b"", b""]
    for line in lines:
        if stripped := line.strip():
            last = [last[1], stripped]
    if last != [b"]", b"}"]:
        raise ReportFormatError(
            f"{where}: this is a truncated tokenscope report: its records end with {_shown(last[1])}"
        )


# -- records ------------------------------------------------------------------------------------------------------------


def _add_up(lines: Iterator[bytes], where: str) -> Report:
    table = UsageTable(ROOT)
    paths = _Paths()
    decode = json.JSONDecoder().decode
    for number, line in enumerate(lines, 1):
        try:
            path, key, counts, failed = _read_record(decode(line.decode()), paths)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if not line.strip():
                continue
            if not line.endswith(b"\n"):
                _warn_of_cut(where, number)
                break
            said = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
            raise ReportFormatError(f"{where}: line {number:,} {said}; it begins {_shown(line)}") from None
        table.add(path, key, counts)
        if failed:
            table.add(path, key._replace(wasted="provider_errors"), counts)
    table.warn_of_overflow()
    return Report.from_table(table, ROOT, scoped=False)


class _Paths:
    """Paths by the frames that name them."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, ...], ...], ScopePath] = {}

    def __getitem__(self, frames: list[list[str]]) -> ScopePath:
        key = tuple(map(tuple, frames))
        path = self._known.get(key)
        if path is None:
            path = ROOT
            for kind, name in key:
                path = path.child(Frame(check_name("kind", kind), check_name("name", name)))
            if len(self._known) < _KNOWN:
                self._known[key] = path
        return path


def _read_record(record: dict[str, Any], paths: _Paths) -> tuple[ScopePath, UsageKey, Counts, bool]:
    """Return where a record's call was made, what it is added up by, what it spent, and whether that was for nothing."""
    if not isinstance(record, dict):
        raise TypeError("a record must be an object")
    frames = record.get("frames")
    if frames is None:
        frames = [
            ["module", record["module"]],
            *([["operation", record["operation"]]] if record.get("operation") else []),
        ]
    get = record.get
    provider = get("provider") or None
    model = _model(check_name("model", record["model"]), None if provider is None else check_name("provider", provider))
    cached, failed = bool(get("cached")), get("error") is not None
    saved = get("saved")
    spent: Callable[..., Any] = get if saved is None else saved.get
    tokens = [
        value if type(value := spent(name, 0)) is int and value >= 0 else check_count(name, value) for name in TOKENS
    ]
    cost = get("cost")
    money = ZERO_COUNTS.cost if cost is None else _dollars(cost)
    counts = Counts._make((1, int(cached), int(failed), *tokens, money))
    if saved is not None:
        key = usage_key(model, tier_of(counts.input_tokens), "cache")
    else:
        key = key_of(model, counts, cost_is_told=cost is not None)
    error = get("error")
    return paths[frames], key, counts, error is not None and is_failure(error)


def _dollars(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"cost must be a number, not {value!r}")
    return check_money("cost", Decimal(str(value)))


@lru_cache(maxsize=4_096)
def _model(name: str, provider: str | None) -> str:
    return model_name(name, provider)


def _warn_of_cut(where: str, number: int) -> None:
    warn_once(
        f"cut:{where}",
        f"{where}: line {number:,}, the last one, is cut off, as where its writer was killed; those before it are read",
    )


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip("\n")
    return repr(text if len(text) <= 40 else text[:39] + "…")
