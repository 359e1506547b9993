"""The law, over real HTTP: for each way an LM can be called, each scope holds exactly what the provider billed for it."""

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
    """Two modules below one, and a direct call of its own."""

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
    """One call in one scope."""
    with token_scope("a") as a:
        ask("a")
    assert_billed(provider, {"a": a.usage})


def test_nested(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """An inner scope's calls are its own, and are in the outer one's total."""
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
    """Modules become scopes named as a person would name them."""
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
    """`lm(...)` and `lm.acall(...)` are counted where they are made."""
    with token_scope("sync") as sync:
        lm("<<bill sync>>")
        lm(messages=[{"role": "user", "content": "<<bill sync>>"}])
    with token_scope("async") as async_:
        asyncio.run(lm.acall("<<bill async>>"))
    assert_billed(provider, {"sync": sync.usage, "async": async_.usage})


def test_forward(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """`lm.forward(...)`, called directly, is a call like any other; DSPy's own tracker sees of it what it always saw."""
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
    """Counting does not rest on DSPy's history."""
    with dspy.context(disable_history=True), token_scope("a") as a:
        ask("a")
    assert [] == lm.history
    assert_billed(provider, {"a": a.usage})


def test_responses_api(make_lm: Callable[..., dspy.LM], provider: LoopbackProvider) -> None:
    """An LM of the Responses API is counted like one of chat completions."""
    if "responses" not in str(inspect.signature(dspy.LM.__init__)):
        pytest.skip("this DSPy knows no Responses API")
    with dspy.context(lm=make_lm(model_type="responses")), token_scope("a") as a:
        ask("a", "<<cached 4>> <<reasoning 3>>")
    assert_billed(provider, {"a": a.usage})


def test_embedder(provider: LoopbackProvider) -> None:
    """`dspy.Embedder`, which DSPy does not count, is counted; its cache hits are not."""
    embedder = dspy.Embedder("openai/text-embedding-3-small", api_base=provider.url, api_key="none", caching=False)
    with token_scope("sync") as sync:
        embedder(["one <<bill sync>>", "two <<bill sync>>"])
    with token_scope("async") as async_:
        asyncio.run(embedder.acall(["three <<bill async>>"]))
    assert_billed(provider, {"sync": sync.usage, "async": async_.usage})


@pytest.mark.skipif(DSPY < (3, 4), reason="DSPy has TypeSafe from 3.4 on")
def test_typesafe(provider: LoopbackProvider) -> None:
    """TypeSafe, which is no BaseLM, is counted like one, cache hits included."""
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
    """Tasks that run at once are charged each with its own."""

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
    """Work handed to threads by asyncio counts where it was handed over."""

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
    """A pool that two scopes share, and that is used again outside, charges each with its own and strangers with none."""
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
    """Threads, their subclasses, timers and pools of another make with `carry`."""
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
    """A scope wrapped in somebody's own context manager pauses with the generator that uses it."""

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
    """An async generator's scope pauses for its consumer, also for the tasks that the consumer creates meanwhile."""

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
    """A call that is cancelled on its way is a failed one; those before and after it are counted as ever."""

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
    """What a task spends after its scope has closed is still that scope's."""

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


# -- what DSPy runs ---------------------------------------------------------------------------------------------------


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
    """dspy.Parallel inside a module, whose tokens DSPy's own tracking loses."""
    with dspy.context(track_usage=track_usage), token_scope("run") as run:
        Fan()(tag="a")
    if track_usage and DSPY < (3, 1):  # DSPy 3.0's own executor cannot do this: nothing is asked, nothing billed
        assert (run.usage.calls, provider.bill) == (0, {})
        return
    assert_billed(provider, {"a": run.report().find("run/Fan/answer/think").usage})


def test_two_parallels_at_once(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Two dspy.Parallels that run at the same time are charged each with its own."""

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
    """Evaluate, with its program below it, and a judge in the metric."""
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
    """A streamed program is counted, whether or not DSPy was asked to track usage; what its consumer does is not its."""

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
    """A program streamed to a plain generator is counted in the scope in which it was begun."""
    program = dspy.streamify(Answer(), async_streaming=False)
    with token_scope("a") as a:
        list(program(question="Why? <<bill a>>"))
    assert_billed(provider, {"a": a.usage})


def test_bootstrap_few_shot(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """An optimizer's bill is under its compile frame."""
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
    """MIPROv2, its proposals and its evaluations in threads: the tree's total is the bill's."""
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
    """GEPA, with a reflection model of its own: the tree's total is the bill's, and the models stand apart."""
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
    """BestOfN is charged with every attempt, thrown away or not."""
    best = dspy.BestOfN(module=Answer(), N=3, reward_fn=lambda args, prediction: 0.0, threshold=1.0)
    with token_scope("a") as a:
        best(question="Why? <<bill a>>")
    assert 3 == a.usage.calls
    assert_billed(provider, {"a": a.usage})


def test_refine(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """Refine is charged with its attempts and with the feedback it asks for."""
    refine = dspy.Refine(module=Answer(), N=2, reward_fn=lambda args, prediction: 0.0, threshold=1.0)
    with token_scope("run") as run:
        refine(question="Why? <<bill a>>")
    assert tokens(provider.total) == tokens(run.report().find("run/Refine").usage)
    assert provider.total.calls == run.usage.calls


def test_react_with_a_tool_that_calls_a_model(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """What a tool spends is the tool's; the loop's own calls are the agent's, its final extraction a module's."""
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
    """What was spent before an agent failed is counted."""

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
    """A hit in DSPy's cache is a call that spends nothing."""

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
    """An answer that no adapter can parse costs two calls: ChatAdapter falls back to JSONAdapter, and both are billed."""
    with token_scope("a") as a, pytest.raises(Exception, match="parse"):
        ask("a", "<<garble>>")
    assert a.usage.calls >= 2
    assert 0 == a.usage.failed_calls
    assert_billed(provider, {"a": a.usage})


def test_provider_error(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A call that the provider refuses is a failed one that spent nothing."""
    with token_scope("a") as a:
        with pytest.raises(Exception, match="500"):
            lm("<<fail 500>> <<bill a>>")
        ask("b")
    assert (a.usage.calls, a.usage.failed_calls) == (2, 1)
    assert tokens(provider.bill["b"]) == tokens(a.usage)


def test_retry(make_lm: Callable[..., dspy.LM], provider: LoopbackProvider) -> None:
    """A call that DSPy tries again is one call, and costs what the provider billed."""
    lm = make_lm(num_retries=2)
    with token_scope("a") as a:
        lm("<<fail 503 once>> <<bill a>>")
    assert (a.usage.calls, a.usage.failed_calls) == (1, 0)
    assert_billed(provider, {"a": a.usage})


def test_lm_that_calls_another_lm(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """An LM that only hands on what another has spent is not charged with it again."""

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
    """An LM that spends tokens of its own besides asking another one is charged with its own."""

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
    """After a call, and in a scope, DSPy's settings are what they were."""
    before = dict(dspy.settings.config)
    with token_scope("a"):
        ask("a")
        assert before == dict(dspy.settings.config)
        with pytest.raises(Exception, match="500"):
            lm("<<fail 500>>")
        assert before == dict(dspy.settings.config)
    assert current_scope() is None


def test_a_task_that_outlives_the_call_that_started_it(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """What a task spends that an LM has started in the midst of a call is counted, also when that call has long ended."""
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
