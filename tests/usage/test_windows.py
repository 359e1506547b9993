"""Context windows of models."""

from __future__ import annotations

import subprocess
import sys

import pytest
from genai_prices.data_snapshot import get_snapshot

from tokenscope._usage.windows import context_window


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("openrouter/anthropic/claude-3.5-haiku", "openrouter", "anthropic/claude-3.5-haiku"),
        ("bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", "aws", "us.anthropic.claude-sonnet-4-20250514-v1:0"),
        ("gpt-4o", None, "gpt-4o"),
    ],
)
def test_known(model: str, provider: str | None, name: str) -> None:
    """The context window of a model, named as DSPy, litellm or OpenRouter do, is the one in genai-prices' table."""
    info = get_snapshot().find_provider_model(name, None, provider, None)[1]
    assert info.context_window == context_window(model)


def test_a_number() -> None:
    """A known context window is a number of tokens."""
    assert 128_000 == context_window("openai/gpt-4o-mini")


@pytest.mark.parametrize("model", ["ollama/llama3.3", "no-such-model", "openai/no-such-model", "///", "a/", ""])
def test_unknown(model: str) -> None:
    """The context window of an unknown model is None."""
    assert context_window(model) is None


def test_the_table_is_loaded_when_it_is_needed() -> None:
    """To import the look-up does not load the price table."""
    program = "import sys, tokenscope._usage.windows; print('genai_prices' in sys.modules)"
    assert (
        "False\n" == subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )
