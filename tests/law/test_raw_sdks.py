"""Calls by the providers' own SDKs over HTTP: every scope holds the tokens that the server billed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.dspy_support import assert_billed
from support.every_provider import EveryProvider

from tokenscope import Usage, get_tracker, record_response, record_stream, token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

anthropic = pytest.importorskip("anthropic")
genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")

GPT = "gpt-4o-mini"
CLAUDE = "claude-sonnet-4-6"
GEMINI = "gemini-2.5-flash"
TOLD: Any = {"stream_options": {"include_usage": True}}


@pytest.fixture(autouse=True)
def may_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget earlier warnings, so that they can be given again."""
    forget_warnings()


@pytest.fixture(scope="module")
def server() -> Iterator[EveryProvider]:
    with EveryProvider() as provider:
        yield provider


@pytest.fixture
def provider(server: EveryProvider) -> EveryProvider:
    """Return the server with an empty bill."""
    server._bill.clear()
    return server


class Sync:
    """One client of each SDK."""

    def __init__(self, provider: EveryProvider) -> None:
        self.openai: Any = openai.OpenAI(base_url=provider.url, api_key="x", max_retries=0)
        self.anthropic: Any = anthropic.Anthropic(base_url=provider.host, api_key="x", max_retries=0)
        self.genai: Any = genai.Client(api_key="x", http_options={"base_url": provider.host})


class Async:
    """One async client of each SDK."""

    def __init__(self, provider: EveryProvider) -> None:
        self.openai: Any = openai.AsyncOpenAI(base_url=provider.url, api_key="x", max_retries=0)
        self.anthropic: Any = anthropic.AsyncAnthropic(base_url=provider.host, api_key="x", max_retries=0)
        self.genai: Any = genai.Client(api_key="x", http_options={"base_url": provider.host}).aio


@pytest.fixture
def clients(provider: EveryProvider) -> Iterator[Sync]:
    clients = Sync(provider)
    yield clients
    clients.openai.close()
    clients.anthropic.close()


@pytest.fixture
async def async_clients(provider: EveryProvider) -> AsyncIterator[Async]:
    clients = Async(provider)
    yield clients
    await clients.openai.close()
    await clients.anthropic.close()


def text(tag: str, more: str = "") -> str:
    return f"Answer the question. {more} <<bill {tag}>>"


def chat(tag: str, more: str = "") -> dict[str, Any]:
    """Return the arguments of OpenAI's chat."""
    return {"model": GPT, "messages": [{"role": "user", "content": text(tag, more)}]}


def message(tag: str, more: str = "") -> dict[str, Any]:
    """Return the arguments of Anthropic's messages."""
    return {**chat(tag, more), "model": CLAUDE, "max_tokens": 50}


MORE = "<<cached 5>> <<reasoning 4>>"
CACHED = "<<cached 5>>"

# -- each call, sync -------------------------------------------------------------------------------------------------------


def openai_chat(clients: Sync, tag: str) -> None:
    record_response(clients.openai.chat.completions.create(**chat(tag, MORE)))


def openai_chat_streamed(clients: Sync, tag: str) -> None:
    stream = clients.openai.chat.completions.create(**chat(tag, MORE), stream=True, **TOLD)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in record_stream(stream) if chunk.choices)


def openai_chat_streamed_in_a_block(clients: Sync, tag: str) -> None:
    with record_stream(clients.openai.chat.completions.create(**chat(tag, MORE), stream=True, **TOLD)) as stream:
        assert isinstance(stream, openai.Stream)
        assert 200 == stream.response.status_code
        assert list(stream)[-1].usage.prompt_tokens


def openai_chat_helper(clients: Sync, tag: str) -> None:
    with record_stream(clients.openai.chat.completions.stream(**chat(tag, MORE), **TOLD)) as stream:
        assert "content.done" in [event.type for event in stream]
        assert stream.get_final_completion().usage.prompt_tokens


def openai_chat_helper_to_its_end(clients: Sync, tag: str) -> None:
    with record_stream(clients.openai.chat.completions.stream(**chat(tag, MORE), **TOLD)) as stream:
        assert stream.get_final_completion().choices[0].message.content


def openai_responses(clients: Sync, tag: str) -> None:
    record_response(clients.openai.responses.create(model=GPT, input=text(tag, MORE)))


def openai_responses_streamed(clients: Sync, tag: str) -> None:
    stream = record_stream(clients.openai.responses.create(model=GPT, input=text(tag, MORE), stream=True))
    assert "response.completed" == [event.type for event in stream][-1]


def openai_responses_incomplete(clients: Sync, tag: str) -> None:
    asked = text(tag, "<<incomplete>>")
    stream = record_stream(clients.openai.responses.create(model=GPT, input=asked, stream=True))
    assert "response.incomplete" == [event.type for event in stream][-1]


def openai_responses_helper(clients: Sync, tag: str) -> None:
    with record_stream(clients.openai.responses.stream(model=GPT, input=text(tag, MORE))) as stream:
        assert stream.until_done() is stream
        assert stream.get_final_response().output_text


def openai_embeddings(clients: Sync, tag: str) -> None:
    record_response(clients.openai.embeddings.create(model="text-embedding-3-small", input=[text(tag), "more"]))


def anthropic_message(clients: Sync, tag: str) -> None:
    record_response(clients.anthropic.messages.create(**message(tag, CACHED)))


def anthropic_streamed(clients: Sync, tag: str) -> None:
    stream = record_stream(clients.anthropic.messages.create(**message(tag, CACHED), stream=True))
    assert isinstance(stream, anthropic.Stream)
    assert "message_stop" == [event.type for event in stream][-1]


def anthropic_helper(clients: Sync, tag: str) -> None:
    with record_stream(clients.anthropic.messages.stream(**message(tag, CACHED))) as stream:
        assert isinstance(stream, anthropic.MessageStream)
        assert "text" in {event.type for event in stream}


def anthropic_helpers_text(clients: Sync, tag: str) -> None:
    with record_stream(clients.anthropic.messages.stream(**message(tag, CACHED))) as stream:
        assert "".join(stream.text_stream) == stream.get_final_text()


def anthropic_helper_to_its_end(clients: Sync, tag: str) -> None:
    with record_stream(clients.anthropic.messages.stream(**message(tag, CACHED))) as stream:
        assert stream.get_final_message().usage.output_tokens


def google_content(clients: Sync, tag: str) -> None:
    record_response(clients.genai.models.generate_content(model=GEMINI, contents=text(tag)))


def google_streamed(clients: Sync, tag: str) -> None:
    stream = record_stream(clients.genai.models.generate_content_stream(model=GEMINI, contents=text(tag)))
    assert "".join(chunk.text for chunk in stream)


SYNC: list[Callable[[Sync, str], None]] = [
    openai_chat,
    openai_chat_streamed,
    openai_chat_streamed_in_a_block,
    openai_chat_helper,
    openai_chat_helper_to_its_end,
    openai_responses,
    openai_responses_streamed,
    openai_responses_incomplete,
    openai_responses_helper,
    openai_embeddings,
    anthropic_message,
    anthropic_streamed,
    anthropic_helper,
    anthropic_helpers_text,
    anthropic_helper_to_its_end,
    google_content,
    google_streamed,
]

# -- each call, async ------------------------------------------------------------------------------------------------------


async def async_openai_chat(clients: Async, tag: str) -> None:
    record_response(await clients.openai.chat.completions.create(**chat(tag, MORE)))


async def async_openai_chat_streamed(clients: Async, tag: str) -> None:
    stream = record_stream(await clients.openai.chat.completions.create(**chat(tag, MORE), stream=True, **TOLD))
    assert [chunk async for chunk in stream][-1].usage.prompt_tokens


async def async_openai_chat_streamed_in_a_block(clients: Async, tag: str) -> None:
    asked = clients.openai.chat.completions.create(**chat(tag, MORE), stream=True, **TOLD)
    async with record_stream(await asked) as stream:
        assert isinstance(stream, openai.AsyncStream)
        assert [chunk async for chunk in stream][-1].usage.prompt_tokens


async def async_openai_chat_helper(clients: Async, tag: str) -> None:
    async with record_stream(clients.openai.chat.completions.stream(**chat(tag, MORE), **TOLD)) as stream:
        assert "content.done" in [event.type async for event in stream]
        assert (await stream.get_final_completion()).usage.prompt_tokens


async def async_openai_responses(clients: Async, tag: str) -> None:
    record_response(await clients.openai.responses.create(model=GPT, input=text(tag, MORE)))


async def async_openai_responses_streamed(clients: Async, tag: str) -> None:
    stream = record_stream(await clients.openai.responses.create(model=GPT, input=text(tag, MORE), stream=True))
    assert "response.completed" == [event.type async for event in stream][-1]


async def async_openai_responses_helper(clients: Async, tag: str) -> None:
    async with record_stream(clients.openai.responses.stream(model=GPT, input=text(tag, MORE))) as stream:
        assert (await stream.get_final_response()).output_text


async def async_openai_embeddings(clients: Async, tag: str) -> None:
    record_response(await clients.openai.embeddings.create(model="text-embedding-3-small", input=text(tag)))


async def async_anthropic_message(clients: Async, tag: str) -> None:
    record_response(await clients.anthropic.messages.create(**message(tag, CACHED)))


async def async_anthropic_streamed(clients: Async, tag: str) -> None:
    stream = record_stream(await clients.anthropic.messages.create(**message(tag, CACHED), stream=True))
    assert isinstance(stream, anthropic.AsyncStream)
    assert "message_stop" == [event.type async for event in stream][-1]


async def async_anthropic_helper(clients: Async, tag: str) -> None:
    async with record_stream(clients.anthropic.messages.stream(**message(tag, CACHED))) as stream:
        assert isinstance(stream, anthropic.AsyncMessageStream)
        assert "text" in {event.type async for event in stream}


async def async_anthropic_helpers_text(clients: Async, tag: str) -> None:
    async with record_stream(clients.anthropic.messages.stream(**message(tag, CACHED))) as stream:
        assert "".join([piece async for piece in stream.text_stream]) == await stream.get_final_text()


async def async_anthropic_helper_to_its_end(clients: Async, tag: str) -> None:
    async with record_stream(clients.anthropic.messages.stream(**message(tag, CACHED))) as stream:
        assert (await stream.get_final_message()).usage.output_tokens


async def async_google_content(clients: Async, tag: str) -> None:
    record_response(await clients.genai.models.generate_content(model=GEMINI, contents=text(tag)))


async def async_google_streamed(clients: Async, tag: str) -> None:
    stream = await clients.genai.models.generate_content_stream(model=GEMINI, contents=text(tag))
    assert "".join([chunk.text async for chunk in record_stream(stream)])


ASYNC: list[Callable[[Async, str], Awaitable[None]]] = [
    async_openai_chat,
    async_openai_chat_streamed,
    async_openai_chat_streamed_in_a_block,
    async_openai_chat_helper,
    async_openai_responses,
    async_openai_responses_streamed,
    async_openai_responses_helper,
    async_openai_embeddings,
    async_anthropic_message,
    async_anthropic_streamed,
    async_anthropic_helper,
    async_anthropic_helpers_text,
    async_anthropic_helper_to_its_end,
    async_google_content,
    async_google_streamed,
]


def name_of(call: Any) -> str:
    return str(call.__name__)


@pytest.mark.parametrize("call", SYNC, ids=name_of)
def test_a_call(call: Any, provider: EveryProvider, clients: Sync) -> None:
    """Each kind of call is counted once, as billed, and only in the scopes around it."""
    with token_scope("around") as around:
        with token_scope("call") as scope:
            call(clients, "call")
        with token_scope("nothing") as nothing:
            pass
    assert_billed(provider, {"call": scope.usage})
    assert scope.usage == around.usage
    assert Usage() == nothing.usage
    assert 0 == scope.usage.failed_calls


@pytest.mark.parametrize("call", ASYNC, ids=name_of)
async def test_an_async_call(call: Any, provider: EveryProvider, async_clients: Async) -> None:
    """Each kind of async call is counted once, as billed."""
    with token_scope("call") as scope:
        await call(async_clients, "call")
    assert_billed(provider, {"call": scope.usage})
    assert 0 == scope.usage.failed_calls


def test_all_at_once_in_threads(provider: EveryProvider, clients: Sync) -> None:
    """Calls of all kinds in concurrent threads are each charged to their own scope."""

    def one(job: tuple[int, Any]) -> tuple[str, Usage]:
        with token_scope(f"job {job[0]}") as scope:
            job[1](clients, f"job {job[0]}")
        return f"job {job[0]}", scope.usage

    with token_scope("all") as whole, ThreadPoolExecutor(8) as pool:
        spent = dict(pool.map(one, enumerate(SYNC * 3)))
    assert_billed(provider, spent)
    assert provider.total.total_tokens == whole.usage.total_tokens


async def test_all_at_once_in_tasks(provider: EveryProvider, async_clients: Async) -> None:
    """Calls of all kinds in concurrent tasks are each charged to their own scope."""

    async def one(number: int, call: Any) -> tuple[str, Usage]:
        with token_scope(f"job {number}") as scope:
            await call(async_clients, f"job {number}")
        return f"job {number}", scope.usage

    with token_scope("all") as whole:
        spent = dict(await asyncio.gather(*(one(number, call) for number, call in enumerate(ASYNC * 3))))
    assert_billed(provider, spent)
    assert provider.total.total_tokens == whole.usage.total_tokens


# -- names -----------------------------------------------------------------------------------------------------------------


def test_names(clients: Sync) -> None:
    """Streams have the same model names as whole responses, unless `model` is given."""
    with token_scope("all") as scope:
        for call in (openai_chat_streamed, openai_responses_streamed, anthropic_streamed, google_streamed):
            call(clients, "a")
        stream = clients.openai.chat.completions.create(**chat("a"), stream=True, **TOLD)
        for _ in record_stream(stream, model="azure/my-deployment"):
            pass
    assert {f"openai/{GPT}", f"anthropic/{CLAUDE}", f"gemini/{GEMINI}", "azure/my-deployment"} == set(
        scope.report().by_model()
    )


# -- streams that end early --------------------------------------------------------------------------------------------


def test_closed_early(provider: EveryProvider, clients: Sync) -> None:
    """A stream that is closed counts the usage received so far. Anthropic sends the input tokens first."""
    with token_scope("closed") as scope:
        stream = record_stream(clients.anthropic.messages.create(**message("a", CACHED), stream=True))
        next(stream)
        stream.close()
        assert 1 == scope.usage.calls
        stream.close()
        with contextlib.suppress(Exception):  # the SDK may raise here
            list(stream)
    assert stream.response.is_closed
    bill = provider.bill["a"]
    assert (bill.input_tokens, 5, 1) == (
        scope.usage.input_tokens,
        scope.usage.cache_read_tokens,
        scope.usage.output_tokens,
    )
    assert 1 == scope.usage.calls


def test_a_text_left_early(provider: EveryProvider, clients: Sync) -> None:
    """A stream helper whose text is left early counts the usage received so far."""
    with token_scope("closed") as scope:
        with record_stream(clients.anthropic.messages.stream(**message("a"))) as stream:
            for _ in stream.text_stream:
                break
            assert 0 == scope.usage.calls
    assert (1, provider.bill["a"].input_tokens) == (scope.usage.calls, scope.usage.input_tokens)


def test_closed_before_it_has_told(clients: Sync) -> None:
    """An OpenAI stream that is closed before its usage arrives is a call without tokens, and warns once."""
    with (
        token_scope("closed") as scope,
        pytest.warns(TokenScopeWarning, match=f"a stream of openai/{GPT} reports no usage") as caught,
    ):
        for _ in range(2):
            with record_stream(clients.openai.chat.completions.create(**chat("a"), stream=True, **TOLD)) as stream:
                next(stream)
    assert Usage(calls=2) == scope.usage
    assert [f"openai/{GPT}"] == list(scope.report().by_model())
    assert [__file__] == [each.filename for each in caught if each.category is TokenScopeWarning]


def test_not_asked_to_tell(clients: Sync) -> None:
    """An OpenAI stream without `include_usage` is a call without tokens, and the warning names the option."""
    with token_scope("a") as scope, pytest.warns(TokenScopeWarning, match="include_usage"):
        for _ in record_stream(clients.openai.chat.completions.create(**chat("a"), stream=True)):
            pass
    assert Usage(calls=1) == scope.usage


async def test_closed_early_async(provider: EveryProvider, async_clients: Async) -> None:
    """An async stream that is closed counts the usage received so far."""
    with token_scope("closed") as scope:
        async with record_stream(await async_clients.anthropic.messages.create(**message("a"), stream=True)) as stream:
            await anext(stream)
            assert 0 == scope.usage.calls
        assert 1 == scope.usage.calls
        stream = record_stream(await async_clients.anthropic.messages.create(**message("b"), stream=True))
        await anext(stream)
        await stream.close()
        assert 2 == scope.usage.calls
    assert provider.bill["a"].input_tokens + provider.bill["b"].input_tokens == scope.usage.input_tokens


@pytest.mark.parametrize(
    ("how", "error"), [("<<break>>", openai.APIError), ("<<hang up>>", None)], ids=["told", "connection lost"]
)
def test_fails(how: str, error: Any, clients: Sync) -> None:
    """A stream that fails raises the SDK's own exception, and is a failed call with the exception's name."""
    with token_scope("a") as scope:
        stream = record_stream(clients.openai.chat.completions.create(**chat("a", how), stream=True, **TOLD))
        with pytest.raises(Exception) as raised:
            list(stream)
    if error is not None:
        assert error is type(raised.value)
    assert Usage(calls=1, failed_calls=1) == scope.usage
    assert (raised.type.__name__, f"openai/{GPT}") == (
        get_tracker().records[-1].error,
        next(iter(scope.report().by_model())),
    )


@pytest.mark.parametrize("how", ["<<break>>", "<<hang up>>"])
def test_what_fails_keeps_what_it_spent(how: str, provider: EveryProvider, clients: Sync) -> None:
    """A stream that fails counts the usage received before the failure."""
    with token_scope("a") as scope:
        with (
            pytest.raises(Exception, match=r"overloaded|peer closed connection"),
            record_stream(clients.anthropic.messages.stream(**message("a", how))) as stream,
        ):
            stream.get_final_message()
    usage = scope.usage
    assert (1, 1, provider.bill["a"].input_tokens) == (usage.calls, usage.failed_calls, usage.input_tokens)


async def test_cancelled(provider: EveryProvider, async_clients: Async) -> None:
    """A task that is cancelled while it waits for a piece is a failed call with the usage received so far."""
    with token_scope("a") as scope:
        stream = record_stream(await async_clients.anthropic.messages.create(**message("a", "<<stall>>"), stream=True))
        await anext(stream)
        task = asyncio.create_task(read(stream))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    usage = scope.usage
    assert (1, 1, provider.bill["a"].input_tokens) == (usage.calls, usage.failed_calls, usage.input_tokens)
    assert "CancelledError" == get_tracker().records[-1].error


async def read(stream: Any) -> None:
    async for _ in stream:
        pass


def test_a_request_that_fails(provider: EveryProvider, clients: Sync) -> None:
    """If the request of a stream helper fails, nothing is billed and nothing is counted."""
    with token_scope("a") as scope:
        for opener in (
            record_stream(clients.anthropic.messages.stream(**message("a", "<<fail 500>>"))),
            record_stream(clients.openai.chat.completions.stream(**chat("a", "<<fail 500>>"))),
        ):
            with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)), opener:
                pass
        record_stream(clients.anthropic.messages.stream(**message("a")))  # never entered
    assert {} == provider.bill
    assert Usage() == scope.usage


# -- LiteLLM -----------------------------------------------------------------------------------------------------------------


async def test_litellm(provider: EveryProvider) -> None:
    """LiteLLM's streams, sync and async, are counted as billed, under the model names of LiteLLM."""
    import litellm

    theirs: Any = litellm
    with token_scope("all") as scope:
        for tag, name, base in (("a", f"openai/{GPT}", provider.url), ("b", f"anthropic/{CLAUDE}", provider.host)):
            asked = {**chat(tag, CACHED), "model": name, "api_base": base, "api_key": "x", "stream": True, **TOLD}
            with token_scope(tag):
                stream = record_stream(theirs.completion(**asked))
                assert isinstance(stream, theirs.CustomStreamWrapper)
                assert list(stream)
            with token_scope(tag):
                async for _ in record_stream(await theirs.acompletion(**asked)):
                    pass
    report = scope.report()
    assert_billed(provider, {tag: report.find(f"all/{tag}").usage for tag in ("a", "b")})
    assert {f"openai/{GPT}", f"anthropic/{CLAUDE}"} == set(report.by_model())
