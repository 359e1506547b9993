"""record_response counts a response in the current scope, under the model's name, even if it is malformed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import warnings
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from genai_prices import extract_usage
from hypothesis import given, settings
from hypothesis import strategies as st
from litellm.types.utils import EmbeddingResponse, ModelResponse
from openai.types.chat import ChatCompletion
from support.spending import python

import tokenscope
from tokenscope import Report, Usage, record_response, set_price, token_scope
from tokenscope._usage.custom_prices import forget_prices
from tokenscope._usage.usage import check_parts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

CHAT = {"id": "chatcmpl-1", "model": "gpt-4o-mini", "usage": {"prompt_tokens": 90, "completion_tokens": 30}}
CONVERSE = {"usage": {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12}, "metrics": {"latencyMs": 1}}
MESSAGE = {
    "id": "msg_01",
    "type": "message",
    "model": "claude-sonnet-4-5",
    "usage": {"input_tokens": 9, "output_tokens": 3},
}
GEMINI = {"modelVersion": "gemini-2.5-pro", "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3}}


@pytest.fixture(autouse=True)
def may_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget earlier warnings, so that each test gets its own."""
    forget_warnings()


def recorded(response: Any, **said: str) -> Report:
    """Record a response in a scope, and return the scope's report."""
    with token_scope("a") as scope:
        assert record_response(response, **said) is response
    return scope.report()


def spent(response: Any, **said: str) -> Usage:
    """Return the usage that a response is counted as, without its price."""
    return replace(recorded(response, **said).total, cost=Decimal(0), unpriced_calls=0)


def names(response: Any, **said: str) -> list[str]:
    """Return the models that a response is counted under."""
    return list(recorded(response, **said).by_model())


# -- where it counts ---------------------------------------------------------------------------------------------------


def test_the_current_scope_has_it() -> None:
    """A response is counted in the innermost scope itself, with no level below."""
    with token_scope("outer") as outer, token_scope("inner"):
        record_response(CHAT)
    inner = outer.report().find("outer/inner")
    assert Usage(calls=1, input_tokens=90, output_tokens=30, cost=Decimal("0.0000315")) == inner.own
    assert () == inner.children


def test_without_a_scope_it_is_the_processs() -> None:
    """Outside of any scope, a response is counted at the top level of the process's report, as `(no scope)`."""
    record_response(CHAT)
    assert {"(no scope)": 120} == {name: usage.total_tokens for name, usage in tokenscope.report().by_module().items()}


def test_tasks() -> None:
    """If several tasks run at the same time, each scope counts only the responses of its own task."""

    async def ask(tokens: int) -> Usage:
        with token_scope("task") as scope:
            await asyncio.sleep(0)
            record_response({**CHAT, "usage": {"prompt_tokens": tokens, "completion_tokens": 0}})
            await asyncio.sleep(0)
        return scope.usage

    async def all_at_once() -> list[Usage]:
        return await asyncio.gather(*(ask(tokens) for tokens in range(20)))

    assert list(range(20)) == [usage.input_tokens for usage in asyncio.run(all_at_once())]


def test_disabled() -> None:
    """With TOKENSCOPE_DISABLED, `record_response` returns the response, counts nothing, and asks for no model."""
    code = """
import tokenscope
response = {"usage": {"inputTokens": 9}}
assert tokenscope.record_response(response) is response
print(tokenscope.report().total.calls)
"""
    assert "0\n" == python(code, TOKENSCOPE_DISABLED="1")


def test_prices_load_before_the_first_call() -> None:
    """Importing tokenscope loads no prices. Importing `record_response` does, so that no call waits for them."""
    code = """
import sys, tokenscope
print("genai_prices" in sys.modules)
from tokenscope import record_response
print("genai_prices.data" in sys.modules or "genai_prices" in sys.modules, "dspy" in sys.modules, "openai" in sys.modules)
"""
    assert "False\nTrue False False\n" == python(code)


# -- the name ----------------------------------------------------------------------------------------------------------


def test_the_caller_knows_better() -> None:
    """The caller's `provider` and `model` take precedence over the names in the response."""
    assert ["azure/gpt-4o-mini"] == names(CHAT, provider="azure")
    assert ["openai/mine"] == names(CHAT, model="mine")
    assert ["azure/my-deployment"] == names(CHAT, model="azure/my-deployment")
    assert ["azure/my-deployment"] == names(CHAT, model="azure/my-deployment", provider="azure")
    assert ["vertex_ai/gemini-2.5-pro"] == names(GEMINI, provider="vertex_ai")
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-lite-v1:0"
    assert [f"bedrock/{arn}"] == names(CONVERSE, model=arn)


@pytest.mark.parametrize(
    ("response", "name"),
    [
        ({"model": "mistral-small", "id": "chatcmpl-1"}, "openai/mistral-small"),  # vLLM, for example
        ({"model": "mistral-small", "id": "9c1f"}, "mistral/mistral-small"),
        ({"model": "gemini-2.5-pro", "id": "9c1f"}, "gemini/gemini-2.5-pro"),
        ({"model": "no-such-model"}, "openai/no-such-model"),
        ({"model": "meta-llama/Llama-3.3-70B-Instruct", "id": "9c1f"}, "openai/meta-llama/Llama-3.3-70B-Instruct"),
        ({"model": "models/gemini-2.5-pro", "id": "9c1f"}, "gemini/gemini-2.5-pro"),
        ({"model": "openai/gpt-5", "id": "gen-1"}, "openrouter/openai/gpt-5"),
        ({"model": "a\ud800b"}, "openai/a?b"),
    ],
)
def test_who_it_was(response: dict[str, Any], name: str) -> None:
    """In OpenAI's format, the id or the model shows the provider; if neither does, the provider is `openai`."""
    assert [name] == names({**CHAT, "id": "", **response})


def test_an_sdk_says_who_it_was() -> None:
    """The package of a response's class shows the provider, for derived classes, too."""
    theirs = type("ChatCompletion", (SimpleNamespace,), {"__module__": "groq.types.chat.chat_completion"})
    own = type("Answer", (theirs,), {"__module__": "my.program"})
    assert ["groq/gpt-4o-mini"] == names(theirs(**CHAT)) == names(own(**CHAT))


def test_litellm_says_who_it_was() -> None:
    """LiteLLM's responses are counted under the provider that LiteLLM asked, and their cached tokens only once."""
    usage = litellm_usage(prompt_tokens=100, completion_tokens=5, total_tokens=105, cache_read_input_tokens=80)
    response = ModelResponse(model="claude-sonnet-4-5", usage=usage)
    response._hidden_params["custom_llm_provider"] = "bedrock"
    assert ["bedrock/claude-sonnet-4-5"] == names(response)
    assert Usage(calls=1, input_tokens=100, output_tokens=5, cache_read_tokens=80) == spent(response)

    embedded = EmbeddingResponse(model="text-embedding-3-small", usage=litellm_usage(prompt_tokens=7, total_tokens=7))
    assert ["openai/text-embedding-3-small"] == names(embedded)
    assert Usage(calls=1, input_tokens=7) == spent(embedded)


def litellm_usage(**counts: int) -> Any:
    from litellm import Usage as LiteLLMUsage

    return LiteLLMUsage(**counts)


def test_no_name() -> None:
    """If a response has no field for its model, an error asks the caller for it, and nothing is counted."""
    with (
        token_scope("a") as scope,
        pytest.raises(ValueError, match=r"\(dict\) does not name its model: pass .*model=") as raised,
    ):
        record_response(CONVERSE)
    assert __file__ == str(raised.traceback[-2].path)
    assert 0 == scope.usage.calls
    assert ["bedrock/us.amazon.nova-lite-v1:0"] == names(CONVERSE, model="us.amazon.nova-lite-v1:0")


@pytest.mark.parametrize("model", [None, "", " ", 7, ["a"]])
def test_an_empty_name(model: Any) -> None:
    """A response with an empty or invalid model name is counted as `(unknown)`, with one warning."""
    with pytest.warns(
        TokenScopeWarning, match=r"openai/\(unknown\) does not say which model answered; pass model="
    ) as caught:
        assert ["openai/(unknown)"] == names({**CHAT, "model": model})
        assert 1 == recorded({**CHAT, "model": model}).total.calls
    assert [__file__] == [warning.filename for warning in caught]


# -- arguments that are not responses ----------------------------------------------------------------------------------


async def coroutine() -> None: ...


@pytest.mark.parametrize("response", [None, "text", b"text", 7, 1.5, True, [CHAT], (CHAT,), {1}, dict, print], ids=repr)
def test_what_is_no_response(response: Any) -> None:
    """An argument that cannot be a response raises a TypeError that names the expected and the actual type."""
    with pytest.raises(
        TypeError, match=f"as the provider's SDK returned it, an object or a dict, not {type(response).__name__} "
    ):
        record_response(response)


def test_one_that_is_still_to_come() -> None:
    """A coroutine or a stream raises a TypeError that says how to pass it instead."""
    pending = coroutine()
    with pytest.raises(TypeError, match="this coroutine will become one: await it first"):
        record_response(pending)
    pending.close()
    with pytest.raises(TypeError, match="this generator comes in pieces: pass the stream to record_stream"):
        record_response(chunk for chunk in [CHAT])


@pytest.mark.parametrize(
    ("said", "error"), [({"model": ""}, ValueError), ({"model": 7}, TypeError), ({"provider": " "}, ValueError)]
)
def test_bad_names(said: Any, error: type[Exception]) -> None:
    """An invalid `model` or `provider` raises an error, and nothing is counted."""
    with token_scope("a") as scope, pytest.raises(error):
        record_response(CHAT, **said)
    assert 0 == scope.usage.calls


# -- costs -------------------------------------------------------------------------------------------------------------


def test_priced_by_hand() -> None:
    """Three responses cost as much as their tokens times the providers' prices per million tokens."""
    million = Decimal(1_000_000)
    cached = {
        **MESSAGE,
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 200,
            "output_tokens": 50,
        },
    }
    assert (3 * 10 + Decimal("0.3") * 1000 + Decimal("3.75") * 200 + 15 * 50) / million == recorded(cached).total.cost
    long = {
        **GEMINI,
        "usageMetadata": {"promptTokenCount": 300_000, "candidatesTokenCount": 1000, "thoughtsTokenCount": 500},
    }
    assert (Decimal("2.5") * 300_000 + 15 * 1500) / million == recorded(long).total.cost
    reasoning = {
        **CHAT,
        "model": "o3-mini",
        "usage": {
            "prompt_tokens": 31,
            "completion_tokens": 467,
            "completion_tokens_details": {"reasoning_tokens": 448},
        },
    }
    assert (Decimal("1.1") * 31 + Decimal("4.4") * 467) / million == recorded(reasoning).total.cost


HOUR = {
    **MESSAGE,
    "usage": {
        "input_tokens": 504,
        "cache_creation_input_tokens": 123,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 23},
        "server_tool_use": {"web_search_requests": 2},
        "output_tokens": 97,
    },
}


def test_what_counts_cannot_say() -> None:
    """The cost of a call includes its web searches and the tokens that are cached for an hour."""
    cost = recorded(HOUR).total.cost
    assert extract_usage(HOUR, provider_id="anthropic").calc_price().total_price == cost
    assert (3 * 504 + Decimal("3.75") * 100 + 6 * 23 + 15 * 97) / Decimal(1_000_000) + Decimal("0.02") == cost


def test_what_counts_cannot_say_of_an_unknown_model() -> None:
    """A call with searches is unpriced if the model's price is unknown."""
    assert 1 == recorded({**HOUR, "model": "claude-unheard-of"}).total.unpriced_calls


def test_an_advisor_without_a_name() -> None:
    """The tokens of an advisor model without a name are not counted, because their price is unknown."""
    usage = {"input_tokens": 9, "output_tokens": 3, "iterations": [{"type": "advisor_message", "input_tokens": 5}]}
    assert Usage(calls=1, input_tokens=9, output_tokens=3) == spent({**MESSAGE, "usage": usage})


def test_a_price_by_hand_wins() -> None:
    """A price that was set with `set_price` takes precedence over the price list."""
    set_price("anthropic/claude-sonnet-4-5", input=1, output=1)
    try:
        assert Decimal(504 + 123 + 97) / 1_000_000 == recorded(HOUR).total.cost
    finally:
        forget_prices()


def test_what_the_provider_says_wins() -> None:
    """A cost that the provider reports takes precedence over the price list. OpenRouter's 0 means a free call."""
    usage = {**CHAT["usage"], "cost": 0.5}  # type: ignore[dict-item]
    assert Decimal("0.5") == recorded({**CHAT, "usage": usage}).total.cost
    free = {**usage, "cost": 0, "cost_details": {"upstream_inference_cost": 0}}
    report = recorded({**CHAT, "model": "no-such-model", "usage": free})
    assert (Decimal(0), 0) == (report.total.known_cost, report.total.unpriced_calls)


@pytest.mark.parametrize("cost", [True, -1, float("nan"), float("inf"), "0.5", [1], {"total_cost": "x"}, 1e300])
def test_what_is_no_cost(cost: Any) -> None:
    """A reported cost that is not a valid amount is ignored, and the price list applies."""
    usage = {**CHAT["usage"], "cost": cost}  # type: ignore[dict-item]
    assert Decimal("0.0000315") == recorded({**CHAT, "usage": usage}).total.cost


# -- kinds of objects, missing and malformed usage ---------------------------------------------------------------------


@dataclass
class Tokens:
    input_tokens: int = 9
    output_tokens: int = 3
    cache_read_input_tokens: int = 5


@dataclass
class Message:
    model: str = "claude-sonnet-4-5"
    type: str = "message"
    usage: Tokens = field(default_factory=Tokens)


def test_objects_of_any_make() -> None:
    """Dataclasses, namespaces, pydantic models, and dicts inside them are all read."""
    assert Usage(calls=1, input_tokens=14, output_tokens=3, cache_read_tokens=5) == spent(Message())
    google = SimpleNamespace(
        model_version="gemini-2.5-pro",
        usage_metadata=SimpleNamespace(
            prompt_token_count=9, candidates_token_count=np.int64(3), thoughts_token_count=None
        ),
    )
    assert Usage(calls=1, input_tokens=9, output_tokens=3) == spent(google)
    completion = ChatCompletion.construct(**CHAT, choices=[], created=1, object="chat.completion")
    assert Usage(calls=1, input_tokens=90, output_tokens=30) == spent(completion)
    assert Usage(calls=1, input_tokens=90, output_tokens=30) == spent(SimpleNamespace(**CHAT))


def test_no_usage() -> None:
    """A response that reports no usage counts as a call without tokens, with one warning at the caller's line."""
    with pytest.warns(TokenScopeWarning, match="a response of openai/gpt-4o-mini reports no usage") as caught:
        for usage in (None, {}, {"queue_time": 0.1}, [], "?"):
            assert Usage(calls=1) == spent({**CHAT, "usage": usage})
    assert [__file__] == [warning.filename for warning in caught]


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), True, "12", 10**400])
@pytest.mark.parametrize(
    ("response", "part", "key", "left"),
    [
        (CHAT, "usage", "prompt_tokens", Usage(calls=1, output_tokens=30)),
        (MESSAGE, "usage", "input_tokens", Usage(calls=1, output_tokens=3)),
        (GEMINI, "usageMetadata", "promptTokenCount", Usage(calls=1, output_tokens=3)),
        ({**CONVERSE, "model": "nova"}, "usage", "inputTokens", Usage(calls=1, output_tokens=3)),
    ],
    ids=["openai", "anthropic", "google", "bedrock"],
)
def test_garbage(value: Any, response: Any, part: str, key: str, left: Usage) -> None:
    """A value that is not a number of tokens is counted as 0, with one warning that names it."""
    spoilt = {**response, part: {**response[part], key: value}}
    with pytest.warns(
        TokenScopeWarning, match=rf"the provider reported .* as {key} of .*, which is not a number of tokens"
    ):
        assert left == spent(spoilt)


def test_warnings_as_errors_break_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Even if warnings are errors, malformed usage does not raise. The warning goes to standard error instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", TokenScopeWarning)
        assert Usage(calls=1, output_tokens=30) == spent(
            {**CHAT, "usage": {"prompt_tokens": -1, "completion_tokens": 30}}
        )
    assert "reported -1 as prompt_tokens of gpt-4o-mini" in capsys.readouterr().err


def test_a_response_that_breaks_when_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """If reading a response raises an exception, tokenscope warns and counts nothing, and the program goes on."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")

    class Lazy:
        model = "m"

        @property
        def usage(self) -> Any:
            raise RuntimeError("not fetched yet")

    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no items")

    with pytest.warns(TokenScopeWarning, match="(?s)detecting where a response comes from.*not fetched yet"):
        assert 0 == recorded(Lazy()).total.calls
    with pytest.warns(TokenScopeWarning, match="(?s)reading a response.*no items"):
        assert 0 == recorded({**MESSAGE, "usage": Broken(MESSAGE["usage"])}).total.calls


@pytest.mark.filterwarnings("ignore::tokenscope.errors.TokenScopeWarning")
def test_stubs() -> None:
    """A mock in place of a response raises no error, and counts as one call."""
    assert 1 == recorded(MagicMock(), model="stub").total.calls


# -- generated responses -----------------------------------------------------------------------------------------------


def keys_of(value: Any) -> set[str]:
    """Return every key in a payload, at any depth."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set(value if isinstance(value, dict) else ()).union(*map(keys_of, inside))


CORPUS = [json.loads(file.read_text("utf-8")) for file in (Path(__file__).parents[1] / "corpus").glob("*.json")]
KEYS = sorted(keys_of([entry["payload"] for entries in CORPUS for entry in entries]))
odd = st.one_of(
    st.integers(-5, 10**6),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from(["", "12", "message", "compaction", "advisor_message", "AUDIO", "1h", "standard", "gpt-4o"]),
)
garbage = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
usages = st.dictionaries(st.sampled_from(KEYS), garbage, max_size=10)
responses = st.fixed_dictionaries(
    {},
    optional={
        "usage": usages | garbage,
        "usageMetadata": usages | garbage,
        "meta": usages | garbage,
        "model": garbage,
        "modelVersion": garbage,
        "id": garbage | st.sampled_from(["msg_bdrk_1", "gen-1", "chatcmpl-1"]),
        "type": garbage,
        "x_groq": garbage,
        "system_fingerprint": garbage,
        "_hidden_params": garbage,
    },
)


def as_object(value: Any) -> Any:
    """Turn dicts into namespaces, at all levels."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(inner) for key, inner in value.items()})
    return [as_object(each) for each in value] if isinstance(value, list) else value


def test_details_of_a_wrong_kind() -> None:
    """A part of Gemini's usage that cannot be read leads to a warning, not to an exception."""
    usage = {
        "promptTokenCount": 9,
        "candidatesTokenCount": 1,
        "promptTokensDetails": [{"modality": 1, "tokenCount": 9}],
    }
    with pytest.warns(TokenScopeWarning):
        report = recorded(
            {"usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}, model="gemini-2.5-flash", provider="google"
        )
    assert 1 == report.total.calls


@pytest.mark.unmeasured
@settings(max_examples=200, deadline=None)
@given(responses)
def test_whatever_comes(response: dict[str, Any]) -> None:
    """Any payload can be recorded and reported, and it counts the same as dicts and as objects."""
    made = as_object(response)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenScopeWarning)
        report = recorded(response, model="gpt-4o", provider="openai")
        same = recorded(made, model="gpt-4o", provider="openai")
        with token_scope("unnamed"):
            for each in (response, made):
                with contextlib.suppress(ValueError):  # if it names no model
                    record_response(each)
    usage = report.total
    assert usage.calls >= 1
    assert usage == same.total
    check_parts(usage)
    assert usage.total_tokens == json.loads(report.render("json"))["summary"]["total_tokens"]
    assert "calls" in report.render("tree")
