"""What becomes of the numbers of tests: a table in the terminal, and a comparison with the baseline.

A number reaches the summary with its test's report, so that this file does not know whether the test ran here or in a worker
of pytest-xdist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import pytest

from tokenscope._usage.usage import Usage, counts
from tokenscope.pytest_plugin.baseline import Baseline

_COSTLIEST: Final = 10
_NAMED: Final = 10  # new and vanished tests that are named; of further ones there is the number


def packed(total: Usage, tokens: int) -> dict[str, Any]:
    """Return a test's numbers as pytest-xdist can send them: all its runs together, and the tokens of the last one."""
    return {"tokens": tokens, "usage": [str(value) if isinstance(value, Decimal) else value for value in counts(total)]}


def dollars(usage: Usage) -> str:
    """Write what calls cost: at least, where some have no known price; a dash, where none has."""
    if usage.known_cost is None:
        return "\N{EN DASH}"
    bound = "≥ " if usage.unpriced_calls else ""
    return f"{bound}${usage.cost:,.{2 if usage.cost >= 1 else 6}f}"


@dataclass
class Test:
    """What is known of one test."""

    __test__ = False

    usage: Usage = field(default_factory=Usage)  # all its runs together
    tokens: int = 0  # of the last run
    finished: bool = False  # the last run went to its end, so that its tokens can be compared


class Summary:
    """The plugin that gathers the numbers and shows them when the session ends."""

    def __init__(self, *, show: bool, baseline: Baseline | None, fail_on_increase: float | None, update: bool) -> None:
        self.show = show
        self.baseline = baseline
        self.fail_on_increase = fail_on_increase
        self.update = update
        self.tests: dict[tuple[str, str], Test] = {}  # by worker and name: with `--dist each`, a test has several runs
        self.failure = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take the numbers; the last ones of a test count."""
        numbers = getattr(report, "tokenscope", None)
        if numbers is None:
            return
        test = self.tests.setdefault((getattr(report, "worker_id", ""), report.nodeid), Test())
        test.tokens = numbers["tokens"]
        test.usage = Usage.from_counts([Decimal(each) if isinstance(each, str) else each for each in numbers["usage"]])
        if report.when != "teardown":
            test.finished = report.when == "call" and (report.passed or hasattr(report, "wasxfail"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the baseline, or fail the session where a test spent too much more."""
        if self.baseline is None or session.config.option.collectonly:
            return
        if self.update:
            try:
                self.baseline.write(self.finished())
            except OSError as error:
                self.failure = f"{self.baseline.path} could not be written: {error.strerror or error}"
        elif self.fail_on_increase is not None and self.grown():
            self.failure = f"tokens grew by more than {self.fail_on_increase:g}%"
        if self.failure and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def finished(self) -> dict[str, int]:
        """Return the tokens of each test that ran to its end."""
        found: dict[str, int] = {}
        for (_, nodeid), test in self.tests.items():
            if test.finished:
                found[nodeid] = max(test.tokens, found.get(nodeid, 0))
        return found

    def grown(self) -> list[tuple[str, int, int]]:
        """Return the tests whose tokens grew by more than is allowed, with old and new; what grew most comes first."""
        assert self.baseline is not None
        old = self.baseline.tokens
        allowed = self.fail_on_increase or 0.0
        found = [
            (nodeid, old[nodeid], new)
            for nodeid, new in self.finished().items()
            if nodeid in old and (new - old[nodeid]) * 100 > old[nodeid] * allowed
        ]
        return sorted(found, key=lambda each: (each[1] - each[2], each[0]))

    # -- the terminal ---------------------------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Show the table and the comparison."""
        if config.option.collectonly:
            return
        if self.show:
            terminalreporter.section("tokens by test")
            for line in self._table():
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
            if test.usage.calls
        ]
        total = sum((test.usage for test in self.tests.values()), Usage())
        idle = len(self.tests) - len(spent)
        name = f"total of {_number(len(self.tests), 'test')}" + (f", {idle:,} of them without a call" if idle else "")
        costliest = sorted(spent, key=lambda each: (-each[1].total_tokens, each[0]))[:_COSTLIEST]
        rows = costliest if len(spent) <= _COSTLIEST else sorted(spent)
        priced = bool(total.cost or total.unpriced_calls)
        head = ("tokens", "input", "output", "calls", "cost")
        table: list[tuple[str, ...]] = [head, *(_cells(usage) for _, usage in [*rows, ("", total)])]
        widths = [max(len(row[i]) for row in table) for i in range(5 if priced else 4)]

        def line(cells: tuple[str, ...], name: str) -> str:
            return "  ".join([*(cell.rjust(width) for cell, width in zip(cells, widths, strict=False)), name])

        lines = [line(head, "test"), *(line(_cells(usage), name) for name, usage in rows)]
        if rows is not costliest:
            lines += ["", f"the {_COSTLIEST} costliest:", *(line(_cells(usage), name) for name, usage in costliest)]
        return [*lines, line(_cells(total), name)]

    def _comparison(self, baseline: Baseline) -> list[str]:
        finished = self.finished()
        lines: list[str] = []
        grown = self.grown()
        if grown:
            allowed = f" by more than {self.fail_on_increase:g}%" if self.fail_on_increase else ""
            lines.append(f"{_number(len(grown), 'test')} grew{allowed}:")
            cells = [
                (f"{old:,}", f"{new:,}", f"+{(new - old) / old:.1%}" if old else "from none", nodeid)
                for nodeid, old, new in grown
            ]
            widths = [max(len(cell[i]) for cell in cells) for i in range(3)]
            lines += [
                f"  {old.rjust(widths[0])} -> {new.rjust(widths[1])}  {percent.rjust(widths[2])}  {nodeid}"
                for old, new, percent, nodeid in cells
            ]
        new = [
            f"{nodeid} ({tokens:,})" for nodeid, tokens in finished.items() if nodeid not in baseline.tokens and tokens
        ]
        if new:
            lines.append(f"{_number(len(new), 'new test')}, not in the baseline: {_some(new)}")
        gone = [nodeid for nodeid in baseline.tokens if nodeid not in finished]
        if gone:
            lines.append(f"{_number(len(gone), 'test')} of the baseline did not run to the end: {_some(gone)}")
        old = sum(baseline.tokens.get(nodeid, 0) for nodeid in finished if nodeid in baseline.tokens)
        now = sum(tokens for nodeid, tokens in finished.items() if nodeid in baseline.tokens)
        both = sum(nodeid in baseline.tokens for nodeid in finished)
        lines.append(f"{_number(both, 'test')} compared: {old:,} -> {now:,} tokens")
        if self.update and not self.failure:
            lines.append(f"wrote {_number(len(finished), 'test')} to {baseline.path}")
        return lines


def _cells(usage: Usage) -> tuple[str, ...]:
    return (
        f"{usage.total_tokens:,}",
        f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}",
        f"{usage.calls:,}",
        dollars(usage),
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
