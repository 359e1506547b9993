"""Reading reports: JSON with or without records, and files with one record per line."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from decimal import Decimal

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.formats import HOSTILE, HUGE
from support.reports import loaded
from support.spending import count

from tokenscope import Report, ReportFormatError, Usage, get_tracker, record_tokens, token_scope
from tokenscope._report.formats import json as json_format
from tokenscope._report.reading import read_stream
from tokenscope._report.record import Record
from tokenscope._scopes.event_log import clear, records
from tokenscope._usage.usage import TOKENS
from tokenscope._usage.warnings import forget_warnings
from tokenscope.cli import main
from tokenscope.errors import TokenScopeWarning

LINE = {"module": "m", "operation": "o", "model": "x", "provider": "p", "input_tokens": 3, "output_tokens": 4}


def spent(report):
    """Return frame and usages of the rows that spent tokens, because records hold no other rows, entries or times."""
    return [(row.frame, row.usages) for row in report.rows if row.usages]


def read_lines(*lines):
    """Return the report that is read from lines of records."""
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    snapshot = read_stream(io.BytesIO(text.encode("utf-8", "surrogatepass")), "calls.jsonl")
    return Report(snapshot.rows, snapshot.scoped)


def lines_of_process():
    """Return a line for each counted call, as a sink writes it."""
    return [json_format.line(Record(call).to_dict()) + "\n" for call in records()]


@pytest.fixture(params=["orjson", "json"])
def parser(request, monkeypatch):
    """Run the test with orjson, and as if orjson were not installed."""
    if request.param == "json":
        monkeypatch.setitem(sys.modules, "orjson", None)


NAMES = st.one_of(st.sampled_from(["a", "b", *(name for name in HOSTILE if name.strip())]))
COUNTS = st.one_of(st.integers(0, 300_000), st.sampled_from([0, 15_999, 16_000, 2**63, 2**64, HUGE]))


@settings(deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.lists(NAMES, max_size=3),
            NAMES,
            st.sampled_from([None, "p", "p/q"]),
            COUNTS,
            COUNTS,
            st.sampled_from([None, Decimal("0.25"), Decimal(3)]),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_records_add_up_to_the_report(calls):
    """The lines of all counted calls load to the same total and rows as the report of the process."""
    clear()
    for scopes, name, provider, spent_tokens, gained, cost, cached in calls:
        opened = [token_scope(scope) for scope in scopes]
        for scope in opened:
            scope.__enter__()
        if cached:
            saved = Usage(input_tokens=spent_tokens, output_tokens=gained)
            count(None, name, Usage(calls=1, cached_calls=1), saved=saved)
        else:
            record_tokens(
                name, name, name, provider, spent_tokens, gained, cost=cost, cache_read_tokens=spent_tokens // 3
            )
        for scope in reversed(opened):
            scope.__exit__(None, None, None)
    report = get_tracker().report()
    loaded = read_lines(*lines_of_process())

    assert report.total == loaded.total
    assert spent(report) == spent(loaded)


def test_lines_by_hand():
    """Hand-written records may have an empty operation, no provider and unknown keys."""
    report = read_lines(
        LINE, {**LINE, "operation": "", "extra": [1]}, {**LINE, "provider": None, "model": "p/x"}, "\n", LINE
    )

    assert 4 == report.total.calls
    assert 28 == report.total.total_tokens
    assert {"p/x": 28} == {model: usage.total_tokens for model, usage in report.by_model().items()}
    assert 3 == report.find("m/o").usage.calls


def test_failed_and_cached_calls():
    """Failed and cached calls are counted separately, with the tokens that the cache saved."""
    total = read_lines(
        {**LINE, "error": "TimeoutError"},
        {
            **LINE,
            "input_tokens": 0,
            "output_tokens": 0,
            "cached": True,
            "saved": {"input_tokens": 8, "output_tokens": 1},
        },
        {**LINE, "input_tokens": 0, "output_tokens": 0, "cached": True},
    ).total

    assert (3, 1, 2, 7, 9) == (
        total.calls,
        total.failed_calls,
        total.cached_calls,
        total.total_tokens,
        total.saved_tokens,
    )


NAMED = st.sampled_from(["a", "b", "a/b"])
VARIED = st.fixed_dictionaries(
    {"module": NAMED, "model": NAMED, "input_tokens": COUNTS, "output_tokens": COUNTS},
    optional={
        "operation": st.sampled_from(["", "o"]),
        "provider": st.sampled_from(["p", "a", "", None, []]),
        "scope": st.sampled_from(["s", "a/b", "", None, 3, ["s"]]),
        "frames": st.sampled_from([None, [], [["scope", "s"]], [["dspy", "s"]], [["scope", "a"], ["tool", "b"]]]),
        "cost": st.sampled_from([None, 0, 0.25, 2**70 + 1]),
        "error": st.sampled_from([None, "TimeoutError", "CancelledError"]),
        "cached": st.booleans(),
        "saved": st.sampled_from([None, {}, {"input_tokens": 20_000, "reasoning_tokens": 1}]),
        "metadata": st.sampled_from([{}, {"cost": 3}]),
        "seconds": st.sampled_from([0.5, float("nan")]),
        **dict.fromkeys(TOKENS[2:], COUNTS),
    },
)


@pytest.mark.usefixtures("parser")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VARIED, min_size=2, max_size=12))
def test_similar_records_add_up_like_single_ones(records):
    """The report of a file of records is the sum of the reports of its single records."""
    alone = [read_lines(record) for record in records]

    assert sum(alone, Report()) == read_lines(*records)
    assert len(records) == read_lines(*records).total.calls


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "more",
    [
        {"error": "TimeoutError"},
        {"error": "CancelledError"},
        {"cost": 0.25},
        {"cost": 2**70 + 1},
        {"cached": True},
        {"saved": {"input_tokens": 8}},
        {"output_tokens": 2**64},
        {"frames": [["tool", "m"]]},
        *({name: 2} for name in TOKENS[2:]),
    ],
    ids=str,
)
def test_a_record_that_differs_from_those_before(more):
    """A record that differs from its neighbours is counted as in a file of its own."""
    other = {**LINE, **more}

    assert read_lines(LINE) + read_lines(other) + read_lines(LINE) == read_lines(LINE, other, LINE)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("part", TOKENS[2:])
def test_a_part_that_is_larger_than_its_whole(part):
    """Another program's record with an impossible part loads and shows, and no price is below 0."""
    report = read_lines({**LINE, "model": "gpt-4o-mini", "provider": "openai", part: 2**70})

    assert 2**70 == getattr(report.total, part)
    for each in (
        report,
        report.reprice("openai/gpt-4o"),
        report.reprice("anthropic/claude-sonnet-4-5"),
        report + report,
    ):
        assert each.total.cost >= 0
        assert str(each)


@pytest.mark.usefixtures("parser")
def test_large_integers_are_exact():
    """Integers beyond 64 bits are exact, although a parser may read them as floats."""
    total = read_lines({**LINE, "input_tokens": 2**70 + 1, "cost": 2**70 + 1}).total

    assert (2**70 + 1, Decimal(2**70 + 1)) == (total.input_tokens, total.cost)
    assert Decimal(2**70 + 1) == read_lines({**LINE, "cost": 2**70 + 1}).total.cost


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]\n", "line 2 is damaged: a record must be an object"),
        ("{\n", "line 2 is damaged: .*; it begins '{'"),
        ("nonsense " * 50 + "\n", "it begins 'nonsense nonsense nonsense nonsense non…'"),
        ({"module": "m"}, "line 2 lacks 'model'"),
        ({"model": "x", "input_tokens": 3}, "line 2 lacks 'module'"),
        ({**LINE, "model": 3}, "model must be a str, not int 3"),
        ({**LINE, "model": ["x"]}, "model must be a str, not list"),
        ({**LINE, "provider": 3}, "provider must be a str"),
        ({**LINE, "input_tokens": -3}, "input_tokens must not be negative, but is -3"),
        ({**LINE, "input_tokens": 1.5}, "input_tokens must be a whole number"),
        ({**LINE, "input_tokens": True}, "input_tokens must be a whole number"),
        ({**LINE, "input_tokens": "3"}, "input_tokens must be a whole number"),
        ({**LINE, "output_tokens": float("nan")}, "output_tokens must be a whole number"),
        ({**LINE, "output_tokens": None}, "output_tokens must be a whole number, not NoneType"),
        ({**LINE, "cache_read_tokens": -1}, "cache_read_tokens must not be negative"),
        ({**LINE, "cache_read_tokens": 1, "cache_write_tokens": 1.0}, "cache_write_tokens must be a whole number"),
        ({**LINE, "reasoning_tokens": False}, "reasoning_tokens must be a whole number"),
        ({**LINE, "output_audio_tokens": -1}, "output_audio_tokens must not be negative"),
        ({**LINE, "cost": -1}, "cost must be dollars, 0 or more"),
        ({**LINE, "cost": "x"}, "line 2 is damaged"),
        ({**LINE, "cost": [1]}, "line 2 is damaged"),
        ({**LINE, "cost": float("inf")}, "cost must be dollars, 0 or more"),
        ({**LINE, "saved": 3}, "line 2 is damaged"),
        ({**LINE, "saved": {"input_tokens": -1}}, "input_tokens must not be negative"),
        ({**LINE, "frames": 3}, "line 2 is damaged"),
        ({**LINE, "frames": [3]}, "line 2 is damaged"),
        ({**LINE, "frames": [["scope"]]}, "line 2 is damaged"),
        ({**LINE, "frames": [["scope", ""]]}, "name must not be empty"),
        ({**LINE, "frames": [["scope", {"a": 1}]]}, "line 2 is damaged"),
        ({**LINE, "frames": [["scope", 3]]}, "name must be a str, not int 3"),
        ({**LINE, "module": ""}, "name must not be empty"),
        ("[" * 100_000 + "\n", "line 2 is damaged"),
        ("\xff\udcff\n", "line 2 is damaged"),
        ('{"format": 1}\n', "line 2 lacks 'module'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damaged_lines(line, said):
    """A damaged line raises a ReportFormatError that names the file, the line and the fault."""
    with pytest.raises(ReportFormatError, match=f"^calls.jsonl: .*{said}") as raised:
        read_lines(LINE, line, LINE)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("parser")
def test_a_last_line_that_is_cut_off():
    """A last line that is cut off is skipped with a warning, and the lines before it count."""
    text = json.dumps(LINE) + "\n"
    for length in range(1, len(text) - 1):
        forget_warnings()
        with pytest.warns(TokenScopeWarning, match=r"calls\.jsonl: line 3, the last one, is cut off"):
            assert 2 == read_lines(LINE, LINE, text[:length]).total.calls
    forget_warnings()
    assert 3 == read_lines(LINE, LINE, text[:-1]).total.calls


def test_a_sink_that_was_told_of_nothing(tmp_path):
    """An empty `.jsonl` file is an empty report. An empty `.json` file raises a ReportFormatError."""
    (tmp_path / "calls.jsonl").touch()
    (tmp_path / "report.json").write_text("\n \n")

    assert Report() == Report.load(tmp_path / "calls.jsonl")
    with pytest.raises(ReportFormatError, match=r"report\.json: this is no tokenscope report: it is empty"):
        Report.load(tmp_path / "report.json")


def test_a_byte_order_mark():
    """A file of records may begin with a byte order mark."""
    assert 1 == read_stream(io.BytesIO(b"\xef\xbb\xbf" + json.dumps(LINE).encode()), "calls.jsonl").total.calls


def exported(tmp_path, calls=5):
    """Export a report with its records, and return the file and the report."""
    tracker = get_tracker()
    tracker.reset()
    for n in range(calls):
        tracker.record("m", f'o{n} "records": [', "x", "p", n, 1, metadata={"text": '\n "records": [\n]}'})
    file = tmp_path / "report.json"
    tracker.export_to_file(file)
    return file, tracker.report()


def test_records_in_a_report_are_passed_by(tmp_path):
    """`Report.load` reads the rows of a report and skips its records, in any JSON layout."""
    file, report = exported(tmp_path)

    assert report == Report.load(file)
    for indent in (None, 0, 3, "\t"):
        file.write_text(json.dumps(json.loads(file.read_text()), indent=indent))
        assert report == Report.load(file)
    file.write_text(file.read_text().replace("\n", "\r\n"))
    assert report == Report.load(file)


def test_a_report_truncated_in_its_records(tmp_path):
    """A report that is cut off inside its records raises a ReportFormatError."""
    file, _ = exported(tmp_path)
    text = file.read_text().rstrip()
    for length in range(text.index('"records"'), len(text), 5):
        file.write_text(text[:length])
        with pytest.raises(ReportFormatError, match=r"report\.json: .*truncated"):
            Report.load(file)


def test_memory_is_bounded_by_paths(tmp_path):
    """Loading 20,000 records takes less than twice the memory of loading 1,000."""
    peaks = []
    for calls in (1_000, 20_000):
        line = json.dumps({**LINE, "metadata": {"text": "x" * 50}}) + "\n"
        jsonl, report = tmp_path / "calls.jsonl", tmp_path / "report.json"
        with open(jsonl, "w") as file:
            file.writelines(line for _ in range(calls))
        with open(report, "w") as file:
            file.writelines(json_format.pieces(read_lines(LINE), (line[:-1] for _ in range(calls))))
        Report.load(jsonl)
        for path, expected in ((jsonl, calls), (report, 1)):
            tracemalloc.start()
            assert expected == Report.load(path).total.calls
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    assert peaks[2] < 2 * peaks[0]
    assert peaks[3] < 2 * peaks[1]


def test_a_call_10_000_levels_down():
    """A record 10,000 levels deep is read without recursion, and its report loads again from JSON."""
    frames = [["scope", f"level {n}"] for n in range(10_000)]
    report = read_lines({**LINE, "frames": frames}, LINE)

    assert 14 == report.total.total_tokens
    assert 10_002 == len(report.rows)
    assert report == loaded(json_format.render(report))


def test_records_of_very_many_names():
    """Names beyond the first 2,000 of a level are added up as `(other)`, with a warning."""
    forget_warnings()
    with pytest.warns(TokenScopeWarning, match="more than 2,000 distinct names below 'm'"):
        report = read_lines(*({**LINE, "operation": f"request {n}"} for n in range(3_000)))
    forget_warnings()

    assert 3_000 == report.total.calls
    assert 1_000 == report.find("m/(other)").usage.calls


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_merging_keeps_records_where_asked(tmp_path, suffix):
    """`merge --records` keeps every record of every file unchanged, and `merge` keeps none."""
    file, report = exported(tmp_path)
    records = json.loads(file.read_text())["records"]
    if suffix == "jsonl":
        file = tmp_path / "calls.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"module": "cut o')
    indented = tmp_path / "indented.json"
    indented.write_text(json.dumps({**json_format.to_dict(report), "records": records}, indent=3))
    plain = tmp_path / "plain.json"
    report.save(plain)
    output = tmp_path / "merged.json"
    for arguments, expected in ((["--records"], 2 * records), ([], None)):
        done = CliRunner().invoke(main, ["merge", str(file), str(indented), str(plain), "-o", str(output), *arguments])
        assert 0 == done.exit_code, done.output
        assert expected == json.loads(output.read_text()).get("records")
        assert 15 == Report.load(output).total.calls
        forget_warnings()


def test_a_cut_line_on_the_command_line(tmp_path):
    """On the command line, the warning about a cut line is one line on standard error."""
    file = tmp_path / "calls.jsonl"
    file.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE)[:30])
    done = CliRunner().invoke(main, ["show", str(file)])
    forget_warnings()

    assert 0 == done.exit_code
    assert done.stderr == (
        f"tokenscope: {file}: line 2, the last one, is cut off, as if its writer was killed; the lines before it are read\n"
    )


def test_records_of_standard_input_cannot_be_kept():
    """`merge --records` refuses standard input, because it can be read only once."""
    done = CliRunner().invoke(main, ["merge", "--records", "-", "-o", "-"], input="")

    assert 2 == done.exit_code
    assert "standard input can be read only once; name files instead." in done.stderr
