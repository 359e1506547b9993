"""A call that the program records by hand, and that tokenscope also sees, is counted once."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import litellm
import openai
import pytest
from support.dspy_support import DSPY, tokens
from support.every_provider import EveryProvider

from tokenscope import Budget, current_scope, record_response, record_stream, record_tokens, token_scope
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


class Own(dspy.BaseLM):
    """An LM that calls OpenAI's SDK, and may record the call by hand."""

    def __init__(self, provider: LoopbackProvider, how: str) -> None:
        super().__init__("openai/gpt-4o-mini")
        self.client = openai.OpenAI(base_url=provider.url, api_key="loopback", max_retries=0)
        self.how = how

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        messages = messages or [{"role": "user", "content": prompt}]
        response = self.client.chat.completions.create(model="gpt-4o-mini", messages=messages)
        if self.how == "response":
            record_response(response)
        elif self.how == "tokens":
            used = response.usage
            record_tokens("own", "ask", "gpt-4o-mini", "openai", used.prompt_tokens, used.completion_tokens)
        return response


@pytest.mark.parametrize("how", ["response", "tokens", "nothing"])
def test_inside_an_lm_of_ones_own(provider, how):
    """A call inside a user's LM is counted once, whether or not the LM records it by hand."""
    with dspy.context(lm=Own(provider, how)), token_scope("run") as run:
        for _ in range(3):
            dspy.Predict("question -> answer")(question="Why?")

    assert 3 == provider.total.calls == run.usage.calls
    assert tokens(provider.total) == tokens(run.usage)


@pytest.mark.parametrize("how", ["response", "tokens", "nothing"])
def test_inside_an_lm_of_ones_own_with_a_budget(provider, how):
    """A call that an LM records by hand takes no second call of the budget."""
    with dspy.context(lm=Own(provider, how)), token_scope("run", budget=Budget(calls=3, on_exceed="stop")) as run:
        for _ in range(5):
            dspy.Predict("question -> answer")(question="Why?")

    assert run.budget_exceeded
    assert 3 == provider.total.calls == run.usage.calls


def test_what_else_is_bought_there(provider):
    """If an LM makes two calls, and DSPy sees only the second one, both are counted."""

    class Checking(Own):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            asked = [{"role": "user", "content": "Is this harmless?"}]
            record_response(self.client.chat.completions.create(model="gpt-4o", messages=asked))
            return super().forward(prompt, messages, **kwargs)

    with dspy.context(lm=Checking(provider, "nothing")), token_scope("run") as run:
        dspy.Predict("question -> answer")(question="Why?")

    assert {"openai/gpt-4o", "openai/gpt-4o-mini"} == set(run.report().by_model())
    assert 2 == provider.total.calls == run.usage.calls
    assert tokens(provider.total) == tokens(run.usage)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_embeddings(provider, how):
    """`record_response` does not count an embedding of litellm a second time."""
    asked = {"model": "openai/text-embedding-3-small", "input": ["a word"], "api_base": provider.url, "api_key": "k"}
    with token_scope("run") as run:
        if how == "sync":
            response = record_response(litellm.embedding(**asked))
        else:
            response = record_response(asyncio.run(litellm.aembedding(**asked)))

    assert response.usage
    assert 1 == provider.total.calls == run.usage.calls
    assert tokens(provider.total) == tokens(run.usage)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_embeddings_that_fail(provider, how):
    """An embedding request that fails is a failed call, and is waste with the reason `provider_errors`."""
    asked = {
        "model": "openai/text-embedding-3-small",
        "input": ["<<fail 401>>"],
        "api_base": provider.url,
        "api_key": "k",
    }
    with token_scope("run", budget=Budget(calls=2)) as run:
        for _ in range(2):
            with pytest.raises(litellm.AuthenticationError):
                litellm.embedding(**asked) if how == "sync" else asyncio.run(litellm.aembedding(**asked))

    assert (2, 2, 0) == (run.usage.calls, run.usage.failed_calls, run.usage.total_tokens)
    assert 2 == run.report().waste().total.provider_errors.calls


def test_a_response_of_dspys(provider):
    """`record_response` does not count a response of `LM.forward` a second time."""
    lm = provider.lm(**({"engine": "litellm"} if DSPY >= (3, 4) else {}))  # else no response that is known, from 3.4 on
    with token_scope("run") as run:
        record_response(lm.forward("Why?"))

    assert 1 == provider.total.calls == run.usage.calls
    assert tokens(provider.total) == tokens(run.usage)


@pytest.mark.parametrize(
    ("cost", "unpriced"),
    [({"cost": 0, "cost_details": {}}, 0), ({}, 1), ({"cost": None}, 1), ({"cost": 0}, 1)],
    ids=["free", "unknown", "none", "zero"],
)
def test_a_free_model(cost, unpriced):
    """If the provider reports a cost of 0, the price is known. If it reports no cost, the price is unknown."""

    class Free(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            choice = SimpleNamespace(message=SimpleNamespace(content="[[ ## answer ## ]]\nyes", tool_calls=None))
            usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, **cost}
            return SimpleNamespace(choices=[choice], usage=usage, model="free")

    with dspy.context(lm=Free("openrouter/nobody/free")), token_scope("run") as run:
        dspy.Predict("question -> answer")(question="Why?")

    assert unpriced == run.usage.unpriced_calls
    assert 12 == run.usage.total_tokens


@pytest.mark.parametrize(
    ("costs", "cost", "unpriced"),
    [([0, 0], 0, 0), ([0, None], 0, 1), ([None, 0], 0, 1), ([0, 0.5], 0.5, 0), ([0.25, 0.5], 0.75, 0)],
    ids=str,
)
def test_a_free_model_in_several_requests(costs, cost, unpriced):
    """If a call makes several requests, it is free if the provider says so of each of them."""

    class Twice(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            for each in costs:
                told = {} if each is None else {"cost": each, "cost_details": {}}
                dspy.settings.usage_tracker.add_usage(self.model, {"prompt_tokens": 9, "completion_tokens": 3, **told})
            choice = SimpleNamespace(message=SimpleNamespace(content="yes", tool_calls=None))
            return SimpleNamespace(choices=[choice], usage={}, model="free")

    with token_scope("run") as run:
        Twice("openrouter/nobody/free")("Why?")

    assert (1, unpriced, 24) == (run.usage.calls, run.usage.unpriced_calls, run.usage.total_tokens)
    assert cost == (run.usage.cost or 0)
    assert ["provider"] * (not unpriced) == [price.source for price in run.report().prices() if price.source]


def test_a_stream_that_is_dropped(provider):
    """A dropped stream is counted when a report is made. If that happens inside an LM call, both calls count."""
    client = openai.OpenAI(base_url=provider.url, api_key="loopback")
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why?"}]}

    class Looking(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            current_scope().report()
            choice = SimpleNamespace(message=SimpleNamespace(content="[[ ## answer ## ]]\nyes", tool_calls=None))
            return SimpleNamespace(choices=[choice], usage={}, model="looking")

    with dspy.context(lm=Looking("openai/looking")), token_scope("run") as run:
        stream = record_stream(client.chat.completions.create(**asked, stream=True))
        next(iter(stream))
        del stream
        gc.collect()
        dspy.Predict("question -> answer")(question="Why?")

    assert {"openai/gpt-4o": 1, "openai/looking": 1} == {
        name: usage.calls for name, usage in run.report().by_model().items()
    }


@pytest.mark.parametrize("how", ["sync", "async"])
def test_litellm_repeats_as_ever(how, monkeypatch):
    """Requests that litellm repeats are one call, and pass through `litellm.completion` only once."""
    passed: list[str] = []

    def watched(name: str) -> Any:
        original = getattr(litellm, name)

        def watching(*args: Any, **kwargs: Any) -> Any:
            passed.append(name)
            return original(*args, **kwargs)

        return watching

    class Through(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return litellm.completion(**asked(messages))

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return await litellm.acompletion(**asked(messages))

    for name in ("completion", "acompletion"):
        monkeypatch.setattr(litellm, name, watched(name))
    with EveryProvider() as every, token_scope("run") as run:

        def asked(messages: Any) -> dict[str, Any]:
            model = "anthropic/claude-3-5-haiku-latest"
            return {"model": model, "api_base": every.host, "api_key": "x", "num_retries": 2, "messages": messages}

        question = [{"role": "user", "content": "Why? <<bill a>> <<fail 500 once>>"}]
        lm = Through("anthropic/claude-3-5-haiku-latest")
        answer = lm(messages=question) if how == "sync" else asyncio.run(lm.acall(messages=question))
        assert answer
        assert tokens(every.total) == tokens(run.usage)

    assert [{"sync": "completion", "async": "acompletion"}[how]] == passed
    assert (1, 0) == (run.usage.calls, run.usage.failed_calls)
    assert {} == run.report().waste()
