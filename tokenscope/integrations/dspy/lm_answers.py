"""What becomes known of an LM call and of its answer: whether the cache had it, and whether it could be parsed."""

from __future__ import annotations

import functools
from typing import Any

from tokenscope._scopes.event_log import append
from tokenscope._scopes.lm_calls import current_lm_call, lm_call_in_progress
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.lm_calls import Args, Kwargs, UnparsedAnswer, answered_call, read_response


def get_cached(wrapped: Any, cache: Any, args: Args, kwargs: Kwargs) -> Any:
    """`Cache.get`: tell a cache hit from a call whose provider reports no usage."""
    found = wrapped(*args, **kwargs)
    if found is not None:
        call = lm_call_in_progress()
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
    if not usage and cache.enable_memory_cache:
        key = cache.cache_key(*args, **kwargs)
        with cache._lock:  # noqa: SLF001 - DSPy's own code takes it to look there
            usage = getattr(cache.memory_cache.get(key), "usage", None)
    return usage


def process_response(wrapped: Any, switch: list[bool]) -> Any:
    """`BaseLM._process_lm_response`: read the usage of a user's own LM, which DSPy 3.0 does not track."""

    @functools.wraps(wrapped)
    def process_lm_response(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = wrapped(self, *args, **kwargs)
        call = current_lm_call.get()
        if call is not None and not call.entries and args and switch:
            read_response(args[0])
        return result

    return process_lm_response


def parse_answer(wrapped: Any, switch: list[bool]) -> Any:
    """`Adapter._call_postprocess`: if the adapter cannot parse an LM's answer, the call was wasted."""

    @functools.wraps(wrapped)
    def call_postprocess(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = answered_call.get()
        if call is None or call.is_parsed or not switch:
            return wrapped(self, *args, **kwargs)
        call.is_parsed = True
        try:
            return wrapped(self, *args, **kwargs)
        except Exception:
            append(call.scope, UnparsedAnswer(call), 0, None)
            raise

    return call_postprocess
