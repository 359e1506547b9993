"""An LM call inside an LM call: all that is spent is counted once and reserved; what is only handed on is not counted again."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import openai
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM
from support.dspy_support import DSPY, tokens

import tokenscope
from tokenscope import Budget, token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUESTION = "Is it?"  # one question for all: so all calls spend the same, and numbers tell nothing


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


class Judging(BaseCallback):
    """A callback that asks an LM about each call of another one, when that begins or ends."""

    def __init__(self, lm: Any, when: str) -> None:
        self.lm, self.when = lm, when
        self.is_busy = False

    def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self.ask("start")

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self.ask("end")

    def ask(self, when: str) -> None:
        if when == self.when and not self.is_busy:
            self.is_busy = True
            try:
                self.lm(QUESTION)
            finally:
                self.is_busy = False


class Drafting(dspy.LM):
    """An LM that asks another one for a draft, and then DSPy's own client."""

    draft: Any

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.draft(QUESTION)
        return super().forward(prompt=prompt, messages=messages, **kwargs)


class Signalled(Drafting):
    """An LM during whose request a signal handler asks another one."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return dspy.LM.forward(self, prompt=prompt, messages=messages, **kwargs)


class OwnClient(dspy.BaseLM):
    """An LM that asks another one for a draft, and then OpenAI's client, which no patch sees."""

    def __init__(self, provider: LoopbackProvider) -> None:
        super().__init__("openai/gpt-4o-mini")
        self.client = openai.OpenAI(base_url=provider.url, api_key="loopback", max_retries=0)
        self.draft = provider.lm()

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.draft(QUESTION)
        return self.client.chat.completions.create(
            model="gpt-4o-mini", messages=messages or [{"role": "user", "content": prompt}]
        )


class Router(dspy.BaseLM):
    """An LM that spends nothing itself, and reports what another one has spent."""

    def __init__(self, provider: LoopbackProvider, reports: str) -> None:
        super().__init__("openai/router")
        self.inner = provider.lm()
        self.reports = reports

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if self.reports == "response of forward":
            return self.inner.forward(prompt=prompt, messages=messages)
        if self.reports == "nothing of forward":
            response = self.inner.forward(prompt=prompt, messages=messages)
            return SimpleNamespace(choices=response.choices, usage={}, model="router")
        number = 2 if self.reports in ("sum", "second of two") else 1
        texts = [self.inner(prompt=prompt, messages=messages)[0] for _ in range(number)]
        used = [entry["usage"] for entry in self.inner.history[-number:]]
        usage = {
            "usage": used[-1],
            "second of two": used[-1],
            "copy": dict(used[-1]),
            "nothing": {},
            "sum": {name: sum(each[name] for each in used) for name in ("prompt_tokens", "completion_tokens")},
        }[self.reports]
        message = SimpleNamespace(content=texts[-1], role="assistant", tool_calls=None)
        choice = SimpleNamespace(message=message, finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=usage, model="router")


def judged(provider: LoopbackProvider, when: str) -> Any:
    lm = provider.lm()
    lm.callbacks = [Judging(provider.lm(), when)]
    return lm


def drafting(provider: LoopbackProvider, kind: type[Drafting]) -> Any:
    lm = kind("openai/gpt-4o-mini", api_base=provider.url, api_key="loopback", cache=False, num_retries=0)
    lm.draft = provider.lm()
    return lm


LMS: dict[str, Callable[[LoopbackProvider], Any]] = {
    "judged at its start": lambda provider: judged(provider, "start"),
    "judged at its end": lambda provider: judged(provider, "end"),
    "with a draft": lambda provider: drafting(provider, Drafting),
    "with a draft and a client of its own": OwnClient,
    "interrupted by a signal": lambda provider: drafting(provider, Signalled),
    **{
        f"router with {reports}": lambda provider, reports=reports: Router(provider, reports)
        for reports in ("response of forward", "nothing of forward", "usage", "second of two", "copy", "nothing", "sum")
    },
}


@pytest.fixture(params=LMS)
def lm(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Iterator[Any]:
    made = LMS[request.param](provider)
    before = signal.signal(signal.SIGUSR1, lambda *_: made.draft(QUESTION))
    yield made
    signal.signal(signal.SIGUSR1, before)


def test_all_is_counted_once(lm: Any, provider: LoopbackProvider) -> None:
    """Each request is counted, though all spend the same, and none twice."""
    with token_scope("run") as run:
        for _ in range(3):
            lm(QUESTION)

    assert (provider.total.calls, *tokens(provider.total)) == (run.usage.calls, *tokens(run.usage))


@pytest.mark.parametrize("limit", [2, 3, 4, 5])
def test_all_is_reserved(lm: Any, provider: LoopbackProvider, limit: int) -> None:
    """No more calls are made than a budget allows, and nearly all that it allows can be made."""
    with token_scope("run", budget=Budget(calls=limit, on_exceed="stop")) as run:
        for _ in range(9):
            lm(QUESTION)

    assert run.budget_exceeded
    assert provider.total.calls == run.usage.calls
    assert limit - 1 <= provider.total.calls <= limit


class Plain(dspy.BaseLM):
    """An LM that asks OpenAI's client, and reports numbers alone: no part of its usage can be known again."""

    def __init__(self, provider: LoopbackProvider) -> None:
        super().__init__("openai/gpt-4o-mini")
        self.client = openai.OpenAI(base_url=provider.url, api_key="loopback", max_retries=0)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        messages = messages or [{"role": "user", "content": prompt}]
        response = self.client.chat.completions.create(model="gpt-4o-mini", messages=messages)
        used = response.usage
        counts = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
        message = SimpleNamespace(content=response.choices[0].message.content, role="assistant", tool_calls=None)
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage=counts, model="plain")


class Retelling(dspy.BaseLM):
    """An LM that asks another one, and answers with what DSPy has kept of that call in the other LM's history."""

    def __init__(self, inner: Any, what: str) -> None:
        super().__init__("openai/retelling")
        self.inner, self.what = inner, what

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        texts = self.inner(QUESTION)
        latest = self.inner.history[-1]
        usage = latest["usage"] if self.what == "usage" else latest["response"].usage
        message = SimpleNamespace(content=texts[0], role="assistant", tool_calls=None)
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage=usage, model="retelling")


@pytest.mark.parametrize("what", ["usage", "response"])
def test_what_is_taken_from_a_history(provider: LoopbackProvider, what: str) -> None:
    """What an LM takes out of another one's history is counted once, with the other LM."""
    inner = Plain(provider)
    with token_scope("run") as run:
        for _ in range(2):
            Retelling(inner, what)(QUESTION)

    assert (provider.total.calls, *tokens(provider.total)) == (run.usage.calls, *tokens(run.usage))
    assert ["openai/gpt-4o-mini"] == list(run.report().by_model())


@pytest.mark.skipif(not hasattr(dspy, "lm15"), reason="no engines before DSPy 3.4")
@pytest.mark.parametrize("what", ["response", "usage", "sum", "nothing", "own"])
def test_an_engine_that_asks_other_lms(provider: LoopbackProvider, what: str) -> None:
    """An engine of a program's own may hand on what other LMs have spent, or spend something itself."""

    class Engine:
        def complete(self, request: Any) -> Any:
            for each in inner[: 2 if what in ("sum", "nothing") else 1]:
                each(QUESTION)
            told = [each.history[-1]["response"] for each in inner if each.history]
            if what == "response":
                return told[0]
            usage = told[0].usage
            if what == "sum":
                counts = {
                    name: sum(getattr(each.usage, name) for each in told)
                    for name in ("input_tokens", "output_tokens", "total_tokens")
                }
                usage = dspy.lm15.Usage(**counts)
            elif what == "nothing":
                usage = dspy.lm15.Usage()
            elif what == "own":
                usage = dspy.lm15.Usage(input_tokens=5, output_tokens=3, total_tokens=8)
            message = dspy.lm15.Message.assistant([dspy.lm15.TextPart("yes")])
            return dspy.lm15.Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    inner = [provider.lm("openai/gpt-4o-mini"), provider.lm("openai/gpt-4o")]
    with token_scope("run") as run:
        dspy.LM("openai/engine", engine=Engine(), cache=False)(QUESTION)

    found = {name: usage.total_tokens for name, usage in run.report().by_model().items()}
    own = found.pop("openai/engine", None)
    assert (8 if what == "own" else None) == own
    assert provider.total.total_tokens == sum(found.values())
    assert (2 if what in ("sum", "nothing") else 1) == provider.total.calls


@pytest.mark.parametrize("hands_on", [True, False])
def test_requests_to_another_lm(provider: LoopbackProvider, hands_on: bool) -> None:
    """If an LM makes requests by another one's `forward`, and then spends as much as one of them itself, all is counted."""

    class Requesting(OwnClient):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            first, _ = [other.forward(text) for text in (QUESTION, f"{QUESTION} Or is it not? Tell me more.")]
            return first if hands_on else super().forward(prompt, messages, **kwargs)

    if not hands_on and DSPY < (3, 3):
        pytest.skip("DSPy hands over the usage of requests alone, if there are any")
    other = provider.lm()
    lm = Requesting(provider)
    lm.draft = lambda _: None
    with token_scope("run") as run:
        lm(QUESTION)

    assert (2 if hands_on else 3) == provider.total.calls
    assert (1, *tokens(provider.total)) == (run.usage.calls, *tokens(run.usage))


@pytest.mark.skipif(DSPY < (3, 3), reason="DSPy tracks no usage of an LM of a program's own")
@pytest.mark.parametrize("own", [0, 5])
@pytest.mark.parametrize("around", [contextlib.nullcontext, dspy.track_usage])
def test_an_lm_that_tracks_another(provider: LoopbackProvider, around: Any, own: int) -> None:
    """Numbers that an LM has tracked are the other LM's. If it reports more, it has spent all that it reports itself."""

    class Tracking(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            with dspy.track_usage() as tracker:
                texts = inner(QUESTION)
            usage = dict(tracker.get_total_tokens()[inner.model])
            usage["completion_tokens"] += own
            message = SimpleNamespace(content=texts[0], role="assistant", tool_calls=None)
            choices = [SimpleNamespace(message=message, finish_reason="stop")]
            return SimpleNamespace(choices=choices, usage=usage, model="tracking")

    inner = Plain(provider)
    with around(), token_scope("run") as run:
        Tracking("openai/tracking")(QUESTION)

    spent = provider.total.total_tokens
    assert 1 == provider.total.calls
    assert {"openai/gpt-4o-mini": spent, **({"openai/tracking": spent + own} if own else {})} == {
        name: usage.total_tokens for name, usage in run.report().by_model().items()
    }


def test_an_lm_that_reports_as_much_as_another(provider: LoopbackProvider) -> None:
    """Equal numbers that an LM has not tracked prove nothing: both calls are counted."""

    class Equal(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            texts = inner(QUESTION)
            usage = dict(inner.history[-1]["usage"])
            message = SimpleNamespace(content=texts[0], role="assistant", tool_calls=None)
            choices = [SimpleNamespace(message=message, finish_reason="stop")]
            return SimpleNamespace(choices=choices, usage=usage, model="equal")

    inner = Plain(provider)
    for around in (contextlib.nullcontext(), dspy.track_usage()):
        with around, token_scope("run") as run:
            Equal("openai/equal")(QUESTION)
        assert {"openai/gpt-4o-mini": 1, "openai/equal": 1} == {
            name: usage.calls for name, usage in run.report().by_model().items()
        }


def test_an_lm_without_a_history(provider: LoopbackProvider) -> None:
    """An LM that makes nothing of what DSPy's constructor makes, and asks another one, is a call beside that one."""

    class Minimal(dspy.BaseLM):
        def __init__(self) -> None:
            self.model, self.model_type, self.cache, self.callbacks, self.num_retries = "minimal", "chat", False, [], 0
            self.kwargs: dict[str, Any] = {}

        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            texts = inner(QUESTION)
            message = SimpleNamespace(content=texts[0], role="assistant", tool_calls=None)
            choices = [SimpleNamespace(message=message, finish_reason="stop")]
            usage = {"prompt_tokens": 3, "completion_tokens": 4}
            return SimpleNamespace(choices=choices, usage=usage, model="minimal")

    inner = provider.lm()
    with dspy.context(disable_history=True), token_scope("run") as run:
        Minimal()(QUESTION)
    assert {"minimal": 7, "openai/gpt-4o-mini": provider.total.total_tokens} == {
        name: usage.total_tokens for name, usage in run.report().by_model().items()
    }


def test_a_history_of_earlier_calls(provider: LoopbackProvider) -> None:
    """An LM that keeps no history now, and reports the usage of an earlier call of another one again, has spent that itself."""
    inner = Plain(provider)
    inner(QUESTION)
    with dspy.context(disable_history=True), token_scope("run") as run:
        Retelling(inner, "usage")(QUESTION)

    assert 2 == provider.total.calls
    assert {"openai/gpt-4o-mini": 1, "openai/retelling": 1} == {
        name: usage.calls for name, usage in run.report().by_model().items()
    }


def test_a_failed_call_that_was_judged(provider: LoopbackProvider) -> None:
    """A call that fails after a callback has asked another LM is a failed call, beside that one."""
    lm = judged(provider, "start")
    with token_scope("run") as run, pytest.raises(Exception, match="500"):
        lm(f"{QUESTION} <<fail 500>>")

    assert (2, 1) == (run.usage.calls, run.usage.failed_calls)
    assert tokens(provider.total) == tokens(run.usage)


@pytest.mark.skipif(DSPY < (3, 2), reason="DSPy's dummy is no LM that is called as others are")
def test_a_model_of_dspys_own_that_was_judged(provider: LoopbackProvider) -> None:
    """DSPy's own LMs hand on nothing: one that spends nothing is a call beside that of its judge."""
    lm = DummyLM([{"answer": "yes"}] * 2)
    lm.callbacks = [Judging(provider.lm(), "start")]
    with token_scope("run") as run:
        lm(QUESTION)
    assert 1 == provider.total.calls
    assert (2, *tokens(provider.total)) == (run.usage.calls, *tokens(run.usage))


def test_what_is_no_count_in_a_nested_call(provider: LoopbackProvider) -> None:
    """An invalid count is a warning that names the model of the call."""

    class Odd(Router):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            response = super().forward(prompt, messages, **kwargs)
            response.usage = {"prompt_tokens": "many", "completion_tokens": 5}
            return response

    forget_warnings()
    with token_scope("run") as run, pytest.warns(TokenScopeWarning, match="prompt_tokens of openai/router"):
        Odd(provider, "usage")(QUESTION)
        assert (2, provider.total.total_tokens + 5) == (run.usage.calls, run.usage.total_tokens)


class Touchy:
    """An object that raises when its attributes are looked at, or when it is compared."""

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    def __bool__(self) -> bool:
        raise RuntimeError("asked")


def test_what_cannot_be_looked_at(provider: LoopbackProvider) -> None:
    """Objects of a program's own that raise when they are looked at break nothing, and both calls are counted."""

    class Strange(dspy.BaseLM):
        @property
        def engine(self) -> Any:
            raise RuntimeError("touched")

        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            inner(QUESTION)
            message = SimpleNamespace(content="yes", role="assistant", tool_calls=None)
            choice = SimpleNamespace(message=message, finish_reason="stop")
            usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "extra": Touchy()}
            return SimpleNamespace(choices=[choice], usage=usage, model="strange")

    inner = provider.lm()
    with token_scope("run", budget=Budget(calls=9)) as run:
        assert ["yes"] == [getattr(each, "text", each) for each in Strange("openai/strange")(QUESTION)]

    assert provider.total.calls + 1 == run.usage.calls
    assert provider.total.total_tokens + 8 == run.usage.total_tokens


def test_copies_of_a_tracker_are_one_call(provider: LoopbackProvider) -> None:
    """A worker whose settings are a copy, as DSPy's executor makes them, asks inside the LM call that has started it."""
    from dspy.dsp.utils.settings import thread_local_overrides

    inner = provider.lm()

    def ask(overrides: Any) -> None:
        thread_local_overrides.set(overrides)
        inner(QUESTION)

    class Handing(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            overrides = thread_local_overrides.get()
            overrides = type(overrides)({**overrides, "usage_tracker": copy.deepcopy(overrides["usage_tracker"])})
            contextvars.Context().run(ask, overrides)
            message = SimpleNamespace(content="yes", role="assistant", tool_calls=None)
            choice = SimpleNamespace(message=message, finish_reason="stop")
            return SimpleNamespace(choices=[choice], usage=inner.history[-1]["usage"], model="handing")

    Handing("openai/handing")(QUESTION)

    total = tokenscope.report().total
    assert (provider.total.calls, *tokens(provider.total)) == (total.calls, *tokens(total))
