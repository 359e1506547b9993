"""The time that tokenscope adds to a `dspy.Predict` whose language model answers at once."""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter, thread_time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import dspy.clients.base_lm
import pytest
from dspy.utils.callback import BaseCallback

import tokenscope
from benchmarks.ratios import Ratios, Run, micros, quiet
from tokenscope import token_scope
from tokenscope._providers.prompts import adapter_prompts, meter, tokenizers
from tokenscope._scopes.event_log import drain
from tokenscope._scopes.process import STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
NUMBER = 20  # calls per round
QUESTION = "What is six times seven?"


class Response(SimpleNamespace):
    """An answer in the shape of OpenAI's chat completions."""


class Instant(dspy.BaseLM):
    """A language model that answers at once, and bills the same input for each call."""

    input_tokens = 90

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        message = SimpleNamespace(content="[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]", tool_calls=None)
        return Response(
            model="instant",
            choices=[SimpleNamespace(index=0, finish_reason="stop", message=message)],
            usage={
                "prompt_tokens": self.input_tokens,
                "completion_tokens": 10,
                "total_tokens": self.input_tokens + 10,
            },
        )


class Empty(BaseCallback):
    """A callback that does nothing."""


@contextlib.contextmanager
def without_tokenscope() -> Iterator[None]:
    tokenscope.uninstrument()
    try:
        yield
    finally:
        tokenscope.instrument()


@contextlib.contextmanager
def measuring_prompts() -> Iterator[None]:
    tokenscope.instrument(prompt_parts=True)
    try:
        yield
    finally:
        tokenscope.instrument(prompt_parts=False)


def calls(
    lm: dspy.BaseLM,
    *contexts: Any,
    around: Any = contextlib.nullcontext,
    predict: Any = None,
    question: Callable[[int], str] = f"{QUESTION} {{}}".format,
) -> Run:
    """Return a run of predictions inside new `contexts` for each round, and each in a new `around`."""
    predict = predict or dspy.Predict("question -> answer")
    numbers = itertools.count()

    def timed() -> float:
        questions = [question(next(numbers)) for _ in range(2 * NUMBER)]
        for history in (lm.history, predict.history, dspy.clients.base_lm.GLOBAL_HISTORY):
            history.clear()  # otherwise histories grow, and garbage collections take longer each round
        with contextlib.ExitStack() as stack:
            for context in contexts:
                entered: AbstractContextManager[Any] = context()
                stack.enter_context(entered)
            # Python adapts to patches that were just applied, which a program does once.
            for each in questions[:NUMBER]:
                predict(question=each)
            drain()
            before = perf_counter()
            for each in questions[NUMBER:]:
                with around():
                    predict(question=each)
            drain()  # the time includes the work that tokenscope put off
            return (perf_counter() - before) / NUMBER

    return timed


def test_what_is_added_to_a_prediction(ratios: Ratios) -> None:
    """tokenscope adds at most 1.3 times as much as `track_usage`, or 7%. With a scope per call: 2.2 times, or 12%."""
    lm = Instant("instant")

    def settings(**kwargs: Any) -> Any:
        return lambda: dspy.context(lm=lm, **kwargs)

    def scope() -> token_scope:
        return token_scope("run")

    names = ["tokenscope, in a scope", "tokenscope, a scope each", "tokenscope, no scope", "one empty DSPy callback"]
    in_a_scope, plain, tracked, each, no_scope, callback = map(
        quiet,
        ratios.side_by_side(
            calls(lm, settings(), scope),
            calls(lm, settings(), scope, without_tokenscope),
            calls(lm, settings(track_usage=True), scope, without_tokenscope),
            calls(lm, settings(), around=scope),
            calls(lm, settings()),
            calls(lm, settings(callbacks=[Empty()]), scope, without_tokenscope),
            rounds=400,
        ),
    )
    reference = f"dspy.Predict alone, {micros(plain)}"
    track_usage = tracked - plain
    ratios.line(
        "added by DSPy's track_usage", micros(track_usage), reference, 100 * track_usage / plain, form="{:.1f}%"
    )
    bounds = [(1.3, 7.0), (2.2, 12.0), (None, None), (None, None)]
    for name, theirs, (times, percent) in zip(names, (in_a_scope, each, no_scope, callback), bounds, strict=True):
        added = theirs - plain
        at_most = None if times is None else max(percent, 100 * times * track_usage / plain)
        ratios.line(f"added by {name}", micros(added), reference, 100 * added / plain, at_most=at_most, form="{:.1f}%")


def partly_new() -> tuple[dspy.Predict, Callable[[int], str]]:
    """Return a predictor with instructions and demos, and questions that differ at their ends."""
    predict = dspy.Predict(dspy.Signature("question -> answer", "Answer in one word. " * 60))
    predict.demos = [dspy.Example(question=f"{QUESTION} {n} " * 8, answer="42") for n in range(8)]
    passage = "A passage of a report, in which the answer may stand or not. " * 62
    return predict, lambda number: f"{passage} {number}"


def all_new() -> tuple[dspy.Predict, Callable[[int], str]]:
    """Return a predictor without either, and questions that have nothing but words in common."""
    words = Path(dspy.__file__).with_name("primitives").joinpath("module.py").read_text("utf-8").split()
    return dspy.Predict("question -> answer"), lambda number: " ".join(random.Random(number).choices(words, k=990))


@pytest.mark.parametrize(("prompts", "at_most"), [(partly_new, 25), (all_new, None)])
def test_what_measuring_prompts_adds(
    prompts: Callable[[], tuple[dspy.Predict, Callable[[int], str]]], at_most: float | None, ratios: Ratios
) -> None:
    """Measuring a prompt of 2,000 tokens, a third of which differs from call to call, adds at most 25% to a prediction."""
    predict, question = prompts()
    lm = Instant("openai/gpt-4o-mini")
    lm.input_tokens = billed(predict, question(0))
    assert 1_900 <= lm.input_tokens <= 2_300

    def settings() -> Any:
        return dspy.context(lm=lm)

    with_parts, without = map(
        quiet,
        ratios.side_by_side(
            calls(lm, settings, scope_of_run, measuring_prompts, predict=predict, question=question),
            calls(lm, settings, scope_of_run, predict=predict, question=question),
            rounds=200,
        ),
    )
    added = with_parts - without
    reference = f"dspy.Predict of {lm.input_tokens:,} tokens in a scope, {micros(without)}"
    what = f"added by measuring prompts, {prompts.__name__.replace('_', ' ')}"
    ratios.line(what, micros(added), reference, 100 * added / without, at_most=at_most, form="{:.1f}%")


def test_how_long_calls_wait_for_measuring(ratios: Ratios) -> None:
    """What a call waits before it is sent, in processor time: the first one of a predictor, the first eight, and later ones."""
    lm = Instant("openai/gpt-4o-mini")
    waits: list[list[float]] = []

    def run() -> None:
        with measuring_prompts(), dspy.context(lm=lm), scope_of_run():
            tokenizers.load(tokenizers.O200K)
            read = STATE.read_prompt

            def timed(*arguments: Any) -> Any:
                before = thread_time()
                try:
                    return read(*arguments)
                finally:
                    waits[-1].append(thread_time() - before)

            STATE.read_prompt = timed
            for _ in range(12):
                meter.forget()
                adapter_prompts.forget()
                waits.append([])
                predict, question = partly_new()
                for number in range(100):
                    predict(question=question(number))

    ratios.once(run)
    for what, some in (
        ("the very first call", [each[0] for each in waits]),
        ("the other ones of the first eight", [wait for each in waits for wait in each[1:8]]),
        ("later calls", [wait for each in waits for wait in each[70:]]),
    ):
        reference = f"waits before {what}, 95th percentile {micros(statistics.quantiles(some, n=20)[-1])}"
        ratios.line(
            "measuring a prompt of 2,000 tokens",
            micros(statistics.median(some)),
            reference,
            max(some) * 1e3,
            form="{:.2f} ms at most",
        )


def billed(predict: dspy.Predict, question: str) -> int:
    """Return how many tokens a prompt has."""
    tokenizer = tokenizers.O200K
    tokenizers.load(tokenizer)
    messages = dspy.ChatAdapter().format(predict.signature, predict.demos, {"question": question})
    return sum(round(tokenizers.loaded(tokenizer).read(message["content"])) for message in messages)


def scope_of_run() -> token_scope:
    """Return a scope for one round."""
    return token_scope("run")


def test_usage_is_what_the_model_says(ratios: Ratios) -> None:
    """tokenscope counts every call of a run."""

    def run() -> Any:
        lm = Instant("instant")
        with token_scope("run") as scope:
            calls(lm, lambda: dspy.context(lm=lm))()
        return scope.usage

    usage = ratios.once(run)
    assert (usage.calls, usage.total_tokens) == (2 * NUMBER, 100 * 2 * NUMBER)
