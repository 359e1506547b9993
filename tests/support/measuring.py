"""Measuring prompts in a test, as if it were the first that does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tokenscope
from tokenscope._providers.prompts import adapter_prompts, meter, options, tokenizers


@contextmanager
def measuring_prompts() -> Iterator[None]:
    """Measure prompts with the tokenizer of OpenAI's models, and know nothing of earlier ones."""
    tokenscope.instrument(prompt_parts=True)
    tokenizers.load(tokenizers.O200K)
    for module in (meter, adapter_prompts, options):
        module.forget()
    try:
        yield
    finally:
        tokenscope.instrument(prompt_parts=False)
