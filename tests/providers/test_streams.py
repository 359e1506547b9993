"""record_stream is transparent, counts a stream once however it ends, and reads each provider's format."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import struct
import threading
import warnings
import weakref
from binascii import crc32
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from support.spending import python

import tokenscope
from tokenscope import Budget, Report, Usage, get_tracker, record_response, record_stream, token_scope
from tokenscope._usage.usage import check_parts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

USAGE = {"prompt_tokens": 90, "completion_tokens": 30, "total_tokens": 120}
PIECES: list[dict[str, Any]] = [
    {"id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [{"delta": {"content": "Be"}}], "usage": None},
    {"id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [{"delta": {"content": "cause"}}], "usage": None},
    {"id": "chatcmpl-1", "model": "gpt-4o-mini", "choices": [], "usage": USAGE},
]
SPENT = Usage(calls=1, input_tokens=90, output_tokens=30)
BEGUN = {"type": "message_start", "message": {"model": "claude-x", "usage": {"input_tokens": 9, "output_tokens": 1}}}


@pytest.fixture(autouse=True)
def may_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget earlier warnings, so that each test gets its own."""
    forget_warnings()


def generator(pieces: Iterable[Any] = PIECES) -> Generator[Any, Any, str]:
    yield from pieces
    return "done"


async def async_generator(pieces: Iterable[Any] = PIECES) -> AsyncGenerator[Any, Any]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


def tokens(usage: Usage) -> Usage:
    """Return a usage without its price."""
    return replace(usage, cost=Decimal(0), unpriced_calls=0)


def recorded(pieces: Iterable[Any], **said: str) -> Report:
    """Stream some pieces in a scope, and return the scope's report."""
    with token_scope("a") as scope:
        for _ in record_stream(generator(pieces), **said):
            pass
    return scope.report()


# -- the stand-in behaves as the stream does ---------------------------------------------------------------------------


def test_the_same_pieces_each_when_it_comes() -> None:
    """Each time the program asks for a piece, the stand-in takes one from the stream, and passes it on unchanged."""
    asked = []

    def source() -> Iterator[Any]:
        for piece in PIECES:
            asked.append(piece)
            yield piece

    stream = record_stream(source())
    assert [] == asked
    for number, piece in enumerate(stream):
        assert piece is PIECES[number]
        assert number + 1 == len(asked)


def test_it_is_what_it_stands_for() -> None:
    """A stand-in passes the same type checks as its stream: sync if the stream is sync, and async if it is async."""
    stream, async_stream = record_stream(generator([])), record_stream(async_generator([]))
    assert inspect.isgenerator(stream)
    assert isinstance(stream, Iterator)
    assert isinstance(stream, Generator)
    assert not isinstance(stream, AsyncIterable)
    assert not callable(getattr(stream, "__aiter__", None))
    assert not isinstance(stream, contextlib.AbstractContextManager)
    assert inspect.isasyncgen(async_stream)
    assert isinstance(async_stream, AsyncIterator)
    assert isinstance(async_stream, AsyncGenerator)
    assert not isinstance(async_stream, Iterable)
    assert not callable(getattr(async_stream, "__iter__", None))
    assert iter(stream) is stream
    assert aiter(async_stream) is async_stream
    assert "generator" == stream.__name__
    with pytest.raises(TypeError, match="not iterable"):
        list(async_stream)  # type: ignore[call-overload]
    list(stream)
    with pytest.raises(StopIteration):
        async_stream.aclose().send(None)  # type: ignore[attr-defined]


class Stream:
    """A stream as SDKs make them: a loop over it can be left and continued, and it is open until it is closed."""

    def __init__(self, pieces: Iterable[Any] = PIECES) -> None:
        self.open = True
        self._iterator = iter(pieces)

    def __next__(self) -> Any:
        return next(self._iterator)

    def __iter__(self) -> Iterator[Any]:
        for piece in self._iterator:  # noqa: UP028 - as SDKs do
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.open = False

    def until_done(self) -> Stream:
        for _ in self:
            pass
        return self


def test_attributes_are_the_streams() -> None:
    """Attributes are read from the stream and set on it. A method that reads the stream to its end counts the call."""
    inner = Stream()
    with token_scope("a") as scope:
        stream = record_stream(inner)
        stream.label = "mine"  # type: ignore[attr-defined]
        assert "mine" == inner.label  # type: ignore[attr-defined]
        assert stream.open
        with pytest.raises(AttributeError, match="'Stream' object has no attribute 'nothing'"):
            stream.nothing  # type: ignore[attr-defined]  # noqa: B018
        assert stream == inner
        assert hash(stream) == hash(inner)
        assert isinstance(stream, Stream)
        assert stream.until_done() is stream
    assert SPENT == tokens(scope.usage)


def test_a_loop_left_and_taken_up_again() -> None:
    """Leaving a loop does not end a stream that can be continued. The call is counted when the stream ends."""
    with token_scope("a") as scope:
        stream = record_stream(Stream())
        for piece in stream:
            assert piece is PIECES[0]
            break
        assert 0 == scope.usage.calls
        assert PIECES[1] is next(stream)
        assert PIECES[2:] == list(stream)
        assert 1 == scope.usage.calls
        assert [] == list(stream)
    assert SPENT == tokens(scope.usage)


def test_generators_methods() -> None:
    """`send`, `throw`, `close` and `yield from` work with the stand-in as with the generator itself."""
    heard = []

    def source() -> Generator[Any, str, str]:
        try:
            heard.append((yield PIECES[0]))
        except KeyError:
            heard.append("KeyError")
        heard.append((yield PIECES[2]))
        return "done"

    def relay() -> Generator[Any, str, None]:
        heard.append((yield from record_stream(source())))

    with token_scope("a") as scope:
        stream = record_stream(source())
        assert stream.send(None) is PIECES[0]  # type: ignore[arg-type]
        assert stream.throw(KeyError("a")) is PIECES[2]
        with pytest.raises(StopIteration) as stopped:
            stream.send("b")
        assert "done" == stopped.value.value
        assert SPENT == tokens(scope.usage)
        relayed = relay()
        next(relayed)
        relayed.send("c")
        with pytest.raises(StopIteration):
            relayed.send("d")
        with contextlib.closing(record_stream(source())) as closed:
            next(closed)
            closed.send("e")
    assert ["KeyError", "b", "c", "d", "done", "e"] == heard
    assert (3, 0, 360) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)


async def test_async_generators_methods() -> None:
    """`asend`, `athrow` and `aclose` work with the stand-in as with the async generator itself."""
    heard = []

    async def source() -> AsyncGenerator[Any, Any]:
        try:
            heard.append((yield PIECES[0]))
        except KeyError:
            heard.append("KeyError")
        heard.append((yield PIECES[2]))

    with token_scope("a") as scope:
        stream = record_stream(source())
        assert PIECES[0] is await stream.asend(None)
        assert PIECES[2] is await stream.athrow(KeyError("a"))
        with pytest.raises(StopAsyncIteration):
            await stream.asend("b")
        assert 1 == scope.usage.calls
        async with contextlib.aclosing(record_stream(source())) as closed:
            await anext(closed)
            await closed.asend("c")
            assert 1 == scope.usage.calls
    assert ["KeyError", "b", "c"] == heard
    assert (2, 0, 240) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)


def test_twice_around_is_once() -> None:
    """`record_stream` returns a stand-in unchanged, and the call is counted once."""
    with token_scope("a") as scope:
        stream = record_stream(generator())
        assert record_stream(stream) is stream
        list(stream)
    assert 1 == scope.usage.calls


def test_disabled() -> None:
    """With TOKENSCOPE_DISABLED, `record_stream` returns the stream itself, and counts nothing."""
    code = """
import tokenscope
stream, converse = iter([]), {"stream": iter([])}
assert tokenscope.record_stream(stream) is stream
assert tokenscope.record_stream(converse, model="nova") is converse
print(tokenscope.report().total.calls)
"""
    assert "0\n" == python(code, TOKENSCOPE_DISABLED="1")


# -- counted once ------------------------------------------------------------------------------------------------------


def test_counted_when_it_ends() -> None:
    """The call is counted when the stream ends, with the time since `record_stream` was called."""
    with token_scope("a") as scope:
        stream = record_stream(generator())
        for _ in stream:
            assert 0 == scope.usage.calls
        assert SPENT == tokens(scope.usage)
        list(stream)
        stream.close()
    assert 1 == scope.usage.calls
    record = get_tracker().records[-1]
    assert 0 < record.seconds <= scope.seconds
    assert record.error is None


def test_closed() -> None:
    """If a stream is closed early, or its block is left, the call counts its usage so far, and has not failed."""
    told = [BEGUN, {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Be"}}]
    early = Usage(calls=1, input_tokens=9, output_tokens=1)
    with token_scope("a") as scope:
        stream = record_stream(Stream(told))
        next(stream)
        stream.close()
        assert not stream.open
        assert early == tokens(scope.usage)
        with pytest.raises(KeyError), record_stream(Stream(told)) as stream:
            next(stream)
            raise KeyError("the program's own")
        assert not stream.open
        generated = record_stream(generator(told))
        next(generated)
        generated.close()
    assert early + early + early == tokens(scope.usage)


def test_dropped() -> None:
    """If the program drops a stream, the call counts its usage so far. The stand-in does not keep the stream alive."""
    with token_scope("a") as scope:
        stream = record_stream(generator([BEGUN, {}]))
        inner = weakref.ref(stream.__wrapped__)  # type: ignore[attr-defined]
        next(stream)
        del stream
        gc.collect()
        assert inner() is None
        assert Usage(calls=1, input_tokens=9, output_tokens=1) == tokens(scope.usage)
        for _ in record_stream(Stream([BEGUN, {}])):
            break
        assert 2 == scope.usage.calls
        circle: list[Any] = [record_stream(Stream([BEGUN]))]
        next(circle[0])
        circle.append(circle)
        del circle
        gc.collect()
    assert (3, 0, 27) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.input_tokens)


def test_an_iterator_outlives_its_stream() -> None:
    """An iterator over a stream keeps its stand-in alive, so the call is counted only when the iterator ends."""
    with token_scope("a") as scope:
        pieces = iter(record_stream(Stream()))
        gc.collect()
        assert PIECES == list(pieces)
    assert SPENT == tokens(scope.usage)


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()], ids=repr)
def test_fails(error: BaseException) -> None:
    """If a stream fails, its exception is raised unchanged. The failed call has its usage and the error's name."""

    def source() -> Iterator[Any]:
        yield BEGUN
        raise error

    with token_scope("a") as scope:
        stream = record_stream(source())
        with pytest.raises(type(error)) as raised:
            list(stream)
        assert raised.value is error
        assert raised.value.__cause__ is raised.value.__context__ is None
        assert [] == list(stream)
    assert Usage(calls=1, failed_calls=1, input_tokens=9, output_tokens=1) == tokens(scope.usage)
    assert type(error).__name__ == get_tracker().records[-1].error


def test_fails_before_it_has_told() -> None:
    """If a stream fails before it has reported usage, the call counts as failed, without a warning."""

    def source() -> Iterator[Any]:
        yield PIECES[0]
        raise RuntimeError("lost")

    with token_scope("a") as scope, pytest.raises(RuntimeError):
        list(record_stream(source()))
    assert Usage(calls=1, failed_calls=1) == scope.usage


async def test_cancelled() -> None:
    """If a task is cancelled while it waits for a piece, the call counts as failed."""

    waits = asyncio.Event()

    async def source() -> AsyncIterator[Any]:
        yield BEGUN
        waits.set()
        await asyncio.sleep(60)

    async def read() -> None:
        async for _ in record_stream(source()):
            pass

    with token_scope("a") as scope:
        task = asyncio.create_task(read())
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert Usage(calls=1, failed_calls=1, input_tokens=9, output_tokens=1) == tokens(scope.usage)
    assert "CancelledError" == get_tracker().records[-1].error


class AsyncStream:
    """An async stream as SDKs make them."""

    def __init__(self, pieces: Iterable[Any] = PIECES) -> None:
        self.open = True
        self._iterator = async_generator(pieces)

    async def __anext__(self) -> Any:
        return await anext(self._iterator)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for piece in self._iterator:
            yield piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.open = False


async def test_async_streams() -> None:
    """An async stream is counted when it ends, is closed, or is dropped."""
    told = [BEGUN, {}]
    with token_scope("a") as scope:
        assert PIECES == [piece async for piece in record_stream(AsyncStream())]
        assert SPENT == tokens(scope.usage)
        async with record_stream(AsyncStream(told)) as stream:
            await anext(stream)
        assert not stream.open
        assert 2 == scope.usage.calls
        stream = record_stream(AsyncStream(told))
        await anext(stream)
        assert inspect.iscoroutinefunction(stream.close)
        await stream.close()
        assert 3 == scope.usage.calls
        dropped = record_stream(async_generator(told))
        await anext(dropped)
        del dropped
        gc.collect()
    assert (4, 120 + 30, 0) == (scope.usage.calls, scope.usage.total_tokens, scope.usage.failed_calls)


def test_closing_that_fails() -> None:
    """If closing a stream fails, the exception is raised, and the call is counted once."""

    class Broken(Stream):
        def close(self) -> None:
            raise OSError("no")

    with token_scope("a") as scope:
        stream = record_stream(Broken([BEGUN]))
        next(stream)
        for _ in range(2):
            with pytest.raises(OSError, match="no"):
                stream.close()
    assert 1 == scope.usage.calls


def test_ends_in_many_threads_at_once() -> None:
    """If several threads close a stream at the same time, its call is counted once."""
    with token_scope("a") as scope:
        streams = [record_stream(Stream(PIECES)) for _ in range(50)]
        for stream in streams:
            assert 3 == len([next(stream) for _ in PIECES])

        def close() -> None:
            for stream in streams:
                stream.close()

        threads = [threading.Thread(target=close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (50, 50 * 120) == (scope.usage.calls, scope.usage.total_tokens)


# -- where it counts ---------------------------------------------------------------------------------------------------


def test_the_scope_that_asked_has_it() -> None:
    """A call counts in the scope around `record_stream`, even if another scope or thread reads the stream."""
    with token_scope("outer") as outer:
        with token_scope("asks") as asks:
            stream = record_stream(generator())
            threaded = record_stream(generator())
        with token_scope("reads") as reads:
            list(stream)
            thread = threading.Thread(target=list, args=(threaded,))
            thread.start()
            thread.join()
    assert Usage() == reads.usage
    assert SPENT + SPENT == tokens(asks.usage) == tokens(outer.usage)


async def test_tasks() -> None:
    """A call counts in the scope around `record_stream`, even if another task reads the stream."""

    async def read(stream: AsyncIterable[Any]) -> Usage:
        with token_scope("reads") as scope:
            async for _ in stream:
                pass
        return scope.usage

    with token_scope("asks") as asks:
        stream = record_stream(async_generator())
    assert Usage() == await asyncio.create_task(read(stream))
    assert SPENT == tokens(asks.usage)


def test_a_scope_inside_the_stream() -> None:
    """Neither the stream nor calls of the loop count in a scope that the stream's generator opens."""

    def source() -> Iterator[Any]:
        with token_scope("inside"):
            yield from PIECES

    with token_scope("a") as scope:
        for _ in record_stream(source()):
            record_response({"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
    assert 120 + 3 == scope.report().tree().own.total_tokens


def test_without_a_scope() -> None:
    """Outside of any scope, a stream is counted at the top level of the process's report, as `(no scope)`."""
    list(record_stream(generator()))
    assert 120 == tokenscope.report().by_module()["(no scope)"].total_tokens


def test_budgets_do_not_interrupt_it() -> None:
    """A stream that exceeds a budget is still read to its end. The budget then stops the next scope."""
    reached = False
    with pytest.raises(tokenscope.BudgetExceeded), token_scope("a", budget=Budget(tokens=100)) as scope:
        with token_scope("b"):
            assert PIECES * 2 == [*record_stream(generator()), *record_stream(generator())]
        reached = True
        with token_scope("c"):
            pass
    assert reached
    assert (2, 240) == (scope.usage.calls, scope.usage.total_tokens)


# -- openers -----------------------------------------------------------------------------------------------------------


class Opener:
    """An object that asks for a stream when it is entered, like Anthropic's `client.messages.stream(...)`."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream
        self.left = False

    def __enter__(self) -> Any:
        if self.stream is None:
            raise ConnectionError("refused")
        return self.stream

    def __exit__(self, *error: object) -> None:
        self.left = True


def test_openers() -> None:
    """An opener's stream is counted once for each time the opener is entered, at the latest when its block is left."""
    with token_scope("a") as scope:
        opener = record_stream(Opener(Stream(PIECES * 2)))
        assert isinstance(opener, Opener)
        for call in (1, 2):
            with opener as stream:
                assert isinstance(stream, Stream)
                for _ in PIECES:
                    next(stream)
                assert call - 1 == scope.usage.calls
            assert opener.left
            assert call == scope.usage.calls
    assert SPENT + SPENT == tokens(scope.usage)


def test_an_opener_that_opens_nothing() -> None:
    """If an opener is never entered, or fails to open a stream, no call is counted."""
    with token_scope("a") as scope:
        record_stream(Opener(Stream()))
        with pytest.raises(ConnectionError), record_stream(Opener()):
            pass
    assert Usage() == scope.usage


# -- arguments that are not streams ------------------------------------------------------------------------------------


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    "stream",
    [None, "text", b"text", 7, True, [PIECES], ({},), {1}, dict, print, generator],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_is_no_stream(stream: Any) -> None:
    """An argument that cannot be a stream raises a TypeError that names the expected and the actual type."""
    with pytest.raises(TypeError, match=f"something to iterate over, not {type(stream).__name__} ") as raised:
        record_stream(stream)
    assert __file__ == str(raised.traceback[0].path)


@pytest.mark.parametrize(
    "response",
    [ChatCompletion.construct(model="m"), PIECES[-1], {"stream": None}, {"stream": True}, SimpleNamespace(usage=USAGE)],
    ids=["pydantic", "dict", "dict without a stream", "arguments", "object"],
)
def test_a_whole_response(response: Any) -> None:
    """A whole response raises a TypeError that points to `record_response`."""
    with pytest.raises(
        TypeError, match=f"this {type(response).__name__} is not one: pass a whole response to record_response"
    ):
        record_stream(response)


def test_one_that_is_still_to_come() -> None:
    """A coroutine raises a TypeError that says to await it first."""
    pending = coroutine()
    with pytest.raises(TypeError, match="this coroutine will become one: await it first"):
        record_stream(pending)
    pending.close()


@pytest.mark.parametrize(
    ("said", "error"), [({"model": ""}, ValueError), ({"model": 7}, TypeError), ({"provider": " "}, ValueError)]
)
def test_bad_names(said: Any, error: type[Exception]) -> None:
    """An invalid `model` or `provider` raises an error at once, and nothing is counted."""
    with token_scope("a") as scope, pytest.raises(error):
        record_stream(generator(), **said)
    assert 0 == scope.usage.calls


# -- formats of usage --------------------------------------------------------------------------------------------------

GEMINI = [
    {"modelVersion": "gemini-2.5-pro", "usageMetadata": {"promptTokenCount": 90, "candidatesTokenCount": count}}
    for count in (1, 12, 30)
]
RESPONSES = {"id": "resp_1", "model": "gpt-4o-mini", "usage": {"input_tokens": 90, "output_tokens": 30}}
CONVERSE = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"delta": {"text": "Because"}}},
    {"messageStop": {"stopReason": "end_turn"}},
    {"metadata": {"usage": {"inputTokens": 90, "outputTokens": 30, "totalTokens": 120}, "metrics": {"latencyMs": 1}}},
]
MESSAGE = {"id": "msg_1", "type": "message", "model": "claude-x"}


def message(begun: dict[str, Any], changed: dict[str, Any], more: dict[str, Any] = {}) -> list[dict[str, Any]]:  # noqa: B006
    return [
        {"type": "message_start", "message": {**MESSAGE, "usage": begun, **more}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Be"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": changed},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("name", "pieces", "more"),
    [
        ("openai/gpt-4o-mini", PIECES, {}),
        ("openai/m", [{"model": "m", "usage": {**USAGE, "completion_tokens": count}} for count in (1, 30)], {}),  # vLLM
        ("openai/gpt-4o-mini", [*PIECES, PIECES[0]], {}),
        ("azure/gpt-4o", [{"model": "", "prompt_filter_results": []}, {"model": "gpt-4o", "usage": USAGE}], {}),
        ("openrouter/openai/gpt-5", [{"id": "gen-1", "model": "openai/gpt-5", "usage": USAGE}], {}),
        ("groq/llama", [{"model": "llama", "x_groq": {"id": "r"}}, {"model": "llama", "x_groq": {"usage": USAGE}}], {}),
        ("mistral/mistral-small", [{"data": {"id": "9c", "model": "mistral-small", "usage": USAGE}}], {}),
        (
            "openai/gpt-4o-mini",
            [
                {"type": "response.created", "response": {**RESPONSES, "usage": None}},
                {"type": "response.output_text.delta", "delta": "Be"},
                {"type": "response.failed", "response": RESPONSES},
            ],
            {},
        ),
        ("gemini/gemini-2.5-pro", GEMINI, {}),
        (
            "anthropic/claude-x",
            message({"input_tokens": 80, "cache_read_input_tokens": 10, "output_tokens": 1}, {"output_tokens": 30}),
            {"cache_read_tokens": 10},
        ),
        (
            "anthropic/claude-x",
            message(
                {"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": None},
                {
                    "input_tokens": 70,
                    "output_tokens": 30,
                    "cache_creation_input_tokens": 20,
                    "cache_read_input_tokens": None,
                },
            ),
            {"cache_write_tokens": 20},
        ),
        ("bedrock/claude-x", message({"input_tokens": 90}, {"output_tokens": 30}, {"id": "msg_bdrk_1"}), {}),
        (
            "anthropic/claude-x",
            [{"type": "message_start", "message": MESSAGE}, *message({"input_tokens": 90}, {"output_tokens": 30})],
            {},
        ),
    ],
)
def test_words(name: str, pieces: list[dict[str, Any]], more: dict[str, int]) -> None:
    """Usage is read in each provider's format, from any piece, as dicts and as objects."""
    for each in (pieces, [as_object(piece) for piece in pieces]):
        assert {name: replace(SPENT, **more)} == {
            name: tokens(usage) for name, usage in recorded(each).by_model().items()
        }  # type: ignore[arg-type]


def as_object(value: Any) -> Any:
    """Turn dicts into namespaces, at all levels."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(inner) for key, inner in value.items()})
    return [as_object(each) for each in value] if isinstance(value, list) else value


def test_cohere() -> None:
    """Cohere's last piece reports the usage. No piece names the model, so the caller passes it."""
    last = {"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 90, "output_tokens": 30}}}}
    assert {"cohere/command-a": SPENT} == {
        name: tokens(usage) for name, usage in recorded([{"type": "x"}, last], model="command-a").by_model().items()
    }


CORPUS = {
    f"{file.stem}: {entry['name']}": entry
    for file in sorted((Path(__file__).parents[1] / "corpus").glob("*.json"))
    for entry in json.loads(file.read_text("utf-8"))
    if entry["kind"] == "response" and "warns" not in entry and "embeddings" not in entry["name"]
}


@pytest.mark.parametrize("entry", CORPUS.values(), ids=CORPUS)
def test_a_last_piece_is_read_as_a_response(entry: dict[str, Any]) -> None:
    """The last piece of a stream counts and costs the same as a whole response with the same content."""
    with token_scope("whole") as scope:
        record_response(entry["payload"], **entry.get("say", {}))
    streamed = recorded([{"type": "begin"}, entry["payload"]], **entry.get("say", {}))
    assert scope.report().by_model() == streamed.by_model()


def test_the_caller_knows_better() -> None:
    """The caller's `provider` and `model` take precedence over the names in the stream."""
    azure = [{"model": "", "prompt_filter_results": []}, *PIECES]
    assert ["foundry/gpt-4o-mini"] == list(recorded(azure, provider="foundry").by_model())
    assert ["azure/mine"] == list(recorded(azure, model="mine").by_model())
    assert ["mine/mine"] == list(recorded(azure, model="mine/mine").by_model())


# -- Bedrock -----------------------------------------------------------------------------------------------------------


def frame(event: dict[str, Any]) -> bytes:
    """Encode an event as AWS sends it."""
    ((kind, content),) = event.items()
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    body = json.dumps(content).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    whole = prelude + struct.pack("!I", crc32(prelude)) + headers + body
    return whole + struct.pack("!I", crc32(whole))


def converse_stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a dict like the one from boto3's `converse_stream`, with a real EventStream of these events."""
    eventstream = pytest.importorskip("botocore.eventstream")
    parsers = pytest.importorskip("botocore.parsers")
    session = pytest.importorskip("botocore.session").get_session()
    model = session.get_service_model("bedrock-runtime").operation_model("ConverseStream")
    data = b"".join(map(frame, events))
    raw = SimpleNamespace(stream=lambda: iter([data[:50], data[50:]]), close=lambda: None)
    parser = parsers.EventStreamJSONParser()
    stream = eventstream.EventStream(raw, model.output_shape.members["stream"], parser, "ConverseStream")
    return {"ResponseMetadata": {}, "stream": stream}


@pytest.mark.parametrize("model", ["us.amazon.nova-lite-v1:0", "arn:aws:bedrock:us-east-1:1:inference-profile/nova"])
def test_bedrock(model: str) -> None:
    """`record_stream` returns a copy of Bedrock's dict, with a stand-in for its stream. The original is unchanged."""
    response = converse_stream(CONVERSE)
    stream = response["stream"]
    with token_scope("a") as scope:
        recording = record_stream(response, model=model)
        assert response["stream"] is stream
        assert {} == recording["ResponseMetadata"]
        assert isinstance(recording["stream"], type(stream))
        assert CONVERSE == list(recording["stream"])
        early = record_stream(converse_stream(CONVERSE), model=model)["stream"]
        next(iter(early))
        with pytest.warns(TokenScopeWarning, match="reports no usage"):
            early.close()
    assert {f"bedrock/{model}": SPENT + Usage(calls=1)} == {
        name: tokens(usage) for name, usage in scope.report().by_model().items()
    }


def test_bedrocks_model_is_asked_for() -> None:
    """Bedrock names no model. Without `model`, its dict raises an error, and its bare stream counts as `(unknown)`."""
    with pytest.raises(ValueError, match="do not name their model"):
        record_stream({"stream": generator(CONVERSE)})
    with pytest.warns(TokenScopeWarning, match=r"bedrock/\(unknown\) does not say which model answered"):
        assert {"bedrock/(unknown)": SPENT} == {
            name: tokens(usage) for name, usage in recorded(CONVERSE).by_model().items()
        }


# -- missing usage, malformed and generated pieces ---------------------------------------------------------------------


def test_no_usage() -> None:
    """A stream without usage counts as a call of its model without tokens, with one warning at the caller's line."""
    with pytest.warns(TokenScopeWarning, match="a stream of openai/gpt-4o-mini reports no usage") as caught:
        for _ in range(2):
            assert {"openai/gpt-4o-mini": Usage(calls=1)} == recorded(PIECES[:2]).by_model()
    assert [__file__] == [warning.filename for warning in caught]


def test_warnings_as_errors_break_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Even if warnings are errors, an empty stream does not raise. The warning goes to standard error instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", TokenScopeWarning)
        assert {"openai/(unknown)": Usage(calls=1)} == recorded([]).by_model()
    assert "a stream of openai/(unknown) reports no usage" in capsys.readouterr().err


def test_a_piece_that_breaks_when_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """If reading a piece raises an exception, tokenscope warns, and the stream goes on."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")

    class Lazy:
        @property
        def usage(self) -> Any:
            raise RuntimeError("not fetched yet")

    lazy = Lazy()
    with (
        token_scope("a") as scope,
        pytest.warns(TokenScopeWarning, match="(?s)reading a piece of a stream.*not fetched"),
    ):
        assert [lazy, *PIECES] == list(record_stream(generator([lazy, *PIECES])))
    assert SPENT == tokens(scope.usage)


@pytest.mark.filterwarnings("ignore::tokenscope.errors.TokenScopeWarning")
def test_stubs() -> None:
    """A mock in place of a stream raises no error, and counts as one call."""
    with token_scope("a") as scope:
        assert [] == list(record_stream(MagicMock()))
        with record_stream(MagicMock()):
            pass
    assert 2 == scope.usage.calls


odd = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.binary(max_size=3))
words = st.sampled_from(
    [
        *(
            "usage",
            "usageMetadata",
            "message",
            "response",
            "delta",
            "data",
            "metadata",
            "x_groq",
            "chunk",
            "type",
            "model",
        ),
        *("message_delta", "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens", "promptTokenCount"),
        *("inputTokens", "billed_units", "id", "messageStart", "prompt_filter_results", "iterations", "compaction"),
    ]
)
pieces = st.lists(
    st.recursive(
        odd | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=6),
        max_leaves=20,
    ),
    max_size=5,
)


@pytest.mark.unmeasured
@settings(max_examples=200, deadline=None)
@given(pieces)
def test_whatever_comes(pieces: list[Any]) -> None:
    """Any pieces pass through unchanged, and they count the same as dicts and as objects."""
    counted = []
    for each in (pieces, [as_object(piece) for piece in pieces]):
        with warnings.catch_warnings(), token_scope("a") as scope:
            warnings.simplefilter("ignore", TokenScopeWarning)
            assert [*map(id, each)] == [*map(id, record_stream(iter(each)))]
        counted.append(scope.usage)
    usage, same = counted
    assert usage.calls >= 1
    assert usage == same
    check_parts(usage)
