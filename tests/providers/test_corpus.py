"""The corpus of usage payloads from providers, LiteLLM and DSPy: each is read as the usage that the corpus expects."""

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
from tokenscope._usage.usage import check_parts
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
    return kind.construct(**entry["payload"])  # SDKs do not validate responses either


def recorded(response: Any, entry: dict[str, Any]) -> dict[str, Usage]:
    """Record a response, and return the usage that was counted, by model."""
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
    """A response that is a dict is counted with its tokens and cost, under the model that answered."""
    check(entry, recorded(entry["payload"], entry))


@pytest.mark.parametrize(
    "entry", [e for e in RESPONSES.values() if "sdk" in e], ids=[n for n, e in RESPONSES.items() if "sdk" in e]
)
def test_responses_of_sdks(entry: dict[str, Any]) -> None:
    """A response that is an object of the provider's SDK counts the same as the dict."""
    check(entry, recorded(as_sdk(entry), entry))


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries(entry: dict[str, Any]) -> None:
    """A usage entry of DSPy, from either engine, is read as the tokens and the cost of its call."""
    usage = Usage.from_counts(read_counts(f"{entry['provider']}/{entry['model']}", entry["payload"]))
    assert expected(entry["expected"], 0) == tokens(usage)
    assert Decimal(entry["expected"].get("cost", 0)) == usage.cost
    check_parts(usage)


@pytest.mark.parametrize("entry", CORPUS.values(), ids=CORPUS)
def test_the_corpus_says_where_it_is_from(entry: dict[str, Any]) -> None:
    """Each corpus entry names the source of its payload, and no part of its expected usage is larger than its whole."""
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
"""The payloads that genai-prices reads differently, and why."""
SAME = [name for name, entry in RESPONSES.items() if entry["provider"] in THEIRS and name not in DIFFERENT]


def second_opinion(entry: dict[str, Any]) -> Any:
    """Return the usage that genai-prices reads from a payload, with its extractor for the provider."""
    provider = THEIRS[entry["provider"]]
    flavours = {each.api_flavor for each in get_snapshot().find_provider(None, provider, None).extractors or ()}
    wanted = {"response": "responses", "list": "embeddings"}.get(entry["payload"].get("object"), "chat")
    native = entry["provider"] in ("anthropic", "gemini", "vertex_ai") or wanted not in flavours
    return extract_usage(entry["payload"], provider_id=provider, api_flavor="default" if native else wanted)


@pytest.mark.parametrize("name", SAME)
def test_a_second_opinion(name: str) -> None:
    """genai-prices reads the same counts and the same cost from a response, unless `DIFFERENT` lists the response."""
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
    """Each response that `DIFFERENT` lists is in the corpus."""
    assert set(DIFFERENT) <= set(RESPONSES)


def test_the_corpus_is_wide() -> None:
    """The corpus has at least 90 payloads, and responses from all of these providers."""
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
    assert importlib.util.find_spec("openai")  # DSPy depends on this SDK, so its responses are tested in any case
