"""Scopes: which scope is current, in every order of entering and leaving, and in tasks, threads and Contexts."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
import threading
import time
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
from support.spending import count, python, spend, spent

import tokenscope
from tokenscope import Scope, Usage, carry, current_scope, record_tokens, token_scope, track_tokens
from tokenscope._scopes.context import CapturedScope
from tokenscope._scopes.process import STATE
from tokenscope._scopes.scope import open_scope


def test_a_call_is_counted_in_the_innermost_scope():
    """A call counts in the innermost scope and in all scopes around it."""
    with token_scope("outer") as outer:
        spend(1)
        with token_scope("inner") as inner:
            spend(2)
        spend(4)

    assert [7, 2] == [spent(outer), spent(inner)]
    report = outer.report()
    assert 5 == report.find("outer/m/o").usage.input_tokens
    assert 2 == report.find("outer/inner/m/o").usage.input_tokens
    assert 7 == spent(tokenscope.report())


def test_current_scope_follows():
    """`current_scope` returns the innermost open scope, or None outside of all scopes."""
    assert current_scope() is None
    with token_scope("outer") as outer:
        assert outer is current_scope()
        with token_scope("inner") as inner:
            assert inner is current_scope()
            assert outer is inner.parent
        assert outer is current_scope()
    assert current_scope() is None
    assert outer.parent is None


async def test_async_with():
    """`async with` opens and closes a scope as `with` does."""
    async with token_scope("a") as scope:
        spend(2)
        assert scope is current_scope()

    assert 2 == spent(scope)
    assert current_scope() is None


def test_an_exception_passes_through():
    """A scope that is left by an exception keeps its counts, and does not catch the exception."""
    with pytest.raises(ZeroDivisionError), token_scope("a"):
        spend(3)
        1 / 0  # noqa: B018

    assert 3 == spent(tokenscope.report())


def test_each_entry_counts_by_itself():
    """A `token_scope` can be entered again. Each entry has its own counts, and the process has their sum."""
    recipe = token_scope("again")
    found = []
    for tokens in (1, 2):
        with recipe as scope:
            spend(tokens)
        found.append(scope)

    assert [1, 2] == [spent(scope) for scope in found]
    assert 2 == tokenscope.report().find("again").entries
    assert 3 == spent(tokenscope.report())


def test_one_recipe_inside_itself():
    """A `token_scope` can be entered again while it is entered."""
    recipe = token_scope("r")
    with recipe as outer:
        with recipe as inner:
            spend(1)
            with recipe as innermost:
                spend(2)
        assert outer is current_scope()
        spend(4)

    assert [7, 3, 2] == [spent(outer), spent(inner), spent(innermost)]


async def test_one_recipe_in_many_tasks():
    """Tasks that interleave inside one `token_scope` count separately."""
    recipe = token_scope("shared")

    async def work(tokens: int) -> int:
        async with recipe as scope:
            for _ in range(5):
                spend(tokens)
                await asyncio.sleep(0)
                assert scope is current_scope()
            return spent(scope)

    assert [5 * n for n in range(20)] == await asyncio.gather(*map(work, range(20)))
    assert 20 == tokenscope.report().find("shared").entries


def test_one_recipe_in_many_threads():
    """Threads inside one `token_scope` count separately."""
    recipe = token_scope("shared")
    found: dict[int, int] = {}
    barrier = threading.Barrier(8)

    def work(tokens: int) -> None:
        barrier.wait(10)
        for _ in range(50):
            with recipe as scope:
                spend(tokens)
        found[tokens] = spent(scope)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {n: n for n in range(8)} == found
    assert 50 * sum(range(8)) == spent(tokenscope.report())
    assert 400 == tokenscope.report().find("shared").entries


def test_left_out_of_order():
    """If a scope is left before the scope inside it, the inner scope stays current until it is left too."""
    one, two, three = (token_scope(name) for name in "abc")
    a, b, c = one.__enter__(), two.__enter__(), three.__enter__()
    two.__exit__(None, None, None)
    assert c is current_scope()
    spend(1)
    three.__exit__(None, None, None)
    assert a is current_scope()
    spend(2)
    one.__exit__(None, None, None)
    assert current_scope() is None

    assert [3, 1, 1] == [spent(a), spent(b), spent(c)]


def test_one_recipe_left_below_another_scope():
    """If another scope is on top, `__exit__` leaves the last entry of the `token_scope` in this Context."""
    recipe, other = token_scope("r"), token_scope("o")
    first = recipe.__enter__()
    last = recipe.__enter__()
    over = other.__enter__()
    recipe.__exit__(None, None, None)
    assert "closed" in repr(last)
    assert over is current_scope()
    other.__exit__(None, None, None)
    assert first is current_scope()
    recipe.__exit__(None, None, None)
    assert current_scope() is None


def test_leaving_what_was_not_entered_does_nothing():
    """An `__exit__` without an entry neither raises nor leaves another scope."""
    recipe = token_scope("r")
    with token_scope("outer") as outer:
        recipe.__exit__(None, None, None)
        with recipe:
            pass
        recipe.__exit__(None, None, None)
        assert outer is current_scope()


def test_left_in_another_context():
    """A scope that was left in another Context is no longer current where it was entered."""
    recipe = token_scope("r")
    with token_scope("outer") as outer:
        scope = recipe.__enter__()
        contextvars.Context().run(recipe.__exit__, None, None, None)
        assert outer is current_scope()
        spend(3)
        with token_scope("later") as later:
            assert outer is later.parent
        contextvars.copy_context().run(lambda: spend(1))

    assert 0 == spent(scope)
    assert 4 == spent(outer)
    assert current_scope() is None


def test_left_in_a_copied_context():
    """A scope that is left in a copy of its Context is no longer current in the copy."""
    recipe = token_scope("r")
    with token_scope("outer") as outer:
        scope = recipe.__enter__()

        def leave() -> Scope | None:
            recipe.__exit__(None, None, None)
            return current_scope()

        assert outer is contextvars.copy_context().run(leave)
        spend(1)
        assert 1 == spent(outer)
        scope.leave()

    assert current_scope() is None


async def test_a_coroutine_finalised_elsewhere_leaves_its_own_entry():
    """If an abandoned coroutine shares a `token_scope` with other code, closing the coroutine leaves its own entry."""
    recipe = token_scope("shared")

    async def wait() -> None:
        with recipe:
            await asyncio.sleep(0)

    abandoned = wait()
    contextvars.Context().run(abandoned.send, None)
    with recipe as scope:
        contextvars.Context().run(abandoned.close)
        spend(2)
        assert scope is current_scope()

    assert 2 == spent(scope)
    assert current_scope() is None


def test_exit_stacks():
    """ExitStack enters and leaves scopes as `with` does."""
    with ExitStack() as stack:
        scopes = [stack.enter_context(token_scope(name)) for name in "abc"]
        spend(2)
        assert scopes[-1] is current_scope()

    assert [2, 2, 2] == [spent(scope) for scope in scopes]
    assert 2 == scopes[0].report().find("a/b/c").usage.input_tokens


async def test_async_exit_stacks():
    """AsyncExitStack enters and leaves scopes as `async with` does."""
    async with AsyncExitStack() as stack:
        outer = await stack.enter_async_context(token_scope("a"))
        inner = stack.enter_context(token_scope("b"))
        spend(2)

    assert [2, 2] == [spent(outer), spent(inner)]


def test_in_a_context_manager_of_ones_own():
    """A scope that a `@contextmanager` or a class's `__enter__` opens is current in the block."""

    @contextmanager
    def phase(name):
        with token_scope(name) as scope:
            yield scope

    class Phase:
        def __enter__(self):
            self.recipe = token_scope("class")
            return self.recipe.__enter__()

        def __exit__(self, *error):
            return self.recipe.__exit__(*error)

    with phase("generator") as one, Phase() as two:
        spend(1)
        assert two is current_scope()

    assert [1, 1] == [spent(one), spent(two)]
    assert current_scope() is None


async def test_late_calls_of_tasks():
    """A task that outlives the scope in which it was started still counts in that scope and in those around it."""
    go = asyncio.Event()

    async def late() -> None:
        await go.wait()
        spend(5)
        with token_scope("later"):
            spend(7)

    with token_scope("outer") as outer:
        with token_scope("inner") as inner:
            task = asyncio.create_task(late())
            await asyncio.sleep(0)
    go.set()
    await task

    assert [12, 12, 12] == [spent(outer), spent(inner), spent(tokenscope.report())]
    assert 7 == outer.report().find("outer/inner/later").usage.input_tokens


def test_late_calls_of_threads():
    """A thread that outlives the scope in which it was started still counts in that scope and in those around it."""
    go = threading.Event()

    def late() -> None:
        go.wait(10)
        spend(5)

    with token_scope("outer") as outer, token_scope("inner") as inner:
        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    thread.join()

    assert [5, 5, 5] == [spent(outer), spent(inner), spent(tokenscope.report())]


async def test_a_cancelled_task_leaves_its_scopes():
    """If a task is cancelled, its scopes are closed."""
    found = []

    async def work() -> None:
        with token_scope("cancelled") as scope:
            found.append(scope)
            spend(1)
            await asyncio.sleep(10)

    with token_scope("outer") as outer:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outer is current_scope()

    assert "closed" in repr(found[0])
    assert 1 == spent(outer)


@pytest.mark.parametrize("levels", [1_000, pytest.param(3_000, marks=pytest.mark.slow)])
def test_deep_nesting(levels):
    """Deeply nested scopes can be entered, counted in, left and reported without recursion."""
    nested = [token_scope(f"level {n}") for n in range(levels)]
    scopes = [each.__enter__() for each in nested]
    spend(3)
    assert 3 == spent(scopes[0])
    for each in reversed(nested):
        each.__exit__(None, None, None)

    assert [3, 3, 3] == [spent(scopes[0]), spent(scopes[levels // 2]), spent(scopes[-1])]
    assert levels + 2 == len(tokenscope.report().rows)
    assert 1 == tokenscope.report().find("/".join(f"level {n}" for n in range(levels))).entries
    assert min(levels + 2, 1_001) == len(scopes[0].report().rows)  # a scope's report reaches 1,000 levels down


def test_leaving_far_below_the_top():
    """A scope that lies under several others can be left first, and the others stay open."""
    a, b, c = [token_scope(name).__enter__() for name in "abc"]
    a.leave()
    assert c is current_scope()
    c.leave()
    assert b is current_scope()
    b.leave()
    assert current_scope() is None


def test_an_end_that_was_interrupted():
    """If leaving a scope was interrupted, the scope is removed when the scope around it is left."""
    outer, inner = token_scope("outer").__enter__(), token_scope("inner").__enter__()
    inner.ended = 5  # as if Ctrl-C came when it was counted, and still active
    STATE.log.append((inner.above, inner.path, 5))
    assert inner is current_scope()
    outer.leave()
    assert current_scope() is None
    assert 1 == tokenscope.report().find("outer/inner").entries


def test_no_scope_at_all():
    """Calls outside of all scopes are at the top level of the process's report."""
    spend(3)
    record_tokens("m2", "o2", "x", None, 1, 1)

    assert 3 == tokenscope.report().find("m/o").usage.input_tokens
    assert ["m", "m2"] == sorted(child.name for child in tokenscope.report().tree().children)


def test_what_a_scope_tells_of_itself():
    """A scope has a name, a kind, attributes, a time that stops at its end, and a repr."""
    with token_scope("outer", run=7) as outer:
        time.sleep(0.01)
        with token_scope("inner") as inner:
            pass
        assert 0.01 <= outer.seconds < 60
        spend(1234)
        assert "<Scope 'outer', open, 1,234 tokens>" == repr(outer)
    closed = outer.seconds
    time.sleep(0.01)

    assert closed == outer.seconds
    assert ("outer", "scope", {"run": 7}) == (outer.name, outer.kind, outer.attributes)
    assert {} == inner.attributes
    assert "<Scope 'outer', closed, 1,234 tokens>" == repr(outer)


def test_attributes_differ_from_entry_to_entry():
    """Each entry of a scope has its own attributes. They are not part of the path."""
    for run in (1, 2):
        with token_scope("r", run=run) as scope:
            spend()
            assert {"run": run} == scope.attributes

    assert 2 == tokenscope.report().find("r").entries


def test_other_kinds_have_no_attributes():
    """The scope of a decorated function has no attributes."""

    @track_tokens("m", "o")
    def function():
        return current_scope()

    scope = function()
    assert "operation" == scope.kind
    assert {} == scope.attributes


def test_prints_its_tree():
    """`str` and rich show the tree of a scope."""
    from rich.console import Console

    with token_scope("pipeline") as scope:
        spend(12)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(scope)

    assert str(scope).splitlines()[2].startswith("pipeline")
    assert str(scope) == str(scope.report())
    assert capture.get().splitlines()[2].startswith("pipeline")


def test_a_report_at_any_moment_from_any_thread():
    """A thread can take a scope's report while another thread counts in the scope."""
    with token_scope("pipeline") as scope:
        stop = threading.Event()

        def count_on() -> None:
            while not stop.is_set():
                with token_scope("step"):
                    spend(1)

        thread = threading.Thread(target=count_on)
        thread.start()
        totals = [spent(scope.report()) for _ in range(100)]
        stop.set()
        thread.join()

    assert sorted(totals) == totals
    assert spent(scope.report()) == scope.report().find("pipeline/step").entries


@pytest.mark.parametrize("name", [None, 3, b"x", ["x"], {"x"}, 1.5, True], ids=repr)
def test_names_must_be_text(name):
    """A name that is not a str raises a TypeError."""
    with pytest.raises(TypeError, match="the name of a token_scope must be a str"):
        token_scope(name)


@pytest.mark.parametrize("name", ["", " ", "\t\n"], ids=repr)
def test_names_must_not_be_empty(name):
    """A name that is empty or blank raises a ValueError."""
    with pytest.raises(ValueError, match="the name of a token_scope must not be empty"):
        token_scope(name)


class Text(str):
    """A subclass of str that cannot be hashed."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]


def test_names_of_a_subclass_of_str():
    """A name that cannot be hashed raises a TypeError when the `token_scope` is made."""
    with pytest.raises(TypeError):
        token_scope(Text("x"))


def test_a_captured_scope_is_empty_elsewhere():
    """A `CapturedScope` can be pickled and copied. The copy holds no scope."""
    with token_scope("a") as scope:
        captured = CapturedScope.capture()
        assert scope is captured.scope

    assert pickle.loads(pickle.dumps(captured)).scope is None
    assert copy.copy(captured).scope is None


async def test_a_carried_coroutine_finalised_elsewhere_changes_nothing_there():
    """If a carried coroutine is closed in another Context, the scope that is active there stays active."""
    with token_scope("home"):

        async def wait() -> None:
            await asyncio.sleep(0)

        abandoned = carry(wait)()
    contextvars.Context().run(abandoned.send, None)
    with token_scope("here") as here:
        abandoned.close()
        assert here is current_scope()


def test_disabled():
    """With TOKENSCOPE_DISABLED=1, scopes can be used, but nothing is counted or patched."""
    code = """if True:
        import threading, concurrent.futures, asyncio
        start, submit, create = threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit, None
        import tokenscope, sys
        from tokenscope import token_scope, track_tokens, record_tokens, integrations
        def f(): record_tokens("m", "o", "x", None, 1, 2)
        assert track_tokens("a", "b")(f) is f and token_scope("s")(f) is f
        with token_scope("x") as scope:
            f()
        assert not tokenscope.report() and not scope.usage, scope.report()
        assert not scope.report().total
        assert threading.Thread.start is start and concurrent.futures.ThreadPoolExecutor.submit is submit
        assert integrations.applied() == ()
        assert not [f for f in sys.meta_path if type(f).__module__.startswith("tokenscope")]
    """
    python(code, TOKENSCOPE_DISABLED="1")


def test_disabled_by_a_word_that_says_no():
    """TOKENSCOPE_DISABLED=0 does not disable tokenscope."""
    code = "from tokenscope import *; print(bool(instrument) and __import__('tokenscope').integrations.applied() != ())"

    assert "True" == python(code, TOKENSCOPE_DISABLED="0").strip()


def test_a_repr_shows_the_last_names():
    """The repr of a deep scope shows its last eight names."""
    with ExitStack() as stack:
        for number in range(10):
            scope = stack.enter_context(token_scope(f"s{number}"))
        assert "<Scope 's2/s3/s4/s5/s6/s7/s8/s9', open, 0 tokens>" == repr(scope)


def test_a_repr_counts_what_was_spent():
    """The repr leaves out tokens that a cached answer saved."""
    with token_scope("run") as scope:
        count(scope, "m", Usage(calls=1, cached_calls=1), saved=Usage(input_tokens=50))
        count(scope, "m", Usage(calls=1, input_tokens=7))
    assert "<Scope 'run', closed, 7 tokens>" == repr(scope)


def test_a_decorated_call_takes_its_time():
    """The time of a decorated function's scope runs from its call to its end."""

    @track_tokens("m", "o")
    def work():
        spend(1)
        return current_scope()

    before = time.perf_counter()
    scope = work()
    assert 0 < scope.seconds <= time.perf_counter() - before


def test_a_scope_that_was_asked_for_keeps_its_counts():
    """A decorated function's scope, and the scope around it, keep their counts if `current_scope` has returned them."""

    @track_tokens("inner", "o")
    def inner():
        spend(3)
        return current_scope()

    @track_tokens("outer", "o")
    def outer():
        spend(4)
        return inner()

    scope = outer()
    assert [3, 7] == [spent(scope), spent(scope.parent)]


def test_names_of_a_bare_decorator():
    """A bare `track_tokens` takes its module from the last part of the function's module, and its operation from its name."""

    @track_tokens
    def work():
        spend(1)

    work.__wrapped__.__module__ = "package.part"
    with token_scope("run") as scope:
        track_tokens(work.__wrapped__)()
    assert [("scope", "run"), ("module", "part"), ("operation", "work")] == [
        (node.kind, node.name) for _, node in scope.report().tree().walk()
    ][:3]
    with pytest.raises(TypeError, match="the module of track_tokens must be a str, not int 5"):
        track_tokens(5)
    work.__wrapped__.__module__ = None
    with token_scope("run") as scope:
        track_tokens(work.__wrapped__)()
    assert "__main__" == scope.report().tree().children[0].name
    with pytest.raises(TypeError, match=r"^track_tokens decorates functions and methods, not classes"):
        track_tokens("m", "o")(int)
    with pytest.raises(TypeError, match=r"^track_tokens cannot decorate a property"):
        track_tokens("m", "o")(property(work))
    with pytest.raises(TypeError, match=r"^track_tokens decorates functions and methods, not int 3"):
        track_tokens("m", "o")(3)


def test_a_part_of_a_scope_that_runs_apart():
    """Of several runs in one scope, each counted apart, the active scope is the one around them."""
    with token_scope("outer") as outer, token_scope("inner") as inner:
        runs = [open_scope(Scope, ()) for _ in range(2)]
        for run in runs:
            run.begin(run)
            assert inner is current_scope()
            assert outer is current_scope().parent
        for run in reversed(runs):
            run.leave()
        assert inner is current_scope()
