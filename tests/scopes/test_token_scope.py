"""`token_scope` and `track_tokens` as decorators of every kind of function; `carry` and `record_tokens`."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import carry, current_scope, record_tokens, token_scope, track_tokens
from tokenscope._usage.calls import model_name


def plain(tokens: int, *, more: int = 0) -> int:
    """Spend `tokens` and `more`, and return `tokens`."""
    spend(tokens + more)
    return tokens


async def coroutine(tokens: int) -> int:
    await asyncio.sleep(0)
    spend(tokens)
    return tokens


def generator(tokens: int):
    sent = yield tokens
    spend(tokens)
    return sent


async def async_generator(tokens: int):
    yield tokens
    await asyncio.sleep(0)
    spend(tokens)


DECORATORS = {
    "token_scope": token_scope("decorated"),
    "track_tokens": track_tokens("decorated", "operation"),
    "bare": track_tokens,
    "carry": carry,
}
KINDS = [plain, coroutine, generator, async_generator]


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
def test_a_decorated_function_is_of_the_same_kind(decorator, function):
    """A decorated function keeps its kind, signature, name, docstring and annotations."""
    decorated = DECORATORS[decorator](function)

    for question in (
        inspect.isfunction,
        inspect.iscoroutinefunction,
        asyncio.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert question(function) == question(decorated)
    assert inspect.signature(function) == inspect.signature(decorated)
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(function, name) == getattr(decorated, name)
    assert function is decorated.__wrapped__


def run(function, *args, **kwargs):
    """Run a function of any kind to its end."""
    result = function(*args, **kwargs)
    if inspect.isgenerator(result):
        return list(result)
    if inspect.isasyncgen(result):
        return asyncio.run(_collect(result))
    return asyncio.run(result) if inspect.isawaitable(result) else result


async def _collect(items):
    return [item async for item in items]


@pytest.mark.parametrize("function", KINDS, ids=lambda f: f.__name__)
def test_what_a_decorated_function_spends_is_in_its_scope(function):
    """Each call of a decorated function is one entry of its scope, and returns the same result as without it."""
    with token_scope("outer") as outer:
        assert run(function, 3) == run(track_tokens("module", "operation")(function), 3)
        run(token_scope("scope")(function), 5)

    report = outer.report()
    assert 3 == report.find("outer/m").usage.input_tokens
    assert 3 == report.find("outer/module/operation").usage.input_tokens
    assert 5 == report.find("outer/scope").usage.input_tokens
    assert 1 == report.find("outer/module/operation").entries
    assert {"m": 11} == {name: usage.input_tokens for name, usage in report.by_module().items()}


def test_frames_of_track_tokens():
    """`track_tokens` opens a level for the module and one for the operation. The function supplies omitted names."""
    where = []

    def function():
        where.append(current_scope().path.names)

    for decorate in (
        track_tokens("module", "operation"),
        track_tokens("module"),
        track_tokens(),
        track_tokens,
        track_tokens(operation="operation"),
    ):
        decorate(function)()

    module = __name__.rpartition(".")[2]
    assert [("module", "operation"), ("module", "function"), (module, "function"), (module, "function")] == where[:4]
    assert (module, "operation") == where[4]


class Worker:
    """Decorated methods of each kind."""

    @track_tokens("worker", "method")
    def method(self, tokens):
        spend(tokens)
        return self

    @classmethod
    @track_tokens("worker", "class inside")
    def class_inside(cls, tokens):
        spend(tokens)
        return cls

    @track_tokens("worker", "class outside")
    @classmethod
    def class_outside(cls, tokens):
        spend(tokens)
        return cls

    @staticmethod
    @token_scope("static inside")
    def static_inside(tokens):
        spend(tokens)

    @token_scope("static outside")
    @staticmethod
    def static_outside(tokens):
        spend(tokens)

    @property
    @track_tokens("worker", "property")
    def value(self):
        spend(7)
        return 7

    @track_tokens
    async def acall(self, tokens):
        spend(tokens)


def test_methods_of_every_kind():
    """Methods of every kind are bound as without the decorator, and count in their scope."""
    worker = Worker()
    assert worker is worker.method(1)
    assert Worker is Worker.class_inside(2) is worker.class_inside(2)
    assert Worker is Worker.class_outside(3) is worker.class_outside(3)
    Worker.static_inside(4)
    worker.static_outside(5)
    assert 7 == worker.value
    asyncio.run(worker.acall(8))

    report = tokenscope.report()
    expected = {"worker/method": 1, "worker/class inside": 4, "worker/class outside": 6, "static inside": 4}
    expected |= {"static outside": 5, "worker/property": 7, "test_token_scope/acall": 8}
    assert expected == {path: report.find(path).usage.input_tokens for path in expected}
    assert isinstance(inspect.getattr_static(Worker, "class_outside"), classmethod)
    assert isinstance(inspect.getattr_static(Worker, "static_outside"), staticmethod)


class Callable:
    """An instance that can be called."""

    def __call__(self, tokens):
        spend(tokens)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(plain, 2), "plain"),
        (functools.partial(functools.partial(coroutine), 2), "coroutine"),
        (functools.partial(Callable(), 2), "Callable"),
    ],
    ids=["function", "coroutine", "instance"],
)
def test_partials(function, name):
    """A decorated partial takes its name, module and kind from the function that it calls."""
    decorated = track_tokens(function)
    run(decorated)

    assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(decorated)
    assert 2 == tokenscope.report().find(f"test_token_scope/{name}").usage.input_tokens


def test_builtins():
    """A function written in C can be decorated too."""
    assert 3 == track_tokens("m")(len)("abc")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Worker, "not classes: decorate the methods of Worker"),
        (property(plain), "put it below @property"),
        (None, "decorates functions and methods, not NoneType"),
        (3, "decorates functions and methods, not int"),
    ],
    ids=["class", "property", "None", "int"],
)
def test_what_cannot_be_decorated(wrong, said):
    """A class, a property, None or a number cannot be decorated. The TypeError says why."""
    with pytest.raises(TypeError, match=said):
        token_scope("x")(wrong)
    with pytest.raises(TypeError, match=said):
        track_tokens("x")(wrong)


def test_a_class_without_brackets():
    """`@track_tokens` without parentheses rejects classes and properties too."""
    with pytest.raises(TypeError, match="not classes"):
        track_tokens(Worker)
    with pytest.raises(TypeError, match="put it below @property"):
        track_tokens(property(plain))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", "o"), ValueError),
        (("m", ""), ValueError),
        (("m", "  "), ValueError),
        ((3, "o"), TypeError),
        ((3,), TypeError),
        (("m", 3), TypeError),
        ((plain, "o"), TypeError),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_bad_names_of_track_tokens(arguments, error):
    """A bad name raises when the decorator is made, before any call of the function."""
    with pytest.raises(error, match="track_tokens must"):
        track_tokens(*arguments)


def test_carry_wants_a_function():
    """`carry` raises a TypeError for an object that cannot be called."""
    with pytest.raises(TypeError, match="carry takes a function, not int"):
        carry(3)


def test_carry_stays_in_the_scope_where_it_was_made():
    """A carried function runs in the scope in which `carry` was called. Then the caller's scope is active again."""
    with token_scope("home") as home:
        carried = carry(plain)
    with token_scope("elsewhere") as elsewhere:
        assert 3 == carried(3, more=1)
        assert elsewhere is current_scope()

    assert [4, 0] == [spent(home), spent(elsewhere)]


def test_carry_from_outside_of_all_scopes():
    """A function that was carried outside of all scopes runs outside of all scopes."""
    carried = carry(current_scope)
    with token_scope("elsewhere"):
        assert carried() is None


@pytest.mark.parametrize("function", [generator, async_generator], ids=lambda f: f.__name__)
def test_carried_generators(function):
    """Every step of a carried generator counts in the scope in which `carry` was called."""
    with token_scope("home") as home:
        carried = carry(function)
    with token_scope("elsewhere") as elsewhere:
        run(carried, 3)

    assert [3, 0] == [spent(home), spent(elsewhere)]


# -- generators -------------------------------------------------------------------------------------------------------------


@track_tokens("module", "steps")
def steps():
    """Yield back each item sent and each KeyError thrown, until "stop" is sent. Then return a value."""
    sent = None
    while sent != "stop":
        try:
            spend(10)
            sent = yield sent
        except KeyError as error:
            sent = error
    return "done"


@track_tokens("module", "steps")
async def asteps():
    """Do the same as `steps`, in an async generator without a return value."""
    sent = None
    while sent != "stop":
        try:
            spend(10)
            await asyncio.sleep(0)
            sent = yield sent
        except KeyError as error:
            sent = error


def test_a_decorated_generator_is_driven_as_before():
    """A decorated generator supports `send` and `throw`, and keeps its return value."""
    with token_scope("consumer") as consumer:
        items = steps()
        assert next(items) is None
        spend(1)
        assert 5 == items.send(5)
        error = KeyError("k")
        assert error is items.throw(error)
        assert consumer is current_scope()
        with pytest.raises(StopIteration) as stop:
            items.send("stop")
    assert "done" == stop.value.value

    report = consumer.report()
    assert 30 == report.find("consumer/module/steps").usage.input_tokens
    assert 1 == report.find("consumer/m").usage.input_tokens
    assert 1 == report.find("consumer/module/steps").entries


async def test_a_decorated_async_generator_is_driven_as_before():
    """A decorated async generator supports `asend` and `athrow`, and ends as before."""
    with token_scope("consumer") as consumer:
        items = asteps()
        assert await anext(items) is None
        spend(1)
        assert 5 == await items.asend(5)
        error = KeyError("k")
        assert error is await items.athrow(error)
        assert consumer is current_scope()
        with pytest.raises(StopAsyncIteration):
            await items.asend("stop")

    assert 30 == consumer.report().find("consumer/module/steps").usage.input_tokens
    assert 1 == consumer.report().find("consumer/m").usage.input_tokens


def test_exceptions_of_a_generator():
    """An exception that a generator raises or does not catch reaches the caller, and the scope is closed."""

    @track_tokens("module", "failing")
    def failing():
        spend(1)
        yield
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(failing())
    items = failing()
    next(items)
    with pytest.raises(ValueError, match="thrown"):
        items.throw(ValueError("thrown"))
    items = failing()
    next(items)
    with pytest.raises(RuntimeError):
        items.throw(StopIteration())

    assert 3 == tokenscope.report().find("module/failing").entries


async def test_exceptions_of_an_async_generator():
    """An exception that an async generator raises reaches the caller, and the scope is closed."""

    @track_tokens("module", "failing")
    async def failing():
        spend(1)
        yield
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _collect(failing())
    items = failing()
    await anext(items)
    with pytest.raises(RuntimeError):
        await items.athrow(StopAsyncIteration())

    assert 2 == tokenscope.report().find("module/failing").entries


def test_closing_a_decorated_generator():
    """`close` runs the generator's `finally` in its scope. A generator that never started does not enter its scope."""

    @track_tokens("module", "closing")
    def closing():
        try:
            yield
        finally:
            spend(5)

    closing().close()
    assert not tokenscope.report()
    items = closing()
    next(items)
    items.close()
    assert 5 == tokenscope.report().find("module/closing").usage.input_tokens
    assert 1 == tokenscope.report().find("module/closing").entries


async def test_closing_a_decorated_async_generator():
    """`aclose` runs an async generator's `finally` in its scope, even if the `finally` awaits."""

    @track_tokens("module", "closing")
    async def closing():
        try:
            yield
        finally:
            await asyncio.sleep(0)
            spend(5)

    await closing().aclose()
    assert not tokenscope.report()
    items = closing()
    await anext(items)
    await items.aclose()
    assert 5 == tokenscope.report().find("module/closing").usage.input_tokens


def test_a_generator_that_ignores_its_end():
    """A generator that yields after GeneratorExit raises RuntimeError, as without the decorator."""

    @track_tokens
    def stubborn():
        try:
            yield
        except GeneratorExit:
            yield

    items = stubborn()
    next(items)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        items.close()


async def test_an_async_generator_that_ignores_its_end():
    """An async generator that yields after GeneratorExit raises RuntimeError, as without the decorator."""

    @track_tokens
    async def stubborn():
        try:
            yield
        except GeneratorExit:
            yield

    items = stubborn()
    await anext(items)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        await items.aclose()


def test_blocks_inside_a_decorated_generator():
    """A scope that a decorated generator opens in its body is suspended and resumed with the generator."""

    @track_tokens("module", "operation")
    def function():
        with token_scope("block"):
            yield
            spend(10)
            yield
        spend(100)

    with token_scope("consumer") as consumer:
        for _ in function():
            spend(1)
            with token_scope("between"):
                spend(1)

    report = consumer.report()
    assert 10 == report.find("consumer/module/operation/block").usage.input_tokens
    assert 100 == report.find("consumer/module/operation/m").usage.input_tokens
    assert [2, 2] == [report.find(f"consumer/{name}").usage.input_tokens for name in ("m", "between")]


def test_the_time_of_a_generator_is_that_of_its_steps():
    """The time of a generator's scope does not include the consumer's time between two items."""

    @track_tokens("module", "operation")
    def function():
        time.sleep(0.02)
        yield
        time.sleep(0.02)

    began = time.perf_counter()
    for _ in function():
        paused = time.perf_counter()
        time.sleep(0.1)
        paused = time.perf_counter() - paused
    whole = time.perf_counter() - began

    assert 0.04 <= tokenscope.report().find("module/operation").seconds <= whole - paused


async def test_a_step_finalised_in_another_context():
    """If an awaiting async generator is closed in another Context, the scope that is active there stays active."""

    @track_tokens("module", "operation")
    async def function():
        await asyncio.sleep(0)
        yield

    step = anext(function())
    contextvars.Context().run(step.send, None)
    with token_scope("here") as here:
        with pytest.raises(GeneratorExit):
            step.throw(GeneratorExit)
        assert here is current_scope()

    assert 1 == tokenscope.report().find("module/operation").entries


async def test_a_decorated_async_generator_in_tasks():
    """If each step of an async generator runs in a task of its own, all steps count in the generator's scope."""
    items = asteps()
    with token_scope("consumer") as consumer:
        for _ in range(3):
            await asyncio.create_task(anext(items))
            spend(1)
        await items.aclose()

    assert 30 == consumer.report().find("consumer/module/steps").usage.input_tokens
    assert 3 == consumer.report().find("consumer/m").usage.input_tokens


# -- pickling ---------------------------------------------------------------------------------------------------------------


@track_tokens("module", "pickled")
def pickled(tokens):
    """Spend tokens, and return their number."""
    spend(tokens)
    return tokens


def test_pickles_by_reference(monkeypatch):
    """A decorated function of a module pickles as the undecorated one would."""
    monkeypatch.setitem(sys.modules, __name__, inspect.getmodule(pickled))

    assert pickled is pickle.loads(pickle.dumps(pickled))
    assert Worker.method is pickle.loads(pickle.dumps(Worker().method)).__func__


MAIN = """
import sys, asyncio, functools, cloudpickle
from tokenscope import carry, record_tokens, token_scope, track_tokens
OFFSET = 100
@track_tokens("module", "function")
def function(n):
    record_tokens("m", "o", "x", None, n, 0)
    return n + OFFSET
@token_scope("scope", run=7)
async def coroutine(n):
    record_tokens("m", "o", "x", None, n, 0)
    return n + OFFSET
@track_tokens
def generator(n):
    record_tokens("m", "o", "x", None, n, 0)
    yield n + OFFSET
@track_tokens("module")
async def async_generator(n):
    record_tokens("m", "o", "x", None, n, 0)
    yield n + OFFSET
class Worker:
    @track_tokens("module", "method")
    def method(self, n):
        record_tokens("m", "o", "x", None, n, 0)
        return n + OFFSET
with token_scope("home"):
    carried = carry(functools.partial(function.__wrapped__, 1))
sys.stdout.buffer.write(cloudpickle.dumps([function, coroutine, generator, async_generator, Worker().method, carried]))
"""

ELSEWHERE = """
import sys, asyncio, pickle, inspect
assert "tokenscope" not in sys.modules
function, coroutine, generator, async_generator, method, carried = pickle.load(sys.stdin.buffer)
import tokenscope
assert not hasattr(sys.modules["__main__"], "OFFSET")
async def collect(items):
    return [item async for item in items]
assert 101 == function(1) and 102 == asyncio.run(coroutine(2)) and [103] == list(generator(3))
assert [104] == asyncio.run(collect(async_generator(4))) and 105 == method(5) and 101 == carried()
assert inspect.iscoroutinefunction(coroutine) and inspect.isasyncgenfunction(async_generator)
report = tokenscope.report()
paths = ["module/function", "scope", "__main__/generator", "module/async_generator", "module/method", "m/o"]
print([report.find(path).usage.input_tokens for path in paths])
"""


def test_cloudpickle_takes_functions_of_main_by_value():
    """Decorated functions of a script work in another process that has never seen the script."""
    made = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, check=True, timeout=60)
    used = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=made.stdout, capture_output=True, check=False, timeout=60
    )

    assert b"" == used.stderr
    assert b"[1, 2, 3, 4, 5, 1]" == used.stdout.strip()


# -- the rest ---------------------------------------------------------------------------------------------------------------


def test_decorated_functions_can_recurse():
    """A recursive call opens a scope inside the scope of the call before."""

    @track_tokens("module", "countdown")
    def countdown(n):
        spend(1)
        return countdown(n - 1) if n else 0

    countdown(3)

    assert 4 == tokenscope.report().find("module/countdown").usage.input_tokens
    assert 1 == tokenscope.report().find("module/countdown").entries
    assert 4 == tokenscope.report().by_module()["m"].calls


def test_decorated_functions_of_many_threads():
    """Many threads can call one decorated function at once, and every token is counted."""
    with ThreadPoolExecutor(8) as pool:
        assert list(range(200)) == list(pool.map(pickled, range(200)))

    assert sum(range(200)) == tokenscope.report().find("module/pickled").usage.input_tokens


def test_a_recipe_says_its_name():
    """A `token_scope` has a name, attributes and a repr."""
    recipe = token_scope("pipeline", run=7)

    assert ("pipeline", {"run": 7}) == (recipe.name, recipe.attributes)
    assert "token_scope('pipeline')" == repr(recipe)


def test_attributes_of_a_decorated_function():
    """A `token_scope` used as a decorator gives its attributes to each entry."""
    seen = token_scope("s", run=7)(lambda: current_scope().attributes)

    assert {"run": 7} == seen()


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("gpt-5-mini", "openai", "openai/gpt-5-mini"),
        ("openai/gpt-5-mini", "openai", "openai/gpt-5-mini"),
        ("openai/gpt-5-mini", None, "openai/gpt-5-mini"),
        ("meta/llama", "groq", "groq/meta/llama"),
    ],
)
def test_the_name_of_a_model(model, provider, name):
    """A model's name is provider and model. A provider that the name already has is not repeated."""
    assert name == model_name(model, provider)
    record_tokens("m", "o", model, provider, 1, 1)
    assert [name] == list(tokenscope.report().by_model())


def test_an_entry_that_was_not_noted():
    """`__exit__` also leaves an entry that was not noted, which can happen if two threads enter at once."""
    recipe = token_scope("shared")
    with recipe as outer, recipe as inner:
        assert recipe._more is not None
        recipe._more.clear()

    assert current_scope() is None
    assert [True, True] == [scope.ended is not None for scope in (outer, inner)]


def test_budgets_are_not_taken_for_attributes():
    """A `budget` of another type than Budget raises a TypeError."""
    with pytest.raises(TypeError, match="the budget of token_scope must be a Budget, not int 5"):
        token_scope("a", budget=5)
    with pytest.raises(TypeError, match=r"the budget of track_tokens must be a Budget, not dict \{\}"):
        track_tokens("a", budget={})


def test_objects_that_are_coroutine_functions():
    """A call of an object with an async `__call__`, or of a partial of it, stays in its scope until it is done."""

    class Caller:
        async def __call__(self):
            await asyncio.sleep(0)
            record_tokens("m", "o", "x", None, 5, 0)

    for each in (Caller(), functools.partial(Caller())):
        with token_scope("outer") as outer:
            asyncio.run(track_tokens("mod", "op")(each)())
        assert 5 == outer.report().find("outer/mod/op").usage.input_tokens


def test_an_entered_recipe_is_copied_without_its_entries():
    """A `token_scope` can be copied and pickled while it is entered. The copy has no entries."""
    recipe = token_scope("a", id=7)
    with recipe as scope:
        for twin in (copy.deepcopy(recipe), copy.copy(recipe), pickle.loads(pickle.dumps(recipe))):
            assert ("a", {"id": 7}) == (twin.name, twin.attributes)
            with twin as inner:
                assert scope is inner.parent
