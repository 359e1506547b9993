"""Ways in which DSPy programs call LMs. Each makes several calls, and many go on after an ordinary exception.

`@way` registers a function that returns another function, which runs the way. Each run does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import pytest

from support.dspy_support import DSPY
from tokenscope import token_scope

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS: dict[str, Callable[[], Callable[[], Any]]] = {}


def way(name: str) -> Any:
    """Register a way under a name."""

    def enter(make: Any) -> Any:
        WAYS[name] = make
        return make

    return enter


# -- programs, LMs and metrics -----------------------------------------------------------------------------------------

predict = dspy.Predict("question -> answer")
swallowing = contextlib.suppress(Exception)


def ask(question: object = "Why?") -> Any:
    return predict(question=str(question))


async def aask(question: object = "Why?") -> Any:
    return await predict.acall(question=str(question))


class Answer(dspy.Module):
    """Two modules below one, and a direct call, each of which may fail."""

    def __init__(self, *, direct: bool = True) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")
        self.review = dspy.Predict("answer -> review")
        self.direct = direct

    def forward(self, question: str) -> Any:
        answer = review = ""
        with swallowing:
            answer = self.think(question=question).answer
        with swallowing:
            review = self.review(answer=answer).review
        with swallowing:
            if self.direct:
                dspy.settings.lm(f"Is it so? {question}")
        return dspy.Prediction(answer=answer, review=review)

    async def aforward(self, question: str) -> Any:
        answer = review = ""
        with swallowing:
            answer = (await self.think.acall(question=question)).answer
        with swallowing:
            review = (await self.review.acall(answer=answer)).review
        return dspy.Prediction(answer=answer, review=review)


class Router(dspy.BaseLM):
    """An LM that spends nothing itself. It asks other LMs: if one fails, it asks the next one."""

    def __init__(self, *lms: Any) -> None:
        super().__init__(model="router")
        self.lms = lms

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        text = ""
        for lm in self.lms:
            with swallowing:
                text = lm(prompt=prompt, messages=messages)[0]
                break
        message = SimpleNamespace(content=text, tool_calls=None)
        return SimpleNamespace(
            choices=[SimpleNamespace(message=message, finish_reason="stop")], usage={}, model="router"
        )


def metric(example: Any, prediction: Any, trace: Any = None) -> float:
    return 1.0


def feedback(example: Any, prediction: Any, trace: Any = None, name: Any = None, named_trace: Any = None) -> Any:
    return dspy.Prediction(score=0.5, feedback="Think harder.")


def examples(number: int) -> list[Any]:
    return [dspy.Example(question=f"Question {n}?", answer="an answer").with_inputs("question") for n in range(number)]


# -- calls one after the other -----------------------------------------------------------------------------------------


@way("sequential")
def sequential() -> Any:
    def run() -> Any:
        for n in range(20):
            with swallowing:
                ask(n)
        return True

    return run


@way("modules")
def modules() -> Any:
    answer = Answer()
    return lambda: [answer(question=f"Question {n}?") for n in range(6)]


@way("direct")
def direct() -> Any:
    return lambda: [dspy.settings.lm(f"Question {n}?") for n in range(20)]


@way("forward")
def forward() -> Any:
    return lambda: [dspy.settings.lm.forward(prompt=f"Question {n}?") for n in range(20)]


@way("acall and aforward")
def aforward() -> Any:
    async def main() -> Any:
        lm = dspy.settings.lm
        return [await lm.aforward(prompt=f"{n}?") for n in range(5)] + [await lm.acall(f"{n}?") for n in range(5)]

    return lambda: asyncio.run(main())


@way("an LM that asks an LM that asks an LM")
def relayed() -> Any:
    answer = Answer()

    def run() -> Any:
        with dspy.context(lm=Router(Router(dspy.settings.lm))):
            return [answer(question=f"Question {n}?") for n in range(6)]

    return run


@way("Embedder")
def embedder() -> Any:
    base = dspy.settings.lm.kwargs["api_base"]
    embed = dspy.Embedder("openai/text-embedding-3-small", api_base=base, api_key="none", caching=False)

    async def main() -> Any:
        return [await embed.acall([f"word {n}"]) for n in range(5)]

    return lambda: [embed([f"word {n}"]) for n in range(5)] + asyncio.run(main())


# -- DSPy's own workers ------------------------------------------------------------------------------------------------


def _parallel(threads: int) -> Any:
    parallel = dspy.Parallel(num_threads=threads, disable_progress_bar=True)
    pairs = [(Answer(), example) for example in examples(8)]
    return lambda: parallel(pairs)


@way("Parallel")
def parallel() -> Any:
    return _parallel(4)


@way("Parallel in 1 thread")
def parallel_in_1_thread() -> Any:
    return _parallel(1)


@way("Parallel in Parallel")
def parallel_in_parallel() -> Any:
    inner = dspy.Parallel(num_threads=2, disable_progress_bar=True)
    outer = dspy.Parallel(num_threads=3, disable_progress_bar=True)

    def fan(question: str) -> Any:
        return inner([(predict, example) for example in examples(4)])

    return lambda: outer([(fan, example) for example in examples(4)])


@way("batch")
def batch() -> Any:
    answer = Answer()
    return lambda: answer.batch(examples(8), num_threads=4, disable_progress_bar=True)


def _evaluate(threads: int) -> Any:
    evaluate = dspy.Evaluate(devset=examples(8), metric=metric, num_threads=threads, display_progress=False)
    answer = Answer()
    return lambda: evaluate(answer)


@way("Evaluate in 1 thread")
def evaluate_in_1_thread() -> Any:
    return _evaluate(1)


@way("Evaluate in 4 threads")
def evaluate_in_4_threads() -> Any:
    return _evaluate(4)


@way("Evaluate with a judge")
def judged() -> Any:
    judge = dspy.Predict("answer -> verdict")

    def judged(example: Any, prediction: Any, trace: Any = None) -> float:
        with swallowing, token_scope("judge"):
            judge(answer=prediction.answer)
        return 1.0

    evaluate = dspy.Evaluate(devset=examples(8), metric=judged, num_threads=4, display_progress=False)
    return lambda: evaluate(predict)


# -- optimizers and agents ---------------------------------------------------------------------------------------------


@way("BootstrapFewShot")
def bootstrap() -> Any:
    optimizer = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=8)
    return lambda: optimizer.compile(Answer(), trainset=examples(8))


@way("BootstrapFewShotWithRandomSearch")
def random_search() -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=2, num_candidate_programs=2, num_threads=2
    )
    return lambda: optimizer.compile(predict.deepcopy(), trainset=examples(4))


@way("MIPROv2")
def mipro() -> Any:
    pytest.importorskip("optuna")
    optimizer = dspy.MIPROv2(metric=metric, auto=None, num_candidates=2, num_threads=2, max_bootstrapped_demos=1)
    permission = {"requires_permission_to_run": False} if DSPY < (3, 1) else {}

    def run() -> Any:
        return optimizer.compile(
            predict.deepcopy(), trainset=examples(4), valset=examples(3), num_trials=2, minibatch=False, **permission
        )

    return run


@way("GEPA")
def gepa() -> Any:
    pytest.importorskip("gepa")
    optimizer = dspy.GEPA(
        metric=feedback,
        max_metric_calls=12,
        reflection_minibatch_size=2,
        reflection_lm=dspy.settings.lm.copy(),
        num_threads=2,
    )
    return lambda: optimizer.compile(predict.deepcopy(), trainset=examples(4), valset=examples(3))


@way("Refine")
def refine() -> Any:
    module = dspy.Refine(module=Answer(), N=5, reward_fn=lambda args, prediction: 0.0, threshold=1.0, fail_count=100)
    return lambda: [module(question="Why?")]


@way("BestOfN")
def best_of_n() -> Any:
    module = dspy.BestOfN(module=Answer(), N=5, reward_fn=lambda args, prediction: 0.0, threshold=1.0, fail_count=100)
    return lambda: [module(question="Why?")]


@way("ReAct")
def react() -> Any:
    summarize = dspy.Predict("text -> summary")

    def search(query: str) -> str:
        """Search the library."""
        with swallowing:
            summarize(text="a page")
        raise ValueError("the library is closed")

    agent = dspy.ReAct("question -> answer", tools=[search], max_iters=5)
    return lambda: [agent(question=f"Why {n}?") for n in range(6)]


# -- tasks, threads, streams -------------------------------------------------------------------------------------------


@way("gather")
def gather() -> Any:
    async def worker(n: int) -> None:
        for step in range(4):
            with swallowing:
                await aask((n, step))

    async def main() -> Any:
        return await asyncio.gather(*(worker(n) for n in range(4)))

    return lambda: asyncio.run(main())


@way("gather with exceptions returned")
def gather_with_exceptions_returned() -> Any:
    async def main() -> Any:
        for n in range(6):
            await asyncio.gather(*(aask((n, step)) for step in range(3)), return_exceptions=True)
        return True

    return lambda: asyncio.run(main())


@way("TaskGroup")
def task_group() -> Any:
    async def main() -> Any:
        async with asyncio.TaskGroup() as group:
            for n in range(20):
                group.create_task(aask(n))
        return True

    return lambda: asyncio.run(main())


@way("TaskGroup, one task at a time")
def task_group_one_at_a_time() -> Any:
    async def main() -> Any:
        turn = asyncio.Semaphore(1)

        async def one(n: int) -> None:
            async with turn:
                with swallowing:
                    await aask(n)

        async with asyncio.TaskGroup() as group:
            for n in range(20):
                group.create_task(one(n))
        return True

    return lambda: asyncio.run(main())


@way("to_thread")
def to_thread() -> Any:
    async def main(lm: Any) -> Any:
        return await asyncio.gather(*(asyncio.to_thread(lm, f"Question {n}?") for n in range(12)))

    return lambda: asyncio.run(main(dspy.settings.lm))


@way("asyncify")
def asyncify() -> Any:
    answer = dspy.asyncify(Answer())

    async def main() -> Any:
        return await asyncio.gather(*(answer(question=f"Question {n}?") for n in range(6)))

    return lambda: asyncio.run(main())


def _streamify(*, asynchronous: bool) -> Any:
    listeners = [dspy.streaming.StreamListener(signature_field_name="review", allow_reuse=True)]
    program = dspy.streamify(Answer(direct=False), stream_listeners=listeners, is_async_program=asynchronous)

    async def main() -> Any:
        return [chunk for n in range(6) async for chunk in program(question=f"Question {n}?")]

    return lambda: asyncio.run(main())


@way("streamify")
def streamify() -> Any:
    return _streamify(asynchronous=False)


@way("streamify of an async program")
def streamify_async() -> Any:
    return _streamify(asynchronous=True)


@way("streamify to a generator")
def streamify_to_a_generator() -> Any:
    program = dspy.streamify(Answer(direct=False), async_streaming=False)
    return lambda: [list(program(question=f"Question {n}?")) for n in range(6)]


@way("threads")
def threads() -> Any:
    def work(lm: Any) -> None:
        for n in range(4):
            with swallowing:
                lm(f"Question {n}?")

    def run() -> Any:
        workers = [threading.Thread(target=work, args=(dspy.settings.lm,)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return workers

    return run


@way("ThreadPoolExecutor")
def pool() -> Any:
    def run() -> Any:
        with ThreadPoolExecutor(4) as executor:
            return list(executor.map(dspy.settings.lm, [f"Question {n}?" for n in range(16)]))

    return run
