"""Budgets: a spent budget ends the run at the scope that has the budget, whatever code runs in between."""

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
from tokenscope._scopes.enforcement import (
    BudgetAccount,
    BudgetStop,
    account_of,
    limit_process,
    release,
    reserve,
    reserve_again,
    stop_in,
)
from tokenscope._scopes.event_log import EndedCall, add_table, append
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import path_of
from tokenscope._usage.calls import Call
from tokenscope._usage.custom_prices import forget_prices
from tokenscope._usage.keys import UsageKey, key_of
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

TEN = Budget(tokens=10)


@pytest.fixture(autouse=True)
def nothing_set():
    """Forget all prices and warnings after each test."""
    yield
    forget_prices()
    forget_warnings()


def here():
    """Return the active scope, or the root outside of all scopes."""
    return active() or STATE.root


def count(scope, model: str, counts: Counts, *, reserved: bool, key: UsageKey | None = None) -> None:
    """Append a call that has ended to the event log."""
    call = Call(path_of(scope), key or key_of(model, counts, 0.0), counts, 0.0, 0.0, None, None)
    append(EndedCall(scope, call, reserved=reserved))


def buy(tokens: int = 1, model: str = "x") -> None:
    """Do what the DSPy bridge does for one LM call: reserve, spend, count."""
    reserved = reserve(here())
    count(here(), model, Counts(calls=1, input_tokens=tokens), reserved=reserved)


async def abuy(tokens: int = 1) -> None:
    """Do the same in a coroutine that lets other calls run before its own call is counted."""
    scope = here()
    reserved = reserve(scope)
    await asyncio.sleep(0)
    count(scope, "x", Counts(calls=1, input_tokens=tokens), reserved=reserved)


# -- the budget itself ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, TypeError, "^a Budget needs a limit: tokens=, cost= or calls=$"),
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
    """Wrong arguments raise an error when the Budget is made."""
    with pytest.raises(error, match=said):
        Budget(**arguments)


def test_budgets_are_values():
    """Budgets can be compared, hashed, copied and pickled. Their text names the limits, and their cost is exact."""
    budget = Budget(tokens=50_000, cost=0.1, calls=1)

    assert budget == Budget(tokens=50_000, cost=Decimal("0.1"), calls=1) == pickle.loads(pickle.dumps(budget))
    assert 1 == len({budget, copy.deepcopy(budget)})
    assert "50,000 tokens and $0.1 and 1 call" == str(budget)
    assert Decimal("0.5") == Budget(cost=Fraction(1, 2).__float__()).cost


# -- how a scope ends --------------------------------------------------------------------------------------------------


def test_raise():
    """No call is made after the budget is spent. BudgetExceeded has the scope's name, limit, usage and report."""
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
    assert (str(error), error.scope, error.limit, error.spent, error.report) == error.args


def test_nothing_happens_within_the_budget():
    """If a budget is reached but no further call is made, the block ends normally and can still open scopes."""
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
    """With `stop`, the block ends without an exception, and `budget_exceeded` is true."""
    with token_scope("run", budget=Budget(calls=2, on_exceed="stop")) as scope:
        for _ in range(5):
            buy()

    assert scope.budget_exceeded
    assert 2 == scope.usage.calls
    assert current_scope() is None


def test_warn():
    """With `warn`, all calls are made, and there is one warning."""
    with pytest.warns(TokenScopeWarning, match="the budget of 'run', 2 calls, is spent.*lets the run go on") as caught:
        with token_scope("run", budget=Budget(calls=2, on_exceed="warn")) as scope:
            for _ in range(5):
                buy()

    assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
    assert 5 == scope.usage.calls
    assert scope.budget_exceeded


def test_a_warning_points_to_the_caller():
    """The warning of a budget names the file in which a call was made."""
    with pytest.warns(TokenScopeWarning, match="is spent") as caught:
        with token_scope("run", budget=Budget(calls=1, on_exceed="warn")):
            buy()
            buy()

    assert [__file__] == [warning.filename for warning in caught]


def test_the_outermost_of_several_spent_budgets_ends_the_run():
    """If one call would exceed three budgets at once, the outermost is the one that is named, and its block ends."""
    budget = Budget(calls=1)
    with pytest.raises(BudgetExceeded) as caught, token_scope("outer", budget=budget):
        with token_scope("middle", budget=budget), token_scope("inner", budget=budget):
            buy()
            buy()

    assert "outer" == caught.value.scope
    assert 1 == caught.value.report.total.calls


def test_each_entry_warns():
    """Each entry of a scope warns, even if it reuses the memory address of an earlier entry."""
    with pytest.warns(TokenScopeWarning, match="lets the run go on") as caught:
        for _ in range(100):
            with token_scope("run", budget=Budget(calls=0, on_exceed="warn")):
                buy()

    assert 100 == sum(warning.category is TokenScopeWarning for warning in caught)


def test_warn_at_the_end():
    """If only the last call exceeds the budget, the warning appears when the scope ends."""
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
    """A budget can limit tokens, calls or dollars. A limit of 0 calls allows no call."""
    set_price("x", input=1, output=0)
    with pytest.raises(BudgetExceeded), token_scope("run", budget=budget) as scope:
        while True:
            buy(3)
    assert calls == scope.usage.calls


def test_what_is_spent_already_is_recorded():
    """`record_tokens` never raises, because its tokens are already spent. But no other scope can be entered."""
    with pytest.raises(BudgetExceeded, match="12 tokens, 2 tokens more than that"), token_scope("run", budget=TEN):
        record_tokens("m", "o", "x", None, 12, 0)
        with token_scope("next"):
            pytest.fail("this was entered")  # pragma: no cover

    with token_scope("run", budget=TEN) as scope:
        record_tokens("m", "o", "x", None, 12, 0)
    assert scope.budget_exceeded


def test_a_price_that_nobody_knows():
    """A model without a known price costs the budget nothing, and one warning for each such model says so."""
    forget_warnings()
    with pytest.warns(
        TokenScopeWarning, match=r"no price is known of 'nobody/.*', so its calls cost the budget of 'run'"
    ) as caught:
        with token_scope("run", budget=Budget(cost=1)) as scope:
            for _ in range(3):
                buy(1_000_000, "nobody/knows")
                buy(1_000_000, "nobody/either")

    assert ["'nobody/knows'", "'nobody/either'"] == [
        str(warning.message).split(",")[0].rpartition(" ")[2]
        for warning in caught
        if warning.category is TokenScopeWarning
    ]
    assert not scope.budget_exceeded


def test_answers_of_the_cache_spend_nothing():
    """Answers from the cache count as calls of the budget, but spend no tokens."""
    with token_scope("run", budget=Budget(tokens=10, calls=3)) as scope:
        for _ in range(3):
            assert reserve(here())
            saved = Counts(calls=1, cached_calls=1, input_tokens=99)
            count(here(), "x", saved, key=UsageKey("x", 0, "cache"), reserved=True)
        with suppress(BudgetStop):
            reserve(here())
            pytest.fail("a fourth call was let through")  # pragma: no cover
        scope.account.stopped = False  # as if no fourth call had been tried

    assert 0 == scope.usage.total_tokens


def test_a_call_that_is_given_back():
    """A reserved call that is released can be made later."""
    with token_scope("run", budget=Budget(calls=1)):
        assert reserve(here())
        release(here())
        buy()


def test_a_call_that_is_handed_on():
    """An LM call can hand on its reservation to another call. To spend tokens itself, it has to reserve again."""
    done = False
    with suppress(BudgetExceeded), token_scope("run", budget=Budget(calls=1)) as scope:
        call = SimpleNamespace(scope=here(), reserved=reserve(here()))
        reserve_again(call)
        assert call.reserved
        assert reserve(here(), call)
        assert not call.reserved
        assert 1 == scope.account.calls
        with pytest.raises(BudgetStop):
            reserve_again(call)
        done = True
    assert done


def test_a_call_that_is_refused_is_not_handed_on():
    """If an inner budget refuses the other call, the first call keeps its reservation."""
    with token_scope("run", budget=Budget(calls=2)) as scope:
        assert reserve(here())
        call = SimpleNamespace(scope=here(), reserved=reserve(here()))
        with suppress(BudgetExceeded), token_scope("inside", budget=Budget(calls=0)):
            reserve(here(), call)
        assert call.reserved
        assert 2 == scope.account.calls


def test_what_a_call_in_flight_records_stops_no_scope_in_it():
    """An LM call may record by hand what it spends, and enter a scope: a limit on calls stops calls alone."""
    with token_scope("run", budget=Budget(calls=1)) as scope:
        assert reserve(here())
        record_tokens("m", "o", "x", None, 1, 0)
        with token_scope("step"):
            release(here())
    assert 1 == scope.usage.calls


# -- whatever runs inside ----------------------------------------------------------------------------------------------


def stubborn():
    """Make 20 calls, and ignore every `Exception`."""
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
    """Whatever the block runs and catches, a limit on calls is exact, and the scope ends as `on_exceed` says."""
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
    """A limit on calls is exact, however many threads make calls at once."""
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
    """A thread that is stopped by a budget prints no traceback. The scope's `budget_exceeded` is true."""
    heard = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    with token_scope("run", budget=Budget(calls=1, on_exceed="stop")) as scope:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert scope.budget_exceeded
    assert [] == heard


def test_a_thread_that_fails_is_heard(monkeypatch):
    """If a thread ends with a stop and another exception, the traceback is printed as usual."""
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


# -- nested budgets ----------------------------------------------------------------------------------------------------


def test_the_inner_one_is_spent():
    """A spent inner budget ends its own scope, and the outer scope goes on."""
    with token_scope("outer", budget=Budget(calls=10)) as outer:
        for _ in range(3):
            with pytest.raises(BudgetExceeded) as raised, token_scope("inner", budget=Budget(calls=2)):
                stubborn()
            assert "inner" == raised.value.scope
        buy()

    assert 7 == outer.usage.calls
    assert not outer.budget_exceeded


def test_the_outer_one_is_spent():
    """A spent outer budget also ends the inner scope, whatever its `on_exceed` and whatever exceptions are caught."""
    for on_exceed in ("raise", "stop", "warn"):
        with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=3)):
            with suppress(Exception), token_scope("inner", budget=Budget(calls=5, on_exceed=on_exceed)):
                stubborn()
            pytest.fail("the outer block went on")  # pragma: no cover
        assert "outer" == raised.value.scope


def test_both_are_spent_at_once():
    """If an inner and an outer budget are spent at once, the outer scope ends."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=3)):
        with suppress(Exception), token_scope("inner", budget=Budget(calls=3)):
            stubborn()
    assert "outer" == raised.value.scope


def test_both_are_exceeded_at_once():
    """If both budgets are exceeded when another scope is about to be entered, the outer scope ends."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=TEN):
        with suppress(Exception), token_scope("inner", budget=TEN):
            record_tokens("m", "o", "x", None, 11, 0)
            with token_scope("next"):
                pytest.fail("this was entered")  # pragma: no cover
    assert "outer" == raised.value.scope


def test_a_spent_outer_budget_keeps_scopes_from_being_entered():
    """If the outer budget is exceeded, no scope can be entered, even with a budget of its own."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=TEN):
        record_tokens("m", "o", "x", None, 11, 0)
        with token_scope("inner", budget=Budget(tokens=1_000)):
            pytest.fail("this was entered")  # pragma: no cover
    assert "outer" == raised.value.scope
    assert current_scope() is None


# -- other exceptions --------------------------------------------------------------------------------------------------


def test_another_exception_has_the_budget_as_its_reason():
    """If code fails after a refused call, its exception is the cause of BudgetExceeded. `stop` lets it pass instead."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=1)):
        in_a_swallowing_function()
        raise KeyError("answer")
    assert isinstance(raised.value.__cause__, KeyError)

    with pytest.raises(KeyError), token_scope("run", budget=Budget(calls=1, on_exceed="stop")):
        in_a_swallowing_function()
        raise KeyError("answer")


def test_exceptions_within_the_budget_are_left_alone():
    """If the budget has refused no call, an exception passes unchanged."""
    with pytest.raises(KeyError), token_scope("run", budget=Budget(calls=1)):
        buy()
        raise KeyError("answer")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_program_that_is_to_end_ends(error):
    """KeyboardInterrupt, SystemExit and CancelledError pass unchanged, even if the budget is spent."""
    with pytest.raises(error), token_scope("run", budget=Budget(calls=1)):
        in_a_swallowing_function()
        raise error


def test_a_group_with_other_errors():
    """Other errors in an exception group are the cause of BudgetExceeded. With `stop`, they are raised themselves."""

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
    """Run a function of any kind, and return its result or its items."""
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
    """Each call of a decorated function has its own budget, and raises BudgetExceeded if the budget is spent."""
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
    """With `stop`, a function whose budget is spent returns None, and a generator yields no more items."""
    assert left == run(track_tokens("m", "o", budget=QUIET)(function))


@pytest.mark.parametrize("function", [plain, coroutine, generator, async_generator])
def test_decorated_functions_within_their_budget(function):
    """A decorated function that stays within its budget returns the same result as without a budget."""
    assert run(function) == run(track_tokens("m", "o", budget=Budget(calls=5))(function))


def test_a_generator_that_swallows_the_stop():
    """A generator that catches the stop still raises BudgetExceeded when it ends."""

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
    """A decorated function and a `token_scope` keep their budget when they are pickled."""
    decorated = pickle.loads(cloudpickle.dumps(track_tokens("m", "o", budget=LOUD)(lambda: [buy() for _ in range(3)])))
    with pytest.raises(BudgetExceeded):
        decorated()
    recipe = pickle.loads(pickle.dumps(token_scope("run", budget=LOUD, id=7)))
    assert (LOUD, {"id": 7}) == (recipe.budget, recipe.attributes)


def test_one_recipe_entered_often():
    """Each entry of a `token_scope` has the whole budget, even if entries are nested or run at the same time."""
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
    """A spent budget ends an `async with` block as it ends a `with` block."""

    async def main(budget):
        async with token_scope("run", budget=budget) as scope:
            await coroutine()
        return scope

    with pytest.raises(BudgetExceeded):
        asyncio.run(main(LOUD))
    assert asyncio.run(main(QUIET)).budget_exceeded


def test_calls_that_come_after_the_end():
    """A task that outlives a scope with a spent budget can make no call."""

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


# -- accounts ----------------------------------------------------------------------------------------------------------


def test_recorded_calls_are_calls_of_the_budget():
    """Calls that `record_tokens` counts use up a budget of calls. The message says nothing of more than the limit."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=2)):
        for _ in range(2):
            record_tokens("m", "o", "x", None, 1, 0)
        buy()
    assert "the budget of 'run', 2 calls, is spent: 2 calls" == str(raised.value)


def test_calls_that_were_made_elsewhere():
    """What comes from another process is charged to the budgets of the scope, its calls, too."""
    with token_scope("run", budget=Budget(tokens=9, calls=4)) as scope:
        table = UsageTable(scope.path)
        table.add(scope.path, UsageKey("x"), Counts(calls=2, input_tokens=3))
        record_tokens(model="x", input_tokens=1, output_tokens=0)
        add_table(scope, table, scope.budgets)
        assert "4 of 9 tokens; 3 of 4 calls" == scope.account.balance()
        assert 4 == scope.usage.input_tokens == tokenscope.report().total.input_tokens


def test_what_comes_before_a_scope_is_asked_for():
    """A scope of a decorated function has what came from another process, also if it is asked for later."""

    @track_tokens("m", "o")
    def work():
        scope = active()
        table = UsageTable(scope.path)
        table.add(scope.path, UsageKey("x"), Counts(calls=2, input_tokens=3))
        add_table(scope, table)
        return current_scope().usage.input_tokens

    assert 3 == work()


def test_the_budget_of_a_program(monkeypatch):
    """A budget on the process holds in scopes that are opened later. Its balance says what is spent of each limit."""
    monkeypatch.setattr(STATE.root, "budgets", ())
    account = limit_process(Budget(tokens=2_000, cost=Decimal("0.5"), calls=9))
    assert "0 of 2,000 tokens; $0 of $0.5; 0 of 9 calls" == account.balance()
    with pytest.raises(BudgetStop, match="the budget of 'the program', 2,000 tokens, is spent: 3,000 tokens"):
        for _ in range(3):
            with token_scope("run"):
                record_tokens("m", "o", "x", None, 1_500, 0, cost=Decimal("0.1"))

    assert "3,000 of 2,000 tokens; $0.2 of $0.5; 2 of 9 calls: spent, and the run was ended" == account.balance()
    assert 3_000 == account.error().report.find("run").usage.input_tokens


def test_a_budget_that_no_scope_has():
    """`account_of` says what a scope has spent until now of a budget that is not its own."""
    with token_scope("test") as scope:
        record_tokens("m", "o", "x", None, 15, 0)
    account = account_of(scope, Budget(tokens=10, calls=1), "a test")

    assert ("15 of 10 tokens; 1 of 1 call", True) == (account.balance(), account.exceeded)
    assert "the budget of 'a test', 10 tokens, is spent: 15 tokens, 5 tokens more than that" == account.sentence()
    assert scope is account.scope


def test_a_released_call_is_one_call():
    """`release` gives back one call, and no more."""
    with token_scope("run", budget=Budget(calls=3)) as scope:
        assert reserve(here())
        assert reserve(here())
        release(here())
        assert 1 == scope.account.calls
        release(here())


def test_without_a_budget_nothing_is_reserved():
    """`reserve` returns False if no budget holds."""
    assert False is reserve(here())


def test_a_budget_that_warns_goes_on_counting():
    """A budget that only warns takes every call, also if it is spent."""
    with pytest.warns(TokenScopeWarning, match="the budget of 'run', 1 call, is spent"):
        with token_scope("run", budget=Budget(calls=1, on_exceed="warn")) as scope:
            for _ in range(3):
                buy()
            assert 3 == scope.account.calls


def test_an_outer_budget_that_warns_leaves_the_inner_one_to_stop():
    """If both are spent and the outer budget only warns, the inner scope ends."""
    with pytest.warns(TokenScopeWarning, match="the budget of 'outer', 1 call, is spent"):
        with token_scope("outer", budget=Budget(calls=1, on_exceed="warn")):
            with pytest.raises(BudgetExceeded) as raised, token_scope("inner", budget=Budget(calls=1)):
                stubborn()
            buy()
    assert "inner" == raised.value.scope


def test_an_inner_budget_that_warns_is_silent_if_the_outer_one_stops():
    """If both are spent and the inner budget only warns, the outer scope ends, and nothing warns."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("outer", budget=Budget(calls=1)):
        with token_scope("inner", budget=Budget(calls=1, on_exceed="warn")):
            stubborn()
    assert "outer" == raised.value.scope


def test_stops_in_groups():
    """A group that holds only stops is a stop. A group with another exception is not."""
    stop = BudgetStop(BudgetAccount(Budget(calls=1), STATE.root, "run"))
    assert "the budget of 'run', 1 call, is spent: 0 calls" == str(stop)
    assert stop is stop_in(stop)
    assert stop is stop_in(BaseExceptionGroup("", [stop]))
    assert stop is stop_in(BaseExceptionGroup("", [BaseExceptionGroup("", [stop])]))
    assert None is stop_in(BaseExceptionGroup("", [stop, KeyError()]))
    assert None is stop_in(None)


def test_exceeded_budgets_pickle():
    """A pickled BudgetExceeded has its message, scope, limit, usage and report."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=1)):
        stubborn()
    error, copied = raised.value, pickle.loads(pickle.dumps(raised.value))
    assert (str(error), "run", error.limit, error.spent) == (str(copied), copied.scope, copied.limit, copied.spent)
    assert error.report == copied.report


def test_a_budget_of_no_dollars():
    """A budget of 0 dollars is allowed. It refuses the first call."""
    with pytest.raises(BudgetExceeded), token_scope("run", budget=Budget(cost=0)) as scope:
        buy()
    assert 0 == scope.usage.calls
