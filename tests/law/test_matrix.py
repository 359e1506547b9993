"""Over real HTTP, for each way to call an LM: every scope holds exactly the tokens that the provider billed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import DSPY, ENGINES, HoldingProvider, assert_billed, tokens

import tokenscope
from tokenscope import carry, current_scope, token_scope, track_tokens
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def provider() -> Iterator[HoldingProvider]:
    with HoldingProvider() as provider:
        yield provider
        provider.go.set()


@pytest.fixture(params=ENGINES)
def make_lm(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Callable[..., dspy.LM]:
    engine = {"engine": "litellm"} if DSPY >= (3, 4) and request.param == "litellm" else {}
    return partial(provider.lm, **engine)


@pytest.fixture
def lm(make_lm: Callable[..., dspy.LM]) -> Iterator[dspy.LM]:
    lm = make_lm()
    with dspy.context(lm=lm, track_usage=False, num_threads=4):
        yield lm


def ask(tag: str, marks: str = "") -> Any:
    return dspy.Predict("question -> answer")(question=f"Why? {marks} <<bill {tag}>>")


async def aask(tag: str, marks: str = "") -> Any:
    return await dspy.Predict("question -> answer").acall(question=f"Why? {marks} <<bill {tag}>>")


class Answer(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")

    def forward(self, question: str) -> Any:
        return self.think(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.think.acall(question=question)


class Pair(dspy.Module):
    """A module with two modules below it and a direct call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Answer()
        self.second = dspy.Predict("question -> answer")

    def forward(self, tag: str) -> Any:
        self.first(question=f"<<bill {tag}.first>>")
        dspy.settings.lm(f"<<bill {tag}.own>>")
        return self.second(question=f"<<bill {tag}.second>>")


# -- plain ------------------------------------------------------------------------------------------------------------


def test_plain(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """One call in one scope is counted as billed."""
    with token_scope("a") as a:
        ask("a")
    assert_billed(provider, {"a": a.usage})


def test_nested(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """The calls of an inner scope count for the inner scope and for the total of the outer scope."""
    with token_scope("outer") as outer:
        ask("outer")
        with token_scope("inner") as inner:
            ask("inner")
            ask("inner")
        ask("outer")
    report = outer.report()
    own = report.tree().usage + inner.usage + inner.usage
    assert own is not None
    assert_billed(
        provider,
        {"outer": report.find("outer/Predict(question -> answer)").usage, "inner": inner.usage},
    )
    assert tokens(provider.total) == tokens(outer.usage)


def test_modules_by_name(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Modules become scopes that are named by their classes and attributes."""
    with token_scope("run") as run:
        Pair()(tag="p")
    predictors = run.report().predictors()
    assert_billed(
        provider,
        {
            "p.first": predictors["Pair.first.think"],
            "p.own": predictors["Pair"],
            "p.second": predictors["Pair.second"],
        },
    )


def test_no_scope(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Without any scope, modules stand at the top level of the process's report."""
    ask("x")
    lm("<<bill direct>>")
    report = tokenscope.report()
    assert_billed(
        provider,
        {"x": report.find("Predict(question -> answer)").usage, "direct": report.find("(no scope)").usage},
    )


def test_direct_calls(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """`lm(...)` and `lm.acall(...)` are counted in the active scope."""
    with token_scope("sync") as sync:
        lm("<<bill sync>>")
        lm(messages=[{"role": "user", "content": "<<bill sync>>"}])
    with token_scope("async") as async_:
        asyncio.run(lm.acall("<<bill async>>"))
    assert_billed(provider, {"sync": sync.usage, "async": async_.usage})


def test_forward(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A direct `lm.forward(...)` is counted like any call, and DSPy's own tracker is not affected."""
    tokenscope.uninstrument()
    try:
        with dspy.track_usage() as without:
            lm.forward(prompt="<<bill before>>")
    finally:
        tokenscope.instrument()
    with token_scope("sync") as sync, dspy.track_usage() as tracker:
        lm.forward(prompt="<<bill before>>")
    assert without.get_total_tokens() == tracker.get_total_tokens()
    with token_scope("async") as async_:
        asyncio.run(lm.aforward(prompt="<<bill async>>"))
    with token_scope("failing") as failing, pytest.raises(Exception, match="500"):
        lm.forward(prompt="<<fail 500>>")
    assert (failing.usage.calls, failing.usage.failed_calls) == (1, 1)
    assert_billed(provider, {"before": sync.usage + sync.usage, "async": async_.usage})


def test_details(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Cached and reasoning tokens are parts of input and output, as the provider reports them."""
    with token_scope("a") as a:
        ask("a", "<<cached 9>> <<reasoning 5>>")
    assert (a.usage.cache_read_tokens, a.usage.reasoning_tokens) == (9, 5)
    assert_billed(provider, {"a": a.usage})


def test_several_candidates(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """With n=3 all candidates' tokens are counted, whether the engine asks once or three times."""
    with token_scope("a") as a:
        result = dspy.Predict("question -> answer", n=3)(question="Why? <<bill a>>", config={"temperature": 1.0})
    assert 3 == len(result.completions)
    assert 1 == a.usage.calls
    assert tokens(provider.bill["a"]) == tokens(a.usage)


def test_history_disabled(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Calls are counted even if DSPy's history is disabled."""
    with dspy.context(disable_history=True), token_scope("a") as a:
        ask("a")
    assert [] == lm.history
    assert_billed(provider, {"a": a.usage})


def test_responses_api(make_lm: Callable[..., dspy.LM], provider: LoopbackProvider) -> None:
    """An LM of the Responses API is counted as billed."""
    if "responses" not in str(inspect.signature(dspy.LM.__init__)):
        pytest.skip("this DSPy knows no Responses API")
    with dspy.context(lm=make_lm(model_type="responses")), token_scope("a") as a:
        ask("a", "<<cached 4>> <<reasoning 3>>")
    assert_billed(provider, {"a": a.usage})


def test_embedder(provider: LoopbackProvider) -> None:
    """`dspy.Embedder` is counted, although DSPy itself does not count it."""
    embedder = dspy.Embedder("openai/text-embedding-3-small", api_base=provider.url, api_key="none", caching=False)
    with token_scope("sync") as sync:
        embedder(["one <<bill sync>>", "two <<bill sync>>"])
    with token_scope("async") as async_:
        asyncio.run(embedder.acall(["three <<bill async>>"]))
    assert_billed(provider, {"sync": sync.usage, "async": async_.usage})


@pytest.mark.skipif(DSPY < (3, 4), reason="DSPy has TypeSafe from 3.4 on")
def test_typesafe(provider: LoopbackProvider) -> None:
    """TypeSafe is counted like an LM, although it is not a BaseLM."""
    experimental = importlib.import_module("dspy.experimental")
    lm = experimental.TypeSafe(api_key="none", base_url=provider.url.removesuffix("/v1"), cache=False)
    questions = {"sure": {"type": "noul", "instructions": "Is it?"}}
    with token_scope("sync") as sync:
        lm("Leaves turn red. <<bill sync>>", questions)
    with token_scope("async") as async_:
        asyncio.run(lm.acall("Leaves turn red. <<bill async>>", questions))
    assert_billed(provider, {"sync": sync.usage, "async": async_.usage})
    assert {"jev-latest"} == set(sync.report().by_model())


# -- tasks and threads ------------------------------------------------------------------------------------------------


def test_gather(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Each of several tasks that run at once is charged with its own calls."""

    @track_tokens("worker")
    async def work(name: str) -> Any:
        with token_scope(name) as scope:
            await aask(name, "<<wait 0.05>>")
            await aask(name)
        return scope

    async def main() -> list[Any]:
        return await asyncio.gather(*(work(f"w{n}") for n in range(8)))

    with token_scope("all") as everything:
        scopes = asyncio.run(main())
    assert_billed(provider, {f"w{n}": scope.usage for n, scope in enumerate(scopes)})
    assert tokens(provider.total) == tokens(everything.report().find("all/worker/work").usage)


def test_task_group(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Tasks of a TaskGroup count in the scope in which they were created."""

    async def main() -> Any:
        async with asyncio.TaskGroup() as group:
            with token_scope("a") as a:
                group.create_task(aask("a", "<<wait 0.05>>"))
                group.create_task(aask("a"))
            with token_scope("b") as b:
                group.create_task(aask("b"))
        return a, b

    a, b = asyncio.run(main())
    assert_billed(provider, {"a": a.usage, "b": b.usage})


def test_to_thread_and_run_in_executor(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Work that asyncio hands to threads counts in the scope that handed it over."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        context = dspy.context(lm=lm)
        with context, token_scope("a") as a:
            await asyncio.gather(asyncio.to_thread(ask, "a"), asyncio.to_thread(ask, "a"))
        with token_scope("b") as b:
            await loop.run_in_executor(None, lm, "<<bill b>>")
        return a, b

    a, b = asyncio.run(main())
    assert_billed(provider, {"a": a.usage, "b": b.usage})


def test_one_pool_for_two_scopes(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """In a pool that two scopes share, each call counts for the scope that submitted it, or for none."""
    with ThreadPoolExecutor(2) as pool:
        with token_scope("a") as a:
            futures = [pool.submit(lm, "<<wait 0.02>> <<bill a>>") for _ in range(4)]
        with token_scope("b") as b:
            futures += [pool.submit(lm, "<<bill b>>") for _ in range(4)]
            assert 3 == len(list(pool.map(lm, ["<<bill b>>"] * 3)))
        futures += [pool.submit(lm, "<<bill none>>") for _ in range(4)]
        for future in futures:
            future.result()
    none = tokenscope.report().find("(no scope)").usage
    assert_billed(provider, {"a": a.usage, "b": b.usage, "none": none})


def test_threads_of_each_kind(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Threads, subclasses and timers count in the scope that starts them. `ThreadPool` needs `carry`."""
    from multiprocessing.pool import ThreadPool

    class Worker(threading.Thread):
        def run(self) -> None:
            lm("<<bill subclass>>")

    scopes = {}
    with token_scope("made here, started elsewhere"):
        threads: list[threading.Thread] = [threading.Thread(target=lm, args=("<<bill thread>>",))]
    with token_scope("thread") as scopes["thread"]:
        threads[0].start()
    with token_scope("subclass") as scopes["subclass"]:
        threads.append(Worker())
        threads[-1].start()
    with token_scope("timer") as scopes["timer"]:
        threads.append(threading.Timer(0.01, lm, ("<<bill timer>>",)))
        threads[-1].start()
    with token_scope("pool") as scopes["pool"], ThreadPool(2) as pool:
        pool.map(carry(lm), ["<<bill pool>>"] * 3)
    for thread in threads:
        thread.join()
    assert_billed(provider, {name: scope.usage for name, scope in scopes.items()})


def test_own_context_manager_inside_a_generator(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A scope inside a user's context manager is suspended with the generator that uses it."""

    class Section:
        def __init__(self, name: str) -> None:
            self.scope = token_scope(name)

        def __enter__(self) -> Any:
            return self.scope.__enter__()

        def __exit__(self, *exc: object) -> None:
            self.scope.__exit__(*exc)

    @contextlib.contextmanager
    def section(name: str) -> Iterator[Any]:
        with token_scope(name) as scope:
            yield scope

    seen = []

    def produce(kind: Any) -> Iterator[int]:
        with kind("generator") as scope:
            seen.append(scope)
            for n in range(3):
                ask("generator")
                yield n

    with token_scope("consumer") as consumer:
        for kind in (Section, section, token_scope):
            for _ in produce(kind):
                ask("consumer")
    report = consumer.report()
    assert_billed(
        provider,
        {
            "generator": report.find("consumer/generator").usage,
            "consumer": report.find("consumer/Predict(question -> answer)").usage,
        },
    )
    assert report.find("consumer/generator").usage == sum(scope.usage for scope in seen)


def test_async_generator(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """An async generator's scope is suspended for its consumer and for tasks that the consumer creates."""

    async def produce() -> AsyncIterator[int]:
        with token_scope("generator"):
            for n in range(3):
                await asyncio.gather(aask("generator", "<<wait 0.02>>"), aask("generator"))
                yield n

    async def main() -> None:
        tasks = []
        async for _ in produce():
            tasks.append(asyncio.create_task(aask("consumer")))
            await aask("consumer")
            await asyncio.to_thread(ask, "consumer")
        await asyncio.gather(*tasks)

    with token_scope("run") as run:
        asyncio.run(main())
    report = run.report()
    assert_billed(
        provider,
        {
            "generator": report.find("run/generator").usage,
            "consumer": report.find("run/Predict(question -> answer)").usage,
        },
    )


def test_cancelled_task(lm: dspy.LM, provider: HoldingProvider) -> None:
    """A cancelled call is a failed call, and the calls after it are counted as usual."""

    async def main() -> None:
        task = asyncio.create_task(aask("lost", "<<hold>>"))
        await asyncio.to_thread(provider.asked.acquire)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await aask("a")

    with token_scope("a") as a:
        asyncio.run(main())
    assert (a.usage.calls, a.usage.failed_calls) == (2, 1)
    assert tokens(provider.bill["a"]) == tokens(a.usage)


def test_task_that_outlives_its_scope(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Tokens that a task spends after its scope has closed still count for that scope."""

    async def main() -> Any:
        with token_scope("a") as a:
            task = asyncio.create_task(aask("a", "<<wait 0.1>>"))
            await asyncio.sleep(0)
        before = a.usage.total_tokens
        with token_scope("b") as b:
            await aask("b")
            await task
        return before, a, b

    with token_scope("run") as run:
        before, a, b = asyncio.run(main())
    assert 0 == before
    assert_billed(provider, {"a": a.usage, "b": b.usage})
    assert tokens(provider.total) == tokens(run.usage)


# -- programs that DSPy runs ------------------------------------------------------------------------------------------


class Fan(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = Answer()

    def forward(self, tag: str, number: int = 6) -> Any:
        parallel = dspy.Parallel(num_threads=3, disable_progress_bar=True)
        pairs = [
            (self.answer, dspy.Example(question=f"{n} <<bill {tag}>>").with_inputs("question")) for n in range(number)
        ]
        return dspy.Prediction(answers=parallel(pairs))


@pytest.mark.parametrize("track_usage", [False, True])
def test_parallel_in_a_module(lm: dspy.LM, provider: LoopbackProvider, track_usage: bool) -> None:
    """dspy.Parallel inside a module is counted as billed, although DSPy's own tracking loses its tokens."""
    with dspy.context(track_usage=track_usage), token_scope("run") as run:
        Fan()(tag="a")
    if track_usage and DSPY < (3, 1):  # DSPy 3.0's executor cannot do this and sends no request
        assert (run.usage.calls, provider.bill) == (0, {})
        return
    assert_billed(provider, {"a": run.report().find("run/Fan/answer/think").usage})


def test_two_parallels_at_once(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Two dspy.Parallels that run at the same time are each charged with their own calls."""

    def fan(name: str) -> Any:
        with dspy.context(lm=lm), token_scope(name) as scope:
            Fan()(tag=name)
        return scope

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(fan, ["a", "b"])
    assert_billed(provider, {"a": a.usage, "b": b.usage})


def metric(example: Any, prediction: Any, trace: Any = None) -> float:
    return 1.0


def examples(number: int, tag: str) -> list[Any]:
    return [
        dspy.Example(question=f"Question {n}? <<bill {tag}>>", answer="an answer").with_inputs("question")
        for n in range(number)
    ]


@pytest.mark.parametrize("threads", [1, 4])
def test_evaluate(lm: dspy.LM, provider: LoopbackProvider, threads: int) -> None:
    """`Evaluate` has the calls of its program and of a judge in the metric below it."""
    judge = dspy.Predict("answer -> verdict")

    def judged(example: Any, prediction: Any, trace: Any = None) -> float:
        with token_scope("judge"):
            judge(answer="good? <<bill judge>>")
        return 1.0

    evaluate = dspy.Evaluate(devset=examples(6, "program"), metric=judged, num_threads=threads, display_progress=False)
    with token_scope("run") as run:
        evaluate(Answer())
    report = run.report()
    assert_billed(
        provider,
        {
            "program": report.find("run/Evaluate/Answer").usage,
            "judge": report.find("run/Evaluate/judge").usage,
        },
    )


def test_asyncify(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """dspy.asyncify runs the program in a thread of the caller's scope."""

    async def one(name: str) -> Any:
        with token_scope(name) as scope:
            await dspy.asyncify(Answer())(question=f"<<bill {name}>>")
        return scope

    async def main() -> Any:
        return await asyncio.gather(one("a"), one("b"))

    a, b = asyncio.run(main())
    assert_billed(provider, {"a": a.usage, "b": b.usage})


@pytest.mark.parametrize("track_usage", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_streamify(lm: dspy.LM, provider: LoopbackProvider, track_usage: bool, asynchronous: bool) -> None:
    """A streamed program is counted with and without `track_usage`, and without its consumer's calls."""

    async def main() -> Any:
        listeners = [dspy.streaming.StreamListener(signature_field_name="answer")]
        program = dspy.streamify(Answer(), stream_listeners=listeners, is_async_program=asynchronous)
        chunks = []
        with token_scope("a") as a:
            async for chunk in program(question="Why? <<bill a>>"):
                chunks.append(chunk)
                with token_scope("consumer"):
                    if len(chunks) == 1:
                        await lm.acall("<<bill consumer>>")
        return a, chunks

    with dspy.context(track_usage=track_usage):
        a, chunks = asyncio.run(main())
    assert len(chunks) > 1
    report = a.report()
    assert_billed(provider, {"a": report.find("a/Answer").usage, "consumer": report.find("a/consumer").usage})


def test_sync_streaming(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A program streamed to a plain generator is counted in the scope that started it."""
    program = dspy.streamify(Answer(), async_streaming=False)
    with token_scope("a") as a:
        list(program(question="Why? <<bill a>>"))
    assert_billed(provider, {"a": a.usage})


def test_bootstrap_few_shot(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """The calls of an optimizer count below its compile frame."""
    with token_scope("run") as run:
        optimizer = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=1)
        program = optimizer.compile(Answer(), trainset=examples(4, "train"))
        program(question="<<bill use>>")
    report = run.report()
    assert_billed(
        provider,
        {
            "train": report.find("run/BootstrapFewShot").usage,
            "use": report.find("run/Answer").usage,
        },
    )


def test_mipro(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """All calls of MIPROv2, its proposals and its evaluations in threads, count below its frame as billed."""
    pytest.importorskip("optuna")
    with token_scope("run") as run:
        optimizer = dspy.MIPROv2(metric=metric, auto=None, num_candidates=2, num_threads=2, max_bootstrapped_demos=1)
        optimizer.compile(
            Answer(),
            trainset=examples(4, "train"),
            valset=examples(3, "val"),
            num_trials=2,
            minibatch=False,
            **({"requires_permission_to_run": False} if DSPY < (3, 1) else {}),
        )
    assert tokens(provider.total) == tokens(run.report().find("run/MIPROv2").usage)
    assert provider.total.calls == run.usage.calls > 10


def test_gepa(lm: dspy.LM, make_lm: Callable[..., dspy.LM], provider: LoopbackProvider) -> None:
    """All calls of GEPA count below its frame as billed, and its reflection model is counted separately."""
    pytest.importorskip("gepa")

    def feedback(example: Any, prediction: Any, trace: Any = None, name: Any = None, named_trace: Any = None) -> Any:
        return dspy.Prediction(score=0.5, feedback="Think harder.")

    with token_scope("run") as run:
        optimizer = dspy.GEPA(
            metric=feedback,
            max_metric_calls=12,
            reflection_minibatch_size=2,
            reflection_lm=make_lm("openai/gpt-4o"),
            num_threads=2,
        )
        optimizer.compile(Answer(), trainset=examples(4, "train"), valset=examples(3, "val"))
    report = run.report()
    assert tokens(provider.total) == tokens(report.find("run/GEPA").usage)
    assert provider.total.calls == run.usage.calls > 10
    assert {"openai/gpt-4o-mini", "openai/gpt-4o"} == set(report.by_model())


def test_best_of_n(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """BestOfN is charged with every attempt, including the rejected ones."""
    best = dspy.BestOfN(module=Answer(), N=3, reward_fn=lambda args, prediction: 0.0, threshold=1.0)
    with token_scope("a") as a:
        best(question="Why? <<bill a>>")
    assert 3 == a.usage.calls
    assert_billed(provider, {"a": a.usage})


def test_refine(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Refine is charged with its attempts and with the feedback that it requests."""
    refine = dspy.Refine(module=Answer(), N=2, reward_fn=lambda args, prediction: 0.0, threshold=1.0)
    with token_scope("run") as run:
        refine(question="Why? <<bill a>>")
    assert tokens(provider.total) == tokens(run.report().find("run/Refine").usage)
    assert provider.total.calls == run.usage.calls


def test_react_with_a_tool_that_calls_a_model(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A tool's calls count for the tool, and the calls of the loop and of the extraction for the agent."""
    summarize = dspy.Predict("text -> summary")

    def search(query: str) -> str:
        """Search the library."""
        return summarize(text="page <<bill tool>>").summary.replace("<<", "")

    agent = dspy.ReAct("question -> answer", tools=[search])
    with token_scope("run") as run:
        agent(question="Why? <<bill agent>>")
    report = run.report()
    tool = report.find("run/ReAct/search")
    assert "tool" == tool.kind
    assert "Predict(text -> summary)" == tool.children[0].name
    assert tokens(provider.bill["tool"]) == tokens(tool.usage)
    predictors = report.predictors()
    assert tokens(provider.bill["agent"]) == tokens(predictors["ReAct"] + predictors["ReAct.extract"])


def test_react_that_fails_half_way(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Tokens that an agent spends before it fails are counted."""

    def search(query: str) -> str:
        """Search the library."""
        raise KeyboardInterrupt

    with token_scope("run") as run, pytest.raises(KeyboardInterrupt):
        dspy.ReAct("question -> answer", tools=[search])(question="Why? <<bill agent>>")
    assert_billed(provider, {"agent": run.usage})
    assert [node.name for node in run.report().tree().children] == ["ReAct"]


# -- caching and failing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_cache_hit(
    make_lm: Callable[..., dspy.LM], provider: LoopbackProvider, asynchronous: bool, tmp_path: Any
) -> None:
    """A hit in DSPy's cache is a cached call that spends nothing and saves the first call's tokens and cost."""

    def run(question: str) -> None:
        if asynchronous:
            asyncio.run(dspy.Predict("question -> answer").acall(question=question))
        else:
            dspy.Predict("question -> answer")(question=question)

    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    try:
        with dspy.context(lm=make_lm(cache=True)):
            with token_scope("first") as first:
                run(f"{tmp_path} <<bill a>>")
            with token_scope("again") as again:
                run(f"{tmp_path} <<bill a>>")
    finally:
        dspy.cache = before
    assert_billed(provider, {"a": first.usage})
    assert 0 == first.usage.cached_calls
    assert (1, 1, 0, 0) == (again.usage.calls, again.usage.cached_calls, again.usage.total_tokens, again.usage.cost)
    assert 0 == first.usage.saved_tokens
    assert (first.usage.total_tokens, first.usage.cost) == (again.usage.saved_tokens, again.usage.saved_cost)
    assert first.usage.cost > 0


def test_failing_parse(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """If no adapter can parse the answer, the calls of ChatAdapter and of JSONAdapter are both counted."""
    with token_scope("a") as a, pytest.raises(Exception, match="parse"):
        ask("a", "<<garble>>")
    assert a.usage.calls >= 2
    assert 0 == a.usage.failed_calls
    assert_billed(provider, {"a": a.usage})


def test_provider_error(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A call that the provider refuses is a failed call without tokens."""
    with token_scope("a") as a:
        with pytest.raises(Exception, match="500"):
            lm("<<fail 500>> <<bill a>>")
        ask("b")
    assert (a.usage.calls, a.usage.failed_calls) == (2, 1)
    assert tokens(provider.bill["b"]) == tokens(a.usage)


def test_retry(make_lm: Callable[..., dspy.LM], provider: LoopbackProvider) -> None:
    """A call that DSPy retries is one call, with the tokens that the provider billed."""
    lm = make_lm(num_retries=2)
    with token_scope("a") as a:
        lm("<<fail 503 once>> <<bill a>>")
    assert (a.usage.calls, a.usage.failed_calls) == (1, 0)
    assert_billed(provider, {"a": a.usage})


def test_lm_that_calls_another_lm(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """The tokens of an LM that only forwards to another LM are counted once."""

    class Router(dspy.BaseLM):
        def __init__(self, reports: str, lm: Any = lm) -> None:
            super().__init__(model="router")
            self.reports = reports
            self.lm = lm

        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            from types import SimpleNamespace as Object

            text = self.lm(prompt=prompt, messages=messages)[0]
            spent = dict(self.lm.history[-1]["usage"]) if self.reports == "all" else {}
            usage = {"none": {}, "zero": {"prompt_tokens": 0, "completion_tokens": 0}, "all": spent}[self.reports]
            message = Object(content=text, tool_calls=None)
            return Object(choices=[Object(message=message, finish_reason="stop")], usage=usage, model="router")

    for reports in ("none", "zero", "all"):
        with dspy.context(lm=Router(reports)), token_scope(reports) as scope:
            ask(reports)
        assert 1 == scope.usage.calls
        assert tokens(provider.bill[reports]) == tokens(scope.usage)
        with dspy.context(lm=Router(reports, Router("all"))), token_scope("chain") as chain:
            ask(f"{reports} chain")
        assert 1 == chain.usage.calls
        assert tokens(provider.bill[f"{reports} chain"]) == tokens(chain.usage)


def test_lm_that_asks_another_lm_and_a_provider(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """An LM that also asks another LM is charged with its own tokens, and the other LM with the rest."""

    class Guarded(dspy.LM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            lm("May I? <<bill guard>>")
            return super().forward(*args, **kwargs)

    engine = {"engine": "litellm"} if DSPY >= (3, 4) else {}
    guarded = Guarded("openai/gpt-4o", api_base=provider.url, api_key="none", cache=False, num_retries=0, **engine)
    with dspy.context(lm=guarded), token_scope("a") as a:
        ask("main")
    by_model = a.report().by_model()
    assert_billed(provider, {"guard": by_model["openai/gpt-4o-mini"], "main": by_model["openai/gpt-4o"]})


def test_nothing_is_left_in_the_settings(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """DSPy's settings are unchanged in a scope, after a call and after a failed call."""
    before = dict(dspy.settings.config)
    with token_scope("a"):
        ask("a")
        assert before == dict(dspy.settings.config)
        with pytest.raises(Exception, match="500"):
            lm("<<fail 500>>")
        assert before == dict(dspy.settings.config)
    assert current_scope() is None


def test_a_task_that_outlives_the_call_that_started_it(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A task that an LM starts during a call is counted, even after that call has failed."""
    tasks: list[Any] = []

    async def later() -> None:
        await asyncio.sleep(0.1)
        await lm.aforward(prompt="<<bill later>>")

    class Starting(dspy.BaseLM):
        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            tasks.append(asyncio.create_task(later()))
            raise KeyError("enough")

    async def main() -> None:
        with pytest.raises(Exception, match="enough"):
            await Starting(model="starting").acall("Hello")
        await asyncio.gather(*tasks)

    with token_scope("a") as a:
        asyncio.run(main())
    assert tokens(provider.bill["later"]) == tokens(a.usage)
    assert a.usage.failed_calls == 1
