"""The real instrumentors of OpenAI's and Anthropic's SDKs, of litellm and of DSPy, against a provider's bill."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.anthropic_server import AnthropicServer
from support.dspy_support import ENGINES, assert_billed, tokens

import tokenscope
from tokenscope import token_scope
from tokenscope.integrations.otel import annotate_spans
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.otel_support import Tracing

pytest_plugins = ["support.otel_support"]
pytestmark = pytest.mark.slow

OPENAI = {
    "openinference": "openinference.instrumentation.openai:OpenAIInstrumentor",
    "opentelemetry": "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
}
ANTHROPIC = {
    "openinference": "openinference.instrumentation.anthropic:AnthropicInstrumentor",
    "traceloop": "opentelemetry.instrumentation.anthropic:AnthropicInstrumentor",
}
LITELLM = "openinference.instrumentation.litellm:LiteLLMInstrumentor"
DSPY = "openinference.instrumentation.dspy:DSPyInstrumentor"
OTEL_DSPY = "opentelemetry.instrumentation.genai.dspy:DSPyInstrumentor"


class Instruments:
    """Turns instrumentors on, and off again when the test ends."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._on: list[Any] = []

    def add(self, *names: str) -> None:
        for name in names:
            module, _, attribute = name.partition(":")
            if "instrumentors" not in os.environ.get("TOKENSCOPE_TESTS_REQUIRE", ""):
                pytest.importorskip(module)
            instrumentor = getattr(importlib.import_module(module), attribute)()
            instrumentor.instrument(tracer_provider=self._tracing.provider, skip_dep_check=True)
            self._on.append(instrumentor)

    def stop(self) -> None:
        while self._on:
            self._on.pop().uninstrument()
        # OpenInference's instrumentor also removes others' wrappers, and leaves methods in LM that LM does not define.
        for name in ("__call__", "acall"):
            if inspect.isfunction(vars(dspy.LM).get(name)):
                delattr(dspy.LM, name)
        tokenscope.uninstrument()
        tokenscope.instrument()


@pytest.fixture
def instruments(tracing: Tracing) -> Iterator[Instruments]:
    found = Instruments(tracing)
    yield found
    found.stop()


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as found:
        yield found


def ask(tag: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Why? <<bill {tag}>> <<cached 3>>"}]


@pytest.mark.parametrize("names", [("openinference",), ("opentelemetry",), ("openinference", "opentelemetry")])
def test_openai(instruments, provider, names):
    """Chat, streams and embeddings of OpenAI's SDK are counted as billed, with one instrumentor or with both."""
    openai = pytest.importorskip("openai")
    instruments.add(*(OPENAI[name] for name in names))
    settings = {"base_url": provider.url, "api_key": "x"}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    scopes = {}

    with openai.OpenAI(**settings) as client:
        with token_scope("chat") as scopes["chat"]:
            client.chat.completions.create(model="gpt-4o-mini", messages=ask("chat"))
        with token_scope("stream") as scopes["stream"]:
            for _ in client.chat.completions.create(model="gpt-4o-mini", messages=ask("stream"), **stream):
                pass
        with token_scope("embed") as scopes["embed"]:
            client.embeddings.create(model="text-embedding-3-small", input="Hello <<bill embed>>")

    async def asynchronous():
        async with openai.AsyncOpenAI(**settings) as client:

            async def one(number):
                with token_scope(f"async {number}") as scopes[f"async {number}"]:
                    await client.chat.completions.create(model="gpt-4o-mini", messages=ask(f"async {number}"))

            await asyncio.gather(*(one(number) for number in range(5)))
            with token_scope("async stream") as scopes["async stream"]:
                answer = await client.chat.completions.create(
                    model="gpt-4o-mini", messages=ask("async stream"), **stream
                )
                async for _ in answer:
                    pass

    asyncio.run(asynchronous())

    spent = {tag: scope.usage for tag, scope in scopes.items()}
    bill = {tag: (usage.calls, usage.input_tokens, usage.output_tokens) for tag, usage in provider.bill.items()}
    assert bill == {tag: (usage.calls, usage.input_tokens, usage.output_tokens) for tag, usage in spent.items()}
    assert {"openai/gpt-4o-mini", "openai/text-embedding-3-small"} == set(tokenscope.report().by_model())


def test_openai_fails(instruments, provider):
    """A call that the provider refuses counts as a failed call."""
    openai = pytest.importorskip("openai")
    instruments.add(OPENAI["openinference"])
    client = openai.OpenAI(base_url=provider.url, api_key="x", max_retries=0)
    with token_scope("work") as scope, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "<<fail 500>>"}])

    assert (1, 1, 0) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)


def test_openai_in_threads(instruments, provider):
    """Calls in a thread pool are counted in the scopes that submitted them."""
    openai = pytest.importorskip("openai")
    instruments.add(OPENAI["opentelemetry"])
    client = openai.OpenAI(base_url=provider.url, api_key="x")
    scopes = {}

    def call(tag):
        client.chat.completions.create(model="gpt-4o-mini", messages=ask(tag))

    with ThreadPoolExecutor(4) as pool:
        futures = []
        for number in range(12):
            with token_scope(f"t{number}") as scopes[f"t{number}"]:
                futures.append(pool.submit(call, f"t{number}"))
        for future in futures:
            future.result()

    bill = {tag: (usage.calls, usage.total_tokens) for tag, usage in provider.bill.items()}
    assert bill == {tag: (scope.usage.calls, scope.usage.total_tokens) for tag, scope in scopes.items()}


@pytest.mark.filterwarnings("ignore:The model")
@pytest.mark.parametrize("name", ["openinference", "traceloop"])
def test_anthropic(instruments, name):
    """Calls and streams of Anthropic's SDK are counted as billed, with cached tokens as part of the input."""
    anthropic = pytest.importorskip("anthropic")
    instruments.add(ANTHROPIC[name])
    request: dict[str, Any] = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Why?"}],
    }
    with AnthropicServer() as server, token_scope("work") as scope:
        with anthropic.Anthropic(base_url=server.url, api_key="x") as client:
            client.messages.create(**request)
            for _ in client.messages.create(**request, stream=True):
                pass
            with client.messages.stream(**request) as stream:
                stream.get_final_message()

        async def asynchronous():
            async with anthropic.AsyncAnthropic(base_url=server.url, api_key="x") as client:
                await client.messages.create(**request)
                async for _ in await client.messages.create(**request, stream=True):
                    pass
                async with client.messages.stream(**request) as stream:
                    await stream.get_final_message()

        asyncio.run(asynchronous())
        bill = server.bill

    assert 6 == bill.calls
    assert (bill.calls, *tokens(bill), bill.cache_write_tokens) == (
        scope.usage.calls,
        *tokens(scope.usage),
        scope.usage.cache_write_tokens,
    )
    assert ["anthropic/claude-sonnet-4-5"] == list(scope.report().by_model())


@pytest.mark.parametrize("others", [(), (OPENAI["openinference"],), (OPENAI["opentelemetry"],)])
def test_litellm(instruments, provider, others):
    """litellm's calls are counted once, as billed, even if the SDK that litellm calls is instrumented, too."""
    litellm = pytest.importorskip("litellm")
    instruments.add(LITELLM, *others)
    settings = {"model": "openai/gpt-4o-mini", "api_base": provider.url, "api_key": "x"}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    scopes = {}
    with token_scope("plain") as scopes["plain"]:
        litellm.completion(**settings, messages=ask("plain"))
    with token_scope("stream") as scopes["stream"]:
        for _ in litellm.completion(**settings, messages=ask("stream"), **stream):
            pass
    with token_scope("embed") as scopes["embed"]:
        litellm.embedding(
            "openai/text-embedding-3-small", input=["Hello <<bill embed>>"], api_base=provider.url, api_key="x"
        )

    async def asynchronous():
        with token_scope("async") as scopes["async"]:
            await litellm.acompletion(**settings, messages=ask("async"))
        with token_scope("async stream") as scopes["async stream"]:
            async for _ in await litellm.acompletion(**settings, messages=ask("async stream"), **stream):
                pass
        with token_scope("async embed") as scopes["async embed"]:
            await litellm.aembedding(
                "openai/text-embedding-3-small", input=["Hi <<bill async embed>>"], api_base=provider.url, api_key="x"
            )

    asyncio.run(asynchronous())

    bill = {tag: (usage.calls, usage.input_tokens, usage.output_tokens) for tag, usage in provider.bill.items()}
    assert bill == {tag: (s.usage.calls, s.usage.input_tokens, s.usage.output_tokens) for tag, s in scopes.items()}
    assert {"openai/gpt-4o-mini", "openai/text-embedding-3-small"} == set(tokenscope.report().by_model())


@pytest.mark.parametrize("others", [(DSPY,), (OTEL_DSPY,), (OTEL_DSPY, DSPY)], ids=["openinference", "otel", "both"])
@pytest.mark.parametrize("annotated", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_everything_instrumented_at_once(instruments, provider, engine, annotated, others):
    """If DSPy, litellm and OpenAI's SDK are all instrumented, each DSPy call is still counted once, as billed."""
    instruments.add(*others, LITELLM, *OPENAI.values())
    stop = annotate_spans() if annotated else lambda: None
    lm = provider.lm(**({"engine": "litellm"} if len(ENGINES) > 1 and engine == "litellm" else {}))
    scopes = {}
    program = dspy.ChainOfThought("question -> answer")
    with dspy.context(lm=lm):
        with token_scope("sync") as scopes["sync"]:
            program(question="Why? <<bill sync>> <<cached 3>> <<reasoning 5>>")

        async def asynchronous():
            async def one(tag):
                with token_scope(tag) as scopes[tag]:
                    await program.acall(question=f"Why? <<bill {tag}>>")

            await asyncio.gather(*(one(f"a{number}") for number in range(5)))

        asyncio.run(asynchronous())
        with token_scope("parallel") as scopes["parallel"]:
            examples = [dspy.Example(question=f"Why {n}? <<bill parallel>>").with_inputs("question") for n in range(8)]
            dspy.Parallel(num_threads=4, disable_progress_bar=True)([(program, example) for example in examples])
        with token_scope("fails") as scopes["fails"], pytest.raises(Exception, match="500"):
            program(question="<<bill fails>> <<fail 500>>")
    stop()
    failed = scopes.pop("fails").usage

    assert_billed(provider, {tag: scope.usage for tag, scope in scopes.items()})
    assert (0, failed.calls) == (failed.total_tokens, failed.failed_calls)


def test_opentelemetrys_own_spans_of_dspy(instruments, provider, tracing):
    """OpenTelemetry's instrumentor of DSPy writes what tokenscope counts on its spans: of LM calls, of an agent and its tools."""
    instruments.add(OTEL_DSPY)

    def search(query: str) -> str:
        """Search the web."""
        with token_scope("inside"):
            provider.lm()("Why? <<bill agent>>")
        return query

    scopes = {}
    with dspy.context(lm=provider.lm()):
        with token_scope("lm") as scopes["lm"]:
            dspy.Predict("question -> answer")(question="Why? <<bill lm>> <<cached 3>>")
        with token_scope("agent") as scopes["agent"]:
            dspy.ReAct("question -> answer", tools=[search], max_iters=2)(question="Why? <<bill agent>>")
            dspy.Tool(search)(query="Why?")
        with token_scope("embed") as scopes["embed"]:
            dspy.Embedder("openai/text-embedding-3-small", api_base=provider.url, api_key="x", caching=False)(
                ["Hello <<bill embed>>"]
            )
    told = [span.attributes["gen_ai.usage.input_tokens"] for span in tracing.ended if span.name.startswith("chat ")]

    assert_billed(provider, {tag: scope.usage for tag, scope in scopes.items()})
    assert {"chat", "execute_tool", "invoke_agent"} <= {span.name.split(" ")[0] for span in tracing.ended}
    assert sum(told) == scopes["lm"].usage.input_tokens + scopes["agent"].usage.input_tokens


def test_litellm_logs_late(instruments, provider, tracing):
    """litellm's OpenTelemetry logger writes spans late, in its own thread. They do not count DSPy's calls again."""
    litellm = pytest.importorskip("litellm")
    integration = pytest.importorskip("litellm.integrations.opentelemetry")
    logger = integration.OpenTelemetry(
        config=integration.OpenTelemetryConfig(exporter="console"), tracer_provider=tracing.provider
    )
    # litellm copies callbacks to other lists of its own, and would keep calling them in later tests.
    before = {name: list(value) for name, value in vars(litellm).items() if "callback" in name and type(value) is list}
    litellm.callbacks = [logger]
    scopes = {}
    try:
        with token_scope("dspy") as scopes["dspy"]:
            lm = provider.lm(**({"engine": "litellm"} if len(ENGINES) > 1 else {}))
            lm("Why? <<bill dspy>>")
        with token_scope("plain") as scopes["plain"]:
            litellm.completion("openai/gpt-4o-mini", api_base=provider.url, api_key="x", messages=ask("plain"))
        for _ in range(200):
            if len([span for span in tracing.ended if span.name == "litellm_request"]) == 2:
                break
            time.sleep(0.02)
    finally:
        for name, value in before.items():
            setattr(litellm, name, value)

    bill = {tag: (usage.calls, usage.total_tokens) for tag, usage in provider.bill.items()}
    assert bill == {tag: (scope.usage.calls, scope.usage.total_tokens) for tag, scope in scopes.items()}


FIRST = """
import dspy
from INSTRUMENTOR import DSPyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
DSPyInstrumentor().instrument(tracer_provider=TracerProvider())
import asyncio, tokenscope
from tokenscope.testing import LoopbackProvider
with LoopbackProvider() as provider, tokenscope.token_scope("work") as scope:
    dspy.configure(lm=provider.lm())
    dspy.Predict("question -> answer")(question="Why?")
    asyncio.run(dspy.Predict("question -> answer").acall(question="Why?"))
assert (2, provider.total.total_tokens) == (scope.usage.calls, scope.usage.total_tokens), scope.usage
tokenscope.uninstrument()
with LoopbackProvider() as provider, tokenscope.token_scope("work") as scope:
    provider.lm()("Why?")
assert 0 == scope.usage.calls
"""


@pytest.mark.parametrize("name", [DSPY, OTEL_DSPY], ids=["openinference", "otel"])
def test_an_instrumentor_that_came_first(name):
    """DSPy's calls are counted even if an instrumentor wrapped DSPy before tokenscope was imported."""
    module = name.partition(":")[0]
    pytest.importorskip(module)
    program = FIRST.replace("INSTRUMENTOR", module)
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert 0 == result.returncode, result.stderr


@pytest.mark.parametrize(("name", "told"), [(DSPY, 0), (OTEL_DSPY, 1)], ids=["openinference", "otel"])
def test_undoing_what_an_instrumentor_has_wrapped(instruments, provider, name, told):
    """Our patches inside an instrumentor's wrappers count nothing after `uninstrument`, and once after `instrument`.

    What the instrumentor's own span tells is counted then, by the span processor.
    """
    instruments.add(name)
    tokenscope.uninstrument()
    with token_scope("without") as scope:
        provider.lm()("Why?")
    assert told == scope.usage.calls

    tokenscope.instrument()
    with token_scope("with") as scope:
        provider.lm()("Why?")
    assert 1 == scope.usage.calls
