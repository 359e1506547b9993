"""Usage entries from DSPy: every shape is read, and no value from a provider can break the program."""

from __future__ import annotations

import warnings
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import dspy
import numpy as np
import pytest

from tokenscope import Usage, token_scope
from tokenscope._providers.openai_usage import read_counts
from tokenscope._scopes.event_log import drain
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations import usage_watchers
from tokenscope.testing import LoopbackProvider


def read_entry(model: str, entry: Any) -> Usage:
    """Return the usage in one entry. Its number of calls is 0."""
    return Usage.from_counts(read_counts(model, entry))


SHAPES = {
    "dspy 3.4, native": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 40,
            "total_tokens": 140,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_creation_tokens": 20, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 10, "audio_tokens": 2},
        },
        Usage(
            input_tokens=100,
            output_tokens=40,
            cache_read_tokens=30,
            cache_write_tokens=20,
            reasoning_tokens=10,
            input_audio_tokens=5,
            output_audio_tokens=2,
        ),
    ),
    "no details": (
        {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": None, "completion_tokens_details": None},
        Usage(input_tokens=7, output_tokens=3),
    ),
    "litellm, details as objects with many Nones": (
        {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "prompt_tokens_details": SimpleNamespace(cached_tokens=2, audio_tokens=None, text_tokens=None),
            "completion_tokens_details": SimpleNamespace(reasoning_tokens=None, audio_tokens=None),
        },
        Usage(input_tokens=7, output_tokens=3, cache_read_tokens=2),
    ),
    "litellm, Anthropic with cache": (
        {
            "prompt_tokens": 1_000,
            "completion_tokens": 50,
            "total_tokens": 1_050,
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 600,
            "prompt_tokens_details": {"cached_tokens": 600},
        },
        Usage(input_tokens=1_000, output_tokens=50, cache_read_tokens=600, cache_write_tokens=300),
    ),
    "responses": (
        {
            "input_tokens": 11,
            "output_tokens": 22,
            "total_tokens": 33,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens_details": {"reasoning_tokens": 9},
        },
        Usage(input_tokens=11, output_tokens=22, cache_read_tokens=4, reasoning_tokens=9),
    ),
    "reasoning beside the completion (xAI)": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20),
    ),
    "reasoning inside the completion": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 25,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(input_tokens=10, output_tokens=25, reasoning_tokens=20),
    ),
    "embeddings": ({"prompt_tokens": 12, "total_tokens": 12}, Usage(input_tokens=12)),
    "whole floats, flags and strangers": (
        {"prompt_tokens": 12.0, "completion_tokens": 1, "is_byok": False, "cost": 0.1, "cost_details": {"x": None}},
        Usage(input_tokens=12, output_tokens=1, cost=Decimal("0.1")),
    ),
    "numpy's integers": (
        {"prompt_tokens": np.int64(50), "completion_tokens": np.uint8(10)},
        Usage(input_tokens=50, output_tokens=10),
    ),
    "nothing": ({}, Usage()),
}


@pytest.mark.parametrize(("entry", "usage"), SHAPES.values(), ids=SHAPES)
def test_shapes(entry: Any, usage: Usage) -> None:
    """Every shape of a usage entry is read, with all its details."""
    assert usage == read_entry("openai/gpt-4o-mini", entry)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_entries_add_up() -> None:
    """If an LM reports several usage entries in one call, their sum counts as one call."""
    entries = [{"prompt_tokens": 1, "completion_tokens": 2}, {"prompt_tokens": 10, "completion_tokens": 20}]

    class Twice(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            for entry in entries:
                dspy.settings.usage_tracker.add_usage(self.model, entry)
            return response({})

    with token_scope("a") as scope:
        Twice(model="m")("Hi")
    assert (1, 11, 22) == (scope.usage.calls, scope.usage.input_tokens, scope.usage.output_tokens)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("number", [1, 2])
def test_a_call_that_fails_after_it_has_spent(number: int) -> None:
    """What a call has reported before it fails is counted, and wasted."""

    class Failing(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            for _ in range(number):
                dspy.settings.usage_tracker.add_usage(self.model, {"prompt_tokens": 3, "completion_tokens": 4})
            raise KeyError("too late")

    with token_scope("a") as scope, pytest.raises(Exception, match="too late"):
        Failing(model="m")("Hi")
    wasted = scope.report().waste().total.provider_errors
    assert (1, 1, 7 * number) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)
    assert (1, 7 * number) == (wasted.calls, wasted.total_tokens)


def test_watchers_of_direct_calls() -> None:
    """What a direct call of `LM.forward` spends is told to those who watch usage, with its model."""
    told: list[Any] = []

    def watcher(model: str, entry: Any) -> None:
        told.append((model, read_counts(model, entry).input_tokens))

    usage_watchers.watch(watcher)
    try:
        with LoopbackProvider() as provider:
            provider.lm().forward("Why?")
            provider.lm()("Why?")
            expected = provider.total.input_tokens // 2
    finally:
        usage_watchers.unwatch(watcher)
    assert [("openai/gpt-4o-mini", expected)] * 2 == told


NO_COUNTS = [-1, 1.5, float("nan"), float("inf"), True, "12", [1], {"a": 1}, object()]


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: type(value).__name__)
def test_what_is_no_count(value: Any) -> None:
    """A value that is not a number of tokens is counted as 0, with one warning that names it."""
    forget_warnings()
    with pytest.warns(TokenScopeWarning, match=r"prompt_tokens of openai/gpt-4o-mini, which is not a number"):
        usage = read_entry("openai/gpt-4o-mini", {"prompt_tokens": value, "completion_tokens": 3})
        drain()
    assert Usage(output_tokens=3) == usage
    assert Usage(output_tokens=3) == read_entry("openai/gpt-4o-mini", {"prompt_tokens": value, "completion_tokens": 3})


@pytest.mark.parametrize("details", [[1], "text", 7, object()], ids=lambda value: type(value).__name__)
def test_strange_details(details: Any) -> None:
    """Details that are not a mapping are ignored."""
    entry = {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": details}
    assert Usage(input_tokens=5, output_tokens=3) == read_entry("m", entry)


def response(usage: Any) -> Any:
    """Return an object like the one that an LM's `forward` returns."""
    message = SimpleNamespace(content="Hello.", tool_calls=None)
    return SimpleNamespace(
        choices=[SimpleNamespace(message=message, finish_reason="stop")], usage=usage, model="nonsense"
    )


class Nonsense(dspy.BaseLM):
    """An LM that reports invalid usage."""

    usage: Any = {"prompt_tokens": -5, "completion_tokens": float("nan"), "prompt_tokens_details": ["?"]}

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return response(self.usage)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_lm_that_reports_nonsense_breaks_nothing() -> None:
    """An LM that reports invalid usage still returns its answer, and counts as one call."""

    forget_warnings()
    with token_scope("a") as scope, pytest.warns(TokenScopeWarning):
        assert ["Hello."] == Nonsense(model="nonsense")("Hi")
        assert Usage(calls=1) == scope.usage


class Unprintable:
    """A value that raises when it is used as a number or printed."""

    def __index__(self) -> int:
        raise RuntimeError("no number")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_where_warnings_are_errors(capsys: Any) -> None:
    """If warnings are errors, an invalid count raises neither in its own call nor in a later one."""
    forget_warnings()
    with warnings.catch_warnings(), token_scope("a") as scope:
        warnings.simplefilter("error", TokenScopeWarning)
        for number in range(300):
            lm = Nonsense(model=f"model {number}")
            lm.usage = {"prompt_tokens": Unprintable(), "completion_tokens": 1}
            assert ["Hello."] == lm("Hi")
        assert (300, 300) == (scope.usage.calls, scope.usage.total_tokens)
    assert "the provider reported a Unprintable as prompt_tokens of model 299" in capsys.readouterr().err
