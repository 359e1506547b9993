"""If prompts are measured (TOKENSCOPE_PROMPT_PARTS=1), the tests of the law check the parts, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tokenscope
from tokenscope._scopes.event_log import records
from tokenscope._scopes.process import STATE
from tokenscope._usage.prompt_parts import parts_of


@pytest.fixture(autouse=True)
def parts_add_up() -> Iterator[None]:
    """The parts of each call, and of each scope, add up to the input that was billed; DSPy's calls have parts."""
    yield
    if not STATE.splits_prompts:
        return
    for call in records():
        parts = [counts for key, counts in parts_of(call).items() if key.part and key.part.view == "part"]
        is_asked = call.counts.input_tokens and call.key.source != "cache" and not call.is_embedding
        if is_asked and any(frame.kind == "dspy" for frame in call.path):
            assert parts, call
        for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens", "input_audio_tokens"):
            assert not parts or sum(getattr(each, name) for each in parts) == getattr(call.counts, name)
    for _, node in tokenscope.report().tree().walk():
        assert sum(each.input_tokens for each in node.parts.values()) == node.usage.input_tokens
