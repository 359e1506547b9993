"""Reading what DSPy reports about a call: the entries of a usage tracker, which are in OpenAI's words on every engine."""

from __future__ import annotations

from typing import Any

from tokenscope._providers.openai_usage import read_counts
from tokenscope._usage.usage import ZERO, Usage

__all__ = ["read_counts", "read_entries", "read_entry"]


def read_entry(model: str, entry: Any) -> Usage:
    """Return the tokens that one entry tells; `calls` stays 0."""
    return Usage.from_counts(read_counts(model, entry))


def read_entries(model: str, entries: list[Any]) -> Usage:
    """Return the sum of a call's entries."""
    return sum((read_entry(model, entry) for entry in entries), ZERO)
