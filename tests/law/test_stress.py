"""Stress: many threads and tasks lose no tokens and never deadlock, and long runs do not grow in memory."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import get_tracker, token_scope, track_tokens
from tokenscope._scopes.event_log import collect, drain
from tokenscope._scopes.process import MANY_EVENTS, STATE

THREADS = 32
TASKS = 1_000
RECORDS = 200_000


@pytest.fixture(autouse=True)
def no_deadlock():
    """If a test hangs, print the stack of every thread and exit."""
    faulthandler.dump_traceback_later(170, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.slow
def test_threads_and_tasks_lose_nothing():
    """32 threads and 1,000 tasks lose no tokens while generators are collected and reports are taken."""
    each = RECORDS // 2
    by_thread, by_task = each // THREADS, each // TASKS
    shared = token_scope("shared")
    found: Counter = Counter()
    collected: Counter = Counter()
    stop = threading.Event()
    reports = []

    def abandoned(number):
        with token_scope("abandoned"):
            try:
                yield
            finally:
                spend(1, "collected")
                collected[number] += 1

    def abandon(number):
        generator = abandoned(number)
        next(generator)
        cycle = [generator]
        cycle.append(cycle)

    def thread(number):
        with token_scope(f"thread {number % 4}") as scope:
            for step in range(by_thread // 5):
                with shared:
                    spend(1)
                    spend(2)
                with token_scope(f"step {step % 10}"):
                    spend(3)
                    spend(4)
                spend(5)
                if step % 100 == 0:
                    abandon(number)
        found[f"thread {number}"] = spent_itself(scope)

    def spent_itself(scope):
        report = scope.report()  # one snapshot: a collection between two snapshots would count in the second only
        by_module = report.by_module()
        return spent(report) - (by_module["collected"].input_tokens if "collected" in by_module else 0)

    @track_tokens("worker", "task")
    async def task(number):
        for step in range(by_task // 5):
            async with shared:
                spend(1)
                await asyncio.sleep(0)
                spend(2)
            with token_scope(f"step {step % 10}"):
                spend(3)
                spend(4)
            await asyncio.sleep(0)
            spend(5)

    async def tasks():
        with token_scope("tasks") as scope:
            await asyncio.gather(*map(task, range(TASKS)))
        found["tasks"] = spent_itself(scope)

    def watch():
        while not stop.is_set():
            reports.append(spent(tokenscope.report()))
            gc.collect()
            stop.wait(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=thread, args=(number,)) for number in range(THREADS)]
    for each_thread in threads:
        each_thread.start()
    asyncio.run(tasks())
    for each_thread in threads:
        each_thread.join()
    stop.set()
    watcher.join()
    gc.collect()

    records = THREADS * (by_thread // 5) * 5 + TASKS * (by_task // 5) * 5
    report = tokenscope.report()
    assert records + sum(collected.values()) == report.total.calls
    assert records * 3 + sum(collected.values()) == spent(report)
    threads_found = {f"thread {number}": 3 * (by_thread // 5) * 5 for number in range(THREADS)}
    assert {**threads_found, "tasks": 3 * TASKS * (by_task // 5) * 5} == found
    assert THREADS * -(-(by_thread // 5) // 100) == sum(collected.values())
    assert sorted(reports) == reports


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "ask",
    [lambda scope: scope.usage, lambda scope: scope.report(), repr, lambda _: tokenscope.report()],
    ids=["usage", "report", "repr", "of the process"],
)
def test_a_collection_while_counts_are_read(ask):
    """The tokens of a generator that is collected while counts are read are counted."""

    def abandoned(number):
        with token_scope(f"abandoned {number}"):
            try:
                yield
            finally:
                for _ in range(300):  # more events than the log holds
                    spend(1, f"collected {number}")

    def abandon(number):
        generator = abandoned(number)
        next(generator)
        cycle = [generator]
        cycle.append(cycle)

    with token_scope("outer") as outer, contextlib.ExitStack() as stack:
        for number in range(50):
            stack.enter_context(token_scope(f"open {number}"))
            spend(1)
        for number in range(60):
            gc.disable()
            abandon(number)
            before = gc.get_threshold()
            gc.set_threshold(1 + 3 * number, 1, 1)  # so that the collection comes at a different moment each time
            gc.enable()
            try:
                ask(outer)
            finally:
                gc.set_threshold(*before)
        gc.collect()

    assert 50 + 60 * 300 == spent(tokenscope.report())


def test_one_pool_of_many_scopes():
    """Work items in one pool, submitted from many threads, each count for the scope that submitted them."""
    with ThreadPoolExecutor(16) as pool:

        def submit(number):
            with token_scope(f"scope {number % 7}") as scope:
                for future in [pool.submit(spend, number) for _ in range(20)]:
                    future.result()
            return spent(scope)

        with ThreadPoolExecutor(8) as outside:
            assert [20 * n for n in range(200)] == list(outside.map(submit, range(200)))

    assert 20 * sum(range(200)) == spent(tokenscope.report())


@pytest.mark.slow
def test_memory_is_flat():
    """Memory, rows and the event log do not grow with the number of entries of a scope."""

    def generator():
        with token_scope("generator"):
            yield
            spend(1)

    recipe = token_scope("same")
    kept = get_tracker().max_records
    get_tracker().max_records = 100  # so that the number of kept records is the same before and after

    def enter(times):
        for _ in range(times):
            with recipe, token_scope("inner"):
                spend(1)
            with token_scope("empty"):
                pass
            for _ in generator():
                pass

    enter(1_000)
    rows = len(collect(STATE.root).rows)
    tracemalloc.start()
    try:
        enter(1_000)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        enter(3_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        get_tracker().max_records = kept
    for _ in range(95_000):
        with recipe:
            pass

    assert grown < 100_000
    assert len(STATE.log) <= MANY_EVENTS
    assert rows == len(collect(STATE.root).rows)
    assert not STATE.open_scopes
    assert 100_000 == tokenscope.report().find("same").entries
    assert 5_000 == tokenscope.report().find("generator").usage.input_tokens


@pytest.mark.slow
async def test_memory_is_flat_with_abandoned_async_generators():
    """Async generators that another Context finalises leave no memory behind."""

    async def generator():
        async with token_scope("generator"):
            yield

    async def abandon(times):
        for _ in range(times):
            async for _ in generator():
                break
            await asyncio.sleep(0)

    def traced():
        gc.collect()
        drain()  # waiting events are no leak: there are never more than 256
        return tracemalloc.get_traced_memory()[0]

    await abandon(200)
    tracemalloc.start()
    try:
        await abandon(50)
        before = traced()
        await abandon(500)
        grown = traced() - before
    finally:
        tracemalloc.stop()
    await asyncio.sleep(0)
    with token_scope("tidy"):
        pass

    assert grown < 50_000
    assert 750 == tokenscope.report().find("generator").entries


LONG = """
import gc, os, threading
from tokenscope import get_tracker, record_tokens, report, token_scope

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def work(first, scopes):
    for n in range(first, first + scopes, 2):
        with token_scope(f"outer {n % 20}"):
            for tokens in range(5):
                record_tokens(f"m{tokens % 3}", "o", "model", "provider", tokens, 1)
            with token_scope(f"inner {n // 2 % 7}"):
                for tokens in range(15):
                    record_tokens(f"m{tokens % 3}", "o", "model", "provider", tokens, 2)

def go_on(first):
    thread = threading.Thread(target=work, args=(first, 5_000))
    thread.start()
    thread.join()
    return report().total.calls

assert go_on(0) == 50_000
assert len(get_tracker().records) == get_tracker().max_records
before = resident()
for first in range(5_000, 100_000, 5_000):
    assert go_on(first) == 10 * (first + 5_000)
grown = resident() - before
whole = report()
scopes = [node for outer in range(0, 20, 2) for node in [whole.find(f"outer {outer}")]]
scopes += [whole.find(f"outer {outer}/inner {inner}") for outer in range(0, 20, 2) for inner in range(7)]
print(grown, whole.total.calls, whole.total.input_tokens, whole.total.output_tokens, sum(each.entries for each in scopes))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.slow
def test_a_long_run():
    """A process grows by less than 2 MB from 50,000 to 1,000,000 records and from 5,000 to 100,000 scopes.

    The measured growth is 0.3 MB. The bound is 2 bytes per record, or 21 bytes per scope.
    """
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", LONG], capture_output=True, text=True, timeout=165, check=False, env=unmeasured
    )
    assert (0, "") == (done.returncode, done.stderr)
    grown, *found = map(int, done.stdout.split())

    assert [1_000_000, 50_000 * (sum(range(5)) + sum(range(15))), 50_000 * (5 + 30), 100_000] == found
    assert grown < 2_000_000
