"""record_stream: a stand-in for a provider's stream that counts the call when the stream ends, however it ends."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import AsyncGenerator, Generator, Mapping
from functools import cache, partial
from types import MethodType, new_class
from typing import Any, Final, TypeVar, cast

import wrapt

from tokenscope._providers.responses import NO_RESPONSES
from tokenscope._providers.stream_meter import StreamedCall, StreamMeter
from tokenscope._scopes.context import active
from tokenscope._scopes.process import DISABLED, STATE
from tokenscope._usage.calls import check_name

T = TypeVar("T")


def record_stream(stream: T, *, provider: str | None = None, model: str | None = None) -> T:
    """Count what a provider's SDK streams, in the current scope, when the stream ends: wrap it around the call.

    What comes back stands in for the stream: it is used as the stream would be, sync or async, and gives the same pieces,
    each when it comes. The call is counted once: where the stream has ended, was closed before, has failed (a failed call,
    which keeps what it spent), or was dropped. Read are the streams of the SDKs that `record_response` reads, their helpers
    (`client.messages.stream(...)`), and generators of such pieces.

    Args:
        stream: What the SDK returned, not read yet. Of an async client: awaited.
        provider: Who serves it, where the stream does not tell.
        model: The model, where the stream does not name it (Bedrock's does not) or you call it otherwise. With a slash, the
            provider is in it: `azure/my-deployment`.

    Returns:
        The stand-in. Bedrock's dict comes back as a copy, with a stand-in for its `stream`.

    Raises:
        TypeError: it is no stream: None, text, a whole response, a coroutine that nobody has awaited.
        ValueError: it is Bedrock's, and you do not name the model.

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
    if DISABLED or issubclass(type(stream), _Proxy):
        return stream
    if isinstance(stream, dict):
        whole: Any = copy.copy(stream)
        whole["stream"] = record_stream(whole["stream"], provider=provider, model=model)
        return cast("T", whole)
    call = StreamedCall(active() or STATE.root, provider, model)
    if _is_stream(type(stream)):
        return cast("T", _stand_in(stream, StreamMeter(call)))
    return cast("T", _like(_Opener, type(stream))(stream, call))


def _check(stream: object, provider: object, model: object) -> None:
    if provider is not None:
        check_name("provider", provider)
    if model is not None:
        check_name("model", model)
    kind = type(stream)
    if stream is None or isinstance(stream, NO_RESPONSES) or inspect.isroutine(stream):
        raise TypeError(
            "record_stream takes a stream as the provider's SDK returned it, something to iterate over, "
            f"not {kind.__name__} {stream!r:.60}"
        )
    if hasattr(kind, "__await__"):
        raise TypeError(f"record_stream takes a stream, and this {kind.__name__} will become one: await it first")
    if isinstance(stream, dict) and _is_stream(type(stream.get("stream"))):
        if model is None:
            raise ValueError("Bedrock's streams do not name their model: pass record_stream(response, model=...)")
    elif isinstance(stream, Mapping) or not (_is_stream(kind) or _opens(kind)):
        raise TypeError(
            f"record_stream takes a stream, and this {kind.__name__} is none: "
            "pass a whole response to record_response, or ask the provider for a stream"
        )


def _is_stream(kind: type) -> bool:
    # pydantic's models, which whole responses are, iterate over their fields.
    return (hasattr(kind, "__iter__") or hasattr(kind, "__aiter__")) and not (
        hasattr(kind, "__pydantic_validator__") or issubclass(kind, (*NO_RESPONSES, Mapping))
    )


def _opens(kind: type) -> bool:
    return hasattr(kind, "__enter__") or hasattr(kind, "__aenter__")


# -- standing in -----------------------------------------------------------------------------------------------------------

_Base: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""From wrapt 2 on there is a proxy that does not look iterable where the stream is not."""


class _Proxy(_Base):  # type: ignore[misc]
    """Passes on whatever is asked of it, but for what its subclasses say, and the methods of `_METHODS`."""


class _Stream(_Proxy):
    """Stands in for a stream, or for an iterator over one (the `whole`), whose stand-in it keeps alive."""

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
            # So what `get_final_message()` and the like read from `self` is read from here.
            value = MethodType(value.__func__, self)
        if name in {"close", "aclose"} and self._self_whole is None:
            return wrapt.FunctionWrapper(
                value, lambda close, _, args, kwargs: meter.close(partial(close, **kwargs), *args)
            )
        if name in {"send", "throw"} and isinstance(stream, Generator):
            return wrapt.FunctionWrapper(value, lambda step, _, args, __: meter.step(step, *args))
        if name in {"asend", "athrow"} and isinstance(stream, AsyncGenerator):
            return wrapt.FunctionWrapper(value, lambda step, _, args, __: meter.astep(step, *args))
        if name == "text_stream":  # of Anthropic's helper: reads the stream itself, not what stands in for it
            meter.sums_up = stream
            return _stand_in(value, meter, self)
        return value


class _Opener(_Proxy):
    """Stands in for what asks for a stream when it is entered: `client.messages.stream(...)`."""

    def __init__(self, opener: Any, call: StreamedCall) -> None:
        super().__init__(opener)
        self._self_call = call
        self._self_meter: StreamMeter | None = None


def _next(self: _Stream) -> Any:
    return self._self_meter.step(self.__wrapped__.__next__)


def _anext(self: _Stream) -> Any:
    return self._self_meter.astep(self.__wrapped__.__anext__)


def _iter(self: _Stream) -> Any:
    return _iterator(self, self.__wrapped__.__iter__())


def _aiter(self: _Stream) -> Any:
    return _iterator(self, self.__wrapped__.__aiter__())


def _iterator(self: _Stream, iterator: Any) -> Any:
    return self if iterator is self.__wrapped__ else _stand_in(iterator, self._self_meter, self)


def _enter(self: _Stream) -> Any:
    entered = self.__wrapped__.__enter__()
    return self if entered is self.__wrapped__ else entered


async def _aenter(self: _Stream) -> Any:
    entered = await self.__wrapped__.__aenter__()
    return self if entered is self.__wrapped__ else entered


def _open(self: _Opener) -> Any:
    meter = StreamMeter(self._self_call)
    return _opened(self, self.__wrapped__.__enter__(), meter)


async def _aopen(self: _Opener) -> Any:
    meter = StreamMeter(self._self_call)
    return _opened(self, await self.__wrapped__.__aenter__(), meter)


def _opened(self: _Opener, stream: Any, meter: StreamMeter) -> Any:
    self._self_meter = meter
    return _stand_in(stream, meter) if _is_stream(type(stream)) else stream


def _exit(self: Any, *error: Any) -> Any:
    return self._self_meter.close(self.__wrapped__.__exit__, *error)


def _aexit(self: Any, *error: Any) -> Any:
    return self._self_meter.close(self.__wrapped__.__aexit__, *error)


_METHODS: Final[dict[Any, dict[str, Any]]] = {
    _Stream: {
        "__iter__": _iter,
        "__next__": _next,
        "__aiter__": _aiter,
        "__anext__": _anext,
        "__enter__": _enter,
        "__exit__": _exit,
        "__aenter__": _aenter,
        "__aexit__": _aexit,
    },
    _Opener: {"__enter__": _open, "__exit__": _exit, "__aenter__": _aopen, "__aexit__": _aexit},
}


def _stand_in(stream: Any, meter: StreamMeter, whole: Any = None) -> Any:
    return _like(_Stream, type(stream))(stream, meter, whole)


def _like(base: Any, kind: type) -> Any:
    return _able(base, frozenset(name for name in _METHODS[base] if getattr(kind, name, None) is not None))


@cache
def _able(base: Any, names: frozenset[str]) -> Any:
    """Return a class that has these methods and no others: whether a stream is async is told by what it has."""
    methods = {
        name: method if name in names else None  # None is Python's word for what a class has not, though its base may
        for name, method in _METHODS[base].items()
        if name in names or hasattr(base, name)
    }
    return new_class(base.__name__, (base,), exec_body=lambda body: body.update(methods))
