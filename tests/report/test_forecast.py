"""`report.scale`, and `tokenscope analyze --scale-to`: what a larger run would spend, and in which range."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import dspy
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from law.test_properties import QUICK, reports
from support.formats import HOSTILE, hostile, usage
from support.reports import build, made

from tokenscope import JSONLSink, Report, get_tracker, record_tokens, token_scope
from tokenscope._report.forecast import student_t
from tokenscope._usage.calls import Frame
from tokenscope.cli.main import main
from tokenscope.testing import LoopbackProvider


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, with an empty tracker."""
    monkeypatch.chdir(tmp_path)
    get_tracker().reset()
    yield tmp_path
    get_tracker().reset()


def spend(tokens: int, model: str = "gpt-4o-mini", **counts) -> None:
    record_tokens("m", "o", model, "openai", tokens, tokens // 10, **counts)


def numbered(*samples: int, set_up: int = 0) -> Report:
    """Return the report of a run with a numbered scope for each sample, which spends so many input tokens."""
    with token_scope("run") as run:
        if set_up:
            with token_scope("index"):
                spend(set_up)
        for number, tokens in enumerate(samples):
            with token_scope(f"sample {number}"):
                spend(tokens)
    return run.report()


def analyzed(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["analyze", *arguments], prog_name="tokenscope")
    assert status == done.exit_code, done.output
    return done.stderr if status else done.stdout


# -- what is expected -------------------------------------------------------------------------------------------------------


def test_what_was_entered_once_stays():
    """Scopes of samples grow with the samples. The set-up, which was entered once, costs the same in the larger run."""
    report = numbered(1_000, 2_000, 3_000, set_up=50_000)
    found = report.scale(samples=3, to=1_000)
    once = report.find("run/index").usage
    each = [report.find(f"run/sample {number}").usage for number in range(3)]

    assert once.total_tokens + 1_000 * 2_200 == found.expected.total_tokens
    assert once.cost + sum(sample.cost for sample in each) * 1_000 / 3 == pytest.approx(found.expected.cost)
    assert 1_001 == found.expected.calls
    assert ("run/index/m/o",) == found.once
    assert ("run/sample 2", "run/sample 1", "run/sample 0") == found.repeated
    assert (3, 1_000) == (found.samples, found.to)


@pytest.mark.parametrize(
    ("rows", "repeated", "once"),
    [
        pytest.param([(-1, "scope", "s", 5, 1, 10)], ["s"], [], id="once for each sample"),
        pytest.param([(-1, "scope", "s", 10, 1, 10)], ["s"], [], id="twice for each sample"),
        pytest.param([(-1, "scope", "s", 2, 1, 10)], ["s"], [], id="for some of the samples"),
        pytest.param([(-1, "scope", "s", 1, 1, 10)], [], ["s"], id="once"),
        pytest.param([(-1, "scope", "s", 0, 0, 10)], [], ["s"], id="one call, entries unknown"),
        pytest.param([(-1, "scope", "s", 5, 1, 0), (0, "scope", "t", 1, 1, 10)], ["s"], [], id="below a sample"),
        pytest.param([(-1, "scope", "s", 1, 1, 10), (0, "scope", "t", 5, 1, 10)], ["s/t"], ["s"], id="around samples"),
        pytest.param([(-1, "scope", f"s{n}", 1, 1, 10) for n in range(5)], [f"s{n}" for n in range(5)], [], id="numbers"),
        pytest.param([(-1, "scope", f"s{n}", 1, 1, 10) for n in range(4)], [], [f"s{n}" for n in range(4)], id="4 numbers"),
    ],
)  # fmt: skip
def test_what_grows_with_five_samples(rows, repeated, once):
    """A scope that was entered more than once grows with the samples, as do scopes with numbers, as many as samples."""
    report = made(*rows, scoped=False)
    found = report.scale(samples=5, to=50)
    stays = sum(report.find(path).own.total_tokens for path in once)

    assert (repeated, once) == (list(found.repeated), list(found.once))
    assert stays + (report.total.total_tokens - stays) * 10 == found.expected.total_tokens


@pytest.mark.parametrize(("calls", "expected"), [(5, 50_000), (10, 50_000), (4, 5_000)])
def test_calls_in_a_scope_that_was_entered_once(calls, expected):
    """Its own calls grow with the samples if they are as many, or a multiple of them."""
    report = build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(calls, 5_000, 0, "0.5")})], scoped=True)

    assert expected == report.scale(samples=5, to=50).expected.total_tokens


def test_calls_whose_scope_has_no_entries():
    """Records do not tell how often a scope was entered. Then its calls decide, for the scopes below, too."""
    own = {"x": usage(6, 60, 0, "0.6")}
    rows = [(-1, Frame("scope", "s"), 0, 0, own), (0, Frame("scope", "t"), 0, 0, {"x": usage(1, 5, 0, "0")})]

    assert 650 == build(rows, scoped=True).scale(samples=5, to=50).expected.total_tokens


@QUICK
@given(reports(), st.integers(1, 50), st.integers(1, 50))
def test_any_report_scales(report, samples, times):
    """A run of as many samples is expected to spend the same; more samples never spend less; the range holds what is expected."""
    same, more = report.scale(samples=samples, to=samples), report.scale(samples=samples, to=samples * times)

    assert report.total.total_tokens == same.expected.total_tokens
    assert report.total.cost == same.expected.cost
    assert same.expected.total_tokens <= more.expected.total_tokens
    once = report.total.total_tokens - (more.expected.total_tokens - report.total.total_tokens) // max(1, times - 1)
    assert times == 1 or 0 <= once <= report.total.total_tokens
    if more.tokens is not None:
        assert more.tokens[0] <= more.expected.total_tokens <= more.tokens[1]
    if more.cost is not None:
        assert more.cost[0] <= more.expected.cost <= more.cost[1]


@pytest.mark.parametrize("name", ["samples", "to"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, ValueError), ("5", TypeError)])
def test_wrong_numbers(name, value, error):
    """A number of samples is a whole number, 1 or more. The error names it."""
    with pytest.raises(error, match=f"^{name} must (not )?be"):
        Report().scale(**{"samples": 1, "to": 1, name: value})


# -- the range --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1_000, 1.9623), (1_001, 1.9623), (10**9, 1.96)],
)  # fmt: skip
def test_student_t(freedom, expected):
    """Quantiles of Student's t are those of printed tables."""
    assert expected == pytest.approx(student_t(freedom), abs=5e-5)


def test_the_range_of_numbered_scopes():
    """The range is the mean of the samples, and t times their deviation, for the sum of new samples; set-up is added as it is."""
    found = numbered(1_000, 1_100, 1_200, set_up=5_000).scale(samples=3, to=100)
    spread = 4.30265 * 110 * (100 + 100 * 100 / 3) ** 0.5

    assert "the numbers in the names of their scopes" == found.basis
    assert (5_500 + 121_000 - spread, 5_500 + 121_000 + spread) == pytest.approx(found.tokens, abs=2)
    assert all(float(bound) > 0 for bound in found.cost)
    assert float(found.cost[1] - found.cost[0]) == pytest.approx(2 * spread / 110 * 100 * (0.15e-6 + 0.06e-6), rel=1e-3)


def test_two_scopes_of_each_sample_are_one_sample():
    """Scopes with the same number are of the same sample, wherever they are."""
    with token_scope("run") as run:
        for step, sign in ("draft", 1), ("judge", -1):
            with token_scope(step):
                for number in range(3):
                    with token_scope(f"sample {number}"):
                        spend(1_000 + sign * number * 100)
    found = run.report().scale(samples=3, to=10)

    assert 2_200 * 10 == found.expected.total_tokens
    assert (22_000, 22_000) == found.tokens


def test_the_range_of_an_attribute(folder):
    """Samples are told apart by the attribute `sample` of their scopes, in a report, a saved one, and records."""
    sink = JSONLSink("calls.jsonl")
    get_tracker().add_sink(sink)
    with token_scope("run") as run:
        with token_scope("index"):
            spend(5_000)
        for number in range(3):
            with token_scope("ask", sample=number):
                for _ in range(number + 10):
                    spend(100)
    get_tracker().remove_sink(sink)
    sink.close()
    run.report().save("it.json")
    found = run.report().scale(samples=3, to=100)
    spread = 4.30265 * 110 * (100 + 100 * 100 / 3) ** 0.5

    assert "their attribute 'sample'" == found.basis
    assert (5_500 + 121_000 - spread, 5_500 + 121_000 + spread) == pytest.approx(found.tokens, abs=2)
    assert found == Report.load("it.json").scale(samples=3, to=100)
    assert found.tokens == Report.load("calls.jsonl").scale(samples=3, to=100).tokens
    assert "their attribute 'sample'" != run.report().scale(samples=2, to=100).basis
    with token_scope("ask"):
        spend(100)
    with token_scope("ask"):
        spend(100)
    more = run.report() + _process_report()  # some of what grows has no such attribute
    assert "their attribute 'sample'" != more.scale(samples=3, to=100).basis


def test_a_range_is_not_below_nothing():
    """The lower bound is not negative, however much the samples differ."""
    found = numbered(1, 100_000).scale(samples=2, to=1_000)

    assert 0 == found.tokens[0] == found.cost[0]


def test_a_price_that_is_not_known():
    """Without a price, there is a range of tokens and none of the cost, and the expected cost is a lower bound."""
    with token_scope("run") as run:
        for number, model in enumerate(["gpt-4o-mini", "nobodys-model"]):
            with token_scope(f"sample {number}"):
                spend(1_000, model)
    found = run.report().scale(samples=2, to=1)

    assert found.tokens is not None
    assert found.cost is None
    assert 1 == found.expected.unpriced_calls


def coverage(runs: int, by_records: bool) -> int:
    """Return how many of some simulated runs of 5 samples tell a range that holds what 1,000 other samples spend."""
    held = 0
    for seed in range(runs):
        chance = random.Random(seed)

        def sample(chance=chance) -> int:
            return max(1, round(chance.gauss(2_000, 600))) + sum(chance.random() < 0.5 for _ in range(4)) * 150

        get_tracker().reset()
        with token_scope("run") as run:
            for number in range(5):
                with token_scope("sample" if by_records else f"sample {number}"):
                    record_tokens("m", "o", "x", None, sample(), 0)
        records = get_tracker().records if by_records else ()
        report = Report() + _process_report() if by_records else run.report()
        low, high = report.scale(samples=5, to=1_000, records=records).tokens
        held += low <= sum(sample() for _ in range(1_000)) <= high
    return held


def _process_report() -> Report:
    import tokenscope

    return tokenscope.report()


@pytest.mark.unmeasured
@pytest.mark.parametrize("by_records", [False, True], ids=["numbered scopes", "records"])
def test_the_range_holds_as_often_as_it_says(folder, by_records):
    """Of 200 simulated runs of 5 samples, about 95% tell a range that holds what 1,000 further samples spend."""
    assert 183 <= coverage(200, by_records) <= 197


# -- samples told apart by records ------------------------------------------------------------------------------------------


def test_a_real_program(folder):
    """The records of a DSPy program that ran a few samples tell a range that holds the bill of a larger run."""

    def answer(field: str, prompt: str) -> str | None:
        return "word " * (20 + len(prompt) % 7) if field == "answer" else None

    def bill(samples: range) -> int:
        program = dspy.ChainOfThought("question -> answer")
        with LoopbackProvider(answer) as provider, dspy.context(lm=provider.lm()):
            for number in samples:
                program(question="Why? " * (1 + number * 7 % 11))
            return provider.total.total_tokens

    sink = JSONLSink("calls.jsonl")
    get_tracker().add_sink(sink)
    small = bill(range(6))
    get_tracker().remove_sink(sink)
    sink.close()
    found = Report.load("calls.jsonl").scale(samples=6, to=40, records=get_tracker().records)
    larger = bill(range(6, 46))

    assert found.tokens[0] <= larger <= found.tokens[1]
    assert found.expected.total_tokens == round(small * 40 / 6)
    shown = analyzed("calls.jsonl", "--samples", "6", "--scale-to", "40")
    assert f"\nRange of Tokens: {found.tokens[0]:,} to {found.tokens[1]:,}\n" in shown
    analyzed_json = CliRunner().invoke(main, ["merge", "calls.jsonl", "--records", "-o", "calls.json"])
    assert 0 == analyzed_json.exit_code
    assert shown == analyzed("calls.json", "--samples", "6", "--scale-to", "40")


def record(second: float, tokens: int = 100, seconds: float = 0.5, operation: str = "o", **more) -> dict:
    """Return a record of a call, as JSON holds it."""
    stamp = f"2026-01-01T00:00:{second:09.6f}+00:00"
    call = {"module": "m", "operation": operation, "model": "x", "input_tokens": tokens, "output_tokens": 0}
    return {**call, "timestamp": stamp, "seconds": seconds, "cost": tokens / 1000, "price_source": "set_price", **more}


def by_records(*records: dict, samples: int = 2, given: list[dict] | None = None):
    """Scale the report of some records to 10 samples, by those records or others."""
    import json

    Path("it.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records), "utf-8")
    return Report.load("it.jsonl").scale(samples=samples, to=10, records=records if given is None else given)


def test_records_in_any_order(folder):
    """Each path's calls are divided by time, two steps for each sample here, whatever the order of the records."""
    records = [record(n, 100 + n, operation=name) for n, name in enumerate(["a", "b", "a", "b", "a", "b"])]
    found = by_records(*reversed(records), samples=3)
    samples = [201, 205, 209]
    mean, deviation = 205, 4

    assert 2_050 == found.expected.total_tokens
    spread = 4.30265 * deviation * (10 + 100 / 3) ** 0.5
    assert (10 * mean - spread, 10 * mean + spread) == pytest.approx(found.tokens, abs=1)
    assert float(found.cost[0]) == pytest.approx((10 * mean - spread) / 1_000, abs=1e-3)
    assert 615 == sum(samples)


ALONE = "a report alone does not tell the samples apart; give their scopes numbers or the attribute 'sample'"
AT_ONCE = "the records overlap, as samples ran at once; give their scopes numbers or the attribute 'sample'"
OTHERS = "the records are not those of all calls that grow with the samples"


@pytest.mark.parametrize(
    ("records", "given", "problem"),
    [
        ([record(0)], None, "nothing was spent that grows with the samples"),
        ([record(0), record(1)], [record(0, operation="set-up")], f"{ALONE}, or pass the records"),
        ([record(0), record(1), record(2)], None, "3 calls at m/o are not the same number for each of 2 samples"),
        ([record(0), record(0.2)], None, AT_ONCE),
        ([record(0), record(1)], [record(0), record(1, 7)], OTHERS),
        ([record(0), record(1, timestamp=None)], None, "a record does not say when its call was made"),
    ],
    ids=["once", "no records", "unequal", "at once", "others", "no time"],
)  # fmt: skip
def test_no_range(folder, records, given, problem):
    """If the samples cannot be told apart, there is no range, and the reason is said."""
    found = by_records(*records, given=given)

    assert (None, None, problem) == (found.tokens, found.cost, found.basis)


def test_one_sample():
    """One sample tells what to expect, if all grows with it, and no range."""
    found = numbered(1_000, set_up=10).scale(samples=1, to=10)

    assert 11_110 == found.expected.total_tokens
    assert None is found.tokens
    assert "one sample does not show how much samples differ" == found.basis
    assert () == found.once


def test_records_outside_of_scopes(folder):
    """Calls outside of every scope are told apart by their records, too."""
    found = by_records(*(record(n, 100, frames=[]) for n in range(4)), samples=4)

    assert (1_000, 1_000) == found.tokens
    assert ("(no scope)",) == found.repeated


# -- the command ------------------------------------------------------------------------------------------------------------

ESTIMATE = """\
Estimate for 1,000 Samples: 1,105,500 tokens (1,005,000 input, 100,500 output), $0.21
Range of Tokens: 831,835 to 1,379,165
Range of Cost: $0.16 to $0.26
About the Range: 95% prediction interval (Student's t) from 3 samples, told apart by the numbers in the names of their scopes
Grows With the Samples: run/sample 2, run/sample 1, run/sample 0
Spent Once: run/index/m/o
"""


def test_the_command(folder):
    """`--scale-to` adds the estimate to the analysis, in both formats, and changes nothing else."""
    numbered(900, 1_000, 1_100, set_up=5_000).save("it.json")
    plain, scaled = (analyzed("it.json", "--samples", "3", *more) for more in ([], ["--scale-to", "1000"]))

    assert ESTIMATE in scaled
    assert plain == scaled.replace(ESTIMATE, "")
    page = analyzed("it.json", "--samples", "3", "--scale-to", "1000", "--format", "markdown")
    assert "\n| Range of Tokens | 831,835 to 1,379,165 |\n" in page
    assert "\n| Spent Once | `run/index/m/o` |\n" in page


def test_the_command_without_a_range(folder):
    """Without a range, the reason stands in its place; standard input has no records to pass."""
    made((-1, "scope", "s", 5, 1, 1_000)).save("it.json")

    assert "\nEstimate for 1 Sample: 220 tokens (200 input, 20 output), " in analyzed(
        "it.json", "--samples", "5", "--scale-to", "1"
    )
    assert "\nRange: none: a report alone does not tell" in analyzed("it.json", "--samples", "5", "--scale-to", "9")
    arguments = ["analyze", "-", "--samples", "5", "--scale-to", "9"]
    done = CliRunner().invoke(main, arguments, Path("it.json").read_text("utf-8"))
    assert "\nGrows With the Samples: s\n" in done.output


def test_scale_to_needs_samples(folder):
    """`--scale-to` without `--samples` is an error of one line that says what is missing."""
    Report().save("it.json")

    assert "--scale-to needs --samples N" in analyzed("it.json", "--scale-to", "9", status=2)


def test_hostile_names_in_an_estimate(folder):
    """Control characters in paths are escaped, and no more than five paths are shown."""
    hostile().save("it.json")
    for form in ("text", "markdown"):
        shown = analyzed("it.json", "--samples", "1", "--scale-to", "9", "--format", form)
        assert all(line.isprintable() for line in shown.splitlines())
        assert f" and {len(HOSTILE) - 5:,} more" in shown or " and " in shown
    assert Decimal(0) == Report().scale(samples=3, to=9).expected.cost
