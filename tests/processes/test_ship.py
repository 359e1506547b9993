"""ship and receive: the usage of a shipped function is counted in the scope that receives its shipment."""

from __future__ import annotations

import ast
import asyncio
import inspect
import multiprocessing
import os
import pickle
import random
import threading
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import cloudpickle
import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import asking, tasks
from support.dspy_support import assert_billed
from support.spending import python, spend, spent

import tokenscope
from tokenscope import (
    Budget,
    BudgetExceeded,
    Report,
    Shipment,
    TokenScopeError,
    current_scope,
    receive,
    ship,
    token_scope,
)
from tokenscope._processes.shipment import _add_number, _received
from tokenscope.testing import LoopbackProvider


@ship
def decorated(tokens):
    """Spend tokens in a function that `ship` decorates."""
    spend(tokens)
    return tokens


class Worker:
    """A class whose methods and objects can be shipped."""

    def work(self, tokens):
        spend(tokens)
        return tokens

    @ship
    def shipped(self, tokens):
        spend(tokens)
        return tokens

    def __call__(self, tokens):
        spend(tokens)
        return tokens


def test_a_shipment():
    """A shipment has a value and a report. It counts in the scope that receives it, not where the function ran."""
    with token_scope("there") as there:
        shipment = ship(tasks.scoped)(3)
    assert isinstance(shipment, Shipment)
    assert 3 == shipment.value
    assert ["inner", "m", "o"] == [row.frame.name for row in shipment.report.rows]
    assert 3 == spent(shipment.report)
    assert [0, 0] == [spent(there), spent(tokenscope.report())]

    with token_scope("here") as here:
        assert 3 == receive(shipment)
    assert 3 == here.report().find("here/inner/m/o").usage.input_tokens
    assert 1 == here.report().find("here/inner").entries
    assert 3 == spent(tokenscope.report())


def test_received_in_no_scope():
    """A shipment that is received in no scope counts at the top level of the process's report."""
    receive(ship(tasks.scoped)(3))

    assert 3 == tokenscope.report().find("inner/m/o").usage.input_tokens


def test_calls_in_no_module():
    """A call that a shipped LM makes in no scope counts as the receiving scope's own."""
    with LoopbackProvider() as provider:
        lm = provider.lm()
        shipments = [ship(lm)("Why? <<bill a>>") for _ in range(2)]
        assert ["(no scope)"] == [row.frame.name for row in shipments[0].report.rows]
        with token_scope("a") as a:
            receive(shipments[0])
        receive(shipments[1])

        assert ["a"] == [row.frame.name for row in a.report().rows]
        assert_billed(provider, {"a": a.usage + tokenscope.report().find("(no scope)").usage})
        assert a.usage.cost == shipments[0].report.total.cost > 0


def test_received_twice():
    """A shipment counts once, in the scope that receives it first, even if the second scope receives a copy."""
    shipment = ship(tasks.scoped)(3)
    copies = [pickle.loads(pickle.dumps(shipment)) for _ in range(2)]
    with token_scope("a") as a:
        assert [3, 3] == [receive(shipment), receive(copies[0])]
    with token_scope("b") as b:
        assert 3 == receive(copies[1])

    assert [3, 0] == [spent(a), spent(b)]


def test_receiving_in_threads():
    """If several threads receive one shipment, it counts once."""
    shipment = ship(tasks.scoped)(3)
    with token_scope("a") as a:
        threads = [threading.Thread(target=receive, args=(shipment,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 3 == spent(a)


@pytest.mark.parametrize("error", [ValueError, tasks.Unpicklable, tasks.Unloadable, tasks.Stubborn])
def test_what_a_function_raises(error):
    """`receive` raises the function's exception, or a TokenScopeError if pickling fails, and counts its usage."""
    shipment = pickle.loads(pickle.dumps(ship(tasks.fail)(3, error)))
    assert f"that failed: {error.__name__ if error is ValueError else 'support.tasks.' + error.__name__}: " in repr(
        shipment
    )
    travels = error in (ValueError, tasks.Stubborn)
    with token_scope("a") as a:
        with pytest.raises(error if travels else TokenScopeError) as caught:
            receive(shipment)
        with pytest.raises(error if travels else TokenScopeError):
            shipment.value  # noqa: B018
    assert 3 == spent(a) == spent(shipment.report)
    assert 'raise error("failed", tokens)' in str(caught.value.__cause__)
    if not travels:
        assert "the exception itself cannot be sent to this process" in str(caught.value)


def test_exits_are_not_caught():
    """`SystemExit` passes through a shipped function. The usage until then counts in the process that ran it."""
    with token_scope("a") as a, pytest.raises(SystemExit):
        ship(tasks.leave)(3)

    assert [0, 3] == [spent(a), spent(tokenscope.report())]


async def test_coroutines():
    """`ship` keeps a coroutine function async. If it is cancelled, its usage counts in the process that ran it."""

    waits = asyncio.Event()

    async def wait():
        spend(1)
        waits.set()
        await asyncio.sleep(60)

    shipped = ship(tasks.spend_async)
    assert inspect.iscoroutinefunction(shipped)
    with token_scope("a") as a:
        assert [1, 2, 3] == [receive(each) for each in await asyncio.gather(*map(shipped, (1, 2, 3)))]
        task = asyncio.create_task(ship(wait)())
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [6, 7] == [spent(a), spent(tokenscope.report())]


async def test_what_a_coroutine_raises():
    """`receive` raises the exception that a shipped coroutine function raised, and counts the usage until then."""

    async def fail():
        await asyncio.sleep(0)
        tasks.fail(3)

    with token_scope("a") as a, pytest.raises(ValueError, match="failed"):
        receive(await ship(fail)())
    assert 3 == spent(a)


CALLABLES = {
    "function": lambda: ship(spend),
    "decorated": lambda: decorated,
    "method": lambda: ship(Worker().work),
    "decorated method": lambda: Worker().shipped,
    "object": lambda: ship(Worker()),
    "partial": lambda: ship(partial(tasks.scoped)),
    "built-in": lambda: ship(len),
    "module": lambda: ship(dspy.Predict("question -> answer")),
    "coroutine": lambda: ship(tasks.spend_async),
}


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize("kind", CALLABLES)
def test_pickles(kind, pickler):
    """A shipped callable can be pickled and unpickled repeatedly, with pickle and with cloudpickle."""
    if kind == "module" and pickler is pickle:
        pytest.skip("a signature that is made of text is pickled by cloudpickle only")
    function = CALLABLES[kind]()
    assert inspect.isroutine(function)
    copy = pickler.loads(pickler.dumps(pickler.loads(pickler.dumps(function))))

    assert inspect.iscoroutinefunction(copy) == (kind == "coroutine")
    if kind not in ("module", "coroutine"):
        assert isinstance(copy([] if kind == "built-in" else 3), Shipment)


def test_by_value():
    """cloudpickle can send shipped functions of `__main__` to a process that does not have these functions."""
    code = """
import cloudpickle
from tokenscope import record_tokens, ship
def spend(tokens):
    record_tokens("m", "o", "model", "provider", tokens, 0)
    return tokens
@ship
def decorated(tokens):
    return spend(tokens)
print(cloudpickle.dumps([ship(spend), decorated, ship(lambda tokens: spend(tokens))]))
"""
    functions = pickle.loads(ast.literal_eval(python(code)))
    with token_scope("a") as a:
        assert [1, 2, 4] == [receive(function(n)) for function, n in zip(functions, (1, 2, 4), strict=True)]

    assert 7 == spent(a)


def test_looks_like_the_function():
    """A shipped function has the original function's name, docstring, signature, module and kind."""
    shipped = ship(tasks.threads)
    assert ("threads", "support.tasks", tasks.threads.__doc__) == (
        shipped.__name__,
        shipped.__module__,
        shipped.__doc__,
    )
    assert inspect.signature(tasks.threads) == inspect.signature(shipped)
    assert inspect.isfunction(shipped)
    assert inspect.unwrap(shipped) is tasks.threads
    assert f"ship({tasks.threads!r})" == repr(shipped)
    assert "<Shipment of int>" == repr(ship(tasks.scoped)(1))


def test_what_a_worker_sees():
    """A shipped function runs in no scope, and the scopes that it opens have no parent."""

    def look():
        assert current_scope() is None
        with token_scope("inner") as inner:
            assert inner.parent is None
            spend(1)
        return inner

    with token_scope("a") as a:
        inner = receive(ship(look)())
        assert current_scope() is a
    assert [1, 1] == [spent(a), spent(inner)]


def test_a_thread_that_outlives_the_call():
    """If a thread spends after its shipped function has returned, the usage counts in the process that runs it."""
    tasks.over.clear()
    with token_scope("a") as a:
        receive(ship(tasks.threads)(1))
        receive(ship(tasks.outlive)(2))
        tasks.end_it()

    assert [1, 3] == [spent(a), spent(tokenscope.report())]


def test_shipments_in_shipments():
    """If a shipped function receives a shipment, its own shipment includes that usage."""

    def outer():
        with token_scope("outer"):
            return receive(ship(tasks.scoped)(3))

    with token_scope("a") as a:
        receive(ship(outer)())
    assert 3 == a.report().find("a/outer/inner/m/o").usage.input_tokens


def test_threads_at_once():
    """If several threads call a shipped function, each shipment has only the usage of its own call."""
    with token_scope("a") as a, ThreadPool(8) as pool:
        shipments = pool.map(ship(tasks.scoped), range(200))
        assert list(range(200)) == [spent(shipment.report) for shipment in shipments]
        assert list(range(200)) == [receive(shipment) for shipment in shipments]

    assert sum(range(200)) == spent(a)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing_pools(method):
    """With DSPy in a `multiprocessing.Pool`, the report equals the bill, including a task that raises."""
    with LoopbackProvider() as provider, multiprocessing.get_context(method).Pool(2) as pool:
        with token_scope("a") as a:
            results = [pool.apply_async(ship(asking.ask), (provider.url, "a")) for _ in range(3)]
            assert all(receive(result.get(60)) for result in results)
            with pytest.raises(LookupError, match="a"):
                receive(pool.apply(ship(asking.ask_and_fail), (provider.url, "a")))

        assert 4 == a.report().find("a/Agent/planner").usage.calls
        assert_billed(provider, {"a": a.usage})


def test_budgets():
    """`receive` charges the budgets around it, and raises BudgetExceeded for a budget inside the shipped function."""
    with pytest.raises(BudgetExceeded, match="is spent: 12 tokens"), token_scope("a", budget=Budget(tokens=10)):
        for _ in range(10):
            with token_scope("step"):
                receive(ship(tasks.scoped)(4))
    with token_scope("b") as b, pytest.raises(BudgetExceeded, match="'limited', 10 tokens, is spent: 11 tokens"):
        receive(ship(tasks.over_budget)(10))

    assert 11 == spent(b)


def test_reports_add_up_to_what_is_received():
    """The sum of the shipments' reports equals the report of the scope that received them, without its own row."""
    shipments = [ship(random.choice([tasks.scoped, spend]))(n) for n in range(20)]
    with token_scope("a") as a:
        for shipment in shipments:
            receive(shipment)

    whole = sum((shipment.report for shipment in shipments), Report())
    assert whole.total == a.report().total
    assert [(row.frame, row.entries, row.nanoseconds, row.usages) for row in whole.rows] == [
        (row.frame, row.entries, row.nanoseconds, row.usages) for row in list(a.report().rows)[1:]
    ]


@pytest.mark.parametrize(
    "wrong", [None, 7, "text", [1], tasks.scoped], ids=lambda value: repr(value).partition(" at 0x")[0]
)
def test_receiving_something_else(wrong):
    """`receive` raises a TypeError that says what to pass, if the argument is not a shipment."""
    with pytest.raises(TypeError, match=r"^receive takes a Shipment, as a function from ship\(\) returns it, not \w+ "):
        receive(wrong)


def test_shipping_something_else():
    """`ship` raises a TypeError for an object that cannot be called, for a class, and for a generator function."""
    with pytest.raises(TypeError, match="ship takes a function, not int: 7"):
        ship(7)
    with pytest.raises(TypeError, match="ship takes a function, not a class: <class"):
        ship(Worker)
    for function in (tasks.generator, tasks.async_generator):
        with pytest.raises(TypeError, match=r"ship takes no generator function, and <function .* is one"):
            ship(function)


@given(st.lists(st.integers(0, 30)))
def test_numbers_that_were_seen(numbers):
    """In any order, each number is new only once, and consecutive numbers are stored as one range."""
    edges = []
    before = set()
    for number in numbers:
        assert (number not in before) == _add_number(edges, number)
        before.add(number)
    starts, ends = edges[::2], edges[1::2]
    assert sorted(before) == [n for run in zip(starts, ends, strict=True) for n in range(*run)]
    assert sum(number - 1 not in before for number in before) == len(starts)


def test_memory():
    """Memory stays bounded if many shipments are received, even if some are lost on the way."""
    before = sum(map(len, _received.values()))
    for n in range(1_000):
        shipment = ship(tasks.nothing)()
        if n % 500:
            receive(shipment)
    assert sum(map(len, _received.values())) <= before + 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_number_their_own():
    """Shipments of a forked child and of its parent are all counted, even if their numbers are the same."""
    ours = ship(tasks.scoped)(1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        theirs = pool.map(ship(tasks.scoped), [2, 4, 8, 16], chunksize=1)
    with token_scope("a") as a:
        for shipment in [ours, *theirs]:
            receive(shipment)

    assert 31 == spent(a)


def test_disabled():
    """With TOKENSCOPE_DISABLED, `ship` and `receive` pass values on, and nothing is counted."""
    code = """
from support import tasks
from tokenscope import receive, ship
shipment = ship(tasks.scoped)(7)
print(shipment.value, receive(shipment), shipment.report.total.calls)
"""
    assert "7 7 0\n" == python(code, TOKENSCOPE_DISABLED="1", PYTHONPATH=str(Path(__file__).parents[1]))
