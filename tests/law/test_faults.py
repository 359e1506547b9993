"""A provider goes down, or hangs up during a stream: tokenscope counts the tokens that were billed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import dspy
import openai
import pytest
from dspy.utils.callback import BaseCallback
from support.dspy_support import DSPY, ENGINES, tokens

import tokenscope
from tokenscope import Usage, record_stream, token_scope
from tokenscope.testing import LoopbackProvider
from tokenscope.testing.provider import _Handler

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(params=ENGINES)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the arguments that make an LM use each engine."""
    return {"engine": "litellm"} if DSPY >= (3, 4) and request.param == "litellm" else {}


class Witness(BaseCallback):  # type: ignore[misc]
    """Collects the failed LM calls that DSPy reports to its callbacks."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        if exception is not None:
            self.failed.append(type(exception).__name__)


def with_and_without(work: Callable[[], Any]) -> tuple[Any, Any]:
    """Return the result of some work without tokenscope, and the result with it."""
    tokenscope.uninstrument()
    try:
        without = work()
    finally:
        tokenscope.instrument()
    return without, work()


# -- a provider that goes down ---------------------------------------------------------------------------------------------

ANSWERED = 7
ASKED = 20


class Failing(LoopbackProvider):
    """A provider that answers `ANSWERED` requests, and then hangs up or is shut down."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.asked = 0

    def failure(self, prompt: str, tag: str) -> int | None:
        """Hang up without billing the request if enough requests were answered."""
        with self._lock:
            self.asked += 1
            asked = self.asked
        if asked == ANSWERED + 1 and self.how == "shut down":
            self._server.shutdown()
            self._server.server_close()
        if asked > ANSWERED:
            raise ConnectionAbortedError
        return super().failure(prompt, tag)


def evaluate(predict: Any) -> Any:
    """Return the score, and how many examples got an answer."""
    examples = [dspy.Example(question=f"Why {n}?").with_inputs("question") for n in range(ASKED)]
    metric = lambda example, prediction, trace=None: bool(prediction.answer)  # noqa: E731
    evaluation = dspy.Evaluate(devset=examples, metric=metric, num_threads=4, max_errors=1_000, display_progress=False)
    result = evaluation(predict)
    return result.score, Counter(bool(score) for _, _, score in result.results)


def gather(predict: Any) -> Any:
    """Return how many requests ended with each type of result or exception."""

    async def main() -> Any:
        asking = (predict.acall(question=f"Why {n}?") for n in range(ASKED))
        return await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 60)

    return Counter(type(each).__name__ for each in asyncio.run(main()))


@pytest.mark.parametrize("how", ["hangs up", "shut down"])
@pytest.mark.parametrize("way", [evaluate, gather], ids=lambda way: way.__name__)
def test_a_provider_that_goes_down_half_way(settings, way, how):
    """Answered requests are counted, others are failed calls, and the program goes on with another provider."""

    def work() -> Any:
        witness = Witness()
        predict = dspy.Predict("question -> answer")
        with Failing(how) as down, LoopbackProvider() as other, token_scope("run") as run:
            with dspy.context(lm=down.lm(**settings), callbacks=[witness]):
                outcome = way(predict)
            with dspy.context(lm=other.lm(**settings)):
                outcome = outcome, predict(question="And now?").answer
        return outcome, witness, down.total, other.total, run.report()

    (without, *_), (outcome, witness, down, other, report) = with_and_without(work)

    assert without == outcome
    assert (ANSWERED, 1) == (down.calls, other.calls)
    assert tokens(down + other) == tokens(report.total)
    assert ASKED - ANSWERED <= len(witness.failed) == report.total.failed_calls
    assert ANSWERED + 1 + len(witness.failed) == report.total.calls
    waste = report.waste()["Predict(question -> answer)"]
    assert ["provider_errors"] == [reason for reason, _ in waste.reasons()]
    assert Usage(calls=len(witness.failed), failed_calls=len(witness.failed)) == waste.provider_errors


# -- a stream that is cut ----------------------------------------------------------------------------------------------------


class _Cutting(_Handler):
    def _events(self, events: list[str]) -> None:
        provider: Any = self.server.provider
        if not provider.cuts:
            super()._events(events)
            return
        provider.cut += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", "1000000")  # longer than the content, so that the stream ends too early
        self.end_headers()
        for number, event in enumerate(events[:4]):
            piece = {**json.loads(event), **provider.told(number)}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.close_connection = True


class Cutting(LoopbackProvider):
    """A provider that hangs up after four pieces of a stream if `cuts` is set.

    If `tells` is set, each piece has the usage so far.
    """

    def __init__(self, *, tells: bool = False) -> None:
        super().__init__()
        self._server.RequestHandlerClass = _Cutting
        self.tells = tells
        self.cuts = False
        self.cut = 0

    def told(self, number: int) -> dict[str, Any]:
        """Return the usage that a piece of a stream holds beside its text, if any."""
        return {"usage": {"prompt_tokens": 90, "completion_tokens": number}} if self.tells else {}


def leaves(error: BaseException) -> list[str]:
    """Return the class names of an exception and of the exceptions that it groups."""
    inner: Any = getattr(error, "exceptions", ())
    return [type(error).__name__, *(name for each in inner for name in leaves(each))]


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "sync"])
def test_a_streamed_program_whose_connection_is_cut(settings, asynchronous):
    """A streamed program fails as without tokenscope. Each request that was cut is one failed call."""

    def work() -> Any:
        witness = Witness()
        listener = dspy.streaming.StreamListener(signature_field_name="answer", allow_reuse=True)
        with (
            Cutting() as provider,
            token_scope("run") as run,
            dspy.context(lm=provider.lm(**settings), callbacks=[witness]),
        ):
            predict = dspy.Predict("question -> answer")
            program = dspy.streamify(predict, stream_listeners=[listener], is_async_program=asynchronous)

            async def consume() -> Any:
                return [type(chunk).__name__ async for chunk in program(question="Why?")]

            def once() -> Any:
                return asyncio.run(asyncio.wait_for(consume(), 60))

            outcome = [once()]
            before = provider.total
            provider.cuts = True
            with pytest.raises(Exception) as caught:
                once()
            provider.cuts = False
            outcome += [leaves(caught.value), once()]
        return outcome, witness, before, provider.cut, run.report()

    (without, *_), (outcome, witness, before, cut, report) = with_and_without(work)

    assert without == outcome
    assert 1 <= cut == len(witness.failed) == report.total.failed_calls
    assert 2 + cut == report.total.calls
    assert tokens(before + before) == tokens(report.total)
    assert cut == report.waste().total.provider_errors.calls


@pytest.mark.parametrize("told", ["nothing", "so far"])
@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "sync"])
def test_a_stream_of_a_client_that_is_cut(asynchronous, told):
    """`record_stream` passes on the same pieces and the same error, and counts one failed call."""
    asked: Any = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    def consume(url: str, wrap: Callable[[Any], Any]) -> Any:
        pieces: list[Any] = []

        async def consume_async() -> None:
            async with openai.AsyncOpenAI(base_url=url, api_key="loopback", max_retries=0, timeout=60) as client:
                async for piece in wrap(await client.chat.completions.create(**asked)):
                    pieces.append(piece)

        def consume_sync() -> None:
            with openai.OpenAI(base_url=url, api_key="loopback", max_retries=0, timeout=60) as client:
                for piece in wrap(client.chat.completions.create(**asked)):
                    pieces.append(piece)

        with pytest.raises(Exception) as caught:
            asyncio.run(consume_async()) if asynchronous else consume_sync()
        return [piece.choices[0].delta.content for piece in pieces], type(caught.value), str(caught.value)

    with Cutting(tells=told == "so far") as provider, token_scope("run") as run:
        provider.cuts = True
        without = consume(provider.url, lambda stream: stream)
        found = consume(provider.url, record_stream)

    assert without == found
    assert 4 == len(found[0])
    report = run.report()
    assert (1, 1) == (report.total.calls, report.total.failed_calls)
    assert ((90, 3, 0, 0) if told == "so far" else (0, 0, 0, 0)) == tokens(report.total)
    assert ["openai/gpt-4o-mini"] == list(report.by_model())
