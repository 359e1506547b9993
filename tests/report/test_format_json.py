"""JSON, format 1: a saved report loads again, and any other file raises a ReportFormatError."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from support.reports import build, chain, loaded, made

from tokenscope import Report, ReportFormatError, Usage, record_tokens, token_scope
from tokenscope._report.formats.json import render
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.price_tiers import tier_of
from tokenscope._usage.usage import FIELDS

REPORT = made(
    (-1, "scope", 'a "quoted" 研究\n\x1b\ud800 name', 1, 1234, 10),
    (0, "dspy", "Agent", 2, 900, 1000),
    (1, "dspy", "planner", 2, 500, 20000),
)
FULL = build(
    [(-1, Frame("scope", "s"), 3, 7, {"p/x": Usage(**dict(zip(FIELDS, range(1, len(FIELDS) + 1), strict=True)))})],
    scoped=False,
)


@pytest.mark.parametrize("report", [REPORT, FULL, Report(), Report(scoped=False), chain(1_100)], ids=repr)
def test_what_is_saved_loads_again(report, tmp_path):
    """A report is unchanged after a round trip through text or through a file."""
    file = tmp_path / "report.json"
    report.save(file)

    assert report == loaded(render(report)) == Report.load(file) == Report.load(str(file))


def test_format_1():
    """The JSON has the keys that scripts read: format, generator, totals and rows."""
    data = json.loads(render(REPORT))

    assert 1 == data["format"]
    assert data["generator"].startswith("tokenscope ")
    assert REPORT.statistics() == {name: data[name] for name in ("summary", "by_module", "by_model")}
    assert [None, 0, 1] == [row["parent"] for row in data["rows"]]
    assert {
        "parent": 0,
        "kind": "dspy",
        "name": "Agent",
        "entries": 2,
        "nanoseconds": 900_000_000,
        "tallies": [{"model": "p/x", "own_price": True, "calls": 1, "input_tokens": 1000, "output_tokens": 100}],
    } == data["rows"][1]


def test_calls_stay_apart_where_prices_need_it():
    """Usages with different prices stay separate: long prompts, reported costs and answers from the cache."""
    usages = [
        ModelUsage(UsageKey("m", 0, "none"), Usage(calls=1)),
        ModelUsage(UsageKey("m"), Usage(calls=2, input_tokens=30_000, output_tokens=1)),
        *(
            ModelUsage(UsageKey("m", tier_of(n)), Usage(calls=1, input_tokens=n, cost=Decimal("0.1")))
            for n in (16_000, 200_001, 9**9)
        ),
        ModelUsage(UsageKey("m", 0, "provider"), Usage(calls=1, cost=Decimal(3))),
        ModelUsage(UsageKey("m", tier_of(200_001), "provider"), Usage(calls=1, input_tokens=200_001)),
        ModelUsage(
            UsageKey("m", 0, "cache"), Usage(calls=1, cached_calls=1, input_tokens=7, output_tokens=2, unpriced_calls=1)
        ),
        ModelUsage(
            UsageKey("m", tier_of(128_001), "cache"),
            Usage(calls=1, cached_calls=1, input_tokens=128_001, cost=Decimal(1)),
        ),
    ]
    report = build([(-1, Frame("scope", "s"), 1, 1, usages)], scoped=True)
    text = render(report)

    assert report == loaded(text)
    assert sorted(usages, key=lambda each: each.key.rank) == list(next(iter(loaded(text).rows)).usages)
    assert 128_010 == report.total.saved_tokens
    assert [True, True] == [
        tally["own_price"] for tally in json.loads(text)["rows"][0]["tallies"] if "own_price" in tally
    ]


def test_the_text_is_ascii_and_has_a_line_a_row():
    """The JSON is ASCII with one line for each row, so that reports can be compared line by line."""
    text = render(REPORT)

    assert text.isascii()
    assert text.endswith("}\n")
    assert 3 == sum('"parent"' in line for line in text.splitlines())


def test_rows_in_any_order_of_siblings():
    """Siblings may be in any order in a file, and rows with the same path are added up."""
    data = json.loads(render(made((-1, "scope", "a", 1, 1, 1), (0, "scope", "b", 1, 1, 1), (0, "scope", "c", 1, 1, 1))))
    data["rows"][1:] = reversed(data["rows"][1:])
    data["rows"].append({**data["rows"][1]})
    read = loaded(json.dumps(data))

    assert ["a", "b", "c"] == [row.frame.name for row in read.rows]
    assert 2 == read.find("a/c").usage.input_tokens


def test_a_byte_order_mark_is_no_fault(tmp_path):
    """A file that begins with a byte order mark, as some editors write it, can be loaded."""
    file = tmp_path / "report.json"
    file.write_bytes(b"\xef\xbb\xbf" + render(REPORT).encode())

    assert REPORT == Report.load(file)


def changed(**row):
    """Return a saved report with some values of its second row replaced."""
    data = json.loads(render(REPORT))
    data["rows"][1].update(row)
    return json.dumps(data)


def without(name, *, row=False):
    """Return a saved report without one key, of the report or of its second row."""
    data = json.loads(render(REPORT))
    del (data["rows"][1] if row else data)[name]
    return json.dumps(data)


def usage(**counts):
    """Return a saved report in which the second row has one tally with these counts."""
    return changed(tallies=[{"model": "x", **counts}])


WRONG = {
    "empty": ("", "it is empty"),
    "blank": (" \n\t", "it is empty"),
    "no JSON": ("pipeline 3 calls", "line 1, column 1"),
    "NUL": ("\0\0\0", "line 1, column 1"),
    "a number": ("17", "no 'format'"),
    "a list": ("[]", "no 'format'"),
    "other JSON": ('{"name": "package", "version": "1.0"}', "no 'format'"),
    "format 2": ('{"format": 2}', "format 2; this tokenscope .* reads format 1"),
    "format true": ('{"format": true}', "format True"),
    "format 1.0": ('{"format": 1.0}', "format 1.0"),
    "format text": ('{"format": "1"}', "format '1'"),
    "no rows": (without("rows"), "incomplete"),
    "no scoped": (without("scoped"), "incomplete"),
    "scoped text": ('{"format": 1, "rows": [], "scoped": "yes"}', "incomplete"),
    "rows an object": ('{"format": 1, "rows": {}, "scoped": true}', "incomplete"),
    "row a number": ('{"format": 1, "rows": [3], "scoped": true}', "row 0 of the report is damaged"),
    "row a text": ('{"format": 1, "rows": ["x"], "scoped": true}', "row 0 of the report is damaged"),
    "row null": ('{"format": 1, "rows": [null], "scoped": true}', "row 0 of the report is damaged"),
    **{
        f"no {name}": (without(name, row=True), f"row 1 of the report lacks '{name}'") for name in ("parent", "tallies")
    },
    **{f"no {name}": (without(name, row=True), f"lacks '{name}'") for name in ("kind", "name", "entries")},
    **{
        f"parent {value!r}": (changed(parent=value), "'parent' must be null or the index of an earlier row")
        for value in (1, 2, 99, -1, -2, True, 0.0, "0", [0])
    },
    **{f"name {value!r}": (changed(name=value), "'name' must be text") for value in (None, 3, ["x"], True)},
    "kind 3": (changed(kind=3), "'kind' must be text"),
    **{
        f"entries {value!r}": (changed(entries=value), "row 1 of the report is damaged")
        for value in (-1, 1.5, True, "3", None, [])
    },
    "nanoseconds -1": (changed(nanoseconds=-1), "row 1 of the report is damaged: nanoseconds must not be negative"),
    "nanoseconds 10**400": (changed(nanoseconds=10**400), "'nanoseconds' must be at most 1e\\+300"),
    **{f"tallies {value!r}": (changed(tallies=value), "'tallies' must be a list") for value in (None, {}, 3, "x")},
    **{f"tally {value!r}": (changed(tallies=[value]), "must be an object") for value in (None, 3, ["calls"], "calls")},
    "no model": (changed(tallies=[{"calls": 1}]), "lacks 'model'"),
    "model 3": (usage(model=3), "'model' must be text"),
    **{
        f"{name} {value!r}": (usage(**{name: value}), "true or false")
        for name in ("own_price", "cached")
        for value in (1, None)
    },
    **{f"prompts_over {value!r}": (usage(prompts_over=value), "prompts_over must") for value in (-1, 0.5, None, "1")},
    **{f"calls {value!r}": (usage(calls=value), "damaged: calls must") for value in (-1, 1.0, True, None, "1", [1])},
    **{f"cost {value!r}": (usage(cost=value), "'cost' must be text") for value in (1, 0.5, True, None)},
    **{f"cost {value!r}": (usage(cost=value), "damaged: cost must") for value in ("x", "", "-1", "NaN", "Infinity")},
    "unknown count": (usage(calls=1, euros=3), "unknown counts"),
    "more 3": (changed(more=3), "'more' must be a list"),
    "more for too many": (changed(more=[{}, {}, {}, {}, {}]), "damaged"),
    "more of a tally 3": (changed(tallies=[{"model": "x"}], more=[3]), "a tally must be an object, not 3"),
    "priced as of 3": (usage(priced_as_of=3), "'priced_as_of' must be text"),
    "priced as of a word": (usage(priced_as_of="yesterday"), "damaged: Invalid isoformat string: 'yesterday'"),
    "terms 3": (usage(terms=3), "row 1 of the report is damaged"),
    "a term 3": (usage(terms={"service_tier": 3}), "'service_tier' must be text"),
    "NaN": (changed(entries=7).replace('"entries": 7', '"entries": NaN'), "NaN is no number of JSON"),
    **{f"wasted {value!r}": (usage(wasted=value), "damaged: 'wasted' must be one of failed") for value in ("x", 1, [])},
    "wasted and cached": (usage(wasted="retries", cached=True), "damaged: 'wasted' must be one of failed"),
    "infinite": (changed(entries=7).replace('"entries": 7', '"entries": 1e999'), "damaged"),
    "a web page": (
        "\n<!doctype html>\n<title>tokenscope</title>",
        "a web page, and no report; save reports as .json, too",
    ),
    "a huge number": ('{"format": ' + "1" * 10_000 + "}", "no tokenscope report"),
    "nested lists": ("[" * 200_000, "no tokenscope report"),
    "nested objects": ('{"a":' * 200_000, "no tokenscope report"),
    "nested format": (
        '{"format": 1, "scoped": true, "rows": ' + "[" * 50_000 + "]" * 50_000 + "}",
        "tokenscope report",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_else_is_no_report(wrong, tmp_path):
    """Any other file raises a ReportFormatError that names the file and the fault."""
    text, said = WRONG[wrong]
    file = tmp_path / "wrong.json"
    file.write_text(text)

    with pytest.raises(ReportFormatError, match=said) as raised:
        Report.load(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert raised.value.__cause__ is None
    with pytest.raises(ReportFormatError, match="<string>"):
        loaded(text)


def test_what_the_first_version_reads():
    """Version 0.1 takes no counts of unknown names in a tally: what has been added since stands beside the tallies."""
    with token_scope("run") as scope:
        record_tokens("m", "o", "gpt-5-mini", "openai", 10_000, 5)
        record_tokens("m", "o", "davinci-002", "openai", 10, 5)
        record_tokens("m", "o", "claude-haiku-4-5", "anthropic", 90, 5, cache_write_tokens=9, cache_write_1h_tokens=3)
    report = scope.report()
    rows = json.loads(report.render("json"))["rows"]
    assert {"model", "calls", "input_tokens", "output_tokens", "cost", "cache_write_tokens"} == {
        name for row in rows for tally in row["tallies"] for name in tally
    }
    assert [{"priced_as_of", "cache_write_1h_tokens"}, set(), {"priced_as_of"}] == [
        set(each) for each in rows[-1]["more"]
    ]
    assert all("more" not in row for row in rows[:-1])
    assert report == loaded(report.render("json"))


def test_truncated_files(tmp_path):
    """A report that is cut off at any character raises a ReportFormatError."""
    text = render(REPORT).rstrip()
    file = tmp_path / "cut.json"
    for length in range(len(text)):
        file.write_text(text[:length])
        with pytest.raises(ReportFormatError, match=r"cut\.json"):
            Report.load(file)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", b"\xff\xfe{\x00}\x00", bytes(range(256))], ids=repr)
def test_binary_files(content, tmp_path):
    """A binary file raises a ReportFormatError."""
    file = tmp_path / "image.json"
    file.write_bytes(content)

    with pytest.raises(ReportFormatError, match=r"image\.json: this is no tokenscope report: it is not text"):
        Report.load(file)


def test_a_file_that_is_not_there(tmp_path):
    """Loading a missing file or a folder raises the usual OSError."""
    with pytest.raises(FileNotFoundError):
        Report.load(tmp_path / "missing.json")
    with pytest.raises(IsADirectoryError):
        Report.load(tmp_path)
