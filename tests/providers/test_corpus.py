"""Usage payloads as providers, LiteLLM and DSPy make them, each with the usage it stands for, through the real readers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import extract_usage
from genai_prices.data_snapshot import get_snapshot

from tokenscope import Usage, record_response, token_scope
from tokenscope._providers.openai_usage import read_counts
from tokenscope._scopes.recording import check_parts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

CORPUS = {
    f"{file.stem}: {entry['name']}": entry
    for file in sorted((Path(__file__).parents[1] / "corpus").glob("*.json"))
    for entry in json.loads(file.read_text("utf-8"))
}
RESPONSES = {name: entry for name, entry in CORPUS.items() if entry["kind"] == "response"}
ENTRIES = {name: entry for name, entry in CORPUS.items() if entry["kind"] != "response"}
COUNTS = [field.name for field in fields(Usage) if field.name.endswith("_tokens") and field.name != "saved_tokens"]


def expected(counts: dict[str, Any], calls: int) -> Usage:
    return Usage(calls=calls, **{name: value for name, value in counts.items() if name != "cost"})


def tokens(usage: Usage) -> Usage:
    """Return a usage without its price."""
    return Usage(calls=usage.calls, **{name: getattr(usage, name) for name in COUNTS})


def as_sdk(entry: dict[str, Any]) -> Any:
    """Build the response as its provider's SDK does."""
    module, _, name = entry["sdk"].partition(":")
    kind = getattr(pytest.importorskip(module), name)
    if module.startswith("google"):
        return kind._from_response(response=entry["payload"], kwargs={})
    return kind.construct(**entry["payload"])  # not validated: SDKs take what providers send


def recorded(response: Any, entry: dict[str, Any]) -> dict[str, Usage]:
    """Record a response, and return what was counted by model."""
    forget_warnings()
    warns = pytest.warns(TokenScopeWarning, match=entry["warns"]) if "warns" in entry else contextlib.nullcontext()
    with token_scope("corpus") as scope, warns:
        assert record_response(response, **entry.get("say", {})) is response
    return dict(scope.report().by_model())


def check(entry: dict[str, Any], counted: dict[str, Usage]) -> None:
    main = f"{entry['provider']}/{entry['model']}"
    wanted = {main: entry["expected"], **entry.get("also", {})}
    assert {name: expected(counts, 1) for name, counts in wanted.items()} == {
        name: tokens(usage) for name, usage in counted.items()
    }
    if "cost" in entry["expected"]:
        assert Decimal(entry["expected"]["cost"]) == counted[main].known_cost
    for usage in counted.values():
        check_parts(usage)


@pytest.mark.parametrize("entry", RESPONSES.values(), ids=RESPONSES)
def test_responses(entry: dict[str, Any]) -> None:
    """A response as a dict is counted as what it spent, under the model that answered."""
    check(entry, recorded(entry["payload"], entry))


@pytest.mark.parametrize(
    "entry", [e for e in RESPONSES.values() if "sdk" in e], ids=[n for n, e in RESPONSES.items() if "sdk" in e]
)
def test_responses_of_sdks(entry: dict[str, Any]) -> None:
    """The object that the SDK makes of it counts the same."""
    check(entry, recorded(as_sdk(entry), entry))


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries(entry: dict[str, Any]) -> None:
    """An entry of DSPy's tracker, of either engine, is read as what the call spent."""
    usage = Usage.from_counts(read_counts(f"{entry['provider']}/{entry['model']}", entry["payload"]))
    assert expected(entry["expected"], 0) == tokens(usage)
    assert Decimal(entry["expected"].get("cost", 0)) == usage.cost
    check_parts(usage)


@pytest.mark.parametrize("entry", CORPUS.values(), ids=CORPUS)
def test_the_corpus_says_where_it_is_from(entry: dict[str, Any]) -> None:
    """Each payload names its source, honestly, and what it should count as adds up."""
    assert entry["source"].startswith(("recorded: ", "documented: ", "shape: ", "made by "))
    assert entry["kind"] in ("response", "dspy_entry", "litellm_usage")
    assert {"name", "source", "kind", "provider", "model", "payload", "expected"} <= set(entry)
    assert set(entry) <= {
        "name",
        "source",
        "kind",
        "provider",
        "model",
        "payload",
        "expected",
        "sdk",
        "say",
        "also",
        "warns",
    }
    check_parts(expected(entry["expected"], 1))


THEIRS = {
    "openai": "openai",
    "azure": "azure",
    "openrouter": "openrouter",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "xai": "x-ai",
    "cerebras": "cerebras",
    "fireworks_ai": "fireworks",
    "anthropic": "anthropic",
    "gemini": "google",
    "vertex_ai": "google",
}
"""genai-prices' names of providers."""
DIFFERENT = {
    "openai: transcription, which names no model": "its extractor for responses reads no input_token_details",
    "others: Fireworks": "it does not know the model",
    "others: vLLM, nulls": "it is not OpenAI's",
    "openrouter: responses": "its extractor is called otherwise",
    "others: DeepSeek, before it had details": "its extractor reads no prompt_cache_hit_tokens",
    "others: DeepSeek, responses": "it has no extractor for them",
    "others: Mistral, cached in an older word": "its extractor reads no num_cached_tokens",
    "others: xAI's SDK": "its extractor is called otherwise",
    "others: xAI's SDK, more cached tokens than the prompt had": "its extractor takes them as they are",
    "anthropic: compaction, which is billed and not in the message's counts": "it reads no iterations",
    "anthropic: on Vertex": "its extractor is called otherwise",
    "google: AI Studio, thoughts that the candidates have already": "it counts them twice",
    "google: Vertex, a prompt that was blocked": "it raises",
    "google: embeddings, which name no model": "so does its extractor not",
    "google: in OpenAI's words, where thoughts are only in the total": "it reads no total",
}
"""Where genai-prices reads otherwise, and why."""
SAME = [name for name, entry in RESPONSES.items() if entry["provider"] in THEIRS and name not in DIFFERENT]


def second_opinion(entry: dict[str, Any]) -> Any:
    """Ask genai-prices what a payload says, by the provider's own extractor."""
    provider = THEIRS[entry["provider"]]
    flavours = {each.api_flavor for each in get_snapshot().find_provider(None, provider, None).extractors or ()}
    wanted = {"response": "responses", "list": "embeddings"}.get(entry["payload"].get("object"), "chat")
    native = entry["provider"] in ("anthropic", "gemini", "vertex_ai") or wanted not in flavours
    return extract_usage(entry["payload"], provider_id=provider, api_flavor="default" if native else wanted)


@pytest.mark.parametrize("name", SAME)
def test_a_second_opinion(name: str) -> None:
    """genai-prices' own reading of a response, where it is right, counts and costs the same."""
    entry = RESPONSES[name]
    theirs = second_opinion(entry)
    names = {name: name for name in COUNTS} | {"reasoning_tokens": "output_reasoning_tokens"}
    ours = expected(entry["expected"], 1)
    assert {name: theirs.usage.reported_value(names[name]) for name in COUNTS} == {
        name: getattr(ours, name) for name in COUNTS
    }
    counted = recorded(entry["payload"], entry)[f"{entry['provider']}/{entry['model']}"]
    if "cost" not in entry["expected"]:
        assert theirs.calc_price().total_price == counted.known_cost


def test_opinions_differ_where_it_is_said() -> None:
    """What genai-prices reads otherwise is in the corpus."""
    assert set(DIFFERENT) <= set(RESPONSES)


def test_the_corpus_is_wide() -> None:
    """There is something of each provider, engine and kind."""
    assert len(CORPUS) >= 90
    assert {entry["provider"] for entry in RESPONSES.values()} >= {
        *(
            "openai",
            "azure",
            "anthropic",
            "gemini",
            "vertex_ai",
            "bedrock",
            "openrouter",
            "groq",
            "mistral",
            "deepseek",
        ),
        *("xai", "perplexity", "cohere", "voyage", "together_ai", "fireworks_ai", "ollama"),
    }
    assert importlib.util.find_spec("openai")  # the SDK that DSPy brings is tested in any case
