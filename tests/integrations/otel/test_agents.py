"""The real instrumentation of pydantic-ai and LangChain, if they are installed, against a provider's bill."""

from __future__ import annotations

import asyncio

import pytest
from integrations.otel.test_instrumentors import OPENAI as NEWEST
from integrations.otel.test_instrumentors import Instruments
from support.dspy_support import tokens

from tokenscope import token_scope
from tokenscope.testing import LoopbackProvider

pytest_plugins = ["support.otel_support"]
pytestmark = pytest.mark.slow

OPENAI = {**NEWEST, "opentelemetry": "opentelemetry.instrumentation.openai_v2:OpenAIInstrumentor"}
LANGCHAIN = {
    "openinference": "openinference.instrumentation.langchain:LangChainInstrumentor",
    "traceloop": "opentelemetry.instrumentation.langchain:LangchainInstrumentor",
}


@pytest.fixture
def instruments(tracing):
    found = Instruments(tracing)
    yield found
    found.stop()


@pytest.fixture
def provider():
    with LoopbackProvider() as found:
        yield found


@pytest.mark.parametrize("below", [None, *OPENAI])
def test_pydantic_ai(tracing, instruments, provider, below):
    """An agent's span adds up the spans of its calls. Only the calls are counted, and their tokens equal the bill."""
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent, InstrumentationSettings
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    if below is not None:
        instruments.add(OPENAI[below])
    model = OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(base_url=provider.url, api_key="x"))
    agent = Agent(model)
    settings = {"tracer_provider": tracing.provider, "use_aggregated_usage_attribute_names": False}
    agent.instrument = InstrumentationSettings(**settings)

    async def run():
        await agent.run("Why? <<cached 3>> <<reasoning 5>>")
        async with agent.run_stream("Why not?") as answer:
            async for _ in answer.stream_text():
                pass

    with token_scope("agent") as scope:
        asyncio.run(run())

    assert 2 == provider.total.calls
    assert (2, provider.total.total_tokens) == (scope.usage.calls, scope.usage.total_tokens)
    if below != "opentelemetry":  # OpenTelemetry's instrumentor of OpenAI's SDK does not report parts
        assert tokens(provider.total) == tokens(scope.usage)
    assert ["openai/gpt-4o-mini"] == list(scope.report().by_model())


@pytest.mark.parametrize("name", LANGCHAIN)
def test_langchain(instruments, provider, name):
    """The calls of a model in a chain equal the bill, whether they are invoked, streamed or awaited."""
    openai = pytest.importorskip("langchain_openai")
    prompts = pytest.importorskip("langchain_core.prompts")
    instruments.add(LANGCHAIN[name])
    model = openai.ChatOpenAI(model="gpt-4o-mini", base_url=provider.url, api_key="x", stream_usage=True)
    chain = prompts.ChatPromptTemplate.from_template("{question} <<cached 3>>") | model

    async def asynchronous():
        await asyncio.gather(*(chain.ainvoke({"question": f"Why {n}?"}) for n in range(4)))
        async for _ in chain.astream({"question": "Why?"}):
            pass

    with token_scope("chain") as scope:
        chain.invoke({"question": "Why?"})
        for _ in chain.stream({"question": "Why?"}):
            pass
        asyncio.run(asynchronous())

    assert 7 == provider.total.calls
    assert (7, *tokens(provider.total)) == (scope.usage.calls, *tokens(scope.usage))
