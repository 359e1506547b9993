"""TokenTracker: everything that this process counts, for scripts: statistics, the latest records, sinks."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, overload

from tokenscope._report.files import write_whole
from tokenscope._report.formats import json
from tokenscope._report.record import Record
from tokenscope._report.report import Report
from tokenscope._report.snapshot import pivot
from tokenscope._scopes.enforcement import report_of
from tokenscope._scopes.event_log import clear, keep_records, observe, records, unobserve, warn_later
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import record_cost, record_tokens
from tokenscope._usage.calls import Call

Sink = Callable[[Record], object]


class TokenTracker:
    """The one tracker of this process: it has every call that is counted, in all scopes and threads.

    Example:
        >>> from tokenscope import get_tracker
        >>> tracker = get_tracker()
        >>> tracker.reset()
        >>> tracker.record("persona_formulation", "formulate_prompt", "gpt-4o-mini", "openai", 150, 75)
        >>> tracker.get_statistics()["summary"]["total_tokens"]
        225
        >>> tracker.get_module_usage("persona_formulation")["call_count"]
        1
    """

    _instance: ClassVar[Self | None] = None
    _sinks: ClassVar[dict[int, Callable[[Call], None]]] = {}

    def __new__(cls) -> Self:
        """Return the one instance."""
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    @classmethod
    def get_instance(cls) -> Self:
        """Return the process's tracker, as `get_tracker()` does."""
        return cls()

    record = staticmethod(record_tokens)
    record_cost = staticmethod(record_cost)

    def reset(self) -> None:
        """Forget all counts and records. Scopes that are open keep what was counted in them."""
        clear()

    def report(self) -> Report:
        """Return a frozen report of everything that was counted since the start, or since the last `reset`."""
        return report_of(STATE.root)

    def get_statistics(self) -> dict[str, Any]:
        """Return the totals as plain numbers: `summary`, `by_module` and `by_model`; costs in dollars."""
        return self.report().statistics()

    @overload
    def get_module_usage(self) -> dict[str, dict[str, Any]]: ...
    @overload
    def get_module_usage(self, module: str) -> dict[str, Any]: ...
    def get_module_usage(self, module: str | None = None) -> dict[str, Any]:
        """Return the totals of each module, or of one.

        Raises:
            KeyError: nothing was counted in that module; the message shows the nearest names.
        """
        report = self.report()
        by_module: dict[str, dict[str, Any]] = report.statistics()["by_module"]
        if module is None:
            return by_module
        report.by_module()[module]  # its KeyError shows the nearest names
        return by_module[module]

    @property
    def records(self) -> tuple[Record, ...]:
        """The latest calls, the oldest first: at most `max_records` of them."""
        return tuple(map(Record, records()))

    @property
    def max_records(self) -> int:
        """How many records are kept: 10,000 unless you set another number. Totals always include all calls.

        Raises:
            TypeError: it is set to something other than an int.
            ValueError: it is set to a number below 0.
        """
        return STATE.records.maxlen or 0

    @max_records.setter
    def max_records(self, number: int) -> None:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"max_records must be an int, not {type(number).__name__} {number!r}")
        if number < 0:
            raise ValueError(f"max_records must be 0 or more, but is {number}")
        keep_records(number)

    def to_dict(self, include_records: bool = True) -> dict[str, Any]:
        """Return what `export_to_file` writes: without the latest calls, if `include_records` is False."""
        report = json.to_dict(self.report())
        if include_records:
            report["records"] = [record.to_dict() for record in self.records]
        return report

    def export_to_file(self, filepath: str | os.PathLike[str], include_records: bool = True) -> None:
        """Write a report as JSON, for scripts and `Report.load`: `summary`, `by_module`, `by_model`, and the latest calls.

        The file is written whole or not at all. The latest calls, under `records`, are left out if `include_records` is False.

        Raises:
            OSError: the file cannot be written.
        """
        records = (json.line(record.to_dict()) for record in self.records) if include_records else None
        write_whole(Path(filepath), json.pieces(self.report(), records))

    def print_summary(self) -> None:
        """Print the totals, by module and by model, to standard output."""
        report = self.report()
        print(f"By module\n{pivot(report, 'module')!s}\n\nBy model\n{pivot(report, 'model')!s}")  # noqa: T201

    def add_sink(self, sink: Sink) -> None:
        """Pass each record to a sink from now on, when its call ends. Adding a sink again does nothing.

        Args:
            sink: A `JSONLSink`, or any function of one record. It is called in the thread that made the call, so several threads
                may call it at once. If it raises, tokenscope warns once, and the program goes on.

        Raises:
            TypeError: the sink cannot be called.
        """
        if not callable(sink):
            kind = type(sink).__name__
            raise TypeError(f"a sink must be a JSONLSink or a function of one record, not {kind} {sink!r}")
        if id(sink) not in self._sinks:
            self._sinks[id(sink)] = partial(_deliver, sink)
            observe(self._sinks[id(sink)])

    def remove_sink(self, sink: Sink) -> None:
        """Pass no more records to a sink.

        Raises:
            ValueError: the sink was not added.
        """
        if (observer := self._sinks.pop(id(sink), None)) is None:
            raise ValueError(f"{sink!r} is not a sink of this tracker")
        unobserve(observer)

    def __repr__(self) -> str:
        total = self.report().total
        return f"<TokenTracker of {total.calls:,} calls, {total.total_tokens:,} tokens>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return TokenTracker, ()


def _deliver(sink: Sink, call: Call) -> None:
    try:
        sink(Record(call))
    except Exception as error:  # noqa: BLE001 - a sink is the user's, and must not break the program
        warn_later(
            f"sink:{id(sink)}",
            f"{sink!r} failed: {type(error).__name__}: {error}. It does not have this record; scopes and reports have "
            "counted the call. tokenscope goes on passing records to it, and does not warn again.",
        )


def get_tracker() -> TokenTracker:
    """Return the process's one tracker.

    Example:
        >>> from tokenscope import TokenTracker, get_tracker
        >>> get_tracker() is TokenTracker.get_instance()
        True
    """
    return TokenTracker()
