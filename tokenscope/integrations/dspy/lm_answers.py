"""What becomes known of an LM call on its way, and of its answer: whether the cache had it, and whether it could be read."""

from __future__ import annotations

from typing import Any

from tokenscope._scopes.event_log import read_later
from tokenscope.errors import internal_error
from tokenscope.integrations.dspy.lm_calls import Args, Kwargs, answered, call_here, read_response


def get_cached(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Cache.get`: tell a cache hit from a call whose provider reports no usage."""
    found = wrapped(*args, **kwargs)
    if found is not None:
        tracker = call_here()
        if tracker is not None:
            tracker.hit = True
            try:
                tracker.saved = _usage_of_hit(instance, found, args, kwargs)
            except Exception:  # noqa: BLE001
                internal_error("reading what a cache hit saved")
    return found


def _usage_of_hit(cache: Any, found: Any, args: Args, kwargs: Kwargs) -> Any:
    """Return the usage of a cached answer. DSPy clears it in the copy that it hands out, not in what it keeps in memory."""
    usage = found.get("usage") if isinstance(found, dict) else getattr(found, "usage", None)
    if not usage and cache.enable_memory_cache:
        key = cache.cache_key(*args, **kwargs)
        with cache._lock:
            usage = getattr(cache.memory_cache.get(key), "usage", None)
    return usage


def process_response(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`BaseLM._process_lm_response`: what DSPy 3.0 does not track, the usage that an LM of the user's own reports."""
    result = wrapped(*args, **kwargs)
    if args:
        read_response(args[0])
    return result


def read_answer(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Adapter._call_postprocess`: where the adapter cannot read an LM's answer, that was bought for nothing."""
    call = answered.get()
    if call is None:
        return wrapped(*args, **kwargs)
    answered.set(None)
    try:
        return wrapped(*args, **kwargs)
    except Exception:
        read_later(call.was_useless)
        raise


def repeat(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`execution._delay`: DSPy is about to repeat a request that has failed."""
    call = call_here()
    if call is not None:
        call.repeats += 1
    return wrapped(*args, **kwargs)
