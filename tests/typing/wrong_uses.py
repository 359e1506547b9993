"""Wrong uses, each of which a type checker must find. Never run: mypy and pyright read it.

Each line says what both are to complain about. A wrong use that is no longer found makes its comment unused, and an unused
comment is an error here.
"""
# pyright: reportUnusedExpression=false, reportUnusedVariable=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator

from tokenscope import (
    Budget,
    Report,
    Scope,
    Usage,
    carry,
    current_scope,
    instrument,
    record_cost,
    record_tokens,
    report,
    token_scope,
    track_tokens,
)

# -- token_scope

token_scope()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
token_scope(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
token_scope(None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
token_scope("outer", "inner")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
token_scope("step")(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
token_scope("step")("text")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]

with token_scope:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
    pass


def blocks() -> None:
    with token_scope("step") as scope:
        scope.usage = Usage()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        scope.tokens  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        wrong: str = scope.usage  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    with scope:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


# -- decorated things keep their types


@track_tokens
def bare(text: str, *, times: int = 1) -> list[str]:
    return [text] * times


@track_tokens("module", "operation")
async def named(text: str) -> bytes:
    return text.encode()


@token_scope("step")
def scoped(count: int) -> Iterator[int]:
    yield from range(count)


class Agent:
    @track_tokens("agent")
    @classmethod
    def build(cls, text: str) -> Agent:
        return cls()

    @track_tokens
    @staticmethod
    def length(text: str) -> int:
        return len(text)

    @track_tokens
    def ask(self, text: str) -> int:
        return len(text)


bare(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
bare("text", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bare("text", twice=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
coroutine = named(text=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
scoped("two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
not_awaited: bytes = named("text")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_result: int = bare("text")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_item: list[str] = list(scoped(2))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
Agent.build(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Agent.length(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Agent().ask()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Agent().ask(text=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# -- track_tokens

track_tokens(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
track_tokens("module", 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
track_tokens("module", "operation", "more")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
track_tokens(name="module")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
track_tokens("module")("text")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
track_tokens(bare, "operation")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

# -- carry, current_scope

carry("text")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
carry()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
carry(bare)(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
current_scope().name  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
instrument("dspy")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]

# -- record_tokens

record_tokens("module", "operation", "gpt-5-mini", "openai")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
record_tokens("module", "operation", "gpt-5-mini", "openai", "10", 20)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
record_tokens("module", "operation", "gpt-5-mini", "openai", 1.5, 20)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
record_tokens("module", "operation", None, "openai", 10, 20)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
record_tokens("module", "operation", "gpt-5-mini", "openai", 10, 20, "batch")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
record_tokens("module", "operation", "gpt-5-mini", "openai", 10, 20, cached_tokens=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
record_tokens(model="gpt-5-mini", input_tokens=10)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
record_cost("module", "operation")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
record_cost("module", "operation", "0.001")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
record_cost("module", 0.001)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
record_tokens("module", "operation", "gpt-5-mini", "openai", 10, 20, {}, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# -- Usage and Report

Budget(max_tokens=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
Budget(tokens=5, on_exceed="end")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def a_stop_may_swallow() -> int:  # type: ignore[return]  # pyright: ignore[reportReturnType]
    with token_scope("run", budget=Budget(tokens=1_000, on_exceed="stop")):
        return 1


async def an_async_stop_may_swallow() -> int:  # type: ignore[return]  # pyright: ignore[reportReturnType]
    async with token_scope("run", budget=Budget(tokens=1_000, on_exceed="stop")):
        return 1


Usage(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Usage(input_tokens="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Usage(tokens=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Usage() + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
Usage().input_tokens = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def reports(scope: Scope) -> None:
    report().total = Usage()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    report().total()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    report().by_module("search")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report().find(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    report() + scope  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    Report.load()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Report.load(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    report().render(tops=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report().save()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report(scope)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    scope.report().tree().children.append(scope.report().tree())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    text: str = report()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
