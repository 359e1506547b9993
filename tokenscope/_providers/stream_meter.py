"""Metering a stream: collecting its usage as its pieces pass, and counting its call once, however the stream ends."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tokenscope._providers.detection import UNKNOWN_MODEL, source_of
from tokenscope._providers.extractors import plain
from tokenscope._providers.openai_usage import Get, getter
from tokenscope._providers.responses import count_response
from tokenscope._scopes.event_log import append
from tokenscope._scopes.process import Counted
from tokenscope._usage.warnings import internal_error

_USAGE: Final = ("usage_metadata", "usageMetadata", "usage")
_ENVELOPES: Final = (
    "response",  # OpenAI's Responses
    "message",  # Anthropic's first event, and the last event of its stream object
    "chunk",  # OpenAI's stream object
    "data",  # Mistral, OpenAI's assistants
    "metadata",  # Bedrock's Converse
    "delta",  # Cohere
    "x_groq",
)
"""Where a piece has its usage if not in a field of its own."""

_FIRST_PIECE: Final = {"prompt_filter_results": "azure", "messageStart": "bedrock"}
"""Fields of a stream's first piece that show its provider."""


class StreamUsage:
    """The usage of a stream so far, in the provider's own format."""

    __slots__ = ("_begun", "_changes", "_named", "_reporting", "sender")

    def __init__(self) -> None:
        self._begun = False
        self._reporting: Any = None  # the last piece that reported usage
        self._named: Any = None  # a piece that names the model, for streams that end without usage
        self._changes: Any = None  # what Anthropic's message has reported since it began
        self.sender: str | None = None
        """The provider, if the first piece shows it: the piece with the usage may not."""

    def add(self, piece: Any) -> None:
        """Read a piece. Usage is cumulative: the last one counts."""
        if isinstance(piece, str | bytes):
            return
        get = getter(piece)
        if not self._begun:
            self._begun = True
            self.sender = next((sender for name, sender in _FIRST_PIECE.items() if get(name) is not None), None)
        for name in (None, *_ENVELOPES):
            part = piece if name is None else get(name)
            if part is None or isinstance(part, str):
                continue
            usage = getter(part)(*_USAGE)
            if usage is not None:
                if name is None and get("type") == "message_delta":
                    self._changes = usage
                    return
                if name == "x_groq":  # has the usage, but not the model
                    part = {"model": _model(get), "id": get("id"), "usage": usage, name: part}
                self._reporting, self._changes = part, None
                return
            if self._named is None and _model(getter(part)) is not None:
                self._named = part

    def response(self) -> Any:
        """Return a stand-in for the whole response, with what has been reported so far."""
        if self._changes is None:
            return next((each for each in (self._reporting, self._named) if each is not None), {})
        # Anthropic's message begins with its input and ends with what has changed since.
        get = getter(self._reporting)
        model = _model(get)
        usages = [plain(usage, model or "a message") for usage in (get("usage"), self._changes) if usage is not None]
        usage = {name: value for each in usages for name, value in each.items()}
        return {"type": "message", "id": get("id"), "model": model, "usage": usage}


def _model(get: Get) -> str | None:
    name = get("model", "model_version", "modelVersion")
    return name if isinstance(name, str) and name else None


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
