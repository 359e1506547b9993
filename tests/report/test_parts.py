"""Input by part of the prompt, in reports: it adds up, is saved, has a price, and comes home from processes."""

from __future__ import annotations

import pickle
import time
from decimal import Decimal

import pytest

from tokenscope import JSONLSink, Report, get_tracker, receive, record_tokens, set_price, ship, token_scope
from tokenscope._report.formats import json
from tokenscope._report.parts import prompts_of
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import record
from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._usage.calls import Frame
from tokenscope._usage.prompts import Piece, Prompt
from tokenscope._usage.usage import Counts

MODEL = "openai/gpt-4o-mini"
AGENT = (Frame("dspy", "Agent"), Frame("dspy", "plan"))
WRITER = (Frame("dspy", "Writer"),)


def ask(frames, turn=1, changed=-1, billed=None, read=0, model=MODEL, **pieces):
    """Count a call whose prompt was measured, below the active scope."""
    found = tuple(
        Piece(name.replace("_", ":"), *(size if isinstance(size, tuple) else (size,))) for name, size in pieces.items()
    )
    billed = sum(piece.tokens for piece in found) if billed is None else billed
    prompt = Prompt(found, turn, "o200k_base", is_exact=True, changed=changed)
    scope = open_scope(Scope, frames)
    scope.begin(scope)
    counts = Counts(1, input_tokens=billed, output_tokens=5, cache_read_tokens=read)
    record(scope, model, counts, time.time(), prompt=prompt, seconds=0.25)
    scope.leave()


def spend():
    """Make some calls."""
    ask(AGENT, instructions=100, demos=300, input_goal=20)
    ask(AGENT, turn=2, changed=2, read=400, instructions=(100, 100), demos=(300, 300), input_goal=(50, 20, "search"))
    ask(WRITER, billed=210, instructions=40, input_notes=160)


@pytest.fixture
def report():
    """Return a report of some calls."""
    with token_scope("run", user="alice") as scope:
        spend()
    return scope.report()


def sizes(breakdown):
    """Return input tokens by name."""
    return {name: usage.input_tokens for name, usage in breakdown.items()}


WHOLE = {"demos": 600, "instructions": 240, "input:notes": 160, "input:goal": 70, "other": 10}


def test_the_parts_are_the_input(report):
    """The parts partition the input, and nothing else that is counted changes for them."""
    assert sizes(report.by_part()) == WHOLE
    assert sum(WHOLE.values()) == report.total.input_tokens == 1080
    assert (3, 15) == (report.total.calls, report.total.output_tokens)
    assert {"alice": 1080} == sizes(report.by_attribute("user"))
    assert 400 == sum(usage.cache_read_tokens for usage in report.by_part().values())
    assert (3, 2) == (report.by_part()["instructions"].calls, report.by_part()["demos"].calls)


def test_parts_by_predictor_and_node(report):
    """Each predictor has its own parts, and a node those of all below it."""
    parts = report.parts()

    assert ["Agent.plan", "Writer"] == list(parts)
    assert {"demos": 600, "instructions": 200, "input:goal": 70} == sizes(parts["Agent.plan"])
    assert {"input:notes": 160, "instructions": 40, "other": 10} == sizes(parts["Writer"])
    assert sizes(report.find("Agent").parts) == sizes(parts["Agent.plan"])
    assert sizes(report.tree().parts) == WHOLE


def test_parts_have_a_price(report):
    """The parts' costs add up to the price of the input, cached tokens at the price of cached ones."""
    cost = sum(usage.cost for usage in report.by_part().values())
    million = Decimal(1_000_000)

    assert (680 * Decimal("0.15") + 400 * Decimal("0.075")) / million == cost
    assert report.total.cost == cost + 15 * Decimal("0.6") / million
    assert (300 * Decimal("0.15") + 300 * Decimal("0.075")) / million == report.by_part()["demos"].cost


def test_what_was_not_measured():
    """The input of calls whose prompts were not measured is a part of its own, with its price."""
    with token_scope("run") as scope:
        record_tokens(model=MODEL, input_tokens=1_000_000, output_tokens=10)
        ask(WRITER, instructions=50)
        record_tokens(model="nobody/knows", input_tokens=7, output_tokens=10)
    parts = scope.report().by_part()

    assert {"(not measured)": 1_000_007, "instructions": 50} == sizes(parts)
    assert (Decimal("0.15"), 1) == (parts["(not measured)"].cost, parts["(not measured)"].unpriced_calls)
    assert (2, 1) == (parts["(not measured)"].calls, parts["instructions"].calls)
    assert {} == Report().by_part()
    assert {} == Report().parts()


def test_calls_that_have_no_part_in_common():
    """Direct calls are split by role, and may have no part in common: what is told a call is by all that were measured."""
    with token_scope("run") as scope:
        ask(WRITER, user=30)
        ask(WRITER, system=60)
    report = scope.report()
    parts, measured = report.parts()["Writer"], report.call_sizes()["Writer"]

    assert (1, 2) == (prompts_of(parts), prompts_of(parts, measured))
    (line,) = (line for line in report.render("markdown").splitlines() if "| `system` |" in line)
    assert ["`Writer`", "`system`", "60", "67%", "30"] == [cell.strip() for cell in line.split("|")[1:6]]


def test_names_that_are_not_there(report):
    """Whatever is by name names the nearest ones, if one is missing."""
    for found in (
        report.parts(),
        report.by_turn(),
        report.carried(),
        report.rereads(),
        report.changed(),
        report.call_sizes(),
    ):
        with pytest.raises(KeyError, match=r"Agent\.plan"):
            found["Agent.plam"]
    with pytest.raises(KeyError, match="search"):
        report.rereads()["Agent.plan"]["serch"]


def test_turns(report):
    """What a predictor was given in its first call, and in its second."""
    turns = report.by_turn()

    assert {"demos": 300, "instructions": 100, "input:goal": 20} == sizes(turns["Agent.plan"][1])
    assert {"demos": 300, "instructions": 100, "input:goal": 50} == sizes(turns["Agent.plan"][2])
    assert [1] == list(turns["Writer"])


def test_what_prompts_held_again(report):
    """What was carried over from the turn before, where prompts changed, and what tools made, are views on the input."""
    assert {"Agent.plan": {"demos": 300, "instructions": 100, "input:goal": 20}} == {
        name: sizes(parts) for name, parts in report.carried().items()
    }
    assert {"Agent.plan": {"input:goal": 50}} == {name: sizes(parts) for name, parts in report.changed().items()}
    tool = report.rereads()["Agent.plan"]["search"]
    assert (30, 20) == (tool.made.input_tokens, tool.reread.input_tokens)
    assert 400 == report.carried()["Agent.plan"]["demos"].cache_read_tokens + 100


def test_reports_with_parts_add_up(report):
    """Parts are added, and subtracted again."""
    both = report + report

    assert sizes(both.by_part()) == {name: 2 * size for name, size in WHOLE.items()}
    assert both - report == report
    assert 6 == sum(sizes.calls for sizes in both.call_sizes().values())
    assert 2 == report.find("plan").call_sizes.calls
    assert report.find("Agent").call_sizes is None


def test_parts_are_saved(report, tmp_path):
    """A saved report keeps parts, turns and views; what a reader of version 0.1 looks at is as it was."""
    report.save(tmp_path / "report.json")
    loaded = Report.load(tmp_path / "report.json")

    assert loaded == report
    assert loaded.by_turn() == report.by_turn()
    assert loaded.call_sizes() == report.call_sizes()
    rows = json.to_dict(report)["rows"]
    assert 1080 == sum(tally.get("input_tokens", 0) for row in rows for tally in row["tallies"])
    assert all({"parts", "call_sizes"} <= set(row) for row in rows if row["tallies"])
    assert pickle.loads(pickle.dumps(report)) == report


def test_damaged_parts_are_named(report):
    """A part that is damaged is an error that tells which row it is in."""
    for parts in ([{"part": "demos", "model": MODEL, "view": "upside down"}], [7], [{"part": "", "model": MODEL}], 7):
        data = json.to_dict(report)
        data["rows"][1]["parts"] = parts
        with pytest.raises(ValueError, match="row 1 of the report"):
            json.parse(json.line(data))


def test_records_keep_parts(tmp_path):
    """A record tells the parts of its prompt, and a file of records adds up to the same parts as the report."""
    sink = JSONLSink(tmp_path / "calls.jsonl")
    get_tracker().add_sink(sink)
    try:
        with token_scope("run") as scope:
            spend()
        report = scope.report()
    finally:
        get_tracker().remove_sink(sink)
        sink.close()
    record = get_tracker().records[-1].to_dict()

    assert "o200k_base" == record["prompt"]["measured_by"]
    assert {"part": "input:notes", "input_tokens": 160} in record["prompt"]["parts"]
    loaded = Report.load(tmp_path / "calls.jsonl")
    assert loaded.by_part() == report.by_part()
    assert loaded.by_turn() == report.by_turn()
    assert loaded.rereads() == report.rereads()
    assert loaded.call_sizes()["Agent.plan"].calls == 2


def test_parts_come_home_from_processes():
    """What a shipped function has spent comes with its parts."""
    shipment = pickle.loads(pickle.dumps(ship(spend)()))
    with token_scope("run") as scope:
        receive(shipment)

    assert sizes(scope.report().by_part()) == WHOLE
    assert 2 == scope.report().call_sizes()["Agent.plan"].calls


def test_parts_come_home_to_a_scope_with_attributes():
    """By attribute, input that comes home is counted once, and its parts are no further input."""
    shipment = ship(spend)()
    with token_scope("run", user="alice") as scope:
        receive(shipment)

    assert {"alice": 1080} == sizes(scope.report().by_attribute("user"))
    assert sizes(scope.report().by_part()) == WHOLE


def test_a_breakdown_by_part(report):
    """`render` shows the parts as any other breakdown."""
    table = report.render("table", by="part")

    assert "demos" in table
    assert "600" in table
    assert "input:notes" in report.render("csv", by="part")


def test_parts_at_other_prices(report):
    """Parts have the prices of another model, or those that are set later."""
    other = report.reprice("openai/gpt-4o")

    assert sizes(other.by_part()) == WHOLE
    assert sum(usage.cost for usage in other.by_part().values()) == other.total.cost - 15 * Decimal(10) / 1_000_000
    with token_scope("run") as scope:
        ask(WRITER, model="own/model", instructions=100)
    assert scope.report().by_part()["instructions"].cost is None
    set_price("own/model", input=Decimal(2), output=Decimal(4))
    assert scope.report().by_part()["instructions"].cost == Decimal("0.0002")


def test_wasted_calls_are_no_part(report):
    """Parts of prompts are not marked as wasted with their calls, and nothing is told of them by `waste`."""
    from tokenscope._scopes.wasted import mark_all_wasted

    with token_scope("run") as scope:
        spend()
        mark_all_wasted(scope, "retries")
    found = scope.report()

    assert 1080 == found.waste().total.total.input_tokens
    assert sizes(found.by_part()) == WHOLE
    assert STATE.read_prompt is None
