"""The programs. Each opens scopes, in which it asks an LM. What is asked in the scope `a/b` is billed as `a/b`.

A scenario with one scope is compared with the whole bill of its server, and one with several with the bill of each scope and
those below it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import dspy


class Run(NamedTuple):
    """What a scenario works with: the tool's scope, the LM, and another LM whose answers DSPy caches."""

    scope: Callable[[str], AbstractContextManager[Any]]
    lm: Any
    cached_lm: Any
    url: str


class Answer(dspy.Module):
    """Thinks first, then writes the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.thinker = dspy.ChainOfThought("question -> plan")
        self.writer = dspy.Predict("question, plan -> answer")

    def forward(self, question: str) -> Any:
        """Answer a question."""
        return self.writer(question=question, plan=self.thinker(question=question).plan)

    async def aforward(self, question: str) -> Any:
        """Answer a question."""
        thought = await self.thinker.acall(question=question)
        return await self.writer.acall(question=question, plan=thought.plan)


QUESTIONS = [f"Question {number}?" for number in range(6)]
EXAMPLES = [dspy.Example(question=question).with_inputs("question") for question in QUESTIONS]


def full_marks(*_: Any) -> float:
    return 1.0


def module(run: Run) -> None:
    with run.scope("all"):
        Answer()(question="Why?")


def nested_scopes(run: Run) -> None:
    with run.scope("outer"):
        Answer()(question="Why? <<bill outer>>")
        for name in ("outer/first", "outer/second"):
            with run.scope(name):
                Answer()(question=f"Why not? <<bill {name}>>")


def direct_call(run: Run) -> None:
    with run.scope("all"):
        run.lm("Why?")


def failed_parse(run: Run) -> None:
    with run.scope("all"), contextlib.suppress(Exception):
        Answer()(question="Why? <<garble>>")


def second_attempt(run: Run) -> None:
    with run.scope("all"):
        dspy.Predict("question -> answer")(question="Why? <<garble once>>")


def cache_hit(run: Run) -> None:
    with run.scope("all"), dspy.context(lm=run.cached_lm):
        for _ in range(2):
            dspy.Predict("question -> answer")(question=f"Why, at {run.url}?")


def tasks(run: Run) -> None:
    async def task(name: str) -> None:
        with run.scope(name):
            await Answer().acall(question=f"Why? <<wait 0.1>> <<bill {name}>>")

    async def together() -> None:
        with run.scope("all"):
            await asyncio.gather(*(task(f"all/{number}") for number in range(4)))

    asyncio.run(together())


def stream(run: Run) -> None:
    async def collect() -> None:
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        async for _ in dspy.streamify(Answer(), stream_listeners=[listener])(question="Why?"):
            pass

    with run.scope("all"):
        asyncio.run(collect())


def generator(run: Run) -> None:
    def answers() -> Iterator[Any]:
        with run.scope("all/producer"):
            for _ in range(2):
                yield Answer()(question="Why? <<bill all/producer>>")

    with run.scope("all"):
        for _ in answers():
            dspy.Predict("question -> answer")(question="And then? <<bill all>>")


def pool(run: Run) -> None:
    program = Answer()
    with run.scope("all"), ThreadPoolExecutor(3) as executor:
        list(executor.map(lambda question: program(question=question), QUESTIONS))


def scopes_in_threads(run: Run) -> None:
    def work(number: int) -> None:
        with run.scope(f"thread {number}"):
            Answer()(question=f"Why? <<wait 0.1>> <<bill thread {number}>>")

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, range(4)))


def parallel(run: Run) -> None:
    program = Answer()
    with run.scope("all"):
        dspy.Parallel(num_threads=3, disable_progress_bar=True)([(program, example) for example in EXAMPLES])


def evaluate(run: Run) -> None:
    judge = dspy.Predict("answer -> verdict")

    def metric(_: Any, prediction: Any, *__: Any) -> bool:
        return bool(judge(answer=prediction.answer))

    with run.scope("all"):
        dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=4, display_progress=False)(Answer())


def best_of_n(run: Run) -> None:
    with run.scope("all"):
        dspy.BestOfN(module=Answer(), N=3, reward_fn=full_marks, threshold=2.0)(question="Why?")


def few_shot(run: Run) -> None:
    with run.scope("all"):
        dspy.BootstrapFewShot(metric=full_marks, max_bootstrapped_demos=2).compile(Answer(), trainset=EXAMPLES)


def random_search(run: Run) -> None:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=full_marks, max_bootstrapped_demos=1, num_candidate_programs=1, num_threads=2
    )
    with run.scope("all"):
        optimizer.compile(Answer(), trainset=EXAMPLES[:3])


def embedder(run: Run) -> None:
    with run.scope("all"):
        dspy.Embedder("openai/text-embedding-3-small", api_base=run.url, api_key="none", caching=False)(QUESTIONS)


SCENARIOS: dict[str, Callable[[Run], None]] = {
    "a module of two predictors": module,
    "scopes inside a scope": nested_scopes,
    '`lm("…")`, outside of any module': direct_call,
    "answers that no adapter can parse": failed_parse,
    "an answer that is parsed at the second attempt": second_attempt,
    "a question whose answer DSPy's cache repeats": cache_hit,
    "four tasks at once, a scope in each": tasks,
    "`dspy.streamify`, with a listener": stream,
    "a generator with a scope, and calls of its consumer": generator,
    "a `ThreadPoolExecutor` inside a scope": pool,
    "four threads at once, a scope in each": scopes_in_threads,
    "`dspy.Parallel`": parallel,
    "`dspy.Evaluate`, and a judge in the metric": evaluate,
    "`dspy.BestOfN`, three attempts": best_of_n,
    "`BootstrapFewShot`": few_shot,
    "`BootstrapFewShotWithRandomSearch`, two threads": random_search,
    "`dspy.Embedder`": embedder,
}
