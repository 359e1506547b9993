"""The process-wide tracker: its statistics, records, exports and sinks, as scripts use them."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import threading
from datetime import UTC, datetime

import dspy
import pytest

import tokenscope
from tokenscope import Report, TokenTracker, get_tracker, record_tokens, token_scope, track_tokens
from tokenscope._scopes.process import KEPT_RECORDS as KEPT
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider


@pytest.fixture
def tracker():
    """Return the tracker, empty, and restore its settings after the test."""
    tracker = get_tracker()
    tracker.reset()
    yield tracker
    tracker.max_records = KEPT
    for observer in list(tracker._sinks.values()):
        tracker.remove_sink(observer.args[0])
    tracker.reset()


def spend(tracker):
    """Record three calls in two modules."""
    tracker.record("persona_formulation", "formulate_prompt", "gpt-4o-mini", "openai", 500, 250)
    tracker.record(
        module="query_generation",
        operation="style_transfer",
        model="anthropic/claude-3.5-haiku",
        provider="openrouter",
        input_tokens=300,
        output_tokens=150,
        metadata={"turn": 3},
    )
    tracker.record("persona_formulation", "formulate_prompt", "gpt-4o-mini", "openai", 10, 5)


def test_there_is_one():
    """All ways to get the tracker return the same object, and so does unpickling."""
    assert get_tracker() is TokenTracker.get_instance() is TokenTracker()
    assert get_tracker() is pickle.loads(pickle.dumps(get_tracker()))


def test_statistics(tracker):
    """`get_statistics` returns the summary, the modules and the models as plain numbers."""
    spend(tracker)
    statistics = tracker.get_statistics()

    assert {
        "total_calls": 3,
        "total_input_tokens": 810,
        "total_output_tokens": 405,
        "total_tokens": 1215,
    }.items() <= statistics["summary"].items()
    assert {"persona_formulation": 765, "query_generation": 450} == {
        name: usage["total_tokens"] for name, usage in statistics["by_module"].items()
    }
    assert {"input_tokens": 510, "output_tokens": 255, "total_tokens": 765, "call_count": 2}.items() <= statistics[
        "by_module"
    ]["persona_formulation"].items()
    assert ["openai/gpt-4o-mini", "openrouter/anthropic/claude-3.5-haiku"] == list(statistics["by_model"])
    assert tracker.report().statistics() == statistics


def test_module_usage(tracker):
    """`get_module_usage` returns all modules or one. For an unknown name, the error shows the nearest name."""
    spend(tracker)

    assert tracker.get_statistics()["by_module"] == tracker.get_module_usage()
    assert 450 == tracker.get_module_usage("query_generation")["total_tokens"]
    with pytest.raises(KeyError, match="no 'query_generatoin'; the nearest: 'query_generation'"):
        tracker.get_module_usage("query_generatoin")


def test_records(tracker):
    """A record has its call's place, model, tokens, time and metadata, as attributes and as a mapping."""
    before = datetime.now(UTC)
    with token_scope("run"):
        spend(tracker)
    first, second, _ = tracker.records

    assert ("persona_formulation", "formulate_prompt") == (first.module, first.operation)
    assert ("openai", "gpt-4o-mini", 500, 250, 750) == (
        first.provider,
        first.model,
        first.input_tokens,
        first.output_tokens,
        first.total_tokens,
    )
    assert ("openrouter", "anthropic/claude-3.5-haiku") == (second["provider"], second["model"])
    assert {"turn": 3} == second.metadata == second["metadata"]
    assert "run/query_generation/style_transfer" == second.scope
    assert before <= datetime.fromisoformat(second.timestamp) <= datetime.now(UTC)
    assert dict(second) == second.to_dict() == json.loads(json.dumps(second.to_dict()))
    assert len(second) == len(list(second))
    assert "<Record 'run/query_generation/style_transfer', openrouter/anthropic/claude-3.5-haiku, 450 tokens>" == repr(
        second
    )


def test_records_are_in_the_order_in_which_the_calls_ended(tracker):
    """Records of DSPy's calls and of `record_tokens` are in the order in which the calls ended."""
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        for n in range(3):
            dspy.Predict("question -> answer")(question="Why?")
            record_tokens("m", str(n), "x", None, 1, 0)

    assert ["", "0", "", "1", "", "2"] == [record.operation for record in tracker.records]


def test_the_latest_records_are_kept(tracker):
    """The tracker keeps the newest records, at most `max_records`. Its totals include all calls."""
    assert 10_000 == tracker.max_records
    tracker.max_records = 3
    for n in range(5):
        tracker.record("m", "o", "x", None, n, 0)

    assert [2, 3, 4] == [record.input_tokens for record in tracker.records]
    assert 5 == tracker.get_statistics()["summary"]["total_calls"]
    tracker.max_records = 2
    assert [3, 4] == [record.input_tokens for record in tracker.records]
    tracker.max_records = 0
    tracker.record("m", "o", "x", None, 1, 1)
    assert () == tracker.records


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (-1, ValueError, "max_records must be 0 or more, but is -1"),
        (1.5, TypeError, "max_records must be an int, not float 1.5"),
        (True, TypeError, "max_records must be an int, not bool True"),
        (None, TypeError, "max_records must be an int, not NoneType None"),
    ],
)
def test_wrong_settings(tracker, wrong, error, said):
    """`max_records` accepts only an int that is 0 or more."""
    with pytest.raises(error, match=said):
        tracker.max_records = wrong
    assert KEPT == tracker.max_records


def test_reset(tracker):
    """`reset` clears totals and records. An open scope keeps its own counts."""
    with token_scope("open") as scope:
        spend(tracker)
        tracker.reset()
        assert () == tracker.records
        assert 0 == tracker.get_statistics()["summary"]["total_calls"]
        tracker.record("m", "o", "x", None, 1, 1)

    assert 4 == scope.usage.calls
    assert 1 == tracker.get_statistics()["summary"]["total_calls"] == len(tracker.records)


def test_it_is_what_record_tokens_writes_to(tracker):
    """`tracker.record` does the same as `record_tokens`, and `tracker.report()` equals `tokenscope.report()`."""
    with token_scope("run"):
        record_tokens("m", "o", "x", "p", 1, 2)
        tracker.record("m", "o", "x", "p", 1, 2)

    assert 2 == tracker.report().find("run/m/o").usage.calls
    assert tokenscope.report() == tracker.report()
    assert tracker.records[0].to_dict() | {"timestamp": ""} == tracker.records[1].to_dict() | {"timestamp": ""}
    assert list(inspect.signature(record_tokens).parameters.values()) == list(
        inspect.signature(tracker.record).parameters.values()
    )


@pytest.mark.parametrize("include_records", [True, False])
def test_export(tracker, tmp_path, include_records):
    """The file holds what `to_dict` returns, and loads again as a report."""
    spend(tracker)
    file = tmp_path / "token_usage.json"
    tracker.export_to_file(str(file), include_records=include_records)
    data = json.loads(file.read_text())

    assert tracker.to_dict(include_records) == data
    assert include_records is ("records" in data)
    assert tracker.get_statistics() == {name: data[name] for name in ("summary", "by_module", "by_model")}
    assert tracker.report() == Report.load(file)
    if include_records:
        assert [record.to_dict() for record in tracker.records] == data["records"]
        assert {
            "module": "persona_formulation",
            "operation": "formulate_prompt",
            "model": "gpt-4o-mini",
            "provider": "openai",
            "input_tokens": 500,
            "output_tokens": 250,
            "total_tokens": 750,
            "metadata": {},
        }.items() <= data["records"][0].items()


def test_export_of_nothing(tracker, tmp_path):
    """The export of an empty tracker has no records, and loads as an empty report."""
    tracker.export_to_file(tmp_path / "empty.json")

    assert [] == json.loads((tmp_path / "empty.json").read_text())["records"]
    assert Report() == Report.load(tmp_path / "empty.json") == tracker.report()


def test_a_failed_export_leaves_the_old_file(tracker, tmp_path):
    """An export that cannot be written raises the error, and leaves what is there."""
    spend(tracker)
    (tmp_path / "file").write_text("old")
    with pytest.raises(NotADirectoryError):
        tracker.export_to_file(tmp_path / "file" / "export.json")
    assert ["file"] == os.listdir(tmp_path)


def test_summary(tracker, capsys):
    """`print_summary` prints one line for each module and one line for each model."""
    spend(tracker)
    tracker.print_summary()
    out = capsys.readouterr().out

    assert out.startswith("By module\n")
    assert "\nBy model\n" in out
    assert [line.split()[:5] for line in out.splitlines() if line.startswith("persona")] == [
        ["persona_formulation", "2", "510", "255", "765"]
    ]
    assert [line.split()[:5] for line in out.splitlines() if line.startswith("openrouter")] == [
        ["openrouter/anthropic/claude-3.5-haiku", "1", "300", "150", "450"]
    ]


def test_many_threads(tracker):
    """No record is lost if several threads record at the same time."""

    def work(module):
        for _ in range(100):
            tracker.record(
                module=module,
                operation="test",
                model="gpt-4o-mini",
                provider="openai",
                input_tokens=100,
                output_tokens=50,
            )

    threads = [threading.Thread(target=work, args=(f"module_{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {f"module_{i}": 15_000 for i in range(4)} == {
        name: usage["total_tokens"] for name, usage in tracker.get_module_usage().items()
    }
    assert 400 == len(tracker.records)


def test_operations_of_decorated_functions(tracker):
    """A call belongs to the nearest module, and has the operation that was given with that module."""

    @track_tokens("outer", "first")
    def outer():
        with token_scope("block"):
            record_tokens("inner", "second", "x", None, 1, 0)

    outer()
    (record,) = tracker.records

    assert ("inner", "second", "outer/first/block/inner/second") == (record.module, record.operation, record.scope)
    assert [("module", "outer"), ("operation", "first"), ("scope", "block")] == [tuple(f) for f in record.frames[:3]]


def test_names_and_metadata_of_any_kind(tracker):
    """Metadata that JSON cannot hold is text in the record's dict. The record itself keeps the object."""
    import numpy as np

    thing = object()
    given = {"a": thing, 3: {1.5, float("nan")}, "n": np.int64(7), "deep": [[[None, True]]], "f": float("inf")}
    loop: list = []
    loop.append(loop)
    tracker.record("研究\n\ud800", "x/y", "model", "p/q", 1, 1, metadata={**given, "loop": loop})
    (record,) = tracker.records

    assert thing is record.metadata["a"]
    with pytest.raises(TypeError):
        record.metadata["a"] = 1
    written = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert (str(thing), 7, [[[None, True]]], "inf") == tuple(
        written["metadata"][name] for name in ("a", "n", "deep", "f")
    )
    assert {"1.5", "nan"} == set(map(str, written["metadata"]["3"]))
    assert ("p", "q/model") == (record.provider, record.model)


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [
        ("mistral", "mistral-large", "mistral/mistral-large"),
        ("mistral", "mistral/mistral-large", "mistral/mistral-large"),
        ("open", "openai/gpt-4o", "open/openai/gpt-4o"),
        ("openai", "openai", "openai/openai"),
    ],
)
def test_a_provider_that_a_model_is_named_after(tracker, provider, model, name):
    """The provider is put before the model's name, unless the name already begins with the provider and a slash."""
    tracker.record("m", "o", model, provider, 1, 1)

    assert [name] == list(tracker.report().by_model())


def test_a_model_without_a_provider(tracker):
    """If a call has no provider, the record's provider is an empty string."""
    tracker.record("m", "o", "gpt-4o-mini", None, 1, 1)

    assert ("", "gpt-4o-mini") == (tracker.records[0].provider, tracker.records[0].model)


def test_metadata_is_as_it_was(tracker):
    """If the caller changes its mapping later, the record's metadata stays the same. Other types raise a TypeError."""
    mine = {"turn": 1}
    tracker.record("m", "o", "x", None, 1, 1, metadata=mine)
    mine["turn"] = 2

    assert {"turn": 1} == tracker.records[0].metadata
    with pytest.raises(TypeError, match="metadata must be a mapping, not str 'turn 1'"):
        tracker.record("m", "o", "x", None, 1, 1, metadata="turn 1")


def test_sinks_are_told_of_each_call(tracker):
    """A sink gets each record once, in order, from when it is added until it is removed."""
    seen: list = []
    sink = seen.append
    tracker.record("m", "o", "x", None, 0, 0)
    tracker.add_sink(sink)
    tracker.add_sink(print_nothing := lambda record: None)
    tracker.record("m", "o", "x", None, 1, 0)
    tracker.add_sink(sink)  # adding it again does nothing
    tracker.record("m", "o", "x", None, 2, 0)
    tracker.remove_sink(sink)
    tracker.remove_sink(print_nothing)
    tracker.record("m", "o", "x", None, 3, 0)

    assert [1, 2] == [record.input_tokens for record in seen]


def test_a_sink_is_told_of_nothing_that_was_before(tracker):
    """A sink does not get calls that ended before it was added, even if they still waited to be counted."""
    seen: list = []
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        dspy.Predict("question -> answer")(question="Why?")
        tracker.add_sink(seen.append)
        assert [] == seen
        dspy.Predict("question -> answer")(question="Why?")

    assert 1 == len(seen)


def test_wrong_sinks(tracker):
    """A sink must be callable, and only a sink that was added can be removed."""
    with pytest.raises(TypeError, match=r"a sink must be a JSONLSink or a function of one record, not str 'x\.jsonl'"):
        tracker.add_sink("x.jsonl")
    with pytest.raises(ValueError, match="is not a sink of this tracker"):
        tracker.remove_sink(print)


def test_a_sink_that_fails(tracker):
    """If a sink fails, one warning points to the caller. All calls are counted, and other sinks get their records."""
    seen: list = []

    def broken(record):
        raise RuntimeError("no room")

    tracker.add_sink(broken)
    tracker.add_sink(seen.append)
    with pytest.warns(
        TokenScopeWarning, match=r"broken.* failed: RuntimeError: no room\. It does not have this record"
    ) as caught:
        for _ in range(3):
            tracker.record("m", "o", "x", None, 1, 0)
    forget_warnings()

    assert [__file__] == [warning.filename for warning in caught]
    assert 3 == len(seen) == tracker.report().total.calls


def test_a_sink_may_ask_and_record(tracker):
    """No lock is held while a sink is called, so the sink can read totals, even in another thread."""
    totals: list = []

    def ask(record):
        thread = threading.Thread(target=lambda: totals.append(tracker.report().total.calls))
        thread.start()
        thread.join(10)

    tracker.add_sink(ask)
    for _ in range(3):
        tracker.record("m", "o", "x", None, 1, 0)

    assert [1, 2, 3] == totals


def test_shown(tracker):
    """The `repr` of the tracker shows the number of calls and tokens."""
    spend(tracker)

    assert "<TokenTracker of 3 calls, 1,215 tokens>" == repr(tracker)


def test_records_at_a_path(tracker):
    """The records of calls at and below a path, which may be given by its last names."""
    with token_scope("run"):
        with token_scope("a/b"):
            record_tokens("ocr", "page", "m", "p", 1, 0)
        with token_scope("a"):
            record_tokens("ocr", "page", "m", "p", 2, 0)
            record_tokens("ocr", "other", "m", "p", 3, 0)

    def tokens(path):
        return [record.total_tokens for record in tokenscope.report().records(path)]

    assert [1, 2, 3] == tokens("run") == tokens("")
    assert [2, 3] == tokens("a") == tokens("run/a")
    assert [1] == tokens("a/b/ocr/page") == tokens("a/b")
    assert [3] == tokens("other")
    with token_scope("run") as again, token_scope("a"):
        record_tokens(model="m", input_tokens=4, output_tokens=0)
    report = again.report()
    assert [2, 3, 4] == [record.total_tokens for record in report.records("a")]  # those of all entries of the scope
    assert [1, 2, 3, 4] == [record.total_tokens for record in report.records()]
    assert () == (report + report).records("a") == pickle.loads(pickle.dumps(report)).records("a")
    with pytest.raises(KeyError, match="no 'x'"):
        report.records("x")
    with pytest.raises(KeyError, match="'page' is at several paths: 'run/a/ocr/page', 'run/a/b/ocr/page'"):
        tokens("page")


def test_reset_of_the_package(tracker):
    """`tokenscope.reset` forgets counts and records. A scope that is open keeps what was counted in it."""
    with token_scope("run") as scope:
        record_tokens("ocr", "page", "m", "p", 1, 0)
        tokenscope.reset()

    assert () == tracker.records
    assert 0 == tokenscope.report().total.total_tokens
    assert 1 == scope.usage.total_tokens
