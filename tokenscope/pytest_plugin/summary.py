"""The tokens of all tests: a table in the terminal, and a comparison with the baseline.

The numbers arrive with each test's report. So this file does not know whether a test ran here or in a worker of pytest-xdist.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Final

import pytest

from tokenscope import Report, Usage
from tokenscope._report.formats.text import counts, listed, money, plural, printable
from tokenscope._report.parts import measured_by
from tokenscope._usage.usage import MONEY
from tokenscope.pytest_plugin.baseline import Baseline

_COSTLIEST: Final = 10


def packed(total: Usage, tokens: int) -> dict[str, Any]:
    """Return a test's numbers in a form that pytest-xdist can send: all its runs together, and the last run's tokens."""
    usage = asdict(total)
    return {"tokens": tokens, "usage": usage | {name: str(usage[name]) for name in MONEY if usage[name] is not None}}


@dataclass(frozen=True)
class Prompts:
    """The input tokens of tests by part of the prompt."""

    parts: Counter[str] = field(default_factory=Counter)
    measured_by: frozenset[str] = frozenset()

    @classmethod
    def of(cls, report: Report) -> Prompts:
        """Return the parts of a report."""
        parts = {name: usage.input_tokens for name, usage in report.by_part().items()}
        return cls(Counter(parts), frozenset(measured_by(report.rows)))

    def __add__(self, other: Prompts) -> Prompts:
        return Prompts(self.parts + other.parts, self.measured_by | other.measured_by)

    def packed(self) -> dict[str, Any]:
        """Return the numbers in a form that pytest-xdist can send."""
        return {"parts": dict(self.parts), "measured_by": sorted(self.measured_by)}

    @classmethod
    def unpacked(cls, numbers: dict[str, Any]) -> Prompts:
        """Return what was packed."""
        return cls(Counter(numbers["parts"]), frozenset(numbers["measured_by"]))


@dataclass
class MeasuredTest:
    """The numbers of one test."""

    usage: Usage = field(default_factory=Usage)  # all its runs together
    tokens: int = 0  # of the last run
    finished: bool = False  # the last run was complete, so its tokens can be compared
    prompts: Prompts = field(default_factory=Prompts)  # those of all its runs that were measured


@dataclass(eq=False)
class Summary:
    """The plugin that gathers the numbers, and shows them when the session ends."""

    show: bool
    baseline: Baseline | None
    fail_on_increase: float | None
    update: bool
    tests: defaultdict[tuple[str, str], MeasuredTest] = field(default_factory=lambda: defaultdict(MeasuredTest))
    """By worker and name: with `--dist each`, each worker runs all."""
    failure: str = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take the numbers. The last ones of a test count."""
        if (numbers := getattr(report, "tokenscope", None)) is None:
            return
        test = self.tests[getattr(report, "worker_id", ""), report.nodeid]
        test.tokens = numbers["tokens"]
        usage: dict[str, Any] = {
            name: Decimal(value) if name in MONEY and value is not None else value
            for name, value in numbers["usage"].items()
        }
        test.usage = Usage(**usage)
        if prompts := numbers.get("prompts"):
            test.prompts = Prompts.unpacked(prompts)
        if report.when != "teardown":
            test.finished = report.when == "call" and (report.passed or hasattr(report, "wasxfail"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the baseline, or fail the session if a test spent too much more."""
        if self.baseline is None or session.config.option.collectonly:
            return
        if self.update:
            try:
                self.baseline.write(self._finished())
            except OSError as error:
                self.failure = f"{self.baseline.path} could not be written: {error.strerror or error}"
        elif self.fail_on_increase is not None and self._grown(self.baseline):
            self.failure = f"tokens grew by more than {self.fail_on_increase:g}%"
        if self.failure and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _finished(self) -> dict[str, int]:
        """Return the tokens of each test that ran to its end."""
        found: dict[str, int] = {}
        for (_, nodeid), test in self.tests.items():
            if test.finished:
                found[nodeid] = max(test.tokens, found.get(nodeid, 0))
        return found

    def _grown(self, baseline: Baseline) -> list[tuple[str, int, int]]:
        """Return the tests whose tokens grew by more than the limit, with the old and the new number, in order of growth."""
        limit = self.fail_on_increase or 0.0
        old = baseline.tokens
        found = [
            (nodeid, old[nodeid], new)
            for nodeid, new in self._finished().items()
            if nodeid in old and (new - old[nodeid]) * 100 > old[nodeid] * limit
        ]
        return sorted(found, key=lambda each: (each[1] - each[2], each[0]))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Show the table and the comparison."""
        if config.option.collectonly:
            return
        if self.show:
            terminalreporter.section("tokens by test")
            for line in self._table():
                terminalreporter.line(line)
        if config.option.tokenscope_parts:
            terminalreporter.section("input by part of the prompt")
            for line in self._parts():
                terminalreporter.line(line)
        if self.baseline is not None:
            terminalreporter.section("tokens against the baseline")
            for line in self._comparison(self.baseline):
                terminalreporter.line(line)
            if self.failure:
                terminalreporter.line(f"FAILED: {self.failure}", red=True)

    def _table(self) -> list[str]:
        runs = Counter(nodeid for _, nodeid in self.tests)
        spent = [
            (f"{nodeid} [{worker}]" if runs[nodeid] > 1 else nodeid, test.usage)
            for (worker, nodeid), test in self.tests.items()
            if test.usage
        ]
        costliest = sorted(spent, key=lambda each: (-each[1].total_tokens, each[0]))[:_COSTLIEST]
        all_shown = len(spent) <= _COSTLIEST
        rows = costliest if all_shown else sorted(spent) + costliest
        total = sum((test.usage for test in self.tests.values()), Usage())
        idle = len(self.tests) - len(spent)
        without_call = f", {idle:,} of them without a call" if idle else ""
        rows = [*rows, (f"total of {plural(len(self.tests), 'test')}{without_call}", total)]
        head = ("tokens", "input", "output", "calls", "cost", "test")
        lines = _aligned([head, *((*_cells(usage), name) for name, usage in rows)])
        if not all_shown:
            lines[len(spent) + 1 : len(spent) + 1] = ["", f"the {_COSTLIEST} costliest:"]
        return lines

    def _parts(self) -> list[str]:
        from tokenscope._report.formats.part_shares import NO_PARTS, estimate, percent  # which loads rich

        prompts = sum((test.prompts for test in self.tests.values()), Prompts())
        if not prompts.measured_by:
            return [NO_PARTS if any(test.usage.input_tokens for test in self.tests.values()) else "no prompt was sent"]
        whole = sum(prompts.parts.values())
        rows = [
            (f"{tokens:,}", percent(tokens, whole), printable(name)) for name, tokens in prompts.parts.most_common()
        ]
        return [*_aligned([("tokens", "share", "part"), *rows]), estimate(sorted(prompts.measured_by))]

    def _comparison(self, baseline: Baseline) -> list[str]:
        old, new = baseline.tokens, self._finished()
        lines: list[str] = []
        if grown := self._grown(baseline):
            limit = f" by more than {self.fail_on_increase:g}%" if self.fail_on_increase else ""
            lines.append(f"{plural(len(grown), 'test')} grew{limit}:")
            before_width, after_width = (max(len(f"{row[i]:,}") for row in grown) for i in (1, 2))
            rows: list[tuple[str, str, str]] = []
            for nodeid, before, after in grown:
                growth = f"+{(after - before) / before:.1%}" if before else "from none"
                rows.append((f"  {before:>{before_width},} -> {after:>{after_width},}", growth, nodeid))
            lines += _aligned(rows)
        if unknown := [f"{nodeid} ({tokens:,})" for nodeid, tokens in new.items() if nodeid not in old and tokens]:
            lines.append(f"{plural(len(unknown), 'new test')}, not in the baseline: {listed(sorted(unknown))}")
        if gone := [nodeid for nodeid in old if nodeid not in new]:
            lines.append(f"{plural(len(gone), 'test')} of the baseline did not run to the end: {listed(sorted(gone))}")
        both = old.keys() & new.keys()
        before, after = (sum(tokens[nodeid] for nodeid in both) for tokens in (old, new))
        lines.append(f"{plural(len(both), 'test')} compared: {before:,} -> {after:,} tokens")
        if self.update and not self.failure:
            lines.append(f"wrote {plural(len(new), 'test')} to {baseline.path}")
        return lines


def _cells(usage: Usage) -> tuple[str, ...]:
    calls, input_tokens, output_tokens, total_tokens = counts(usage)
    return total_tokens, input_tokens, output_tokens, calls, money(usage)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: numbers in columns, then a name. The column of costs is left out if all are 0."""
    from tokenscope._report.formats.columns import GAP, Column, Columns  # which loads rich

    numbers = [row[:-1] for row in rows]
    columns = Columns([Column(blanks=("cost", "$0.00")) for _ in numbers[0]], numbers)
    return [GAP.join([*filter(None, columns.fit(row[:-1])), row[-1]]) for row in rows]
