"""Metering a stream: what passes in it is looked at, and its call is counted once, whoever sees its end first."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from tokenscope._providers.detection import source_of
from tokenscope._providers.extractors import Extracted
from tokenscope._providers.responses import count_usages, read_usages
from tokenscope._providers.stream_usage import StreamUsage
from tokenscope._scopes.event_log import append, warn_later
from tokenscope._scopes.lm_calls import lm_call_in_progress
from tokenscope._scopes.process import Counted
from tokenscope._usage.usage import Usage
from tokenscope._usage.warnings import internal_error


class StreamedCall:
    """Where a call is counted, and what its caller says of it."""

    __slots__ = ("model", "provider", "scope", "within")

    def __init__(self, scope: Counted, provider: str | None, model: str | None) -> None:
        self.scope = scope
        self.provider = provider
        self.model = model
        self.within = lm_call_in_progress()  # a stream that is dropped is counted who knows where


class StreamMeter:
    """What passes in one stream, and counting it once, whoever sees its end first."""

    __slots__ = ("_call", "_once", "_pieces", "_since", "_started", "sums_up")

    def __init__(self, call: StreamedCall) -> None:
        self._call = call
        self._once = threading.Lock()
        self._pieces = StreamUsage()
        self._started = time.time()
        self._since = time.perf_counter_ns()
        self.sums_up: Any = None  # a stream that adds up itself what passes by us

    def step(self, take: Callable[..., Any], *arguments: Any) -> Any:
        """Take the next piece."""
        try:
            piece = take(*arguments)
        except (StopIteration, GeneratorExit):
            self.end()
            raise
        except BaseException as error:
            self.end(error)
            raise
        self._see(piece)
        return piece

    async def astep(self, take: Callable[..., Any], *arguments: Any) -> Any:
        """Take the next piece, of an async stream; who is cancelled while waiting for it has failed."""
        try:
            piece = await take(*arguments)
        except (StopAsyncIteration, GeneratorExit):
            self.end()
            raise
        except BaseException as error:
            self.end(error)
            raise
        self._see(piece)
        return piece

    def close(self, close: Callable[..., Any], *arguments: Any) -> Any:
        """Close a stream, sync or async."""
        try:
            closing = close(*arguments)
        except BaseException:
            self.end()
            raise
        if inspect.isawaitable(closing):
            return self._end_after(closing)
        self.end()
        return closing

    async def _end_after(self, closing: Any) -> Any:
        try:
            return await closing
        finally:
            self.end()

    def _see(self, piece: Any) -> None:
        try:
            self._pieces.add(piece)
        except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
            internal_error("reading a piece of a stream")

    def end(self, error: BaseException | None = None) -> None:
        """Count the call, if nobody has."""
        if self._once.acquire(blocking=False):
            self.count(time.perf_counter_ns() - self._since, None if error is None else type(error).__name__)

    def drop(self) -> None:
        """Count the call if nobody has, when somebody looks: this may be in the middle of anything."""
        if self._once.acquire(blocking=False):
            append(self._call.scope, self, time.perf_counter_ns() - self._since, None)

    def count(self, nanoseconds: int, error: str | None) -> None:
        """Count the call."""
        try:
            self._count(nanoseconds / 1e9, error)
        except Exception:  # noqa: BLE001
            internal_error("counting a stream")

    def _count(self, seconds: float, error: str | None) -> None:
        if self.sums_up is not None:
            with contextlib.suppress(Exception):  # nothing has come yet
                self._see(self.sums_up.current_message_snapshot)
        call, response = self._call, self._pieces.response()
        provider = call.provider
        if call.model is None or "/" not in call.model or call.model.startswith("arn:"):
            provider = provider or self._pieces.sender
        source = source_of(response, provider, call.model)
        if source.name is None:
            source = source_of(response, provider, "(unknown)")
        name = cast("str", source.name)
        found = read_usages(source, name)
        if not found:
            found = [Extracted(name, Usage(calls=1), None)]
            if error is None:
                warn_later(
                    f"no usage in a stream:{name}",
                    f"a stream of {name} has ended and told no usage; tokenscope counts the call, without tokens. "
                    "(It may have been closed too early; OpenAI's tell it where asked to: "
                    "stream_options={'include_usage': True}.)",
                )
        if error is not None:
            found[0] = found[0]._replace(usage=replace(found[0].usage, failed_calls=1))
        count_usages(found, call.scope, call.within, started=self._started, seconds=seconds, error=error)
