"""`ProcessPoolExecutor`: a worker's usage comes home to the submitting process. All else is as without tokenscope."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import traceback
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from support import asking, tasks
from support.dspy_support import assert_billed
from support.spending import python, spend, spent

import tokenscope
from tokenscope import Budget, BudgetExceeded, carry, current_scope, integrations, token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.integrations.process_pool import _pending
from tokenscope.testing import LoopbackProvider

METHODS = [method for method in ("fork", "spawn", "forkserver") if method in multiprocessing.get_all_start_methods()]


@pytest.fixture(params=METHODS)
def context(request):
    """Return a context for each way to start processes."""
    return multiprocessing.get_context(request.param)


@pytest.fixture
def without_us():
    """Remove the patches during the test."""
    integrations.uninstrument()
    yield
    integrations.instrument()


@pytest.fixture(autouse=True)
def nothing_is_awaited():
    """Check after each test that no result is awaited any more."""
    yield
    gc.collect()
    assert not _pending


def test_calls_come_home(context):
    """Calls in a worker count in the scope that submitted the task, or at the top level without a scope."""
    with ProcessPoolExecutor(2, context) as pool:
        with token_scope("a") as a:
            first = [pool.submit(tasks.scoped, n) for n in (1, 2)]
            with token_scope("b") as b:
                second = pool.submit(spend, tokens=4)
        third = pool.submit(spend, 8)
        assert [1, 2] == [future.result() for future in first]
        assert second.result() is third.result() is None

    assert [7, 4] == [spent(a), spent(b)]
    assert 3 == a.report().find("a/inner/m/o").usage.input_tokens
    assert 2 == a.report().find("a/inner").entries
    assert 1 == a.report().find("a").entries
    assert 0 < a.report().find("a/inner").seconds < 60
    report = tokenscope.report()
    assert 15 == spent(report)
    assert [7, 8] == [report.find(path).usage.input_tokens for path in ("a", "m/o")]


def test_map(context):
    """Tasks of `map` count in the scope that calls it, in chunks and one at a time."""
    with token_scope("a") as a, ProcessPoolExecutor(2, context) as pool:
        assert list(range(10)) == list(pool.map(tasks.scoped, range(10), chunksize=3))
        assert list(range(10)) == list(pool.map(tasks.scoped, range(10)))

    assert 90 == spent(a)
    assert 20 == a.usage.calls


def test_dspy(context):
    """DSPy calls in workers are counted as billed, also if the task fails. The tasks do not import tokenscope."""
    with LoopbackProvider() as provider, ProcessPoolExecutor(2, context) as pool:
        with token_scope("a") as a:
            futures = [pool.submit(asking.ask, provider.url, "a") for _ in range(3)]
            failing = pool.submit(asking.ask_and_fail, provider.url, "a")
        outside = pool.submit(asking.ask, provider.url, "outside")
        assert all(future.result() for future in futures)
        assert outside.result()
        with pytest.raises(LookupError, match="a"):
            failing.result()
        report = tokenscope.report()

        assert 4 == a.report().find("a/Agent/planner").usage.calls
        assert_billed(provider, {"a": a.usage, "outside": report.find("Agent").usage})
        bill = provider.bill["a"]
        assert bill.input_tokens * Decimal("0.15e-6") + bill.output_tokens * Decimal("0.6e-6") == a.usage.cost


def outcome(pool, submit):
    """Return a task's value or exception, and what the exception says about where it was raised."""
    try:
        value = submit(pool).result(30)
    except BaseException as error:
        there = traceback.format_exception(error.__cause__)[-2:] if error.__cause__ else []
        return type(error), str(error), type(error.__cause__), any("Error" in line for line in there), vars(error)
    return type(value), str(value), None, None, None


CASES = {
    "value": (partial(tasks.scoped, 1), 1),
    "error": (partial(tasks.fail, 1), 1),
    "error that keeps nothing": (partial(tasks.fail, 1, tasks.Stubborn), 1),
    "error that cannot be pickled": (partial(tasks.fail, 1, tasks.Unpicklable), 1),
    "error that cannot be unpickled": (partial(tasks.fail, 1, tasks.Unloadable), 1),
    "exit": (partial(tasks.leave, 1), 1),
    "value that cannot be pickled": (partial(tasks.unpicklable, 1), 1),
    "value that is an exception": (partial(tasks.exception, 1), 1),
    "worker that dies": (partial(tasks.kill, 1), 0),
    "function that cannot be pickled": (lambda: 1, 0),
    "argument that cannot be pickled": (partial(tasks.nothing, threading.Lock()), 0),
    "no function": (None, 0),
    "nothing spent": (tasks.nothing, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_as_without(context, case):
    """Values, errors and broken pools are the same as without tokenscope, and the worker's usage is counted."""
    task, tokens = CASES[case]
    integrations.uninstrument()
    try:
        with ProcessPoolExecutor(1, context) as pool:
            expected = outcome(pool, lambda pool: pool.submit(task))
    finally:
        integrations.instrument()
    with token_scope("a") as a, ProcessPoolExecutor(1, context) as pool:
        found = outcome(pool, lambda pool: pool.submit(task))
        assert tokens == spent(a)

    assert expected == found


def test_where_an_error_was_raised(context):
    """The cause of a task's exception has the text of the worker's traceback."""
    with ProcessPoolExecutor(1, context) as pool:
        error = pool.submit(tasks.fail, 1).exception()

    assert 'raise error("failed", tokens)' in str(error.__cause__)
    assert "ValueError: ('failed', 1)" in str(error.__cause__)


def test_a_broken_pool(context):
    """If a worker is killed, tasks that had finished are counted. The others fail as without tokenscope."""
    with token_scope("a") as a, ProcessPoolExecutor(1, context) as pool:
        finished = [pool.submit(tasks.scoped, n) for n in (1, 2)]
        assert [1, 2] == [future.result() for future in finished]
        killed = pool.submit(tasks.kill, 4)
        with pytest.raises(BrokenProcessPool):
            pool.submit(tasks.scoped, 8).result()  # whether or not the pool is known to be broken by then
        with pytest.raises(BrokenProcessPool):
            killed.result()
        with pytest.raises(BrokenProcessPool):
            pool.submit(tasks.scoped, 16)

    assert 3 == spent(a)


def test_futures_are_untouched():
    """Futures are the executor's own: callbacks get the plain result, and waiting tasks can be cancelled."""
    seen = []
    with token_scope("a") as a, ProcessPoolExecutor(1) as pool:
        futures = [pool.submit(tasks.sleep, 0.2) for _ in range(6)]
        futures[0].add_done_callback(lambda future: seen.append((future.result(), spent(a), current_scope())))
        assert all(type(future) is Future and "set_result" not in vars(future) for future in futures)
        assert futures[-1].cancel()
        assert futures[0].result() == 0.2
        with pytest.raises(TimeoutError):
            futures[4].result(0.01)

    assert futures[-1].cancelled()
    assert (0.2, 1, None) == seen[0]
    assert 5 == spent(a)


def test_shutdown_that_cancels():
    """Tasks that `shutdown` cancels spend nothing, and tokenscope does not wait for their results."""
    with token_scope("a") as a:
        pool = ProcessPoolExecutor(1)
        futures = [pool.submit(tasks.sleep, 0.1) for _ in range(10)]
        pool.shutdown(wait=True, cancel_futures=True)

    assert sum(not future.cancelled() for future in futures) == spent(a) < 10
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(tasks.sleep, 0)
    with pytest.raises(TypeError):
        pool.submit()


async def test_run_in_executor(context):
    """If an asyncio task awaits a worker, the worker's usage counts in the task's scope."""

    async def work(pool, n):
        with token_scope(f"task {n}") as scope:
            await asyncio.get_running_loop().run_in_executor(pool, tasks.scoped, n)
        return spent(scope)

    with ProcessPoolExecutor(2, context) as pool:
        assert [1, 2, 3] == await asyncio.gather(*(work(pool, n) for n in (1, 2, 3)))


def test_workers_that_are_replaced():
    """`max_tasks_per_child` works, and the usage of all workers is counted."""
    with token_scope("a") as a, ProcessPoolExecutor(1, max_tasks_per_child=2) as pool:
        # One after the other: if more tasks wait, CPython's pool hangs, also without tokenscope (gh-115634).
        assert [1, 2, 3, 4, 5] == [pool.submit(tasks.scoped, n).result() for n in (1, 2, 3, 4, 5)]

    assert 15 == spent(a)


def test_an_initializer(context):
    """An initializer's usage comes home with the first result of its worker, at the top level."""
    with ProcessPoolExecutor(1, context, initializer=spend, initargs=(100, "init")) as pool:
        with token_scope("a") as a:
            for n in (1, 2):
                pool.submit(tasks.scoped, n).result()

    assert 3 == spent(a)
    assert 103 == spent(tokenscope.report())
    assert 100 == tokenscope.report().find("init/o").usage.input_tokens


def test_an_initializer_that_spends_nothing(context):
    """A scope that an initializer enters without spending anything does not come home."""
    with ProcessPoolExecutor(1, context, initializer=tasks.idle) as pool, token_scope("a"):
        pool.submit(tasks.scoped, 1).result()

    assert ["a"] == [node.name for node in tokenscope.report().tree().children]


@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
def test_a_scope_that_a_worker_inherits():
    """A forked worker's usage in an inherited scope comes home. The parent alone counts the scope's entry and time."""
    fork = multiprocessing.get_context("fork")
    with token_scope("a") as a, ProcessPoolExecutor(1, fork, initializer=carry(tasks.respond), initargs=(5,)) as pool:
        pool.submit(tasks.scoped, 1).result()
    node = tokenscope.report().find("a")

    assert (6, 5) == (node.usage.input_tokens, node.own.input_tokens)
    assert (1, a.seconds) == (node.entries, node.seconds)


def test_a_thread_that_outlives_its_task(context):
    """A thread that outlives its task brings its usage home with the worker's next result, at its scope's path."""
    with ProcessPoolExecutor(1, context) as pool:
        with token_scope("a") as a:
            pool.submit(tasks.threads, 1).result()
            pool.submit(tasks.outlive, 2).result()
        with token_scope("b") as b:
            pool.submit(tasks.end_it).result()

    assert [1, 0] == [spent(a), spent(b)]
    assert 2 == tokenscope.report().find("a/late").usage.input_tokens
    assert 3 == spent(tokenscope.report())


def test_what_a_worker_sees(context):
    """A worker sees the scope that submitted the task, without the usage that the parent has counted in it."""
    with ProcessPoolExecutor(1, context) as pool:
        with token_scope("a"):
            spend(1)
            for _ in range(2):
                assert (("a", 2, None), 0) == pool.submit(tasks.look, 2).result()
        assert (None, 0) == pool.submit(tasks.look, 4).result()

    assert 9 == spent(tokenscope.report())


def test_pools_in_workers(context):
    """Usage in a pool that a worker opens comes home, too."""
    with token_scope("a") as a, ProcessPoolExecutor(1, context) as pool:
        assert 3 == pool.submit(tasks.nested, 3).result()

    assert 3 == a.report().find("a/nested/inner").usage.input_tokens


def test_a_scope_that_ends_before(context):
    """A result that arrives after its scope has ended counts in that scope and in those around it."""
    with ProcessPoolExecutor(1, context) as pool:
        with token_scope("a") as a, token_scope("b"):
            future = pool.submit(tasks.sleep, 0.1)
        future.result()

    assert [1, 1] == [spent(a), spent(tokenscope.report())]
    assert 1 == tokenscope.report().find("a/b/m/o").usage.calls


def test_budgets(context):
    """Usage that comes home is charged to the budgets of the scope that submitted the task."""
    with pytest.raises(BudgetExceeded, match="is spent: 12 tokens"), ProcessPoolExecutor(1, context) as pool:
        with token_scope("a", budget=Budget(tokens=10)):
            for _ in range(10):
                with token_scope("step"):
                    pool.submit(tasks.scoped, 4).result()

    assert 12 == spent(tokenscope.report())


def test_a_budget_in_a_worker(context):
    """A budget in a worker raises BudgetExceeded there, and the caller gets the exception."""
    with token_scope("a") as a, ProcessPoolExecutor(1, context) as pool:
        with pytest.raises(BudgetExceeded, match="'limited', 10 tokens, is spent: 11 tokens") as caught:
            pool.submit(tasks.over_budget, 10).result()

    assert 11 == caught.value.spent.input_tokens == spent(a)


@pytest.mark.skipif("fork" not in METHODS, reason="needs fork")
def test_a_budget_of_the_whole_program():
    """A forked worker inherits the program's budget. A task or shipment that exceeds it raises BudgetExceeded."""
    code = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from support import tasks; import tokenscope
from tokenscope import Budget, BudgetExceeded, receive, ship, token_scope
from tokenscope._scopes.enforcement import limit_process
account = limit_process(Budget(tokens=10))
with token_scope("a") as a, ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
    error = pool.submit(tasks.overspend, 11).exception()
    print(type(error).__name__, error, a.usage.input_tokens)
try:
    receive(ship(tasks.overspend)(11))
except BudgetExceeded as error:
    print(error)
print(tokenscope.report().total.input_tokens, account.spent["tokens"], sep="\\n")
"""
    printed = python(code, PYTHONPATH=str(Path(__file__).parents[1])).splitlines()
    assert (
        "BudgetExceeded the budget of 'the program', 10 tokens, is spent: 11 tokens, 1 token more than that 11"
        == printed[0]
    )
    assert "the budget of 'the program', 10 tokens, is spent: 22 tokens, 12 tokens more than that" == printed[1]
    assert ["22", "22"] == printed[2:]


def test_a_fault_of_ours(monkeypatch):
    """If usage that comes home cannot be counted, one warning says so, and the result is still returned."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with warnings.catch_warnings(record=True) as seen, ProcessPoolExecutor(1) as pool:
        warnings.simplefilter("always")
        pool.submit(tasks.nothing).result()
        monkeypatch.setattr("tokenscope.integrations.process_pool.bring_home", None)
        assert 1 == pool.submit(tasks.scoped, 1).result()

    assert ["bringing calls home from a process" in str(each.message) for each in seen] == [True]
    forget_warnings()


def test_many_tasks_of_many_scopes():
    """If several threads submit to one pool, each thread's scope counts its own tasks."""
    found = {}
    with ProcessPoolExecutor(2) as pool:

        def work(n):
            with token_scope(f"thread {n}") as scope:
                assert [n] * 50 == [future.result() for future in [pool.submit(tasks.scoped, n) for _ in range(50)]]
            found[n] = spent(scope)

        pool.submit(tasks.nothing).result()  # starts the workers before the threads
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert {n: 50 * n for n in range(8)} == found
    assert 50 * sum(range(8)) == spent(tokenscope.report())


def test_uninstrument(without_us):
    """Without the patch, no usage comes home."""
    with token_scope("a") as a, ProcessPoolExecutor(1) as pool:
        pool.submit(tasks.scoped, 1).result()

    assert 0 == spent(a)


def test_disabled():
    """With TOKENSCOPE_DISABLED=1, `ProcessPoolExecutor` is not patched, and no usage comes home."""
    code = """
import concurrent.futures.process as process
submit = process.ProcessPoolExecutor.submit
import tokenscope
from support import tasks
assert process.ProcessPoolExecutor.submit is submit
with tokenscope.token_scope("a") as a, process.ProcessPoolExecutor(1) as pool:
    print(pool.submit(tasks.scoped, 7).result(), a.usage.calls)
"""
    here = str(Path(__file__).parents[1])
    assert "7 0\n" == python(code, TOKENSCOPE_DISABLED="1", PYTHONPATH=here)
