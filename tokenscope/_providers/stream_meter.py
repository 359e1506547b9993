"""Metering a stream: reading its pieces as they pass, and counting its call once, however the stream ends."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tokenscope._providers.counting import count_response
from tokenscope._providers.detection import UNKNOWN_MODEL, source_of
from tokenscope._providers.stream_usage import StreamUsage
from tokenscope._scopes.event_log import append
from tokenscope._scopes.process import Counted
from tokenscope._usage.warnings import internal_error


class StreamedCall(NamedTuple):
    """The call that asks for a stream: where it is counted, and what its caller names."""

    scope: Counted
    outer_call: Any  # a stream may be dropped, and so counted, in any other place
    provider: str | None
    model: str | None


class StreamMeter:
    """Reads the pieces of one stream, and counts its call once. As a context manager, it is around taking one piece."""

    __slots__ = ("_call", "_once", "_since", "_started", "_usage", "accumulating")

    def __init__(self, call: StreamedCall) -> None:
        self._call = call
        self._once = threading.Lock()
        self._usage = StreamUsage()
        self._started = time.time()
        self._since = time.perf_counter_ns()
        self.accumulating: Any = None
        """A stream that adds up its own pieces, if they pass without being read here."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.end(None if isinstance(error, StopIteration | StopAsyncIteration | GeneratorExit) else error)

    def step(self, take: Callable[..., Any], *arguments: Any) -> Any:
        with self:
            piece = take(*arguments)
        return self._read(piece)

    async def astep(self, take: Callable[..., Any], *arguments: Any) -> Any:
        """Take the next piece of an async stream. A task that is cancelled while it waits has a failed call."""
        with self:
            piece = await take(*arguments)
        return self._read(piece)

    def close(self, close: Callable[..., Any], *arguments: Any) -> Any:
        closing: Any = None
        try:
            closing = close(*arguments)
        finally:
            if not inspect.isawaitable(closing):
                self.end()
        return self._end_after(closing) if inspect.isawaitable(closing) else closing

    async def _end_after(self, closing: Any) -> Any:
        try:
            return await closing
        finally:
            self.end()

    def _read(self, piece: Any) -> Any:
        try:
            self._usage.add(piece)
        except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
            internal_error("reading a piece of a stream")
        return piece

    def end(self, error: BaseException | None = None) -> None:
        """Count the call, if it is not counted yet."""
        if self._once.acquire(blocking=False):
            self.count(time.perf_counter_ns() - self._since, None if error is None else type(error).__name__)

    def drop(self) -> None:
        """Leave the call for the event log to count, if it is not counted yet: a finaliser may run at any point."""
        if self._once.acquire(blocking=False):
            append(self._call.scope, self, time.perf_counter_ns() - self._since, None)

    def count(self, nanoseconds: int, error: str | None) -> None:
        try:
            if self.accumulating is not None:
                with contextlib.suppress(Exception):  # nothing has come yet
                    self._read(self.accumulating.current_message_snapshot)
            scope, outer_call, provider, model = self._call
            response, sender = self._usage.response(), self._usage.sender
            source = source_of(response, provider, model, sender)
            if source.name is None:
                source = source_of(response, provider, UNKNOWN_MODEL, sender)
            count_response(
                source,
                scope,
                outer_call,
                kind="stream",
                started=self._started,
                seconds=nanoseconds / 1e9,
                error=error,
            )
        except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
            internal_error("counting a stream")
