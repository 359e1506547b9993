"""record_stream: a stand-in for a provider's stream that counts the call when the stream ends, however it ends.

The stand-in passes on what it is asked for. Its meter reads each piece that passes, and collects the usage.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from functools import cache, partial
from types import MethodType, new_class
from typing import Any, Final, TypeVar, cast

import wrapt
from wrapt import FunctionWrapper

from tokenscope._providers.detection import UNKNOWN_MODEL, source_of
from tokenscope._providers.extractors import plain
from tokenscope._providers.openai_usage import Get, getter
from tokenscope._providers.responses import PLAIN_VALUES, calls_of, check_arguments
from tokenscope._scopes.context import active
from tokenscope._scopes.event_log import Batch, EndedCall, Event, append
from tokenscope._scopes.lm_calls import lm_call_in_progress
from tokenscope._scopes.process import DISABLED, STATE, Counted
from tokenscope._usage.calls import Call
from tokenscope._usage.warnings import internal_error

T = TypeVar("T")


def record_stream(stream: T, *, provider: str | None = None, model: str | None = None) -> T:
    """Count what a provider's SDK streams, in the current scope, when the stream ends: wrap it around the call.

    The stand-in it returns is used as the stream would be, sync or async, and gives the same pieces, each when it comes. The
    call is counted once: when the stream ends, is closed early, fails (a failed call, with what it has spent), or is dropped.
    It reads the streams of the SDKs that `record_response` reads, their stream objects (`client.messages.stream(...)`), and
    generators of such pieces.

    Args:
        stream: What the SDK returned, not read yet; from an async client, awaited.
        provider: The provider, if the stream does not show it.
        model: The model, if the stream does not name it (Bedrock's does not) or you call it by another name. A name with a slash
            includes the provider: `azure/my-deployment`.

    Returns:
        The stand-in. Bedrock's dict comes back as a copy, with a stand-in for its `stream`.

    Raises:
        TypeError: `stream` is not a stream: None, text, a whole response, a coroutine that was not awaited.
        ValueError: `stream` is Bedrock's, and `model` is not given.

    Example:
        >>> from tokenscope import record_stream, token_scope
        >>> pieces = [{"model": "gpt-5-mini"}, {"model": "gpt-5-mini", "usage": {"prompt_tokens": 90, "completion_tokens": 30}}]
        >>> with token_scope("answer") as scope:
        ...     for piece in record_stream(iter(pieces)):
        ...         pass
        >>> scope.usage.total_tokens
        120
    """
    _check(stream, provider, model)
    if DISABLED or issubclass(type(stream), _StandIn):
        return stream
    if isinstance(stream, dict):
        whole: Any = copy.copy(stream)
        whole["stream"] = record_stream(whole["stream"], provider=provider, model=model)
        return cast("T", whole)
    new_meter = partial(StreamMeter, active() or STATE.root, lm_call_in_progress(), provider, model)
    if _is_stream(type(stream)):
        return cast("T", _stand_in(stream, new_meter()))
    return cast("T", _class_for(_OpenerStandIn, type(stream))(stream, new_meter))


def _check(stream: object, provider: object, model: object) -> None:
    check_arguments("stream", "something to iterate over", stream, provider, model)
    kind = type(stream)
    is_opener = hasattr(kind, "__enter__") or hasattr(kind, "__aenter__")
    if isinstance(stream, dict) and _is_stream(type(stream.get("stream"))):
        if model is None:
            raise ValueError("Bedrock's streams do not name their model: pass record_stream(response, model=...)")
    elif isinstance(stream, Mapping) or not (_is_stream(kind) or is_opener):
        raise TypeError(
            f"record_stream takes a stream, and this {kind.__name__} is not one: "
            "pass a whole response to record_response, or ask the provider for a stream"
        )


def _is_stream(kind: type) -> bool:
    # pydantic's models, which whole responses are, iterate over their fields.
    return (hasattr(kind, "__iter__") or hasattr(kind, "__aiter__")) and not (
        hasattr(kind, "__pydantic_validator__") or issubclass(kind, (*PLAIN_VALUES, Mapping))
    )


_Base: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""wrapt 2 has a proxy that does not look iterable if the stream is not."""


class _StandIn(_Base):  # type: ignore[misc]
    """Passes on whatever is asked of it, except what its subclasses define, and the methods of `_METHODS`."""


class _StreamStandIn(_StandIn):
    """Stands in for a stream, or for an iterator over one. An iterator keeps the stand-in of its stream (`whole`) alive."""

    def __init__(self, stream: Any, meter: StreamMeter, whole: Any = None) -> None:
        super().__init__(stream)
        self._self_meter = meter
        self._self_whole = whole
        if whole is None:
            weakref.finalize(self, meter.drop)

    def __getattr__(self, name: str) -> Any:
        stream, meter = self.__wrapped__, self._self_meter
        value = getattr(stream, name)
        if isinstance(value, MethodType) and value.__self__ is stream:
            # `get_final_message()` and the like read the stream: let them read this stand-in.
            value = MethodType(value.__func__, self)
        if name in {"close", "aclose"} and self._self_whole is None:
            return FunctionWrapper(value, lambda close, _, args, kwargs: meter.close(partial(close, **kwargs), *args))
        if name in {"send", "throw"} and isinstance(stream, Generator):
            return FunctionWrapper(value, lambda take, _, args, __: meter.step(take, *args))
        if name in {"asend", "athrow"} and isinstance(stream, AsyncGenerator):
            return FunctionWrapper(value, lambda take, _, args, __: meter.astep(take, *args))
        if name == "text_stream":  # of Anthropic's stream object: it reads the stream itself, not this stand-in
            meter.accumulating = stream
            return _stand_in(value, meter, self)
        return value

    def _self_begin(self) -> None:
        """Do nothing: the call has begun already."""

    def _self_entered(self, entered: Any) -> Any:
        return self if entered is self.__wrapped__ else entered

    def _self_iterator(self, iterator: Any) -> Any:
        return self if iterator is self.__wrapped__ else _stand_in(iterator, self._self_meter, self)


class _OpenerStandIn(_StandIn):
    """Stands in for an object that asks for a stream when it is entered: `client.messages.stream(...)`."""

    def __init__(self, opener: Any, new_meter: Callable[[], StreamMeter]) -> None:
        super().__init__(opener)
        self._self_new_meter = new_meter
        self._self_meter: StreamMeter | None = None

    def _self_begin(self) -> None:
        self._self_meter = self._self_new_meter()

    def _self_entered(self, entered: Any) -> Any:
        return _stand_in(entered, self._self_meter) if _is_stream(type(entered)) else entered


def _enter(self: Any) -> Any:
    self._self_begin()
    return self._self_entered(self.__wrapped__.__enter__())


async def _aenter(self: Any) -> Any:
    self._self_begin()
    return self._self_entered(await self.__wrapped__.__aenter__())


_CONTEXT: Final[dict[str, Any]] = {
    "__enter__": _enter,
    "__exit__": lambda self, *error: self._self_meter.close(self.__wrapped__.__exit__, *error),
    "__aenter__": _aenter,
    "__aexit__": lambda self, *error: self._self_meter.close(self.__wrapped__.__aexit__, *error),
}
_ITERATION: Final[dict[str, Any]] = {
    "__iter__": lambda self: self._self_iterator(self.__wrapped__.__iter__()),
    "__next__": lambda self: self._self_meter.step(self.__wrapped__.__next__),
    "__aiter__": lambda self: self._self_iterator(self.__wrapped__.__aiter__()),
    "__anext__": lambda self: self._self_meter.astep(self.__wrapped__.__anext__),
}
_METHODS: Final[dict[Any, dict[str, Any]]] = {_StreamStandIn: {**_ITERATION, **_CONTEXT}, _OpenerStandIn: _CONTEXT}


def _stand_in(stream: Any, meter: StreamMeter | None, whole: Any = None) -> Any:
    return _class_for(_StreamStandIn, type(stream))(stream, meter, whole)


def _class_for(base: Any, kind: type) -> Any:
    return _class_with(base, frozenset(name for name in _METHODS[base] if getattr(kind, name, None) is not None))


@cache
def _class_with(base: Any, names: frozenset[str]) -> Any:
    """Return a subclass with these methods and no others: programs look at the methods to see whether a stream is async."""
    methods = {
        name: method if name in names else None  # None hides a method that wrapt's proxy has
        for name, method in _METHODS[base].items()
        if name in names or hasattr(base, name)
    }
    return new_class(base.__name__, (base,), exec_body=lambda body: body.update(methods))


class StreamMeter(Event):
    """Reads the pieces of one stream, and counts its call once. As a context manager, it is around taking one piece."""

    def __init__(self, scope: Counted, outer_call: Any, provider: str | None, model: str | None) -> None:
        self._scope = scope
        self._outer_call = outer_call  # noted here: a stream may be dropped, and so counted, in any other place
        self._provider = provider
        self._model = model
        self._once = threading.Lock()
        self.found: Sequence[Call] | None = None
        self._usage = StreamUsage()
        self._started = time.time()
        self._since = time.perf_counter_ns()
        self.accumulating: Any = None  # a stream that adds up its own pieces, if they pass without being read here

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
            self._end(None if error is None else type(error).__name__)
            self.count()
            for call in self.found or ():
                append(EndedCall(self._scope, call))

    def drop(self) -> None:
        """Leave the call for the event log to count, if it is not counted yet: a finaliser may run at any point."""
        if self._once.acquire(blocking=False):
            self._end(None)
            append(self)

    def _end(self, error: str | None) -> None:
        self._error = error
        self._seconds = (time.perf_counter_ns() - self._since) / 1e9

    def count(self) -> None:
        """Read what the call has spent, which has ended."""
        try:
            if self.accumulating is not None:
                with contextlib.suppress(Exception):  # nothing has come yet
                    self._read(self.accumulating.current_message_snapshot)
            response, sender = self._usage.response(), self._usage.sender
            source = source_of(response, self._provider, self._model, sender)
            if source.name is None:
                source = source_of(response, self._provider, UNKNOWN_MODEL, sender)
            scope, outer, seconds = self._scope, self._outer_call, self._seconds
            self.found = calls_of(source, scope, outer, "stream", self._started, seconds, self._error)
        except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
            self.found = ()
            internal_error("counting a stream")

    def put(self, batch: Batch) -> None:
        """Add the call to a batch."""
        for call in self.found or ():
            batch.add(self._scope, call, reserved=False)


_USAGE: Final = ("usage_metadata", "usageMetadata", "usage")
_ENVELOPES: Final = (  # where a piece has its usage if not in a field of its own
    "response",  # OpenAI's Responses
    "message",  # Anthropic's first event, and the last event of its stream object
    "chunk",  # OpenAI's stream object
    "data",  # Mistral, OpenAI's assistants
    "metadata",  # Bedrock's Converse
    "delta",  # Cohere
    "x_groq",
)

_FIRST_PIECE: Final = {"prompt_filter_results": "azure", "messageStart": "bedrock"}
"""Fields of a stream's first piece that show its provider."""


class StreamUsage:
    """The usage of a stream so far, in the provider's own format."""

    def __init__(self) -> None:
        self._begun = False
        self._reporting: Any = None  # the last piece that reported usage
        self._named: Any = None  # a piece that names the model, for streams that end without usage
        self._changes: Any = None  # what Anthropic's message has reported since it began
        self.sender: str | None = None  # the provider, if the first piece shows it: the piece with the usage may not

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
