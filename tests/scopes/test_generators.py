"""Generators: a scope of a generator is active while the generator's body runs, and not while it is suspended."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from contextlib import (
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import carry, current_scope, token_scope
from tokenscope._scopes.context import entered
from tokenscope._scopes.generators import generator_frame
from tokenscope._scopes.process import STATE


def produce(name="generator", steps=2):
    """Open a scope, and spend 10 tokens in it before each item and after the last one."""
    with token_scope(name):
        for _ in range(steps):
            spend(10)
            yield current_scope()
        spend(10)


async def aproduce(name="generator", steps=2):
    """Do the same as `produce`, in an async generator."""
    async with token_scope(name):
        for _ in range(steps):
            spend(10)
            await asyncio.sleep(0)
            yield current_scope()
        spend(10)


def own(report, path):
    """Return the input tokens at and below a path."""
    return report.find(path).usage.input_tokens


def test_between_items_the_consumer_spends():
    """Calls that the consumer makes between two items count in the consumer's scope."""
    with token_scope("consumer") as consumer:
        for scope in produce():
            spend(1)
            assert consumer is current_scope()
            assert scope.parent is consumer

    report = consumer.report()
    assert 30 == own(report, "consumer/generator")
    assert 2 == own(report, "consumer/m")
    assert 1 == report.find("consumer/generator").entries


async def test_between_async_items_the_consumer_spends():
    """Calls between two items of an async generator count in the consumer's scope."""
    with token_scope("consumer") as consumer:
        async for _ in aproduce():
            spend(1)
            await asyncio.sleep(0)
            assert consumer is current_scope()

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 2 == own(consumer.report(), "consumer/m")


def test_without_any_scope_around():
    """The scope of a suspended generator is not active outside of it, even if no other scope is open."""
    for _ in produce():
        assert current_scope() is None
        spend(1)

    assert 30 == own(tokenscope.report(), "generator")
    assert 2 == own(tokenscope.report(), "m")


def test_scopes_the_consumer_opens_between_items():
    """A scope that the consumer opens between two items lies in the consumer's scope, not in the generator's."""
    with token_scope("consumer") as consumer:
        items = produce()
        next(items)
        with token_scope("between") as between:
            assert consumer is between.parent
            spend(1)
            next(items)
            assert between is current_scope()
            spend(1)
        assert consumer is current_scope()
        assert [] == list(items)

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 2 == own(consumer.report(), "consumer/between")


def test_what_a_resumed_generator_opens_lies_in_its_own_scope():
    """A generator that is resumed inside another scope still spends and opens scopes in its own scope."""

    def generator():
        with token_scope("generator"):
            yield
            spend(10)
            with token_scope("inner") as inner:
                spend(100)
                yield inner
                spend(1000)
            yield
            spend(10_000)

    with token_scope("consumer") as consumer:
        items = generator()
        next(items)
        with token_scope("between"):
            inner = next(items)
            spend(1)
            assert "between" == current_scope().name
        assert "generator" == inner.parent.name
        spend(2)
        with token_scope("again"), token_scope("deeper"):
            next(items)
            spend(3)
            list(items)

    report = consumer.report()
    assert 11_110 == own(report, "consumer/generator")
    assert 1_100 == own(report, "consumer/generator/inner")
    assert [1, 2, 3] == [own(report, f"consumer/{path}") for path in ("between", "m", "again/deeper")]


def test_what_the_body_calls():
    """A function that the body calls may open a scope, or run in one that was carried there. It spends in that scope."""
    with token_scope("elsewhere") as elsewhere:
        carried = carry(spend)

    def work():
        with token_scope("inner"):
            spend(1)
            carried(100)
            spend(2)

    def body():
        with token_scope("generator"):
            for _ in range(2):
                work()
                carried(1_000)
                spend(10)
                yield

    with token_scope("consumer") as consumer:
        assert 2 == len(list(body()))

    report = consumer.report()
    assert (6, 26) == (own(report, "consumer/generator/inner"), own(report, "consumer/generator"))
    assert 26 == consumer.usage.input_tokens
    assert 2_200 == elsewhere.usage.input_tokens


def test_a_function_carried_out_of_a_scope_that_was_left_elsewhere():
    """A function that was carried runs in its scope, also after that was left in another Context."""
    with token_scope("around") as around:
        left = token_scope("left")
        scope = left.__enter__()
        carried = carry(spend)
        contextvars.Context().run(left.__exit__, None, None, None)
        carried(5)
        spend(1)

    assert (5, 6) == (scope.usage.input_tokens, around.usage.input_tokens)


def test_interleaved_generators():
    """Generators that take turns count separately."""
    with token_scope("consumer") as consumer:
        for _ in zip(produce("a"), produce("b", 3), produce("c"), strict=False):
            spend(1)

    report = consumer.report()
    assert [30, 20, 20, 2] == [own(report, f"consumer/{name}") for name in ("a", "b", "c", "m")]


def test_a_generator_in_a_generator():
    """A generator that consumes another one counts its own calls between the items in its own scope."""

    def outer():
        with token_scope("outer"):
            for _ in produce("inner"):
                spend(1)
                yield
                spend(1)

    with token_scope("consumer") as consumer:
        for _ in outer():
            spend(5)

    report = consumer.report()
    assert 30 == own(report, "consumer/outer/inner")
    assert 4 == own(report, "consumer/outer/m")
    assert 10 == own(report, "consumer/m")


def test_yield_from():
    """A generator and the one that it delegates to with `yield from` are suspended together."""

    def outer():
        with token_scope("outer"):
            spend(1)
            yield from produce("inner")
            spend(1)

    with token_scope("consumer") as consumer:
        for _ in outer():
            assert consumer is current_scope()
            spend(5)

    assert 30 == own(consumer.report(), "consumer/outer/inner")
    assert 2 == own(consumer.report(), "consumer/outer/m")
    assert 10 == own(consumer.report(), "consumer/m")


def test_a_generator_closed_half_way():
    """`close` leaves the generator's scope, and calls in the generator's `finally` count in that scope."""

    def generator():
        with token_scope("generator"):
            try:
                yield
            finally:
                spend(10)

    with token_scope("consumer") as consumer:
        items = generator()
        next(items)
        spend(1)
        items.close()
        assert consumer is current_scope()

    assert 10 == own(consumer.report(), "consumer/generator")
    assert 1 == own(consumer.report(), "consumer/m")


def test_a_generator_left_to_the_collector():
    """An abandoned generator leaves its own scope when it is collected, and no other scope."""
    with token_scope("consumer") as consumer:
        items = produce()
        next(items)
        cycle = [items]
        cycle.append(cycle)
        del items, cycle
        spend(1)
        with token_scope("later") as later:
            gc.collect()
            assert later is current_scope()
        assert consumer is current_scope()

    assert 10 == own(consumer.report(), "consumer/generator")
    assert current_scope() is None
    assert entered.get() is None


def test_a_generator_that_outlives_the_scope_around_it():
    """A generator that outlives the scope around it still counts in its own scope and in the one around it."""
    with token_scope("consumer") as consumer:
        items = produce()
        next(items)
    assert current_scope() is None
    spend(1)
    with token_scope("another") as another:
        list(items)
        spend(2)

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 2 == spent(another)
    assert 33 == spent(tokenscope.report())


def test_a_generator_resumed_in_another_thread():
    """A generator that another thread runs to its end counts in its own scope, which is then no longer active here."""
    import threading

    items = produce()
    next(items)
    with token_scope("consumer") as consumer:
        thread = threading.Thread(target=list, args=(items,))
        thread.start()
        thread.join()
        spend(1)
        assert consumer is current_scope()

    assert 1 == spent(consumer)
    assert 30 == own(tokenscope.report(), "generator")
    assert current_scope() is None
    with token_scope("tidy"):
        pass


async def test_an_async_generator_resumed_in_a_task():
    """An async generator that is resumed in another task still counts in its own scope."""
    with token_scope("consumer") as consumer:
        items = aproduce()
        await anext(items)
        await asyncio.create_task(anext(items))
        spend(1)
        with pytest.raises(StopAsyncIteration):
            await asyncio.create_task(anext(items))

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 1 == own(consumer.report(), "consumer/m")


async def test_an_abandoned_async_generator():
    """Scopes of abandoned async generators do not stay active, and do not pile up."""
    with token_scope("consumer") as consumer:
        for _ in range(50):
            async for _ in aproduce():
                break
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert consumer is current_scope()
            spend(1)
            with token_scope("next") as scope:
                assert scope.parent is consumer
        chain, top = 0, entered.get()
        while top is not consumer:
            chain, top = chain + 1, top.below

    assert chain < 3
    assert 500 == own(consumer.report(), "consumer/generator")
    assert 50 == own(consumer.report(), "consumer/m")
    assert 50 == consumer.report().find("consumer/generator").entries
    with token_scope("tidy"):
        pass


async def test_tasks_that_the_consumer_starts_between_items():
    """Tasks that the consumer starts between items count in its scope, even after the generator runs on."""
    running = asyncio.Event()

    async def work():
        await running.wait()
        spend(1)
        with token_scope("task"):
            spend(1)

    with token_scope("consumer") as consumer:
        items = aproduce()
        await anext(items)
        tasks = [asyncio.create_task(work()), asyncio.ensure_future(work())]
        await anext(items)
        running.set()
        await asyncio.gather(*tasks)
        assert [] == [item async for item in items]

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 2 == own(consumer.report(), "consumer/task")
    assert 2 == own(consumer.report(), "consumer/m")


@pytest.mark.parametrize("means", ["gather", "TaskGroup", "to_thread", "executor", "wait_for"])
async def test_tasks_of_an_async_generator_are_its_own(means):
    """Tasks and threads that an async generator awaits count in the generator's scope."""

    async def work():
        await asyncio.sleep(0)
        spend(10)

    async def generator():
        async with token_scope("generator"):
            if means == "gather":
                await asyncio.gather(work(), work())
            elif means == "TaskGroup":
                async with asyncio.TaskGroup() as group:
                    group.create_task(work())
                    group.create_task(work())
            elif means == "to_thread":
                await asyncio.to_thread(spend, 10)
                await asyncio.to_thread(spend, 10)
            elif means == "executor":
                await asyncio.get_running_loop().run_in_executor(None, spend, 10)
                await asyncio.get_running_loop().run_in_executor(None, spend, 10)
            else:
                await asyncio.wait_for(work(), 10)
                await asyncio.wait_for(work(), 10)
            yield 1
            await work()

    with token_scope("consumer") as consumer:
        async for _ in generator():
            await asyncio.gather(work())

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 10 == own(consumer.report(), "consumer/m")


async def test_a_task_of_a_generator_goes_on_while_it_is_suspended():
    """A task that a generator starts in its scope stays in that scope while the generator is suspended."""
    go = asyncio.Event()

    async def work():
        await go.wait()
        spend(10)
        with token_scope("task") as task:
            assert "generator" == task.parent.name
            spend(10)
        await asyncio.create_task(asyncio.sleep(0))
        assert "generator" == current_scope().name

    async def generator():
        with token_scope("generator"):
            yield asyncio.create_task(work())

    with token_scope("consumer") as consumer:
        items = generator()
        task = await anext(items)
        go.set()
        await task
        assert consumer is current_scope()
        spend(1)
        await items.aclose()

    assert 20 == own(consumer.report(), "consumer/generator")
    assert 10 == own(consumer.report(), "consumer/generator/task")
    assert 1 == own(consumer.report(), "consumer/m")


async def test_a_context_given_to_create_task_is_used_as_it_is():
    """`create_task(context=...)` uses the given Context unchanged."""

    async def work():
        return current_scope()

    empty = contextvars.Context()
    with token_scope("consumer"):
        items = aproduce()
        await anext(items)
        assert await asyncio.get_running_loop().create_task(work(), context=empty) is None
        await items.aclose()


async def test_async_generators_in_many_tasks():
    """Generators in many tasks can share one `token_scope`. Each has its own entry."""
    recipe = token_scope("shared")

    async def generator(tokens):
        with recipe:
            for _ in range(5):
                spend(tokens)
                await asyncio.sleep(0)
                yield

    async def consume(tokens):
        with token_scope(f"consumer {tokens}") as scope:
            async for _ in generator(tokens):
                spend(1)
                await asyncio.sleep(0)
        return own(scope.report(), f"consumer {tokens}/shared"), spent(scope)

    expected = [(5 * n, 5 * n + 5) for n in range(1, 20)]
    assert expected == await asyncio.gather(*map(consume, range(1, 20)))


def test_one_recipe_in_generator_and_consumer():
    """A generator and its consumer can share one `token_scope`. Each leaves its own entry, in any order."""
    recipe = token_scope("shared")

    def generator():
        with recipe as scope:
            yield scope
            spend(10)

    items = generator()
    inner = next(items)
    with ExitStack() as stack:
        outer = stack.enter_context(recipe)
        list(items)
        spend(1)
        assert outer is current_scope()

    assert [10, 1] == [spent(inner), spent(outer)]
    again = generator()
    with recipe as outer:
        inner = next(again)
        spend(1)
    list(again)
    assert [10, 11] == [spent(inner), spent(outer)]


def test_one_recipe_twice_in_a_generator():
    """A generator can enter one `token_scope` twice, and leaves the inner entry first."""
    recipe = token_scope("shared")

    def generator():
        with recipe as outer, recipe as inner:
            yield outer, inner
            spend(1)
            assert inner is current_scope()

    items = generator()
    outer, inner = next(items)
    assert current_scope() is None
    list(items)
    assert [1, 1] == [spent(outer), spent(inner)]
    assert inner.parent is outer


@contextmanager
def phase(name):
    """Open a scope in a `@contextmanager`."""
    with token_scope(name) as scope:
        yield scope


@asynccontextmanager
async def aphase(name):
    """Open a scope in an `@asynccontextmanager`."""
    async with token_scope(name) as scope:
        yield scope


class Phase:
    """A class whose `__enter__` opens a scope."""

    def __init__(self, name):
        self.scope = token_scope(name)

    def __enter__(self):
        return self.scope.__enter__()

    def __exit__(self, *error):
        return self.scope.__exit__(*error)

    async def __aenter__(self):
        return await self.scope.__aenter__()

    async def __aexit__(self, *error):
        return await self.scope.__aexit__(*error)


class Stacked(ExitStack):
    """An ExitStack that enters a scope."""

    def __init__(self, name):
        super().__init__()
        self._name = name

    def __enter__(self):
        return self.enter_context(phase(self._name))


@contextmanager
def nested(name):
    """Wrap one context manager in another."""
    with phase(name) as scope:
        yield scope


WAYS = {
    "scope": token_scope,
    "contextmanager": phase,
    "contextmanager in contextmanager": nested,
    "class": Phase,
    "stack": Stacked,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_contextlib_generator_does_not_pause(way):
    """A scope that a context manager opens is active in the block, even if the context manager is a generator."""
    with WAYS[way]("block") as block:
        spend(1)
        assert block is current_scope()

    assert 1 == spent(block)
    assert entered.get() is None


@pytest.mark.parametrize("way", WAYS)
def test_ones_own_context_manager_inside_a_generator_pauses(way):
    """A scope that a context manager opens in a generator's body is suspended with the generator."""

    def generator():
        with WAYS[way]("block"):
            spend(10)
            yield
            spend(10)

    with token_scope("consumer") as consumer:
        for _ in generator():
            spend(1)
            assert consumer is current_scope()

    assert 20 == own(consumer.report(), "consumer/block")
    assert 1 == own(consumer.report(), "consumer/m")
    assert entered.get() is None


@pytest.mark.parametrize("way", [token_scope, aphase, Phase])
async def test_ones_own_context_manager_inside_an_async_generator_pauses(way):
    """A scope that an async context manager opens in an async generator is suspended with the generator."""

    async def generator():
        async with way("block"):
            spend(10)
            yield
            await asyncio.sleep(0)
            spend(10)

    with token_scope("consumer") as consumer:
        async with aclosing(generator()) as items:
            async for _ in items:
                spend(1)
                assert consumer is current_scope()

    assert 20 == own(consumer.report(), "consumer/block")
    assert 1 == own(consumer.report(), "consumer/m")


async def test_an_async_exit_stack_inside_an_async_generator_pauses():
    """A scope that an AsyncExitStack enters in an async generator is suspended with the generator."""

    async def generator():
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(token_scope("a"))
            stack.enter_context(phase("b"))
            spend(10)
            yield

    with token_scope("consumer") as consumer:
        async for _ in generator():
            spend(1)

    assert 10 == own(consumer.report(), "consumer/a/b")
    assert 1 == own(consumer.report(), "consumer/m")


@pytest.fixture
def fixture_scope():
    """Open a scope around the test."""
    with token_scope("fixture") as scope:
        yield scope


def test_a_fixture_does_not_pause(fixture_scope):
    """A scope that a pytest fixture opens is active in the test."""
    spend(3)

    assert fixture_scope is current_scope()
    assert 3 == spent(fixture_scope)


async def test_an_async_generator_whose_task_has_ended():
    """An async generator whose first step ran in another task still counts in its own scope, not in the consumer's."""
    with token_scope("consumer") as consumer:
        items = aproduce()
        await asyncio.create_task(anext(items))
        spend(1)
        assert consumer is current_scope()
        await anext(items)
        spend(1)
        assert [] == [item async for item in items]
        spend(1)

    assert 30 == own(consumer.report(), "consumer/generator")
    assert 3 == own(consumer.report(), "consumer/m")


async def test_callbacks_of_the_consumer():
    """Callbacks that the consumer schedules between items count in its scope, even after the generator runs on."""
    loop = asyncio.get_running_loop()
    with token_scope("consumer") as consumer:
        items = aproduce()
        await anext(items)
        loop.call_soon(spend, 1)
        loop.call_later(0, spend, 1)
        await anext(items)
        await asyncio.sleep(0.01)
        await items.aclose()

    assert 20 == own(consumer.report(), "consumer/generator")
    assert 2 == own(consumer.report(), "consumer/m")


def test_a_decorated_generator_inside_another_generator():
    """A decorated generator counts all its steps in its own scope, whichever generator takes them."""

    @tokenscope.track_tokens("decorated", "steps")
    def decorated():
        spend(10)
        yield
        with token_scope("inner"):
            spend(100)
            yield
        spend(1000)
        yield

    def consume(items, name):
        with token_scope(name):
            for _ in items:
                spend(1)
                yield

    with token_scope("consumer") as consumer:
        items = decorated()
        first, second = consume(items, "first"), consume(items, "second")
        for each in (first, second, first):
            next(each)
        list(second)
        first.close()

    report = consumer.report()
    assert 1110 == own(report, "consumer/first/decorated/steps")
    assert 100 == own(report, "consumer/first/decorated/steps/inner")
    assert [1112, 1] == [own(report, f"consumer/{name}") for name in ("first", "second")]


def test_nothing_is_kept_of_a_generator():
    """When a generator's scope is left, neither the generator's frame nor the scope is kept."""
    list(produce())
    items = produce()
    next(items)
    assert [items.gi_frame] == list(STATE.generator_scopes)
    items.close()

    assert {} == STATE.generator_scopes


def test_frames_that_are_no_generators():
    """`generator_frame` returns None for the frame of a plain function, and for no frame."""
    assert generator_frame(sys._getframe()) is None
    assert generator_frame(None) is None


def test_a_collection_while_a_scope_is_left():
    """If a generator is collected while the scope on top of its own is being left, no scope stays active."""
    before = gc.get_threshold()
    gc.disable()
    try:
        items = produce()
        next(items)
        over = token_scope("over").__enter__()
        cycle = [items]
        cycle.append(cycle)
        del items, cycle
        gc.set_threshold(1)
        gc.enable()  # setting a ContextVar makes a token, which triggers the collection
        over.leave()
    finally:
        gc.set_threshold(*before)
        gc.enable()

    assert current_scope() is None
    assert entered.get() is None
    spend(1)
    assert 1 == own(tokenscope.report(), "m")


def test_scopes_left_elsewhere_do_not_pile_up():
    """Scopes that were left in another Context are forgotten when the next one is entered."""
    with token_scope("outer") as outer:
        for number in range(5):
            left = token_scope(f"left {number}")
            left.__enter__()
            contextvars.Context().run(left.__exit__, None, None, None)
            assert outer is current_scope()
        with token_scope("next") as scope:
            assert scope.parent is outer
            assert scope.below is outer
        assert outer is current_scope()

    assert entered.get() is None


def test_a_scope_left_elsewhere_below_another():
    """A scope that was left in another Context is not active again when the scope above it is left."""
    left = token_scope("left")
    left.__enter__()
    with token_scope("over") as over:
        contextvars.Context().run(left.__exit__, None, None, None)
        assert over is current_scope()

    assert current_scope() is None
    with token_scope("tidy"):
        pass
    assert entered.get() is None
