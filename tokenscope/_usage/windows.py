"""The context windows of models, as genai-prices tells them."""

from __future__ import annotations

from functools import lru_cache

from tokenscope._usage.prices import model_info


@lru_cache(maxsize=4_096)
def context_window(model: str) -> int | None:
    """Return how many tokens a model can read at once; None if that is unknown.

    Args:
        model: `provider/model`, as reports name it.

    Example:
        >>> from tokenscope._usage.windows import context_window
        >>> context_window("openai/gpt-4o-mini")
        128000
    """
    info = model_info(model)
    return None if info is None else info.context_window
