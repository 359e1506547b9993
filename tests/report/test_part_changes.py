"""Which part of prompts grew, in tokens a call."""

from __future__ import annotations

from support.formats import PRICED
from support.prompts import FEWER_DEMOS, MEASURED, call, measured_row

from tokenscope import Report, Usage
from tokenscope._report.part_changes import part_changes
from tokenscope._report.rows import Row
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage


def report(*calls):
    return Report.from_rows([measured_row(-1, Frame("dspy", "judge"), 1, 1.0, calls)], scoped=True)


def test_what_changed():
    """Parts that grew, shrank, came and went are told for each predictor, those that make most tokens first."""
    changes = part_changes(FEWER_DEMOS, MEASURED)
    back = part_changes(MEASURED, FEWER_DEMOS)

    assert [("Research.writer", "demos", "changed", 460, 1840), ("Research.judge", "history", "gone", 90, 0)] == [
        change[:5] for change in changes
    ]
    assert [1380, -90] == [change.tokens for change in changes]
    assert [-1380, 90] == [change.tokens for change in back]
    assert ["changed", "new"] == [change.status for change in back]


def test_tokens_are_those_of_an_average_call():
    """Twice as many calls with the same prompts are no change. A part that half of the calls have counts half."""
    once, other = (
        call(instructions=60, input_x=40),
        call(instructions=60, input_x=40, history=60),
    )

    assert [] == part_changes(report(once), report(once, once))
    assert [("history", "new", 0, 30)] == [change[1:5] for change in part_changes(report(once), report(once, other))]


def test_less_than_a_token_is_no_change():
    """Where a part differs by less than half a token a call, it has not changed."""
    short, long = call(instructions=100), call(instructions=101)

    assert [] == part_changes(report(*[short] * 3), report(*[short] * 2, long))
    assert ["instructions"] == [change.part for change in part_changes(report(short), report(long))]


def test_what_one_report_has_not_measured():
    """Nothing is compared that only one of the two reports has measured: a whole report, a predictor, or some calls."""
    assert [] == part_changes(PRICED, MEASURED) == part_changes(MEASURED, PRICED)
    other = Report.from_rows([measured_row(-1, Frame("dspy", "other"), 1, 1.0, [call(instructions=9)])], scoped=True)
    assert [] == part_changes(MEASURED, MEASURED + other) == part_changes(MEASURED + other, MEASURED)
    assert [] == part_changes(MEASURED, MEASURED + MEASURED)
    measured = report(call(instructions=100))
    unmeasured = Report.from_rows(
        [Row(-1, Frame("dspy", "judge"), 1, 1, [ModelUsage(UsageKey("p/x"), Usage(calls=1, input_tokens=900))])],
        scoped=True,
    )
    assert "(not measured)" in (measured + unmeasured).parts()["judge"]
    assert [] == part_changes(measured, measured + unmeasured)
