"""`record_tokens`: what it counts, where, at which price; and its errors, which name the argument."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from tokenscope import Usage, get_tracker, record_cost, record_tokens, report, token_scope, track_tokens

GOOD = {"module": "m", "operation": "o", "model": "x", "provider": "p", "input_tokens": 10, "output_tokens": 10}
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)
ALL_INPUT = "input_tokens counts everything, cached and reasoning tokens included"
ALL_CACHE_WRITES = "cache_write_tokens counts everything, cached and reasoning tokens included"
ALL_OUTPUT = "output_tokens counts everything, cached and reasoning tokens included"


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        *[({name: "3"}, TypeError, f"{name} must be a whole number, not str '3'") for name in TOKENS],
        *[({name: -1}, ValueError, f"{name} must not be negative, but is -1") for name in TOKENS],
        ({"input_tokens": 1.0}, ValueError, "input_tokens must be a whole number, but 1.0 is a float"),
        ({"input_tokens": math.nan}, ValueError, "input_tokens must be a whole number, but nan is NaN or infinite"),
        ({"output_tokens": True}, TypeError, "output_tokens must be a whole number, not bool True"),
        ({"output_tokens": None}, TypeError, "output_tokens must be a whole number, not NoneType None"),
        ({"module": ""}, ValueError, "the module of record_tokens must not be empty, but is ''"),
        ({"module": 3}, TypeError, "the module of record_tokens must be a str, not int 3"),
        ({"operation": " "}, ValueError, "the operation of record_tokens must not be empty, but is ' '"),
        ({"operation": ["o"]}, TypeError, "the operation of record_tokens must be a str, not list ['o']"),
        ({"model": ""}, ValueError, "model must not be empty, but is ''"),
        ({"provider": 3}, TypeError, "provider must be a str, not int 3"),
        ({"metadata": "turn 1"}, TypeError, "metadata must be a mapping, not str 'turn 1'"),
        ({"cost": "1"}, TypeError, "cost must be a Decimal, in dollars, not str '1'"),
        ({"cost": -1.5}, ValueError, "cost must be dollars, 0 or more, but is -1.5"),
        ({"cost": math.inf}, ValueError, "cost must be dollars, 0 or more, but is Infinity"),
        (
            {"cache_read_tokens": 8, "cache_write_tokens": 3},
            ValueError,
            f"cache_read_tokens + cache_write_tokens (11) is part of input_tokens, which is only 10: {ALL_INPUT}",
        ),
        (
            {"cache_write_tokens": 3, "cache_write_1h_tokens": 4},
            ValueError,
            f"cache_write_1h_tokens (4) is part of cache_write_tokens, which is only 3: {ALL_CACHE_WRITES}",
        ),
        (
            {"input_audio_tokens": 11},
            ValueError,
            f"input_audio_tokens (11) is part of input_tokens, which is only 10: {ALL_INPUT}",
        ),
        (
            {"reasoning_tokens": 11},
            ValueError,
            f"reasoning_tokens (11) is part of output_tokens, which is only 10: {ALL_OUTPUT}",
        ),
        (
            {"output_audio_tokens": 11},
            ValueError,
            f"output_audio_tokens (11) is part of output_tokens, which is only 10: {ALL_OUTPUT}",
        ),
    ],
)
def test_an_error_names_the_argument(wrong, kind, message):
    """Each error names the argument and its value. Nothing is counted then."""
    with token_scope("a") as scope:
        record_tokens(**GOOD)
        before = scope.usage, report().total, [row[1:3] for row in report().rows]
        with pytest.raises(kind) as caught:
            record_tokens(**{**GOOD, **wrong})
        assert before == (scope.usage, report().total, [row[1:3] for row in report().rows])

    assert message == str(caught.value)


def test_two_levels():
    """A record stands at two levels below the current scope: its module, and its operation."""
    with token_scope("a") as scope:
        record_tokens(**GOOD)

    (module,) = scope.report().tree().children
    (operation,) = module.children
    assert ("module", "m") == (module.kind, module.name)
    assert ("operation", "o") == (operation.kind, operation.name)
    assert 20 == operation.own.total_tokens


def test_the_parts_of_a_call_are_counted():
    """Cache, reasoning and audio tokens are counted, each under its own name."""
    with token_scope("a") as scope:
        record_tokens(
            "m",
            "o",
            "p/x",
            "p",
            100,
            50,
            cache_read_tokens=10,
            cache_write_tokens=20,
            reasoning_tokens=30,
            input_audio_tokens=40,
            output_audio_tokens=5,
        )

    assert Usage(
        calls=1,
        input_tokens=100,
        output_tokens=50,
        cache_read_tokens=10,
        cache_write_tokens=20,
        reasoning_tokens=30,
        input_audio_tokens=40,
        output_audio_tokens=5,
        unpriced_calls=1,
    ) == scope.report().by_model().get("p/x")


def test_parts_may_be_all_of_their_whole():
    """A part of the tokens may be as large as its whole."""
    with token_scope("a") as scope:
        record_tokens(**GOOD, cache_read_tokens=10, reasoning_tokens=10, input_audio_tokens=10, output_audio_tokens=10)
        record_tokens(**GOOD, cache_read_tokens=4, cache_write_tokens=6)

    usage = scope.usage
    assert (14, 6, 10, 10, 10) == (
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.input_audio_tokens,
        usage.output_audio_tokens,
    )


@pytest.mark.parametrize(
    ("cost", "dollars"),
    [(0.1, "0.1"), (2, "2"), (Decimal("0.0001"), "0.0001"), (0, "0"), (0.0, "0")],
    ids=repr,
)
def test_a_cost_that_is_told(cost, dollars):
    """A cost that is given is the cost, also if it is 0; a float counts as what it prints."""
    with token_scope("a") as scope:
        record_tokens("m", "o", "gpt-4o-mini", "openai", input_tokens=1_000_000, output_tokens=0, cost=cost)

    assert Decimal(dollars) == scope.usage.cost
    assert 0 == scope.usage.unpriced_calls


def test_a_cost_that_nobody_tells():
    """Without a cost, the table of prices is asked; a model that it does not have is unpriced."""
    with token_scope("a") as scope:
        record_tokens(**GOOD)
        record_tokens("m", "o", "gpt-4o-mini", "openai", input_tokens=1_000_000, output_tokens=0)

    assert Decimal("0.15") == scope.usage.cost
    assert 1 == scope.usage.unpriced_calls


def test_a_call_without_tokens_costs_nothing():
    """A call that spent no tokens is free, also of a model with a price for each call; it needs no known price."""
    with token_scope("a") as scope:
        for model, provider in (("sonar", "perplexity"), ("x", "p")):
            record_tokens("m", "o", model, provider, input_tokens=0, output_tokens=0)

    assert (0, 0) == (scope.usage.cost, scope.usage.unpriced_calls)
    with token_scope("b") as scope:
        record_tokens("m", "o", "sonar", "perplexity", input_tokens=1, output_tokens=0)
    assert Decimal("0.005") < scope.usage.cost  # the price of a call


def test_calls_in_two_price_tiers_are_one_model():
    """Short and long prompts of one model are one line by model, whatever each of them costs."""
    with token_scope("a") as scope:
        for length in (10, 300_000):
            record_tokens("m", "o", "gemini-2.5-pro", "google", input_tokens=length, output_tokens=0)

    (usage,) = scope.report().by_model().values()
    assert (2, 300_010) == (usage.calls, usage.input_tokens)
    assert Decimal("0.0000125") + Decimal("0.75") == usage.cost


def test_outside_of_any_scope():
    """A record outside of any scope stands at the top of the process's report."""
    record_tokens(**GOOD)

    assert 20 == report().find("m/o").usage.total_tokens


def test_recording_in_the_current_scope_itself():
    """Without a module and an operation, a call counts at the current scope, or one level below with one of them."""

    @track_tokens("ingest", "ocr")
    def read_page():
        record_tokens(model="gpt-4o-mini", input_tokens=10, output_tokens=5)
        record_cost(cost=0.5)

    with token_scope("all") as scope:
        read_page()
        record_tokens(model="gpt-4o-mini", provider="openai", input_tokens=20, output_tokens=0)
        record_tokens("m", model="gpt-4o-mini", input_tokens=40, output_tokens=0)
        record_tokens(operation="o", model="gpt-4o-mini", input_tokens=80, output_tokens=0)
    record_tokens(model="gpt-4o-mini", input_tokens=160, output_tokens=0)

    tree = scope.report().tree()
    own = {"/".join(node.name for node in [*above, node]): node.own.input_tokens for above, node in paths_of(tree)}
    assert {"all": 20, "all/ingest": 0, "all/ingest/ocr": 10, "all/m": 40, "all/o": 80} == own
    assert report().find("(no scope)").usage.input_tokens == 160
    record = get_tracker().records[-6]
    assert ("ingest", "ocr", "all/ingest/ocr", "", "gpt-4o-mini") == (
        record.module,
        record.operation,
        record.scope,
        record.provider,
        record.model,
    )
    assert scope.report().by_operation()["ingest.ocr"].cost == Decimal("0.5000045")


def paths_of(tree):
    above = []
    for depth, node in tree.walk():
        del above[depth:]
        yield list(above), node
        above.append(node)


@pytest.mark.parametrize("missing", ["model", "input_tokens", "output_tokens"])
def test_what_must_be_given(missing):
    """The model and the tokens have to be given, in calls with names and without. Nothing is counted otherwise."""
    given = {"model": "gpt-4o-mini", "input_tokens": 1, "output_tokens": 2}
    del given[missing]
    for names in ((), ("m", "o")):
        with pytest.raises(TypeError, match=f"record_tokens needs {missing}=..., as in record_tokens\\(model="):
            record_tokens(*names, **given)
    with pytest.raises(TypeError, match=r"^record_cost needs cost=..., as in record_cost\(cost="):
        record_cost("m", "o")
    assert not report()


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
        ("inputtokens", "input_tokens"),
    ],
)
def test_a_wrong_keyword(wrong, meant):
    """A wrong keyword names the right one, and nothing is counted."""
    with pytest.raises(TypeError) as caught:
        record_tokens(model="m", input_tokens=1, output_tokens=1, **{wrong: 1})

    assert str(caught.value).startswith(f"record_tokens() has no argument {wrong!r}; ")
    assert meant in str(caught.value)
    assert caught.traceback[-1].name == "record_tokens"
    assert not report()
