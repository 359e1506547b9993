"""Cache hits: which LM calls DSPy's response cache has answered, and what they saved."""

from __future__ import annotations

from typing import Any

from tokenscope._scopes.lm_calls import lm_call_in_progress
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.lm_calls import Args, Kwargs


def get_cached(wrapped: Any, cache: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Cache.get`: tell a cache hit from a call whose provider reports no usage."""
    found = wrapped(*args, **kwargs)
    call = None if found is None else lm_call_in_progress()
    if call is not None:
        call.cache_hit = True
        try:
            call.saved = _usage_of_hit(cache, found, args, kwargs)
        except Exception:  # noqa: BLE001
            internal_error("reading what a cache hit saved")
    return found


def _usage_of_hit(cache: Any, found: Any, args: Args, kwargs: Kwargs) -> Any:
    """Return the usage of a cached answer. DSPy clears it in the copy that it hands out, not in what it keeps in memory."""
    usage = found.get("usage") if isinstance(found, dict) else getattr(found, "usage", None)
    if not usage:
        key = cache.cache_key(*args, **kwargs)
        with cache._lock:  # noqa: SLF001 - DSPy's own code takes it to look there
            usage = getattr(cache.memory_cache.get(key), "usage", None)
    return usage
