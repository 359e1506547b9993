"""Helpers for tests of the DSPy bridge: versions, engines, and the comparison with the provider's bill."""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import TYPE_CHECKING

from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from tokenscope import Usage

DSPY = tuple(int(part) for part in version("dspy").split(".")[:2])
ENGINES = ["native", "litellm"] if DSPY >= (3, 4) else ["litellm"]


class HoldingProvider(LoopbackProvider):
    """A provider that answers requests with `<<hold>>` only after `go` is set."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.asked = threading.Semaphore(0)  # released by each request that waits
        self.go = threading.Event()

    def _hold(self, field: str, prompt: str) -> None:
        if "<<hold>>" in prompt and not self.go.is_set():
            self.asked.release()
            self.go.wait(60)


def tokens(usage: Usage) -> tuple[int, int, int, int]:
    """Return the counts that are compared with a bill: input, output, cached and reasoning tokens."""
    return usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.reasoning_tokens


def assert_billed(provider: LoopbackProvider, expected: dict[str, Usage]) -> None:
    """Assert that the bill has exactly these tags, each with the expected calls and tokens."""
    bill = {tag: (usage.calls, *tokens(usage)) for tag, usage in provider.bill.items()}
    assert {tag: (usage.calls - usage.cached_calls, *tokens(usage)) for tag, usage in expected.items()} == bill
