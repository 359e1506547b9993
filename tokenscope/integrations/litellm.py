"""litellm: DSPy's Embedder makes its calls there, and counts nothing; and requests that fail are repeated there."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from contextvars import Token
from typing import Any, Final

from tokenscope._scopes.enforcement import admit
from tokenscope._scopes.lm_calls import seen_by_us
from tokenscope._scopes.recording import count
from tokenscope._scopes.scope import Scope, active
from tokenscope._usage.usage import Usage, counts
from tokenscope.errors import internal_error
from tokenscope.integrations import usage_watchers as _entries
from tokenscope.integrations.dspy.usage import read_entry

_BRIDGE: Final = "tokenscope.integrations.dspy.lm_calls"


def embed(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.embedding`: count what it spends."""
    scope = active()
    reserved = _is_counted_here() and admit()
    started, since = time.time(), time.perf_counter()
    token = _entries.embedding.set(True)
    try:
        response = wrapped(*args, **kwargs)
    except BaseException as error:
        _count(scope, None, args, kwargs, started, since, reserved=reserved, error=type(error).__name__)
        raise
    finally:
        _leave(token)
    _count(scope, response, args, kwargs, started, since, reserved=reserved)
    return response


async def aembed(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.aembedding`: count what it spends."""
    scope = active()
    reserved = _is_counted_here() and admit()
    started, since = time.time(), time.perf_counter()
    token = _entries.embedding.set(True)
    try:
        response = await wrapped(*args, **kwargs)
    except BaseException as error:
        _count(scope, None, args, kwargs, started, since, reserved=reserved, error=type(error).__name__)
        raise
    finally:
        _leave(token)
    _count(scope, response, args, kwargs, started, since, reserved=reserved)
    return response


def repeat(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.completion_with_retries`: a request that has failed is repeated, as often as DSPy has told it to."""
    call = _lm_call()
    if call is None:
        return wrapped(*args, **kwargs)
    original: Any = kwargs.get("original_function") or sys.modules["litellm.main"].completion

    @functools.wraps(original)
    def once_more(*args: Any, **kwargs: Any) -> Any:
        call.repeats += 1
        return original(*args, **kwargs)

    @functools.wraps(original)
    async def once_more_async(*args: Any, **kwargs: Any) -> Any:
        return await once_more(*args, **kwargs)

    again = once_more_async if inspect.iscoroutinefunction(original) else once_more
    return wrapped(*args, **{**kwargs, "original_function": again})


def repeat_soon(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`SyncAPIClient._sleep_for_retry`: litellm lets OpenAI's client repeat what it asks of it."""
    call = _lm_call()
    if call is not None:
        call.repeats += 1
    return wrapped(*args, **kwargs)


def _lm_call() -> Any:
    """Return the LM call of DSPy's that is on its way here."""
    bridge = sys.modules.get(_BRIDGE)
    return None if bridge is None else bridge.call_here()


def _leave(token: Token[bool]) -> None:
    try:  # noqa: SIM105
        _entries.embedding.reset(token)
    except ValueError:
        pass  # a coroutine that is finalised in another Context


def _is_counted_here() -> bool:
    """Whether no LM call is on its way, which is counted as a whole."""
    return _lm_call() is None


def _count(
    scope: Scope | None,
    response: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    started: float,
    since: float,
    *,
    reserved: bool,
    error: str | None = None,
) -> None:
    try:
        if not _is_counted_here():
            return
        model = str(args[0] if args else kwargs.get("model"))
        entry = getattr(response, "usage", None) or {}
        if entry:
            _entries.tell(model, entry)
        if error is None:
            seen_by_us(response)
        usage = read_entry(model, entry) + Usage(calls=1, failed_calls=int(error is not None))
        seconds = time.perf_counter() - since
        count(
            scope,
            model,
            counts(usage),
            own_price=usage.cost > 0,
            started=started,
            seconds=seconds,
            error=error,
            reserved=reserved,
        )
    except Exception:  # noqa: BLE001
        internal_error("counting an embedding")
