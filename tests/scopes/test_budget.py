"""Budgets: what is spent ends the run where the budget was opened, through everything in between."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import cloudpickle
import pytest

import tokenscope
from tokenscope import Budget, BudgetExceeded, carry, current_scope, record_tokens, set_price, token_scope, track_tokens
from tokenscope._scopes.context import active
from tokenscope._scopes.enforcement import BudgetStop, ReservedCall, release, reserve, reserve_again
from tokenscope._scopes.event_log import append
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import path_of
from tokenscope._usage.calls import Call
from tokenscope._usage.keys import UsageKey, key_of
from tokenscope._usage.prices import forget_prices
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

TEN = Budget(tokens=10)


@pytest.fixture(autouse=True)
def nothing_set():
    """Leave no price and no warning behind."""
    yield
    forget_prices()
    forget_warnings()


def here():
    """Return where a call is counted that is made now."""
    return active() or STATE.root


def count(scope, model: str, counts: Counts, *, reserved: bool, key: UsageKey | None = None) -> None:
    """Note that a call has ended."""
    call = Call(path_of(scope), key or key_of(model, counts), counts, 0.0, 0.0, None, None)
    append(scope, ReservedCall(scope, call) if reserved else call, 0, None)


def buy(tokens: int = 1, model: str = "x") -> None:
    """Do what the DSPy bridge does for one LM call: reserve, spend, count."""
    reserved = reserve(here())
    count(here(), model, Counts(calls=1, input_tokens=tokens), reserved=reserved)


async def abuy(tokens: int = 1) -> None:
    """Do the same as a coroutine; another call may come in between."""
    scope = here()
    reserved = reserve(scope)
    await asyncio.sleep(0)
    count(scope, "x", Counts(calls=1, input_tokens=tokens), reserved=reserved)


# -- the budget itself ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, TypeError, "a Budget needs a limit: tokens=, cost= or calls="),
        ({"on_exceed": "stop"}, TypeError, "needs a limit"),
        ({"tokens": -1}, ValueError, "tokens must not be negative, but is -1"),
        ({"tokens": 1.5}, ValueError, "tokens must be a whole number"),
        ({"tokens": True}, TypeError, "tokens must be a whole number, not bool True"),
        ({"tokens": "many"}, TypeError, "tokens must be a whole number, not str 'many'"),
        ({"calls": float("nan")}, ValueError, "calls must be a whole number"),
        ({"cost": -0.1}, ValueError, "cost must be dollars, 0 or more, but is -0.1"),
        ({"cost": float("inf")}, ValueError, "cost must be dollars, 0 or more"),
        ({"cost": "1$"}, TypeError, "cost must be dollars, a number, not str '1\\$'"),
        ({"cost": True}, TypeError, "cost must be dollars, a number, not bool True"),
        (
            {"tokens": 1, "on_exceed": "panic"},
            ValueError,
            "on_exceed must be one of 'raise', 'stop', 'warn', not 'panic'",
        ),
    ],
)
def test_wrong_budgets(arguments, error, said):
    """Are errors where they are made."""
    with pytest.raises(error, match=said):
        Budget(**arguments)


def test_budgets_are_values():
    """They compare, hash, copy, pickle and say what they limit; money is exact."""
    budget = Budget(tokens=50_000, cost=0.1, calls=1)

    assert budget == Budget(tokens=50_000, cost=Decimal("0.1"), calls=1) == pickle.loads(pickle.dumps(budget))
    assert 1 == len({budget, copy.deepcopy(budget)})
    assert "50,000 tokens and $0.1 and 1 call" == str(budget)
    assert Decimal("0.5") == Budget(cost=Fraction(1, 2).__float__()).cost


# -- ends ---------------------------------------------------------------------------------------------------------------


def test_raise():
    """The call after the one that spent the budget is not made; outside, it is an ordinary exception that tells all."""
    done = []
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer"):
        with token_scope("run", budget=TEN) as scope:
            for n in range(10):
                with token_scope("step"):
                    buy(4)
                done.append(n)

    error = raised.value
    assert [0, 1, 2] == done
    assert "the budget of 'run', 10 tokens, is spent: 12 tokens, 2 tokens more than that" == str(error)
    assert ("run", TEN, 12) == (error.scope, error.limit, error.spent.total_tokens)
    assert 12 == error.report.find("run/step").usage.total_tokens
    assert scope.budget_exceeded
    assert error.__cause__ is None
    assert isinstance(error, Exception)
    assert str(error) == str(pickle.loads(pickle.dumps(error)))


def test_nothing_happens_within_the_budget():
    """The block ends as it would without one; a budget that is just reached keeps nothing from being done but another call."""
    set_price("x", input=1, output=1)
    with token_scope("run", budget=Budget(tokens=10, calls=2, cost=1)) as scope:
        buy(5)
        buy(5)
        with token_scope("no call any more"):
            pass

    assert not scope.budget_exceeded
    assert 10 == scope.usage.total_tokens
    with token_scope("none") as other:
        pass
    assert not other.budget_exceeded


def test_stop():
    """The block is left quietly, and says so."""
    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as scope:
        for _ in range(5):
            buy()

    assert scope.budget_exceeded
    assert 2 == scope.usage.calls
    assert current_scope() is None


def test_warn():
    """One warning, at the line that went on; everything is done."""
    with pytest.warns(TokenScopeWarning, match="the budget of 'run', 2 calls, is spent.*lets the run go on") as caught:
        with token_scope("run", budget=Budget(calls=2, on_exceed="warn")) as scope:
            for _ in range(5):
                buy()

    assert [__file__] == [warning.filename for warning in caught]
    assert 5 == scope.usage.calls
    assert scope.budget_exceeded


def test_each_entry_warns():
    """Also where it has the place in memory that an earlier one had."""
    with pytest.warns(TokenScopeWarning, match="lets the run go on") as caught:
        for _ in range(100):
            with token_scope("run", budget=Budget(calls=0, on_exceed="warn")):
                buy()

    assert 100 == sum(warning.category is TokenScopeWarning for warning in caught)


def test_warn_at_the_end():
    """What only the last call has spent is told where the scope ends."""
    with pytest.warns(
        TokenScopeWarning, match="the budget of 'run', 10 tokens, is spent: 11 tokens, 1 token more than that"
    ):
        with token_scope("run", budget=Budget(tokens=10, on_exceed="warn")):
            buy(11)


@pytest.mark.parametrize(
    ("budget", "calls"),
    [(Budget(tokens=10), 4), (Budget(calls=4), 4), (Budget(cost=Decimal("0.00001")), 4), (Budget(calls=0), 0)],
    ids=str,
)
def test_each_limit(budget, calls):
    """Tokens, calls, dollars; 0 calls are none."""
    set_price("x", input=1, output=0)
    with pytest.raises(BudgetExceeded), token_scope("run", budget=budget) as scope:
        while True:
            buy(3)
    assert calls == scope.usage.calls


def test_what_is_spent_already_is_recorded():
    """`record_tokens` never raises, for those tokens are spent; the next scope is not entered."""
    with pytest.raises(BudgetExceeded, match="12 tokens, 2 tokens more than that"), token_scope("run", budget=TEN):
        record_tokens("m", "o", "x", None, 12, 0)
        with token_scope("next"):
            pytest.fail("this was entered")  # pragma: no cover

    with token_scope("run", budget=TEN) as scope:
        record_tokens("m", "o", "x", None, 12, 0)
    assert scope.budget_exceeded


def test_a_price_that_nobody_knows():
    """Does not pass silently as free."""
    with pytest.warns(
        TokenScopeWarning, match="no price is known of 'nobody/knows', so its calls cost the budget of 'run'"
    ) as caught:
        with token_scope("run", budget=Budget(cost=1)) as scope:
            for _ in range(3):
                buy(1_000_000, "nobody/knows")

    assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
    assert not scope.budget_exceeded


def test_answers_of_the_cache_spend_nothing():
    """They count as calls."""
    with token_scope("run", budget=Budget(tokens=10, calls=3)) as scope:
        for _ in range(3):
            assert reserve(here())
            saved = Counts(calls=1, cached_calls=1, input_tokens=99)
            count(here(), "x", saved, key=UsageKey("x", 0, "cache"), reserved=True)
        with suppress(BudgetStop):
            reserve(here())
            pytest.fail("a fourth call was let through")  # pragma: no cover
        scope.account.stopped = False  # as though nobody had tried

    assert 0 == scope.usage.total_tokens


def test_a_call_that_is_given_back():
    """What is reserved and then not to be counted is there again."""
    with token_scope("run", budget=Budget(calls=1)):
        assert reserve(here())
        release(here())
        buy()


def test_a_call_that_is_handed_on():
    """An LM call may hand on to another what it has reserved; it has to ask again if it buys something itself."""
    with suppress(BudgetExceeded), token_scope("run", budget=Budget(calls=1)):
        call = SimpleNamespace(scope=here(), reserved=reserve(here()))
        reserve_again(call)
        assert call.reserved
        assert reserve(here(), call)
        assert not call.reserved
        with pytest.raises(BudgetStop):
            reserve_again(call)


def test_a_call_that_is_refused_is_not_handed_on():
    """Where a budget further inside keeps the other call from being made, the first one keeps what it has."""
    with token_scope("run", budget=Budget(calls=1)) as scope:
        call = SimpleNamespace(scope=here(), reserved=reserve(here()))
        with suppress(BudgetExceeded), token_scope("inside", budget=Budget(calls=0)):
            reserve(here(), call)
        assert call.reserved
        assert 1 == scope.account.calls


# -- through everything -----------------------------------------------------------------------------------------------------


def stubborn():
    """Go on whatever fails."""
    for _ in range(20):
        with suppress(Exception):
            buy(3)


def in_a_thread():
    thread = threading.Thread(target=stubborn)
    thread.start()
    thread.join()


def in_a_pool():
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: stubborn(), range(3)))


def in_a_pool_that_nobody_asks():
    with ThreadPoolExecutor(2) as pool:
        pool.submit(stubborn)


def in_another_thread_by_carry():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(carry(stubborn)).exception()


def in_gather():
    async def main():
        await asyncio.gather(*(abuy(3) for _ in range(20)))

    asyncio.run(main())


def in_gather_with_exceptions_returned():
    async def main():
        for _ in range(20):
            await asyncio.gather(abuy(3), return_exceptions=True)

    asyncio.run(main())


def in_a_task_group():
    async def main():
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(abuy(3))
            await asyncio.sleep(0.1)
        async with asyncio.TaskGroup() as group:
            group.create_task(abuy(3))

    asyncio.run(main())


def in_to_thread():
    asyncio.run(asyncio.to_thread(stubborn))


def in_a_swallowing_function():
    for _ in range(20):
        try:
            buy(3)
        except BaseException:
            continue


def in_nested_scopes_and_functions():
    @track_tokens("module", "operation")
    def step():
        with token_scope("inner"), ExitStack() as stack:
            stack.enter_context(token_scope("innermost"))
            stubborn()

    step()


WAYS = [
    stubborn,
    in_a_thread,
    in_a_pool,
    in_a_pool_that_nobody_asks,
    in_another_thread_by_carry,
    in_gather,
    in_gather_with_exceptions_returned,
    in_a_task_group,
    in_to_thread,
    in_a_swallowing_function,
    in_nested_scopes_and_functions,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("on_exceed", ["raise", "stop"])
def test_nothing_swallows_the_stop(way, on_exceed):
    """Whatever runs inside, and whatever it catches: a limit on calls is exact, and the scope ends as its budget says."""
    with token_scope("outer") as outer:
        block = token_scope("run", budget=Budget(calls=7, on_exceed=on_exceed))
        if on_exceed == "raise":
            with pytest.raises(BudgetExceeded, match="7 calls, is spent: 7 calls"), block as scope:
                way()
        else:
            with block as scope:
                way()
        assert current_scope() is outer

    assert scope.budget_exceeded
    assert 7 == scope.usage.calls


@pytest.mark.parametrize("threads", [2, 8, 32])
def test_calls_are_exact_at_any_concurrency(threads):
    """However many ask at once, as many are let through as the budget has."""
    with pytest.raises(BudgetExceeded), token_scope("run", budget=Budget(calls=500)) as scope:
        barrier = threading.Barrier(threads)

        def work():
            barrier.wait()
            while True:
                buy()

        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(work) for _ in range(threads)]:
                assert isinstance(future.exception(), BudgetStop)
    assert 500 == scope.usage.calls


@pytest.mark.parametrize("work", [stubborn, in_a_task_group], ids=lambda work: work.__name__)
def test_a_thread_ends_silently(monkeypatch, work):
    """A thread that was stopped prints no traceback: the scope tells."""
    heard = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    with token_scope("run", budget=Budget(calls=1, on_exceed="stop")) as scope:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert scope.budget_exceeded
    assert [] == heard


def test_a_thread_that_fails_is_heard(monkeypatch):
    """Whatever else ends it, beside a stop, is printed as ever."""
    heard = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append(args.exc_value))

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("answer")

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(abuy())

    with token_scope("run", budget=Budget(calls=0, on_exceed="stop")):
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()

    assert {KeyError, BudgetStop} == {type(error) for error in heard.pop().exceptions}


# -- within each other --------------------------------------------------------------------------------------------------


def test_the_inner_one_is_spent():
    """It ends where it was opened, and the outer goes on."""
    with token_scope("outer", budget=Budget(calls=10)) as outer:
        for _ in range(3):
            with pytest.raises(BudgetExceeded) as raised, token_scope("inner", budget=Budget(calls=2)):
                stubborn()
            assert "inner" == raised.value.scope
        buy()

    assert 7 == outer.usage.calls
    assert not outer.budget_exceeded


def test_the_outer_one_is_spent():
    """It ends the inner one too, whatever that says of itself, and whatever catches exceptions between the two."""
    for on_exceed in ("raise", "stop", "warn"):
        with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=3)):
            with suppress(Exception), token_scope("inner", budget=Budget(calls=5, on_exceed=on_exceed)):
                stubborn()
            pytest.fail("the outer block went on")  # pragma: no cover
        assert "outer" == raised.value.scope


def test_both_are_spent_at_once():
    """The outer one ends."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=3)):
        with suppress(Exception), token_scope("inner", budget=Budget(calls=3)):
            stubborn()
    assert "outer" == raised.value.scope


def test_both_are_exceeded_at_once():
    """Where a scope is to be entered, too, the outer one ends."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=TEN):
        with suppress(Exception), token_scope("inner", budget=TEN):
            record_tokens("m", "o", "x", None, 11, 0)
            with token_scope("next"):
                pytest.fail("this was entered")  # pragma: no cover
    assert "outer" == raised.value.scope


def test_a_spent_outer_budget_keeps_scopes_from_being_entered():
    """Also where an inner one has all of its own left."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=TEN):
        record_tokens("m", "o", "x", None, 11, 0)
        with token_scope("inner", budget=Budget(tokens=1_000)):
            pytest.fail("this was entered")  # pragma: no cover
    assert "outer" == raised.value.scope
    assert current_scope() is None


# -- what else is raised ----------------------------------------------------------------------------------------------------


def test_another_exception_has_the_budget_as_its_reason():
    """Code that fails because a call was kept from it fails for the budget; what it raised is the cause."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=1)):
        in_a_swallowing_function()
        raise KeyError("answer")
    assert isinstance(raised.value.__cause__, KeyError)

    with pytest.raises(KeyError), token_scope("run", budget=Budget(calls=1, on_exceed="stop")):
        in_a_swallowing_function()
        raise KeyError("answer")


def test_exceptions_within_the_budget_are_left_alone():
    """A budget that is not spent concerns nobody."""
    with pytest.raises(KeyError), token_scope("run", budget=Budget(calls=1)):
        buy()
        raise KeyError("answer")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_program_that_is_to_end_ends(error):
    """An interrupt is no budget's business, spent or not."""
    with pytest.raises(error), token_scope("run", budget=Budget(calls=1)):
        in_a_swallowing_function()
        raise error


def test_a_group_with_other_errors():
    """The budget's end has them as its cause; where it is quiet, they are what is left."""

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("other")

    async def main():
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(fail())
                group.create_task(abuy())

    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=2)):
        asyncio.run(main())
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    with pytest.raises(ExceptionGroup, match="unhandled"), token_scope("run", budget=Budget(calls=2, on_exceed="stop")):
        asyncio.run(main())


# -- functions --------------------------------------------------------------------------------------------------------------

QUIET = Budget(calls=2, on_exceed="stop")
LOUD = Budget(calls=2)


def plain():
    for _ in range(5):
        buy()
    return "done"


async def coroutine():
    for _ in range(5):
        await abuy()
    return "done"


def generator():
    for n in range(5):
        buy()
        yield n


async def async_generator():
    for n in range(5):
        await abuy()
        yield n


def run(function):
    """Run a function of any kind; return what it returned or yielded."""
    result = function()
    if inspect.iscoroutine(result):
        return asyncio.run(result)
    if hasattr(result, "__aiter__"):

        async def collect():
            return [item async for item in result]

        return asyncio.run(collect())
    return list(result) if hasattr(result, "__next__") else result


@pytest.mark.parametrize(
    "decorator", [track_tokens("m", "o", budget=LOUD), token_scope("m/o", budget=LOUD)], ids=["track", "scope"]
)
@pytest.mark.parametrize("function", [plain, coroutine, generator, async_generator])
def test_decorated_functions(decorator, function):
    """Each call has a budget of its own, and ends in BudgetExceeded where that is spent."""
    decorated = decorator(function)
    for _ in range(2):
        with pytest.raises(BudgetExceeded) as raised:
            run(decorated)
        assert "m/o" == raised.value.scope
        assert 2 == raised.value.spent.calls
    assert current_scope() is None


@pytest.mark.parametrize(
    ("function", "left"), [(plain, None), (coroutine, None), (generator, [0, 1]), (async_generator, [0, 1])]
)
def test_decorated_functions_that_end_quietly(function, left):
    """A function returns None, a generator has no more items."""
    assert left == run(track_tokens("m", "o", budget=QUIET)(function))


@pytest.mark.parametrize("function", [plain, coroutine, generator, async_generator])
def test_decorated_functions_within_their_budget(function):
    """Are as they are without one."""
    assert run(function) == run(track_tokens("m", "o", budget=Budget(calls=5))(function))


def test_a_generator_that_swallows_the_stop():
    """Ends with the budget's exception all the same, when it is done."""

    @track_tokens("m", "o", budget=LOUD)
    def stubborn_generator():
        for n in range(5):
            with suppress(BaseException):
                buy()
            yield n

    seen = []
    with pytest.raises(BudgetExceeded):
        seen.extend(stubborn_generator())
    body = stubborn_generator()
    assert [0, 1, 2] == [next(body) for _ in range(3)]
    body.close()


def test_decorated_functions_pickle():
    """By value too, budget and all."""
    decorated = pickle.loads(cloudpickle.dumps(track_tokens("m", "o", budget=LOUD)(lambda: [buy() for _ in range(3)])))
    with pytest.raises(BudgetExceeded):
        decorated()
    recipe = pickle.loads(pickle.dumps(token_scope("run", budget=LOUD, id=7)))
    assert (LOUD, {"id": 7}) == (recipe.budget, recipe.attributes)


def test_one_recipe_entered_often():
    """Each entry has the budget for itself, also at the same time."""
    recipe = token_scope("run", budget=LOUD)

    async def work():
        async with recipe as scope:
            await abuy()
            await abuy()
        return scope.usage.calls

    async def main():
        return await asyncio.gather(*(work() for _ in range(5)))

    assert [2] * 5 == asyncio.run(main())
    with recipe:
        buy()
        with recipe:
            buy()


def test_the_asynchronous_block():
    """`async with` ends like `with`."""

    async def main(budget):
        async with token_scope("run", budget=budget) as scope:
            await coroutine()
        return scope

    with pytest.raises(BudgetExceeded):
        asyncio.run(main(LOUD))
    assert asyncio.run(main(QUIET)).budget_exceeded


def test_calls_that_come_after_the_end():
    """A task that outlives its scope is not let through any more."""

    async def main():
        go = asyncio.Event()

        async def late():
            await go.wait()
            await abuy()

        with suppress(BudgetExceeded):
            async with token_scope("run", budget=LOUD):
                task = asyncio.create_task(late())
                await coroutine()
        go.set()
        with pytest.raises(BudgetStop):
            await task

    asyncio.run(main())
    assert 2 == tokenscope.report().total.calls
