"""Hits in DSPy's cache: an LM of a program's own may look there by itself, in its own way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import openai
import pytest
from support.dspy_support import tokens

from tokenscope import token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
IGNORED = ["number"]


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def cache(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Any]:
    """A cache of DSPy's that is empty: in memory, or on disk alone."""
    before = dspy.cache
    in_memory = getattr(request, "param", "memory") == "memory"
    dspy.configure_cache(
        enable_memory_cache=in_memory, enable_disk_cache=not in_memory, disk_cache_dir=str(tmp_path / "cache")
    )
    yield dspy.cache
    dspy.cache = before


class Caching(dspy.BaseLM):
    """An LM that asks OpenAI's client, and keeps the answers in DSPy's cache as dicts or as objects."""

    def __init__(self, provider: LoopbackProvider, *, as_dicts: bool) -> None:
        super().__init__("openai/gpt-4o-mini")
        self.client = openai.OpenAI(base_url=provider.url, api_key="loopback", max_retries=0)
        self.as_dicts = as_dicts
        self.asked = 0

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.asked += 1
        request = {"prompt": prompt, "number": self.asked}
        found = dspy.cache.get(request=request, ignored_args_for_cache_key=IGNORED)
        if found is None:
            found = self.client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": prompt}]
            )
            if self.as_dicts:
                found = found.model_dump()
            dspy.cache.put(request, found, IGNORED)
            return self.answer(found)
        return self.answer(found, cache_hit=True)

    def answer(self, found: Any, **more: Any) -> Any:
        if not self.as_dicts:
            return found
        message = SimpleNamespace(content=found["choices"][0]["message"]["content"], role="assistant", tool_calls=None)
        usage = {} if more else found["usage"]
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage=usage, model="gpt-4o-mini", **more)


@pytest.mark.parametrize("cache", ["memory", "disk"], indirect=True)
@pytest.mark.parametrize("as_dicts", [True, False])
def test_an_lm_that_looks_into_the_cache_itself(provider: LoopbackProvider, cache: Any, as_dicts: bool) -> None:
    """The second answer is a cached call. It saves what the first one spent, but DSPy hides that of an object on disk."""
    lm = Caching(provider, as_dicts=as_dicts)
    with token_scope("first") as first:
        lm("Why?")
    with token_scope("again") as again:
        assert lm("Why?")
    is_known = as_dicts or cache.enable_memory_cache

    assert (2, 1) == (lm.asked, provider.total.calls)
    assert tokens(provider.total) == tokens(first.usage)
    assert (1, 1, 0) == (again.usage.calls, again.usage.cached_calls, again.usage.total_tokens)
    assert (provider.total.total_tokens if is_known else 0) == again.usage.saved_tokens
    assert (first.usage.cost if is_known else 0) == again.usage.saved_cost


def test_looking_into_the_cache_outside_of_a_call(cache: Any) -> None:
    """A program that looks into the cache gets what is there, and no call is counted."""
    cache.put({"prompt": "Why?"}, {"usage": {"prompt_tokens": 3}})
    with token_scope("run") as run:
        assert {"usage": {"prompt_tokens": 3}} == dspy.cache.get({"prompt": "Why?"})
        assert dspy.cache.get({"prompt": "How?"}) is None
    assert 0 == run.usage.calls


class Cached(dspy.BaseLM):
    """An LM all of whose answers are in the cache."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        dspy.cache.get({"prompt": prompt})
        message = SimpleNamespace(content="blue", role="assistant", tool_calls=None)
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage={}, model="cached", cache_hit=True)


def test_one_request_that_the_cache_answers(provider: LoopbackProvider, cache: Any) -> None:
    """A call is a cached one if the cache has answered its only request, though the LM has code of its own."""

    class Own(dspy.LM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return super().forward(prompt=prompt, messages=messages, **kwargs)

    lm = Own("openai/gpt-4o-mini", api_base=provider.url, api_key="none", num_retries=0)
    lm("Why?")
    with token_scope("again") as again:
        lm("Why?")
    assert (1, 1, 0) == (again.usage.calls, again.usage.cached_calls, again.usage.total_tokens)
    assert provider.total.total_tokens == again.usage.saved_tokens


def test_a_cached_text(cache: Any) -> None:
    """What is kept without its usage is a cached call that saves nothing that is known."""
    cache.put({"prompt": "Why?"}, "blue")
    with token_scope("run") as run:
        Cached("openai/cached")("Why?")
    assert (1, 1, 0, 0) == (run.usage.calls, run.usage.cached_calls, run.usage.total_tokens, run.usage.saved_tokens)


def test_what_is_no_count_in_a_cached_answer(cache: Any) -> None:
    """An invalid count of a cached answer is a warning that names the model, and saves nothing."""
    forget_warnings()
    cache.put({"prompt": "Why?"}, {"usage": {"prompt_tokens": "three", "completion_tokens": 4}})
    with token_scope("run") as run, pytest.warns(TokenScopeWarning, match="prompt_tokens of openai/cached"):
        Cached("openai/cached")("Why?")
        assert (1, 1, 0, 4) == (run.usage.calls, run.usage.cached_calls, run.usage.total_tokens, run.usage.saved_tokens)
