"""Faults of tokenscope's own hooks of DSPy, and unusual programs: these go on as without tokenscope."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import DSPY

from tokenscope import token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations.dspy import attempts, cache_hits, forward, lm_calls, modules, service
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


def ask(provider: LoopbackProvider) -> str:
    """Ask a module."""
    with dspy.context(lm=provider.lm()):
        return str(dspy.Predict("question -> answer")(question="Why?").answer)


def ask_again(provider: LoopbackProvider) -> str:
    """Ask the same twice, so that DSPy's cache answers the second time."""
    with dspy.context(lm=provider.lm(cache=True)):
        question = f"Why {id(provider)}?"
        answers = [str(dspy.Predict("question -> answer")(question=question).answer) for _ in range(2)]
    return answers[1]


def try_again(provider: LoopbackProvider) -> str:
    """Make two attempts."""
    with dspy.context(lm=provider.lm()):
        best = dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=lambda *_: 0.0, threshold=1.0)
        return str(best(question="Why?").answer)


def ask_the_faster(provider: LoopbackProvider) -> str:
    """Ask twice at once, take the answer that comes first, and wait for the other one."""
    pool = ThreadPoolExecutor(2)

    class Hedging(dspy.LM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            ask = super().forward
            asks = [
                pool.submit(ask, messages=[{"role": "user", "content": f"Why? <<wait {seconds}>>"}])
                for seconds in (0, 0.3)
            ]
            return asks[0].result()

    with pool:
        lm = Hedging("openai/gpt-4o-mini", api_base=provider.url, api_key="none", num_retries=0, cache=False)
        return str(lm("Why?")[0])


def ask_through_another(provider: LoopbackProvider) -> str:
    """Ask an LM that asks another one twice, by `forward`."""
    inner = provider.lm()

    class Router(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            inner.forward(prompt=prompt, messages=messages)
            return inner.forward(prompt=prompt, messages=messages)

    return str(Router("router")("Why?")[0])


FAULTS = {
    "naming a DSPy module": (modules, "frames_of", ask),
    "reading what a cache hit saved": (cache_hits, "_usage_of_hit", ask_again),
    "reading what attempts have spent": (attempts.Attempts, "conclude", try_again),
    "reading which service was used": (service, "terms_of", ask),
    "counting a request that outlived its LM call": (forward, "record", ask_the_faster),
    "counting a call": (lm_calls.CallTracker, "_count_nested", ask_through_another),
    "reading what a request has spent": (lm_calls, "read_counts", ask_through_another),
}


@pytest.mark.parametrize("place", FAULTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_fault_is_one_warning(place: str, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault is a warning that names where it was, with its traceback. The program gets its answer."""
    owner, name, program = FAULTS[place]
    work: Callable[[LoopbackProvider], str] = program
    expected = work(provider)
    forget_warnings()
    monkeypatch.setattr(owner, name, lambda *arguments, **keywords: 1 / 0)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning) as caught, token_scope("run"):
        assert expected == work(provider)

    said = [str(each.message) for each in caught if each.category is TokenScopeWarning]
    assert [f"tokenscope could not do its work in {place};"] == [
        each.partition(" your program")[0] for each in said if f"in {place}" in each
    ]
    assert all("ZeroDivisionError" in each for each in said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_module_that_cannot_be_named(provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose name cannot be found is named by its class."""
    monkeypatch.setattr(modules, "frames_of", lambda *arguments: 1 / 0)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    forget_warnings()
    with pytest.warns(TokenScopeWarning), token_scope("run") as run:
        ask(provider)
    assert ["Predict"] == [node.name for node in run.report().tree().children]


@pytest.mark.skipif(DSPY < (3, 4), reason="the arguments of DSPy 3.4")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_adapter_that_fails_to_parse_twice(provider: LoopbackProvider) -> None:
    """An answer that an adapter of a program's own cannot parse, and tries again, is wasted once."""

    class Twice(dspy.ChatAdapter):  # type: ignore[misc]
        def _call_postprocess(self, *arguments: Any, **keywords: Any) -> Any:
            try:
                return super()._call_postprocess(*arguments, **keywords)
            except Exception:
                return super()._call_postprocess(*arguments, **keywords)

    adapter = Twice(use_json_adapter_fallback=False)
    with dspy.context(lm=provider.lm(), adapter=adapter), token_scope("run") as run:
        with pytest.raises(Exception, match="parse"):
            dspy.Predict("question -> answer")(question="Why? <<garble>>")
    wasted = run.report().waste().total.failed_parses
    assert 1 == run.usage.calls == wasted.calls
    assert provider.total.total_tokens == wasted.total_tokens


@pytest.mark.skipif(DSPY < (3, 4), reason="the arguments of DSPy 3.4")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_adapter_that_parses_twice(provider: LoopbackProvider) -> None:
    """An adapter of a program's own may parse an answer again, and gets what DSPy's returns."""

    class Twice(dspy.ChatAdapter):  # type: ignore[misc]
        def _call_postprocess(self, *arguments: Any, **keywords: Any) -> Any:
            *others, settings = arguments
            first = super()._call_postprocess(*others, lm_kwargs=settings, **keywords)
            assert first == super()._call_postprocess(*others, lm_kwargs=settings, **keywords)
            return first

    with dspy.context(lm=provider.lm(), adapter=Twice()), token_scope("run") as run:
        assert dspy.Predict("question -> answer")(question="Why?").answer
    assert 1 == run.usage.calls
    assert not run.report().waste()


@pytest.mark.skipif(DSPY < (3, 2), reason="DSPy itself fails without usage")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_response_without_usage() -> None:
    """A response that has no usage at all is a call that has spent nothing."""

    class Silent(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            choice = SimpleNamespace(message=SimpleNamespace(content="blue"), finish_reason="stop")
            return SimpleNamespace(choices=[choice], model="silent", _hidden_params={})

    with token_scope("run") as run:
        assert ["blue"] == Silent("silent")("Why?")
    assert (1, 0, 0) == (run.usage.calls, run.usage.total_tokens, run.usage.failed_calls)


@pytest.mark.skipif(DSPY < (3, 4), reason="the responses of DSPy 3.4")
@pytest.mark.parametrize("by_keyword", [True, False])
def test_usage_that_a_program_reads_itself(provider: LoopbackProvider, by_keyword: bool) -> None:
    """DSPy's function that reads a response gets its arguments as they were given."""
    from dspy.clients.call_result import usage_dict

    usage = dspy.lm15.Usage(input_tokens=3, output_tokens=4, cache_read_tokens=20, total_tokens=7)
    response = SimpleNamespace(usage=usage, provider_data={})
    found = usage_dict(response, provider="anthropic") if by_keyword else usage_dict(response, "anthropic")
    assert 23 == found["prompt_tokens"]
    assert 3 == usage_dict(response)["prompt_tokens"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_response_that_a_program_reads_itself() -> None:
    """DSPy's method that reads a response can be called outside of a call, and nothing is counted."""
    choice = SimpleNamespace(message=SimpleNamespace(content="blue", tool_calls=None), finish_reason="stop")
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    response = SimpleNamespace(choices=[choice], usage=usage, model="own", _hidden_params={})
    lm = dspy.BaseLM("own")
    with token_scope("run") as run:
        assert ["blue"] == lm._process_lm_response(response, "Why?", None, top_p=0.5)
    assert 0 == run.usage.calls
    assert ({"top_p": 0.5}, "Why?") == (lm.history[-1]["kwargs"], lm.history[-1]["prompt"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_model_without_a_name() -> None:
    """An LM of a program's own that has no model is counted under the name of its class."""

    class Nameless(dspy.BaseLM):  # type: ignore[misc]
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            choice = SimpleNamespace(message=SimpleNamespace(content="blue"), finish_reason="stop")
            usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
            return SimpleNamespace(choices=[choice], usage=usage, model="", _hidden_params={})

    with token_scope("run") as run:
        Nameless("")("Why?")
    assert ["Nameless"] == list(run.report().by_model())
    assert 4 == run.usage.total_tokens
