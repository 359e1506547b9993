"""litellm: DSPy's Embedder makes its calls there, and DSPy counts none of their tokens."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Self

from tokenscope._providers.openai_usage import read_counts
from tokenscope._scopes.context import active
from tokenscope._scopes.enforcement import reserve
from tokenscope._scopes.event_log import EndedCall, append
from tokenscope._scopes.lm_calls import lm_call_in_progress, mark_counted
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import path_of
from tokenscope._usage.calls import Call
from tokenscope._usage.keys import key_of
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations import usage_watchers


class _Embedding:
    """One embedding request, counted when it ends. Inside an LM call that is counted as a whole it adds nothing."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._model = str(args[0] if args else kwargs.get("model"))
        self._is_counted = lm_call_in_progress() is None
        self._scope = active() or STATE.root
        self._reserved = self._is_counted and reserve(self._scope)
        self._started = time.time()
        self._since = time.perf_counter()
        self.response: Any = None

    def __enter__(self) -> Self:
        self._token = usage_watchers.embedding.set(True)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with contextlib.suppress(ValueError):  # a coroutine that is finalised in another Context
            usage_watchers.embedding.reset(self._token)
        try:
            if self._is_counted:
                self._count(None if error is None else type(error).__name__)
        except Exception:  # noqa: BLE001
            internal_error("counting an embedding")

    def _count(self, error: str | None) -> None:
        if entry := getattr(self.response, "usage", None) or {}:
            usage_watchers.notify(self._model, entry)
        if error is None:
            mark_counted(self.response)
        counts = read_counts(self._model, entry, calls=1, failed_calls=int(error is not None))
        key = key_of(self._model, counts, self._started)
        seconds = time.perf_counter() - self._since
        call = Call(
            path_of(self._scope), key, counts, self._started, seconds, error, None, True, self._scope.all_attributes
        )
        append(EndedCall(self._scope, call, reserved=self._reserved))


def embed(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.embedding`: count what it spends."""
    with _Embedding(args, kwargs) as call:
        call.response = wrapped(*args, **kwargs)
        return call.response


async def aembed(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`litellm.aembedding`: count what it spends."""
    with _Embedding(args, kwargs) as call:
        call.response = await wrapped(*args, **kwargs)
        return call.response
