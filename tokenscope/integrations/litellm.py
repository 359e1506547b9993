"""Embeddings through litellm: DSPy's Embedder makes its calls there, and counts nothing."""

from __future__ import annotations

import sys
import time
from contextvars import Token
from typing import Any

from tokenscope._purse import admit, release
from tokenscope._record import count
from tokenscope._scope import active
from tokenscope._usage import Usage, counts
from tokenscope.errors import internal_error
from tokenscope.integrations import _entries
from tokenscope.integrations.dspy_usage import read_entry


def embed(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.embedding`: count what it spends."""
    reserved = _is_counted_here() and admit()
    started, since = time.time(), time.perf_counter()
    token = _entries.embedding.set(True)
    try:
        response = wrapped(*args, **kwargs)
    except BaseException:
        if reserved:
            release(active())
        raise
    finally:
        _leave(token)
    _count(response, args, kwargs, started, since, reserved=reserved)
    return response


async def aembed(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.aembedding`: count what it spends."""
    reserved = _is_counted_here() and admit()
    started, since = time.time(), time.perf_counter()
    token = _entries.embedding.set(True)
    try:
        response = await wrapped(*args, **kwargs)
    except BaseException:
        if reserved:
            release(active())
        raise
    finally:
        _leave(token)
    _count(response, args, kwargs, started, since, reserved=reserved)
    return response


def _leave(token: Token[bool]) -> None:
    try:  # noqa: SIM105
        _entries.embedding.reset(token)
    except ValueError:
        pass  # a coroutine that is finalised in another Context


def _is_counted_here() -> bool:
    """Whether no LM call is on its way, which is counted as a whole."""
    bridge = sys.modules.get("tokenscope.integrations.dspy_calls")
    return bridge is None or not bridge.inside_lm_call()


def _count(
    response: Any, args: tuple[Any, ...], kwargs: dict[str, Any], started: float, since: float, *, reserved: bool
) -> None:
    try:
        if not _is_counted_here():
            return
        model = str(args[0] if args else kwargs.get("model"))
        entry = getattr(response, "usage", None) or {}
        if entry:
            _entries.tell(model, entry)
        usage = read_entry(model, entry) + Usage(calls=1)
        seconds = time.perf_counter() - since
        count(
            active(),
            model,
            counts(usage),
            own_price=usage.cost > 0,
            started=started,
            seconds=seconds,
            reserved=reserved,
        )
    except Exception:  # noqa: BLE001
        internal_error("counting an embedding")
