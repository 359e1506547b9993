"""Threads and pools: work counts in the scope that starts or submits it, and in no other scope."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import carry, current_scope, integrations, token_scope


class Subclass(threading.Thread):
    """A thread with a `run` of its own."""

    def run(self):
        spend(3)


class Guarded(threading.Thread):
    """A thread whose `run` attribute cannot be set."""

    def __setattr__(self, name, value):
        if name == "run":
            raise AttributeError(name)
        super().__setattr__(name, value)


def with_own_run():
    """Make a thread whose instance has its own `run`."""
    thread = threading.Thread()
    thread.run = lambda: spend(3)
    return thread


THREADS = {
    "target": lambda: threading.Thread(target=spend, args=(3,)),
    "subclass": Subclass,
    "timer": lambda: threading.Timer(0, spend, (3,)),
    "instance": with_own_run,
    "guarded": lambda: Guarded(target=spend, args=(3,)),
}


@pytest.mark.parametrize("kind", THREADS)
def test_a_thread_is_in_the_scope_that_starts_it(kind):
    """Threads of every kind inherit the scope in which they are started, not the one in which they are made."""
    with token_scope("maker") as maker:
        thread = THREADS[kind]()
    before = dict(vars(thread))
    with token_scope("starter") as starter:
        thread.start()
        thread.join()

    assert [0, 3] == [spent(maker), spent(starter)]
    assert before.get("run") is vars(thread).get("run")


@pytest.mark.parametrize("kind", THREADS)
def test_a_thread_outside_of_scopes_has_none(kind):
    """A thread that is started outside of all scopes counts at the top level."""
    thread = THREADS[kind]()
    thread.start()
    thread.join()

    assert 3 == tokenscope.report().find("m/o").usage.input_tokens


def test_a_thread_of_a_thread():
    """A thread that is started by another thread inherits that thread's scope."""

    def work():
        with token_scope("inner"):
            thread = threading.Thread(target=spend, args=(3,))
            thread.start()
            thread.join()

    with token_scope("outer") as outer:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert 3 == outer.report().find("outer/inner").usage.input_tokens


@pytest.mark.parametrize("scoped", [True, False])
def test_errors_of_start_are_as_they_were(scoped):
    """Starting a thread twice, or without its `__init__`, raises the same RuntimeError as without tokenscope."""

    class Uninitialised(threading.Thread):
        def __init__(self):
            pass

    with token_scope("a"):
        if not scoped:
            integrations.uninstrument()
        try:
            thread = threading.Thread(target=spend)
            thread.start()
            thread.join()
            with pytest.raises(RuntimeError, match="threads can only be started once"):
                thread.start()
            with pytest.raises(RuntimeError, match=r"thread\.__init__\(\) not called"):
                Uninitialised().start()
        finally:
            integrations.instrument()

    assert "run" not in vars(thread)


def test_a_thread_that_cannot_start_is_as_it_was(monkeypatch):
    """If the system cannot start a thread, tokenscope leaves no attribute on the thread."""

    def refuse(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    thread, own = threading.Thread(target=spend), with_own_run()
    run = own.run
    with token_scope("a"):
        for name in ("_start_new_thread", "_start_joinable_thread"):
            if hasattr(threading, name):
                monkeypatch.setattr(threading, name, refuse)
        for each in (thread, own):
            with pytest.raises(RuntimeError, match="can't start"):
                each.start()

    assert "run" not in vars(thread)
    assert run is own.run


def test_an_exception_in_a_thread_is_the_threads(monkeypatch):
    """`threading.excepthook` gets the exception of a thread, and the scope that started the thread stays active."""
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    with token_scope("a") as scope:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        assert scope is current_scope()

    assert [ZeroDivisionError] == seen


def test_submit_and_map():
    """A pool's work counts in the scope that submits it."""
    with ThreadPoolExecutor(2) as pool:
        with token_scope("submit") as submit:
            assert pool.submit(spend, tokens=3).result() is None
        with token_scope("map") as mapped:
            list(pool.map(spend, [1, 2, 3]))
        pool.submit(spend, 7).result()

    assert [3, 6] == [spent(submit), spent(mapped)]
    assert 7 == tokenscope.report().find("m").usage.input_tokens


def test_one_pool_shared_by_two_scopes():
    """If two scopes share a pool at the same time, each counts its own work."""
    barrier = threading.Barrier(2)

    def work(tokens):
        barrier.wait(10)
        spend(tokens)
        with token_scope("inner"):
            spend(tokens)
        barrier.wait(10)

    def submit(name, tokens):
        with token_scope(name) as scope:
            pool.submit(work, tokens).result()
        return spent(scope)

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(2) as outside:
        found = list(outside.map(submit, ["a", "b"], [3, 5]))

    assert [6, 10] == found
    assert 16 == spent(tokenscope.report())


def test_a_pools_thread_does_not_charge_later_strangers():
    """A pool's thread that was started in one scope counts later work in the scope that submits the work."""
    with ThreadPoolExecutor(1) as pool:
        with token_scope("born") as born:
            pool.submit(spend, 1).result()
        pool.submit(spend, 10).result()
        with token_scope("other") as other:
            pool.submit(spend, 100).result()
        pool.submit(spend, 10).result()

    assert [1, 100] == [spent(born), spent(other)]
    assert 20 == tokenscope.report().find("m").usage.input_tokens


def test_an_exception_in_a_pool_is_the_futures():
    """The future has the exception of its work, and the next work item is outside of the scope."""
    with ThreadPoolExecutor(1) as pool:
        with token_scope("a"):
            future = pool.submit(int, "x")
        assert isinstance(future.exception(), ValueError)
        assert pool.submit(current_scope).result() is None


def test_submit_without_a_function_raises_as_before():
    """`submit` without a function raises a TypeError, as without tokenscope."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError):
        pool.submit()


def test_work_that_ends_after_its_scope():
    """Work that ends after its scope has closed still counts in that scope."""
    go = threading.Event()

    def work():
        go.wait(10)
        spend(3)

    with ThreadPoolExecutor(1) as pool:
        with token_scope("a") as scope:
            future = pool.submit(work)
        go.set()
        future.result()

    assert 3 == spent(scope) == tokenscope.report().find("a").usage.input_tokens


async def test_run_in_executor_and_to_thread():
    """`run_in_executor` and `to_thread` carry the scope, with the default executor and with the user's own."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        with token_scope("a") as scope:
            await loop.run_in_executor(None, spend, 1)
            await loop.run_in_executor(pool, spend, 2)
            await asyncio.to_thread(spend, 4)
        await loop.run_in_executor(pool, spend, 8)
        await asyncio.to_thread(spend, 16)

    assert 7 == spent(scope)
    assert 24 == tokenscope.report().find("m").usage.input_tokens


async def test_tasks_of_many_scopes_in_one_executor():
    """Each of many interleaving tasks counts the work that it gives to threads."""

    async def work(tokens):
        with token_scope(f"task {tokens}") as scope:
            for _ in range(3):
                await asyncio.to_thread(spend, tokens)
        return spent(scope)

    assert [3 * n for n in range(20)] == await asyncio.gather(*map(work, range(20)))


def test_pools_of_another_make():
    """`carry` takes the scope into other pools, such as `multiprocessing.pool.ThreadPool`."""
    with token_scope("maker"):
        pool = ThreadPool(2)
    with pool:
        with token_scope("a") as scope:
            pool.map(carry(spend), [1, 2, 3])
            pool.apply_async(carry(functools.partial(spend, 4))).get()

    assert 10 == spent(scope)


def originals():
    """Return the current values of the standard library's functions that tokenscope patches."""
    return (
        vars(threading.Thread)["start"],
        vars(ThreadPoolExecutor)["submit"],
        vars(asyncio.base_events.BaseEventLoop)["create_task"],
    )


@pytest.fixture
def instrumented_again():
    """Apply the patches again after the test."""
    yield
    tokenscope.uninstrument()
    tokenscope.instrument()


def test_uninstrument_and_instrument(instrumented_again):
    """`uninstrument` restores the original functions. After `instrument`, threads carry scopes again."""
    patched = originals()
    plain = tuple(each.__wrapped__ for each in patched)
    tokenscope.uninstrument()
    tokenscope.uninstrument()
    assert plain == originals()
    assert () == integrations.applied()
    with token_scope("a") as without:
        thread = threading.Thread(target=spend)
        thread.start()
        thread.join()
    tokenscope.instrument()
    tokenscope.instrument()
    assert plain == tuple(each.__wrapped__ for each in originals())
    with token_scope("a") as again:
        thread = threading.Thread(target=spend)
        thread.start()
        thread.join()

    assert [0, 1] == [spent(without), spent(again)]


def test_somebody_else_patches_on_top(instrumented_again):
    """If other code has wrapped a patch, `uninstrument` keeps the other wrapper, and the patch does nothing."""
    ours = threading.Thread.start
    seen = []

    def theirs(self):
        seen.append(self)
        return ours(self)

    threading.Thread.start = theirs
    try:
        tokenscope.uninstrument()
        assert theirs is threading.Thread.start
        with token_scope("a") as scope:
            thread = threading.Thread(target=spend)
            thread.start()
            thread.join()
        assert [thread] == seen
        assert 0 == spent(scope)
        tokenscope.instrument()
        with token_scope("b") as scope:
            thread = threading.Thread(target=spend, args=(5,))
            thread.start()
            thread.join()
        assert 5 == spent(scope)
        tokenscope.uninstrument()
        assert theirs is threading.Thread.start
    finally:
        threading.Thread.start = ours.__wrapped__


def test_a_patched_method_looks_like_itself():
    """A patched method keeps its name and documentation."""
    start, submit, _ = originals()

    assert ("start", "submit") == (start.__name__, submit.__name__)
    assert start.__doc__ == start.__wrapped__.__doc__
