"""Findings of a report: the cause of a large input comes first, healthy programs have none, and each sentence has its numbers."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from law.test_properties import QUICK, reports
from support.formats import hostile
from support.reports import build, loaded
from support.seeded import healthy, programs

from tokenscope import Finding, JSONLSink, Report, get_tracker, token_scope
from tokenscope._report.highlights import highlights
from tokenscope._scopes.context import active
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import record
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.prompts import Piece, Prompt
from tokenscope._usage.usage import ZERO_COUNTS, Usage

GPT = "openai/gpt-4.1"  # a token of input is $0.000002, of which the cache takes three quarters off
KINDS = 10  # of healthy programs


def made(prompts, *, name="writer", model=GPT, calls=10, output=0, read=0):
    """Return the report of a predictor: some pieces of each prompt, for several calls."""
    with token_scope("run") as scope:
        for number in range(calls):
            for turn, pieces in enumerate(prompts, 1):
                some = [Piece(*piece) if isinstance(piece, tuple) else piece for piece in pieces]
                counts = ZERO_COUNTS._replace(
                    calls=1,
                    input_tokens=round(sum(piece.tokens for piece in some)),
                    output_tokens=output,
                    cache_read_tokens=read,
                )
                changed = next((n for n, piece in enumerate(some) if piece.part.startswith("input:")), -1)
                prompt = Prompt(tuple(some), turn, changed=changed if number or turn > 1 else -1)
                frames = (Frame("dspy", name),)
                record(active() or STATE.root, model, counts, 1.75e9, frames=frames, prompt=prompt)
    return scope.report()


def told(report):
    """Return the sentences."""
    return [str(finding) for finding in report.findings()]


def only(*parts):
    """Return a list of one sentence, given its parts."""
    return ["".join(parts)]


# -- a hundred programs -----------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
def test_the_seeded_cause_comes_first():
    """Of a hundred programs with one cause each, the cause is the first finding in at least 90, at the right predictor."""
    missed = []
    for seed, program in programs(range(100)):
        found = program.report(seed).findings()
        if not found or (found[0].kind, found[0].predictor) != (program.cause, program.predictor):
            missed.append(f"{seed}: {program.cause} of {program.predictor}, but found {[*map(str, found)]}")
    assert len(missed) <= 10, "\n".join(missed)


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", range(KINDS))
def test_a_healthy_program_has_none(kind):
    """Programs without a cause have no findings."""
    assert [()] * 8 == [healthy(kind, seed).report(seed).findings() for seed in range(8)]


@pytest.mark.parametrize("seed", range(24))
def test_sentences(seed):
    """Each sentence is one line of at most 200 characters, with numbers, and ends with a point; the dearest comes first."""
    several = [program.report(seed) for _, program in programs(range(seed * 2, seed * 2 + 2))]
    found = sum(several).findings()
    savings = [each.saving for each in found if each.saving is not None]
    assert savings == sorted(savings, reverse=True)
    for finding in found:
        assert str(finding) == finding.text
        assert finding.text.isprintable()
        assert finding.text.endswith(".")
        assert any(map(str.isdigit, finding.text))
        assert len(finding.text) <= 200


def test_a_saved_report_has_the_same(tmp_path):
    """The findings of a report that was saved and loaded, and of one that was added up with itself, are of the same things."""
    prompts = [("instructions", 400), Piece("demos", 1_840, items=8), ("input:question", 680)]
    report = (
        made([prompts], read=1_920)
        + made(agent(10), name="agent")
        + made([prompts], model="ollama_chat/llama3.1", name="local")
    )
    report.save(tmp_path / "tokens.json")
    kinds = ["reread", "demos", "demos"]

    assert kinds == [each.kind for each in report.findings()]
    assert report.findings() == Report.load(tmp_path / "tokens.json").findings()
    assert kinds == [each.kind for each in (report + report).findings()]


def test_records_have_the_same(tmp_path):
    """Records in a file keep how many demos there were."""
    sink = JSONLSink(tmp_path / "records.jsonl")
    get_tracker().add_sink(sink)
    try:
        report = made([[("instructions", 400), Piece("demos", 1_840, items=8), ("input:question", 680)]], read=1_920)
    finally:
        get_tracker().remove_sink(sink)
        sink.close()
    assert [each.text for each in report.findings()] == told(Report.load(tmp_path / "records.jsonl"))


# -- each kind ----------------------------------------------------------------------------------------------------------------


def test_demos():
    """Two demos instead of eight save three quarters of what the demos cost."""
    report = made([[("instructions", 400), Piece("demos", 1_840, items=8), ("input:question", 680)]], read=1_920)
    demos = report.by_part()["demos"]
    (found,) = report.findings()

    assert found == Finding(
        "Demos are 63% of writer's input: 1,840 of 2,920 tokens a call, $0.014 of this run; "
        "two instead of eight would save about $0.011.",
        "demos",
        "writer",
        demos.cost,
        demos.cost * 3 / 4,
        13_800,
    )


@pytest.mark.parametrize("items", [0, 1, 2])
def test_few_demos_or_an_unknown_number(items):
    """If there are two demos, or their number is not known, shorter ones save half."""
    report = made([[("input:question", 400), Piece("demos", 600, items=items)]])
    assert told(report) == only(
        "Demos are 60% of writer's input: 600 of 1,000 tokens a call, $0.012 of this run; ",
        "demos half as long would save about $0.0060.",
    )


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (
            "instructions",
            "Instructions are 80% of writer's input: 800 of 1,000 tokens a call, {}; half of their text {}.",
        ),
        (
            "tools",
            "Tools' descriptions are 80% of writer's input: 800 of 1,000 tokens a call, {}; half as many of them {}.",
        ),
        ("input:context", "Field context is 80% of writer's input: 800 of 1,000 tokens a call, {}; half of it {}."),
        ("history", "History is 80% of writer's input: 800 of 1,000 tokens a call, {}; only the newer half of it {}."),
        ("media", "Media are 80% of writer's input: 800 of 1,000 tokens a call, {}; half as many {}."),
    ],
)
def test_a_part_that_is_most_of_the_input(part, sentence):
    """The sentence says how large the part is, and what half of it saves: dollars, or tokens if no price is known."""
    pieces = [("format", 100), (part, 800), ("input:question", 100)]
    priced, unpriced = (made([pieces], model=model, output=200) for model in (GPT, "ollama_chat/llama3.1"))

    assert told(priced) == [sentence.format("$0.016 of this run", "would save about $0.0080")]
    assert told(unpriced) == [sentence.format("8,000 tokens of this run", "would save about 4,000 tokens")]
    (found,) = unpriced.findings()
    assert (found.cost, found.saving, found.saved_tokens) == (None, None, 4_000)


def test_format():
    """Markers and descriptions of fields that are longer than the inputs, and long at all, are a finding."""
    long = [("format", 700), ("fields", 120), ("instructions", 270), ("input:answer", 210)]
    short = [(part, tokens / 5) for part, tokens in long]
    assert told(made([long], name="judge")) == only(
        "Format markers and field descriptions cost more than inputs in judge: 820 to 210 tokens a call, $0.016 of this run; ",
        "asking for two items in one call would save about $0.0082.",
    )
    assert told(made([short])) == []


def agent(turns, tools=("search",), part="input:trajectory"):
    """Return the prompts of an agent: what its tools return stays in them."""
    prompts = []
    for turn in range(turns):
        held = [
            Piece(part, 200, 200 if n < turn - 1 else 0, tools[n % len(tools)] if tools else "") for n in range(turn)
        ]
        prompts.append([("instructions", 300), ("input:question", 60), *held])
    return prompts


def test_results_that_are_read_again():
    """The sentence says how often later turns read what tools had returned, and which tool that was."""
    one, several = made(agent(10)), made(agent(10, ("search", "fetch")))
    assert told(one) == only(
        "writer rereads the results of search 4.0 times on average: 18,000 tokens, and 72,000 again, $0.18 of this run; ",
        "results half as long would save about $0.090.",
    )
    assert told(several) == [one.findings()[0].text.replace("the results of search", "the results of 2 tools")]
    assert told(made(agent(4))) == []


def test_a_conversation_that_grows():
    """Without tools, what grows is the conversation. Two runs of it are not enough to say so."""
    assert told(made(agent(8, (), "input:conversation"))) == only(
        "writer's input grows from 360 tokens in turn 1 to 1,760 in turn 8; ",
        "50% of it was in the turn before, $0.084 of this run; ",
        "half of that would save about $0.042.",
    )
    assert told(made(agent(8, (), "input:conversation"), calls=2)) == []
    assert told(made(agent(3, (), "input:conversation"))) == []


def test_a_window_that_is_nearly_full():
    """The sentence says how full the window of the model is, and what is most of the prompts. It says no saving."""
    pieces = [("input:notes", 50_000), ("instructions", 8_000), ("input:draft", 45_000)]
    (found,) = made([pieces], name="planner", model="openai/gpt-4o-mini").findings()

    assert "planner fills 8" in found.text
    assert "of 128,000 tokens; 49% of its input is field notes: shorten that before calls fail." in found.text
    assert found.kind == "window"
    assert found.cost == Decimal("0.1545")
    assert found.saving is found.saved_tokens is None
    assert told(made([pieces], model="openai/gpt-4.1")) == []  # a million fit


@pytest.mark.parametrize(
    ("model", "advised"),
    [
        (GPT, "calls closer in time would save about $0.023."),
        ("anthropic/claude-sonnet-4-5", "asking for it (`cache_control`) would save about $0.041."),
    ],
)
def test_a_cache_that_is_not_used(model, advised):
    """A long beginning that does not change is a finding, if the provider's cache is cheaper and has little of it."""
    sizes = ("instructions", 600), ("demos", 500), ("format", 400), ("input:question", 500), ("input:context", 500)
    begin = "0% of writer's input comes from the provider's cache, though the first 1,500 of 2,500 tokens a call stay the same"

    assert told(made([sizes], model=model, calls=11)) == only(begin, "; ", advised)
    assert told(made([sizes], model=model, calls=11, read=1_408)) == []
    assert told(made([sizes], model=model, calls=10)) == []
    assert told(made([sizes], model="mistral/mistral-large-latest", calls=11)) == []
    assert told(made([sizes[2:]], model=model, calls=11)) == []  # the beginning is too short for a cache


def test_a_prefix_that_changes_early():
    """If what changes comes before demos that do not, the sentence names it."""
    demos = Piece("demos", 1_600, items=4)
    asked = ("input:question", 1_200), ("input:context", 1_200)
    early = [("instructions", 800), ("input:today", 20), demos, ("tools", 1_000), *asked]
    late = [("instructions", 800), demos, ("tools", 1_000), ("input:today", 20), *asked]

    assert told(made([early], read=700, calls=11)) == only(
        "12% of writer's input comes from the provider's cache; the prefix changes at field today, before the demos; ",
        "moved to the end, 3,400 of 5,820 tokens a call could, to save about $0.041.",
    )
    assert told(made([late], read=3_328, calls=11)) == []


def test_waste():
    """What was wasted needs no measured prompts. The advice depends on why most of it was."""

    def wasted(reason, tokens, calls=4):
        key = UsageKey("p/x", 0, "provider")
        spent = ModelUsage(key, Usage(calls=20, input_tokens=1_000, cost=Decimal(10)))
        lost = ModelUsage(
            key._replace(wasted=reason), Usage(calls=calls, input_tokens=tokens, cost=Decimal(tokens) / 100)
        )
        return build([(-1, Frame("module", "a"), 1, 0, [spent, lost])], scoped=False)

    begin = "20% of a's tokens were wasted on {}: 4 of 20 calls, $2.00 of this run; "
    assert told(wasted("failed_parses", 200)) == [
        begin.format("failed parses") + "a simpler output, or another adapter, would save it."
    ]
    assert told(wasted("provider_errors", 200)) == [
        begin.format("provider errors") + "`report.records()` has each error."
    ]
    assert told(wasted("retries", 200)) == [begin.format("retries") + "fewer attempts would save it."]
    assert told(wasted("stragglers", 200)) == [begin.format("stragglers") + "a longer `straggler_limit` would save it."]
    assert told(wasted("retries", 20)) == told(wasted("retries", 200, calls=2)) == told(wasted("retries", 0)) == []


# -- all of them --------------------------------------------------------------------------------------------------------------


def test_few_calls_bear_no_finding():
    """Four calls are too few."""
    pieces = [("instructions", 900), ("input:question", 100)]
    assert told(made([pieces], calls=4)) == []
    assert len(told(made([pieces], calls=5))) == 1


def test_at_most_ten():
    """The ten that save most are told, the dearest first. A small one beside large ones is none."""
    pieces = [("instructions", 900), ("input:question", 100)]
    several = sum(made([pieces], name=f"p{n}", calls=10 + n) for n in range(11))
    beside = made([pieces], name="small", calls=5) + made(
        [[("instructions", 500), ("input:a", 300), ("input:b", 300)]] * 40
    )

    assert [f"p{n}" for n in range(10, 0, -1)] == [each.predictor for each in several.findings()]
    assert beside.findings() == ()


def test_without_prompts():
    """A report without measured prompts has no findings on prompts, nor has an empty one."""
    with token_scope("run") as scope:
        for _ in range(10):
            record(active() or STATE.root, GPT, ZERO_COUNTS._replace(calls=1, input_tokens=9_000), 1.75e9)
    assert Report().findings() == scope.report().findings() == ()


def test_names_as_a_format_writes_them():
    """Names are printable and not too long; the page isolates them. What is advised comes first among its findings."""
    report = made([[("instructions", 900), ("input:a\nb", 100)]], name="long " * 50 + "\n")
    (found,) = report.findings()
    page = json.loads(report.render("html").split('id="report">', 1)[1].split("</script>", 1)[0])

    assert found.predictor == "long " * 50 + "\n"
    assert found.text.isprintable()
    assert len(found.text) < 200
    assert highlights(report, lambda _: "<b>")[0].startswith("Instructions are 90% of <b>'s input")
    assert page["findings"][0].startswith("Instructions are 90% of \u2068long ")


@QUICK
@given(reports())
def test_any_report_has_findings_that_can_be_printed(report):
    """Reports of any shape have findings, or none."""
    for finding in (*report.findings(), *loaded(report.render("json")).findings(), *hostile().findings()):
        assert finding.text.isprintable()
