"""Interrupted just where a scope is entered or left: what was interrupted is done nevertheless."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from contextlib import suppress

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import Budget, carry, current_scope, token_scope, track_tokens
from tokenscope._scopes import event_log
from tokenscope._scopes import token_scope as blocks
from tokenscope._scopes.context import CapturedScope, entered
from tokenscope._scopes.event_log import add_table, drain
from tokenscope._scopes.process import STATE
from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._scopes.wrapping import CarriedSteps
from tokenscope._usage.calls import Frame
from tokenscope._usage.price_dates import MANY_MOMENTS, noted_moments
from tokenscope._usage.table import UsageTable
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.fixture
def interrupt(monkeypatch):
    """Return a function that makes another one raise an interrupt instead of what it does, once: at its first call or a later."""

    def interrupt_once(owner, name, call=1):
        original, calls = getattr(owner, name), itertools.count(1)

        def interrupted(*args, **kwargs):
            if next(calls) == call:
                raise Interrupt
            return original(*args, **kwargs)

        is_static = isinstance(vars(owner)[name], staticmethod)
        monkeypatch.setattr(owner, name, staticmethod(interrupted) if is_static else interrupted)

    yield interrupt_once
    monkeypatch.undo()
    assert entered.get() is None
    assert current_scope() is None
    assert not STATE.generator_scopes
    drain()
    assert not STATE.open_scopes


def run(function):
    """Run a function of any kind to its end. An interrupt ends it quietly."""

    async def arun():
        found = function()
        if hasattr(found, "__aiter__"):
            async for _ in found:
                pass
        else:
            await found

    with suppress(Interrupt):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            asyncio.run(arun())
        else:
            found = function()
            for _ in found or ():
                pass


def plain():
    spend(1)


async def coroutine():
    spend(1)


def generator():
    spend(1)
    yield


async def async_generator():
    spend(1)
    yield


BUDGET = Budget(calls=10)


@pytest.mark.parametrize("budget", [None, BUDGET], ids=["no budget", "budget"])
@pytest.mark.parametrize("function", [plain, coroutine, generator, async_generator])
def test_leaving_a_function(interrupt, function, budget):
    """A decorated function's scope is left, and what was spent is counted."""
    interrupt(Scope, "leave")
    run(track_tokens("m", function.__name__, budget=budget)(function))
    assert 1 == spent(tokenscope.report())
    assert 1 == tokenscope.report().find(f"m/{function.__name__}").entries


@pytest.mark.parametrize(
    ("owner", "name", "function"), [(CapturedScope, "detach", plain), (CarriedSteps, "_detach", generator)]
)
def test_leaving_a_carried_function(interrupt, owner, name, function):
    """A carried function's scope is active no more."""
    with token_scope("outer"):
        carried = carry(function)
    interrupt(owner, name)
    run(carried)
    assert 1 == tokenscope.report().find("outer").usage.input_tokens


@pytest.mark.parametrize(("name", "call"), [("_exit", 1), ("_set_top", 1), ("_set_top", 2)])
def test_a_block(interrupt, name, call):
    """A block's scope is left, whether the interrupt comes when it is entered or when it is left."""
    interrupt(token_scope if name == "_exit" else blocks, name, call)
    block = token_scope("block")
    with suppress(Interrupt), block:
        spend(1)
    with block as again:
        spend(2)
    assert 2 == spent(again)
    assert spent(tokenscope.report()) == (2 if (name, call) == ("_set_top", 1) else 3)
    assert 2 == tokenscope.report().find("block").entries


@pytest.mark.parametrize("name", ["_leave", "_getframe", "_note"])
def test_an_async_block(interrupt, name):
    """The same of an async block."""
    block = token_scope("block")

    async def enter():
        async with block:
            spend(1)
            async with block:
                spend(2)

    if name == "_getframe":
        interrupt(blocks, name, call=2)
    else:
        interrupt(token_scope, name)
    with suppress(Interrupt):
        asyncio.run(enter())
    with block as again:
        spend(4)
    assert 4 == spent(again)


def test_what_comes_home_to_a_scope_that_was_forgotten():
    """What was counted elsewhere is added to the scopes above."""
    scope = open_scope(Scope, (Frame("scope", "forgotten"),))
    scope.leave()
    table = UsageTable(scope.path)
    table.add_entries(scope.path.child(Frame("scope", "inside")), scope.path, 1, 5)
    add_table(scope, table)
    assert scope.table is None
    assert 1 == tokenscope.report().find("forgotten/inside").entries


def test_prices_that_cannot_be_loaded(monkeypatch):
    """A process that has noted many moments goes on if the table of prices cannot be loaded."""
    forget_warnings()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr("tokenscope._usage.prices.load_table", lambda: 1 / 0)
    noted_moments.update(map(str, range(MANY_MOMENTS + 1)))
    with pytest.warns(TokenScopeWarning, match="loading the table of prices"):
        event_log.drain()
    assert not noted_moments
