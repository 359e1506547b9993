"""Budgets over real HTTP: for every way to call an LM, the provider bills no more calls than the budget allows."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
import time
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import DSPY, ENGINES, HoldingProvider, tokens
from support.dspy_ways import WAYS, Answer, Router, aask, ask, examples, metric, predict, swallowing

from tokenscope import Budget, BudgetExceeded, current_scope, set_price, token_scope, track_tokens
from tokenscope._scopes.enforcement import BudgetStop
from tokenscope._scopes.process import STATE
from tokenscope._usage.custom_prices import forget_prices
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenscope import Scope

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

LIMIT = 7
# The stop does not reach the caller of these. They run to their end, but make no more calls.
SILENT = {"threads", "gather with exceptions returned", *({"streamify to a generator"} if DSPY < (3, 4) else ())}
# asyncio cancels calls in flight. The provider may have billed them or not.
CUT_OFF = {"gather", "TaskGroup"}
# The threads of these run on after asyncio has ended.
LEFT = {"asyncify"}
OF_ENGINES = {"modules", "direct", "forward", "acall and aforward", "Parallel", "gather", "TaskGroup", "streamify"}
CASES = [(name, on_exceed, ENGINES[0]) for name in WAYS for on_exceed in ("raise", "stop")]
CASES += [(name, "raise", engine) for engine in ENGINES[1:] for name in WAYS if name in OF_ENGINES]


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider(latency=0.005) as provider:  # so that concurrent calls overlap
        yield provider
    forget_prices()
    forget_warnings()


@pytest.fixture
def lm(provider: LoopbackProvider, request: pytest.FixtureRequest) -> Iterator[dspy.LM]:
    engine = {"engine": "litellm"} if DSPY >= (3, 4) and getattr(request, "param", "") == "litellm" else {}
    lm = provider.lm(**engine)
    with dspy.context(lm=lm, track_usage=False, num_threads=4):
        yield lm


def settle(provider: LoopbackProvider, scope: Scope) -> None:
    """Wait until all allowed calls are counted, and a little longer, in case more calls follow."""
    deadline = time.monotonic() + 10
    while scope.usage.calls < LIMIT and time.monotonic() < deadline:
        time.sleep(0.005)
    while provider.total.calls < LIMIT - scope.usage.failed_calls and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)


# -- every way to call an LM -------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
@pytest.mark.parametrize(("name", "on_exceed", "lm"), CASES, indirect=["lm"])
def test_nothing_swallows_the_stop(name: str, on_exceed: Any, lm: dspy.LM, provider: LoopbackProvider) -> None:
    """The provider bills exactly the allowed calls, the report equals the bill, and DSPy works afterwards."""
    run = WAYS[name]()
    settings = dict(dspy.settings.config)
    finished = []
    with contextlib.ExitStack() as stack:
        raised = stack.enter_context(pytest.raises(BudgetExceeded)) if on_exceed == "raise" else None
        with token_scope("run", budget=Budget(calls=LIMIT, on_exceed=on_exceed)) as scope:
            finished.append(run())
    billed = provider.total

    assert scope.budget_exceeded
    assert (name in SILENT) == bool(finished)
    assert current_scope() is None
    assert settings == dict(dspy.settings.config)
    if name not in CUT_OFF | LEFT:
        assert LIMIT == billed.calls
        if raised is not None:
            error = raised.value
            assert ("run", LIMIT, LIMIT) == (error.scope, error.limit.calls, error.report.total.calls)
            assert tokens(billed) == tokens(error.report.total) == tokens(error.spent)
    settle(provider, scope)
    assert LIMIT == scope.usage.calls
    if name in CUT_OFF:
        assert LIMIT - scope.usage.failed_calls <= provider.total.calls <= LIMIT
    else:
        assert (LIMIT, *tokens(scope.usage)) == (provider.total.calls, *tokens(provider.total))

    before = provider.total
    with token_scope("again") as again:
        assert run()
    assert LIMIT < again.usage.calls == provider.total.calls - before.calls
    assert 0 == again.usage.failed_calls
    assert tokens(before + again.usage) == tokens(provider.total)


def test_no_score_is_returned(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """If exceptions prevent calls, Evaluate returns a wrong score. If a budget prevents them, it returns no score."""

    class Limit(dspy.Module):
        def forward(self, question: str) -> Any:
            if provider.total.calls >= 2:
                raise RuntimeError("enough")
            return ask(question)

    evaluate = dspy.Evaluate(devset=examples(6), metric=metric, num_threads=1, display_progress=False)
    result = evaluate(Limit())
    assert 33.33 == float(getattr(result, "score", result))
    scores = []
    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as scope:
        scores.append(evaluate(predict))

    assert scope.budget_exceeded
    assert [] == scores


@pytest.mark.parametrize("number", [1, 4, 16])
def test_calls_are_exact_in_many_threads(lm: dspy.LM, provider: LoopbackProvider, number: int) -> None:
    """A limit on calls is exact, however many of DSPy's workers make calls at once."""
    evaluate = dspy.Evaluate(devset=examples(100), metric=metric, num_threads=number, display_progress=False)
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=50)):
        evaluate(Answer())

    assert 50 == provider.total.calls == raised.value.spent.calls
    assert tokens(provider.total) == tokens(raised.value.report.total)


def test_dspys_workers_end(lm: dspy.LM) -> None:
    """DSPy's workers finish their current items before the block ends, and begin no other items."""
    begun, ended = [], []

    def program(question: str) -> Any:
        begun.append(question)
        answer = ask(question)
        time.sleep(0.2)
        ended.append(question)
        return answer

    before = set(threading.enumerate())
    with pytest.raises(BudgetExceeded), token_scope("run", budget=Budget(calls=6)):
        dspy.Parallel(num_threads=4, disable_progress_bar=True)([(program, example) for example in examples(300)])
    seen = len(begun), len(ended)
    workers = [thread for thread in set(threading.enumerate()) - before if "ThreadPoolExecutor" in thread.name]
    for worker in workers:
        worker.join(30)

    assert not any(worker.is_alive() for worker in workers)
    assert seen == (len(begun), len(ended))
    assert 6 == len(ended) < len(begun) <= 6 + 4


def test_workers_that_hang_are_left(lm: dspy.LM) -> None:
    """If a worker hangs, the run waits for DSPy's own timeout, and then ends without the worker."""
    go = threading.Event()
    hanging = threading.Event()

    def program(question: str) -> Any:
        if question == "Question 0?":
            hanging.set()
            go.wait(30)
        else:
            hanging.wait(30)
        return ask(question)

    executor = importlib.import_module("dspy.utils.parallelizer").ParallelExecutor(num_threads=2, timeout=1)
    since = time.monotonic()
    try:
        with pytest.raises(BudgetExceeded), token_scope("run", budget=Budget(calls=2)):
            executor.execute(lambda example: program(**example.inputs()), examples(8))
        assert 1 <= time.monotonic() - since < 20
    finally:
        go.set()


# -- tokens, dollars, warnings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4])
def test_tokens_are_exceeded_by_what_is_on_its_way(lm: dspy.LM, provider: LoopbackProvider, number: int) -> None:
    """A limit on tokens is exceeded by less than one call per thread. The error says by how much."""
    evaluate = dspy.Evaluate(devset=examples(40), metric=metric, num_threads=number, display_progress=False)
    with token_scope("one") as one:
        ask("Question 10?")
    before = provider.total.total_tokens
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(tokens=1_000)):
        evaluate(predict)
    spent = provider.total.total_tokens - before

    assert spent == raised.value.spent.total_tokens
    assert 1_000 <= spent < 1_000 + number * one.usage.total_tokens
    assert f"1,000 tokens, is spent: {spent:,} tokens, {spent - 1_000:,} tokens more than that" in str(raised.value)


def test_dollars(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A budget in dollars uses the same prices as reports do."""
    with token_scope("one") as one:
        ask()
    limit = 10 * one.usage.cost
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(cost=limit)) as scope:
        for _ in range(20):
            ask()

    assert 10 == scope.usage.calls == provider.total.calls - 1
    assert limit == scope.usage.cost == raised.value.spent.cost
    assert f"the budget of 'run', ${limit}, is spent: ${limit}" == str(raised.value)


def test_dollars_of_a_model_without_a_price(provider: LoopbackProvider) -> None:
    """One warning names a model without a known price, and the run goes on. After `set_price`, the budget ends it."""
    with dspy.context(lm=provider.lm("openai/nobody-knows")):
        with pytest.warns(TokenScopeWarning, match="no price is known of 'openai/nobody-knows'") as caught:
            with token_scope("run", budget=Budget(cost=0.0001)):
                for _ in range(3):
                    ask()
        assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
        set_price("openai/nobody-knows", input=1, output=1)
        with pytest.raises(BudgetExceeded), token_scope("run", budget=Budget(cost=0.0001)) as scope:
            for _ in range(3):
                ask()
    assert 1 == scope.usage.calls


def test_warn(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """With `warn`, there is one warning, and the evaluation returns its score."""
    evaluate = dspy.Evaluate(devset=examples(8), metric=metric, num_threads=4, display_progress=False)
    with pytest.warns(TokenScopeWarning, match="the budget of 'run', 3 calls, is spent.*lets the run go on") as caught:
        with token_scope("run", budget=Budget(calls=3, on_exceed="warn")) as scope:
            result = evaluate(predict)

    assert 100 == float(getattr(result, "score", result))
    assert 1 == len([each for each in caught if isinstance(each.message, TokenScopeWarning)])
    assert scope.budget_exceeded
    assert 8 == provider.total.calls


# -- nested budgets ----------------------------------------------------------------------------------------------------


class Careful(dspy.Module):
    """A module that limits its answer with a budget. If the budget is spent, it returns a fixed answer."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.answer = Answer()
        self.budget = budget

    def forward(self, question: str) -> Any:
        try:
            with token_scope("careful", budget=self.budget):
                return self.answer(question=question)
        except Exception:
            return dspy.Prediction(answer="no idea")


@pytest.mark.parametrize("number", [1, 4])
def test_the_inner_one_is_spent(lm: dspy.LM, provider: LoopbackProvider, number: int) -> None:
    """A spent inner budget ends only its own scope, each time. The evaluation around it runs to its end."""
    evaluate = dspy.Evaluate(devset=examples(6), metric=metric, num_threads=number, display_progress=False)
    with token_scope("run", budget=Budget(calls=100)) as scope:
        evaluate(Careful(Budget(calls=2)))

    assert 12 == scope.usage.calls == provider.total.calls
    assert not scope.budget_exceeded


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("on_exceed", ["raise", "stop", "warn"])
def test_the_outer_one_is_spent(lm: dspy.LM, provider: LoopbackProvider, number: int, on_exceed: Any) -> None:
    """A spent outer budget ends its scope, through inner scopes, modules and code that catches exceptions."""
    evaluate = dspy.Evaluate(devset=examples(6), metric=metric, num_threads=number, display_progress=False)
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=LIMIT)):
        with swallowing, token_scope("between"):
            evaluate(Careful(Budget(calls=100, on_exceed=on_exceed)))
        pytest.fail("the outer block went on")  # pragma: no cover

    assert ("outer", LIMIT) == (raised.value.scope, raised.value.spent.calls)
    assert LIMIT == provider.total.calls


def test_functions(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """`track_tokens(budget=)` gives each call of a function a budget of its own."""

    @track_tokens("support", "reply", budget=Budget(calls=2))
    def reply(number: int) -> int:
        for n in range(number):
            with swallowing:
                ask(n)
        return number

    @track_tokens("support", "areply", budget=Budget(calls=2, on_exceed="stop"))
    async def areply(number: int) -> int:
        for n in range(number):
            with swallowing:
                await aask(n)
        return number

    assert 2 == reply(2)
    for _ in range(2):
        with pytest.raises(BudgetExceeded) as raised:
            reply(3)
        assert ("support/reply", 2) == (raised.value.scope, raised.value.spent.calls)
    assert [None, 1, None] == asyncio.run(_gathered(areply(3), areply(1), areply(3)))
    assert 2 * 3 + 5 == provider.total.calls


async def _gathered(*coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines)


# -- what DSPy does around a call -------------------------------------------------------------------------------------------


def test_adapters_do_not_buy_another_call(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """If an answer cannot be parsed and the budget is spent, ChatAdapter does not ask again as JSONAdapter."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=1)):
        ask("Why? <<garble>>")

    assert 1 == provider.total.calls == raised.value.spent.calls
    assert raised.value.__cause__ is None


def test_tries_of_one_call(provider: LoopbackProvider) -> None:
    """Requests that DSPy repeats are one call of the budget. A call that fails is one call, too."""
    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as scope:
        provider.lm(num_retries=2)("<<fail 503 once>> Why?")
        with pytest.raises(Exception, match="500"):
            provider.lm()("<<fail 500>>")
        provider.lm()("Once more?")

    assert (2, 1) == (scope.usage.calls, scope.usage.failed_calls)
    assert 1 == provider.total.calls


def test_cache_hits(provider: LoopbackProvider) -> None:
    """Cache hits are calls of the budget, but spend neither tokens nor dollars."""
    before = dspy.cache
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    try:
        with dspy.context(lm=provider.lm(cache=True)):
            with token_scope("run", budget=Budget(tokens=300, cost=1)) as scope:
                for _ in range(10):
                    ask()
            assert (10, 9) == (scope.usage.calls, scope.usage.cached_calls)
            assert not scope.budget_exceeded
            with token_scope("run", budget=Budget(calls=3, on_exceed="stop")) as scope:
                for _ in range(10):
                    ask()
            assert (3, 3) == (scope.usage.calls, scope.usage.cached_calls)
    finally:
        dspy.cache = before
    assert 1 == provider.total.calls


@pytest.mark.skipif(DSPY < (3, 4), reason="DSPy has TypeSafe from 3.4 on")
def test_typesafe(provider: LoopbackProvider) -> None:
    """TypeSafe is not a BaseLM, but a budget limits its calls as well."""
    experimental = importlib.import_module("dspy.experimental")
    lm = experimental.TypeSafe(api_key="none", base_url=provider.url.removesuffix("/v1"), cache=False)
    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as scope:
        for _ in range(3):
            lm("Leaves turn red.", {"sure": {"type": "noul", "instructions": "Is it?"}})

    assert 2 == provider.total.calls == scope.usage.calls
    assert scope.budget_exceeded


# -- LMs that ask LMs -------------------------------------------------------------------------------------------------------


def test_an_lm_that_only_asks_another(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """An LM that only asks another LM takes no call of the budget, so the last call is left for the other LM."""
    with dspy.context(lm=Router(lm)), token_scope("run", budget=Budget(calls=1)) as scope:
        ask()

    assert 1 == provider.total.calls == scope.usage.calls
    assert not scope.budget_exceeded


def test_an_lm_that_falls_back_on_another(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """If an LM tries several others until one answers, each try is one call of the budget."""

    class Failing(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            raise RuntimeError("not here")

    with dspy.context(lm=Router(Failing(model="failing"), lm)):
        with token_scope("run", budget=Budget(calls=3, on_exceed="stop")) as scope:
            for n in range(4):
                ask(n)

    assert (3, 2) == (scope.usage.calls, scope.usage.failed_calls)
    assert 1 == provider.total.calls


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_lm_that_asks_another_and_buys_itself(
    lm: dspy.LM, provider: LoopbackProvider, limit: int, asynchronous: bool
) -> None:
    """If an LM asks another LM and then makes a request itself, both are calls of the budget."""

    class Guarded(dspy.LM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            lm("May I?")
            return super().forward(*args, **kwargs)

        async def aforward(self, *args: Any, **kwargs: Any) -> Any:
            await lm.acall("May I?")
            return await super().aforward(*args, **kwargs)

    guarded = Guarded("openai/gpt-4o", api_base=provider.url, api_key="none", cache=False, num_retries=0)
    with dspy.context(lm=guarded), token_scope("run", budget=Budget(calls=limit, on_exceed="stop")) as scope:
        for n in range(5):
            asyncio.run(aask(n)) if asynchronous else ask(n)

    assert scope.budget_exceeded
    assert (limit, *tokens(provider.total)) == (scope.usage.calls, *tokens(scope.usage))
    assert limit == provider.total.calls


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_callback_that_asks_an_lm(lm: dspy.LM, provider: LoopbackProvider, limit: int) -> None:
    """If a callback makes a call when another call begins, both are calls of the budget."""

    class Asking(importlib.import_module("dspy.utils.callback").BaseCallback):  # type: ignore[misc]
        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            if instance is lm:
                other("Shall I?")

    other = provider.lm("openai/gpt-4o")
    with dspy.context(callbacks=[Asking()]), token_scope("run", budget=Budget(calls=limit, on_exceed="stop")) as scope:
        for n in range(3):
            ask(n)

    assert scope.budget_exceeded
    assert limit >= provider.total.calls >= limit - 1
    assert provider.total.calls == scope.usage.calls
    assert tokens(provider.total) == tokens(scope.usage)


def test_an_lm_that_is_kept_from_asking_another(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """If a budget that is opened inside an LM is spent, the LM's call counts as failed."""

    class Frugal(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            with token_scope("inside", budget=Budget(calls=0)):
                return lm(prompt=prompt, messages=messages)

    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as scope:
        for _ in range(2):
            with pytest.raises(BudgetExceeded):
                Frugal(model="frugal")("Why?")
        ask()

    assert scope.budget_exceeded
    assert (2, 2) == (scope.usage.calls, scope.usage.failed_calls)
    assert 0 == provider.total.calls


def test_a_call_that_is_stopped_is_given_back(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """If an LM's call is stopped before it has spent anything, the outer budget can use its call again."""

    class Slow(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            meanwhile = threading.Thread(target=lm, args=("Who is quicker?",))
            meanwhile.start()
            meanwhile.join()
            return lm(prompt=prompt, messages=messages)

    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=3)) as outer:
        with token_scope("inner", budget=Budget(tokens=1, on_exceed="stop")) as inner:
            Slow(model="slow")("Why?")
        assert inner.budget_exceeded
        for n in range(5):
            ask(n)

    assert "outer" == raised.value.scope
    assert (3, 0) == (outer.usage.calls, outer.usage.failed_calls)
    assert 3 == provider.total.calls


def test_a_call_that_cannot_be_counted_is_given_back(
    lm: dspy.LM, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If counting fails before a call begins, the budget gets back the reserved call."""

    class Strange(dspy.LM):
        @property
        def model(self) -> str:
            if self.armed:
                self.armed = False
                raise RuntimeError("no name")
            return "openai/gpt-4o-mini"

        @model.setter
        def model(self, value: str) -> None:
            self.armed = False

    strange = Strange("openai/gpt-4o-mini", api_base=provider.url, api_key="none", cache=False)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # under pytest, tokenscope raises its own errors
    monkeypatch.setattr(STATE, "read_prompt", None)  # it would ask for the name first
    forget_warnings()
    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as run:
        strange.armed = True
        with pytest.warns(TokenScopeWarning, match="count(ing)? an LM call"):
            strange("Hello")
        for n in range(5):
            ask(n)

    assert run.budget_exceeded
    assert 2 == run.usage.calls


# -- tasks that outlive the block --------------------------------------------------------------------------------------------


def test_late_tasks() -> None:
    """Calls that are in flight when the budget ends the block still finish, and are counted."""

    async def main() -> Any:
        with pytest.raises(BudgetExceeded) as raised:
            async with token_scope("run", budget=Budget(calls=4)) as scope:
                tasks = [asyncio.create_task(aask(f"{n} <<hold>>")) for n in range(4)]
                for _ in tasks:
                    await asyncio.to_thread(provider.asked.acquire)
                await aask("one more")
        provider.go.set()
        results = await asyncio.gather(*tasks)
        task = asyncio.create_task(aask("outside"))
        await task
        return raised.value, scope, results

    with HoldingProvider() as provider, dspy.context(lm=provider.lm()):
        error, scope, results = asyncio.run(main())
    assert 0 == error.spent.calls
    assert all(result.answer for result in results)
    assert 4 == scope.usage.calls == provider.total.calls - 1


def test_a_task_that_goes_on(lm: dspy.LM, provider: LoopbackProvider) -> None:
    """A task begun inside the block is stopped at its next call, however late."""

    async def main() -> Any:
        go = asyncio.Event()

        async def late() -> Any:
            await go.wait()
            return await aask("late")

        async with token_scope("run", budget=Budget(calls=2, on_exceed="stop")):
            task = asyncio.create_task(late())
            for n in range(3):
                await aask(n)
        go.set()
        with pytest.raises(BudgetStop):
            await task

    asyncio.run(main())
    assert 2 == provider.total.calls


def test_threads_that_outlive_a_block_within_its_budget() -> None:
    """A budget holds on for threads that are still running when its block ends: they are counted, and stopped at the limit."""
    go = threading.Event()
    answers: list[Any] = []

    def work(lm: Any) -> None:
        lm("<<hold>>")
        go.wait(60)
        for n in range(10):
            answers.append(lm(f"{n}?"))

    with HoldingProvider() as provider:
        lm = provider.lm()
        with token_scope("run", budget=Budget(calls=LIMIT)) as scope:
            threads = [threading.Thread(target=work, args=(lm,)) for _ in range(2)]
            for thread in threads:
                thread.start()
                provider.asked.acquire()
        assert (0, False) == (scope.usage.calls, scope.budget_exceeded)
        provider.go.set()
        go.set()
        for thread in threads:
            thread.join()
        lm("outside")
        assert LIMIT == scope.usage.calls == provider.total.calls - 1
        assert LIMIT - len(threads) == len(answers)
        assert scope.budget_exceeded
