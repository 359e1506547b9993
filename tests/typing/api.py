"""Right uses of every public name, with the types they have. Never run: mypy and pyright read it.

`same_type` holds a decorator to its word: the decorated thing has the type that it had, parameter names and all. (A box is
invariant, so both types must be one and the same.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, MutableMapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, assert_type

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

import tokenscope
from tokenscope import (
    Breakdown,
    CallSizes,
    Budget,
    BudgetExceeded,
    Change,
    Diff,
    Finding,
    Forecast,
    JSONLSink,
    Node,
    Price,
    Record,
    Report,
    ReportFormatError,
    Reread,
    Scope,
    Shipment,
    TokenScopeError,
    TokenTracker,
    Usage,
    Waste,
    __version__,
    carry,
    current_scope,
    get_tracker,
    instrument,
    receive,
    record_response,
    record_stream,
    record_cost,
    record_tokens,
    report,
    reset,
    set_price,
    ship,
    token_scope,
    track_tokens,
    uninstrument,
)
from tokenscope.integrations.asgi import TokenScopeMiddleware

T = TypeVar("T")


class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content


def same_type(before: Box[T], after: Box[T]) -> None: ...


# -- token_scope: a block -----------------------------------------------------------------------------------------------


def a_block() -> None:
    with token_scope("pipeline") as scope:
        assert_type(scope, Scope)
    with token_scope("request", id=7, url="https://example.org") as scope:
        assert_type(scope, Scope)
    with token_scope("outer"), token_scope("inner"):
        pass


def a_recipe_used_twice() -> None:
    recipe = token_scope("pipeline")
    assert_type(recipe, token_scope[None])
    assert_type(recipe.name, str)
    with recipe, recipe as inner:
        assert_type(inner, Scope)


async def an_async_block() -> None:
    async with token_scope("pipeline", run=1) as scope:
        assert_type(scope, Scope)


def a_block_swallows_nothing() -> int:
    with token_scope("pipeline"):
        return 1  # a type checker that thought exceptions end here would ask for another return


# -- what decorators are tried on -----------------------------------------------------------------------------------------


def plain(text: str, *, times: int = 1) -> list[str]:
    return [text] * times


async def coroutine(text: str, /) -> bytes:
    return text.encode()


def generator(count: int) -> Iterator[int]:
    yield from range(count)


async def async_generator(count: int) -> AsyncIterator[int]:
    yield count


def generic(value: T) -> T:
    return value


boxed_plain = Box(plain)
boxed_coroutine = Box(coroutine)
boxed_generator = Box(generator)
boxed_async_generator = Box(async_generator)

# -- token_scope: a decorator ---------------------------------------------------------------------------------------------

scoped_plain = Box(token_scope("step")(plain))
scoped_coroutine = Box(token_scope("step", id=1)(coroutine))
scoped_generator = Box(token_scope("step")(generator))
scoped_async_generator = Box(token_scope("step")(async_generator))
same_type(boxed_plain, scoped_plain)
same_type(boxed_coroutine, scoped_coroutine)
same_type(boxed_generator, scoped_generator)
same_type(boxed_async_generator, scoped_async_generator)


@token_scope("step")
def scoped(text: str) -> int:
    return len(text)


assert_type(scoped("text"), int)
assert_type(scoped(text="text"), int)

# -- track_tokens: bare, called, with one name, with two --------------------------------------------------------------------

same_type(boxed_plain, Box(track_tokens(plain)))
same_type(boxed_coroutine, Box(track_tokens(coroutine)))
same_type(boxed_generator, Box(track_tokens(generator)))
same_type(boxed_async_generator, Box(track_tokens(async_generator)))
called_plain = Box(track_tokens()(plain))
called_coroutine = Box(track_tokens()(coroutine))
called_generator = Box(track_tokens("module")(generator))
called_async_generator = Box(track_tokens("module", "operation")(async_generator))
same_type(boxed_plain, called_plain)
same_type(boxed_coroutine, called_coroutine)
same_type(boxed_generator, called_generator)
same_type(boxed_async_generator, called_async_generator)


@track_tokens
def bare(text: str, *, times: int = 1) -> list[str]:
    return [text] * times


@track_tokens()
def called(text: str) -> int:
    return len(text)


@track_tokens("module")
def one_name(text: str) -> int:
    return len(text)


@track_tokens("module", "operation")
def two_names(text: str) -> int:
    return len(text)


@track_tokens(module="module", operation="operation")
def by_keyword(text: str) -> int:
    return len(text)


@track_tokens(operation="operation")
def only_operation(text: str) -> int:
    return len(text)


@track_tokens
async def bare_coroutine(text: str) -> bytes:
    return text.encode()


@track_tokens("module", "operation")
async def called_with_names(text: str) -> bytes:
    return text.encode()


@track_tokens
def bare_generator(count: int) -> Iterator[int]:
    yield from range(count)


@track_tokens("module", "operation")
async def bare_async_generator(count: int) -> AsyncIterator[int]:
    yield count


assert_type(bare("text", times=2), list[str])
assert_type(called(text="text"), int)
assert_type(one_name("text"), int)
assert_type(two_names("text"), int)
assert_type(by_keyword("text"), int)
assert_type(only_operation("text"), int)
assert_type(bare_generator(count=2), Iterator[int])
assert_type(bare_async_generator(2), AsyncIterator[int])


@track_tokens
def bare_generic(value: T) -> T:
    return value


assert_type(bare_generic("text"), str)
assert_type(track_tokens("module")(generic)(1), int)


async def awaited() -> None:
    assert_type(await bare_coroutine("text"), bytes)
    assert_type(await called_with_names(text="text"), bytes)
    async for item in bare_async_generator(2):
        assert_type(item, int)
    pending: Coroutine[Any, Any, bytes] = bare_coroutine("text")
    await pending


class Agent:
    @track_tokens
    def method(self, text: str) -> int:
        return len(text)

    @track_tokens("agent", "ask")
    async def async_method(self, text: str) -> bytes:
        return text.encode()

    @token_scope("stream")
    def generator_method(self, count: int) -> Iterator[int]:
        yield from range(count)

    @classmethod
    @track_tokens("agent")
    def classmethod_outside(cls, text: str) -> Agent:
        return cls()

    @track_tokens("agent")
    @classmethod
    def classmethod_inside(cls, text: str) -> Agent:
        return cls()

    @track_tokens
    @classmethod
    def bare_classmethod(cls, text: str) -> Agent:
        return cls()

    @staticmethod
    @track_tokens
    def staticmethod_outside(text: str) -> int:
        return len(text)

    @track_tokens()
    @staticmethod
    def staticmethod_inside(text: str) -> int:
        return len(text)

    @track_tokens
    @staticmethod
    def bare_staticmethod(text: str) -> int:
        return len(text)

    @token_scope("agent")
    @staticmethod
    def scoped_staticmethod(text: str) -> int:
        return len(text)

    @token_scope("agent")
    @classmethod
    async def scoped_classmethod(cls, text: str) -> bytes:
        return text.encode()

    @property
    @track_tokens
    def answer(self) -> int:
        return 42


async def methods(agent: Agent) -> None:
    assert_type(agent.method(text="text"), int)
    assert_type(Agent.method(agent, "text"), int)
    assert_type(await agent.async_method("text"), bytes)
    assert_type(agent.generator_method(2), Iterator[int])
    assert_type(Agent.classmethod_outside("text"), Agent)
    assert_type(Agent.classmethod_inside("text"), Agent)
    assert_type(agent.classmethod_inside(text="text"), Agent)
    assert_type(Agent.bare_classmethod("text"), Agent)
    assert_type(Agent.staticmethod_outside("text"), int)
    assert_type(Agent.staticmethod_inside(text="text"), int)
    assert_type(agent.staticmethod_inside("text"), int)
    assert_type(Agent.bare_staticmethod("text"), int)
    assert_type(Agent.scoped_staticmethod("text"), int)
    assert_type(await Agent.scoped_classmethod("text"), bytes)
    assert_type(agent.answer, int)


class Callable_:
    def __call__(self, text: str) -> int:
        return len(text)


assert_type(track_tokens(Callable_())("text"), int)

# -- carry, current_scope, record_tokens, record_cost -------------------------------------------------------------------------

same_type(boxed_plain, Box(carry(plain)))
same_type(boxed_coroutine, Box(carry(coroutine)))
work: Callable[[str], list[str]] = carry(plain)
assert_type(list(map(carry(len), ["text"])), list[int])

assert_type(current_scope(), Scope | None)

record_tokens(model="gpt-5-mini", input_tokens=10, output_tokens=5)
record_cost(cost=0.001)
record_tokens("module", "operation", "gpt-5-mini", "openai", 10, 20)
record_tokens("module", "operation", "openai/gpt-5-mini", None, 10, 20, {"batch": 7})
record_tokens(
    module="module",
    operation="operation",
    model="gpt-5-mini",
    provider="openai",
    input_tokens=10,
    output_tokens=20,
    metadata={"batch": 7},
    cache_read_tokens=1,
    cache_write_tokens=2,
    reasoning_tokens=3,
    input_audio_tokens=4,
    output_audio_tokens=5,
)
record_cost("module", "operation", 0.001)
record_cost("module", "operation", Decimal("0.001"), {"query": 7})
record_cost(module="module", operation="operation", cost=1, metadata={"query": 7})

# -- record_response ---------------------------------------------------------------------------------------------------------


class Response:
    model: str


def a_response(response: Response, as_json: dict[str, Any]) -> None:
    assert_type(record_response(response), Response)
    assert_type(record_response(response, provider="azure", model="my-deployment"), Response)
    assert_type(record_response(as_json), dict[str, Any])
    assert_type(record_response(as_json, messages=[{"role": "user", "content": "Hello"}]), dict[str, Any])


def a_stream(stream: Iterator[Response], async_stream: AsyncIterator[Response], as_json: dict[str, Any]) -> None:
    assert_type(record_stream(stream), Iterator[Response])
    assert_type(record_stream(async_stream, provider="azure", model="my-deployment"), AsyncIterator[Response])
    assert_type(record_stream(as_json, model="us.amazon.nova-micro-v1:0"), dict[str, Any])
    for piece in record_stream(stream):
        assert_type(piece, Response)


# -- ship, receive, Shipment ------------------------------------------------------------------------------------------------


async def shipping() -> None:
    assert_type(ship(plain)("text"), Shipment[list[str]])
    assert_type(receive(ship(plain)(text="text")), list[str])
    assert_type(await ship(coroutine)("text"), Shipment[bytes])
    assert_type(receive(await ship(coroutine)("text")), bytes)
    assert_type(ship(plain)("text").value, list[str])
    assert_type(ship(plain)("text").report, Report)


@ship
def shipped(count: int, *, name: str = "") -> str:
    return name * count


assert_type(shipped(2, name="text"), Shipment[str])

# -- Scope ----------------------------------------------------------------------------------------------------------------


def a_scope(scope: Scope) -> None:
    assert_type(scope.name, str)
    assert_type(scope.kind, str)
    assert_type(scope.usage, Usage)
    assert_type(scope.usage.total_tokens, int)
    assert_type(scope.parent, Scope | None)
    assert_type(scope.attributes, Mapping[str, Any])
    assert_type(scope.seconds, float)
    assert_type(scope.report(), Report)
    assert_type(str(scope), str)
    print(scope)


# -- Usage ----------------------------------------------------------------------------------------------------------------


def a_usage(usage: Usage, usages: list[Usage]) -> None:
    assert_type(Usage(), Usage)
    assert_type(Usage(calls=1, cached_calls=1, failed_calls=1, input_tokens=2, output_tokens=3), Usage)
    assert_type(Usage(cache_read_tokens=1, cache_write_tokens=1, reasoning_tokens=1), Usage)
    assert_type(Usage(input_audio_tokens=1, output_audio_tokens=1), Usage)
    assert_type(usage.calls, int)
    assert_type(usage.input_tokens, int)
    assert_type(usage.output_tokens, int)
    assert_type(usage.total_tokens, int)
    assert_type(usage.cost, Decimal | None)
    assert_type(usage.saved_cost, Decimal)
    assert_type(usage.unpriced_calls, int)
    assert_type(usage.known_cost, Decimal | None)
    assert_type(usage + usage, Usage)
    assert_type(sum(usages, Usage()), Usage)
    assert_type(usage.to_dict(), dict[str, int | float | None])
    assert_type(bool(usage), bool)
    assert_type(usage == usage, bool)


# -- Report ---------------------------------------------------------------------------------------------------------------

assert_type(report(), Report)
assert_type(tokenscope.report(), Report)


def a_report(report: Report, reports: list[Report]) -> None:
    assert_type(Report(), Report)
    assert_type(report.total, Usage)
    assert_type(report.by_module()["search"], Usage)
    assert_type(report.by_operation()["search.rerank"], Usage)
    assert_type(report.by_model()["openai/gpt-5-mini"].total_tokens, int)
    assert_type(report.predictors()["ResearchAgent.planner"], Usage)
    assert_type(report.statistics(), dict[str, Any])
    by_model: Mapping[str, Usage] = report.by_model()
    for name, usage in by_model.items():
        assert_type(name, str)
        assert_type(usage, Usage)
    assert_type(report + report, Report)
    assert_type(sum(reports, Report()), Report)
    assert_type(report.render(), str)
    assert_type(report.render("tree", width=80), str)
    assert_type(report.render(depth=2, by="model", sort="cost", top=None, min_share=0.01), str)
    assert_type(report.render(parts=True), str)
    report.save("deep/tokens.dat", "markdown", by="model", top=20)
    assert_type(report - report, Report)
    assert_type(report.find("planner").path, tuple[str, ...])
    assert_type(report.render(format="json"), str)
    report.save("report.json")
    report.save(Path("report.json"))
    assert_type(Report.load("report.json"), Report)
    assert_type(Report.load(Path("report.json")), Report)
    print(report)


def a_tree(report: Report) -> None:
    node = report.tree()
    assert_type(node, Node)
    assert_type(node.children, tuple[Node, ...])
    assert_type(node.name, str)
    assert_type(node.kind, str)
    assert_type(node.usage, Usage)
    assert_type(node.own, Usage)
    assert_type(node.by_model, Mapping[str, Usage])
    assert_type(node.entries, int)
    assert_type(node.seconds, float)
    for child in node.children:
        assert_type(child.usage, Usage)
    found = report.find("pipeline/ResearchAgent/planner")
    assert_type(found.usage.total_tokens, int)
    nodes = [node]
    nodes.append(found)
    nodes.extend(node.children)
    for depth, below in node.walk():
        assert_type(depth, int)
        nodes.append(below)


def a_breakdown(report: Report) -> None:
    by_model: Breakdown = report.by_model()
    assert_type(report.by_module(), Breakdown)
    assert_type(report.by_operation(), Breakdown)
    assert_type(report.predictors(), Breakdown)
    assert_type(by_model["openai/gpt-5-mini"], Usage)


def a_prompt(report: Report) -> None:
    assert_type(report.by_part(), Breakdown)
    assert_type(report.parts(), dict[str, Breakdown])
    assert_type(report.tree().parts, Breakdown)
    assert_type(report.by_turn(), dict[str, dict[int, Breakdown]])
    assert_type(report.carried(), dict[str, Breakdown])
    assert_type(report.rereads(), dict[str, dict[str, Reread]])
    assert_type(report.rereads()["agent"]["search"].made, Usage)
    assert_type(report.call_sizes(), dict[str, CallSizes])
    assert_type(report.call_sizes()["agent"].input.p95, float)


def a_forecast(report: Report) -> None:
    forecast = report.scale(samples=5, to=1_000, records=get_tracker().records)
    assert_type(forecast, Forecast)
    assert_type(forecast.expected, Usage)
    assert_type(forecast.tokens, tuple[int, int] | None)
    assert_type(forecast.cost, tuple[Decimal, Decimal] | None)
    assert_type(forecast.repeated, tuple[str, ...])


def some_findings(report: Report) -> None:
    findings = report.findings()
    assert_type(findings, tuple[Finding, ...])
    assert_type(findings[0].text, str)
    assert_type(findings[0].predictor, str)
    assert_type(findings[0].cost, Decimal | None)
    assert_type(findings[0].saving, Decimal | None)
    assert_type(findings[0].saved_tokens, int | None)


def a_diff(older: Report, newer: Report) -> None:
    diff = older.diff(newer)
    assert_type(diff, Diff)
    assert_type(diff.before, Report)
    assert_type(diff.total, Change)
    assert_type(diff.growth.tokens, float | None)
    assert_type(diff.growth.cost, float | None)
    assert_type(diff.render("markdown"), str)
    assert_type(bool(diff), bool)
    for change in diff.changes:
        assert_type(change, Change)
        assert_type(change.path, tuple[str, ...])
        assert_type(change.before, Usage)
        assert_type(change.tokens, int)
        assert_type(change.cost, Decimal | None)


def a_waste(report: Report) -> None:
    assert_type(report.prices(), tuple[Price, ...])
    assert_type(report.waste().total, Waste)
    for module, waste in report.waste().items():
        assert_type(module, str)
        assert_type(waste, Waste)
        assert_type(waste.total, Usage)
        assert_type(waste.retries, Usage)
        assert_type(waste.reasons(), list[tuple[str, Usage]])


# -- errors, patches, version ------------------------------------------------------------------------------------------------


def errors() -> Report | None:
    try:
        return Report.load("report.json")
    except ReportFormatError as error:
        as_base: TokenScopeError = error
        as_value: ValueError = error
        raise as_base from as_value


instrument()
uninstrument()
version: str = __version__
assert_type(set_price("local/model", input=0.1, output=Decimal("0.2"), cache_read=0), None)


# -- the tracker and sinks ---------------------------------------------------------------------------------------------------


def tracking() -> None:
    tracker = get_tracker()
    assert_type(tracker, TokenTracker)
    assert_type(TokenTracker.get_instance(), TokenTracker)
    tracker.record("module", "operation", "gpt-4o-mini", "openai", 150, 75, {"turn": 1}, cache_read_tokens=7)
    assert_type(tracker.get_module_usage(), dict[str, dict[str, Any]])
    assert_type(tracker.get_module_usage("module"), dict[str, Any])
    assert_type(tracker.report(), Report)
    reset()
    assert_type(tokenscope.report().records("planner"), tuple[Record, ...])
    for record in tracker.records:
        assert_type(record, Record)
        assert_type(record.module, str)
        assert_type(record.usage, Usage)
        assert_type(record.cost, Decimal | None)
    tracker.max_records = 100
    sink = JSONLSink("calls.jsonl")
    tracker.add_sink(sink)
    tracker.add_sink(print)
    tracker.remove_sink(sink)
    sink.close()
    tracker.export_to_file("usage.json", include_records=False)
    assert_type(Report.load("calls.jsonl").reprice("openai/gpt-5-mini"), Report)


# -- budgets -----------------------------------------------------------------------------------------------------------------


@track_tokens("module", "operation", budget=Budget(tokens=1_000, on_exceed="warn"))
def limited(text: str) -> int:
    return len(text)


def budgets() -> None:
    assert_type(limited("text"), int)
    try:
        with token_scope("run", budget=Budget(cost=0.5, calls=3, on_exceed="stop"), id=7) as scope:
            assert_type(scope.budget_exceeded, bool)
    except BudgetExceeded as error:
        assert_type(error.scope, str)
        assert_type(error.limit, Budget)
        assert_type(error.spent, Usage)
        assert_type(error.report, Report)
    assert_type(Budget(tokens=1), Budget)
    assert_type(Budget(tokens=1, on_exceed="stop"), Budget[Literal["stop"]])


def a_budget_that_raises_swallows_nothing(known: Budget) -> int:
    with token_scope("run", budget=Budget(tokens=1_000)), token_scope("run", budget=known):
        return 1


# -- servers -----------------------------------------------------------------------------------------------------------------


def serving(app: Starlette) -> None:
    def attributes(scope: MutableMapping[str, Any]) -> dict[str, str]:
        return {"user": HTTPConnection(scope).headers["x-user"]}

    async def async_attributes(scope: MutableMapping[str, Any]) -> dict[str, str]:
        return attributes(scope)

    app.add_middleware(TokenScopeMiddleware, budget=Budget(cost=0.05), attributes=attributes)
    server: ASGIApp = TokenScopeMiddleware(app, attributes=async_attributes)
    assert_type(TokenScopeMiddleware(server, Budget(calls=3)).budget, Budget | None)
