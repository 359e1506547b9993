"""Measuring a test: a scope from its first fixture's setup to its last one's teardown, in whatever Context parts of it run."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest

from tokenscope import errors
from tokenscope._scopes.context import Visit
from tokenscope._scopes.scope import Scope, _current, current_scope
from tokenscope._scopes.wrapping import Recipe, wrap
from tokenscope._usage.calls import ROOT, Frame
from tokenscope._usage.usage import ZERO, Usage
from tokenscope.errors import TokenScopeWarning
from tokenscope.pytest_plugin.budget import Limits, limits_of, token_budget
from tokenscope.pytest_plugin.summary import dollars, packed


def asks(item: pytest.Item) -> bool:
    """Whether a test is to be measured even where no option says so."""
    return item.get_closest_marker(token_budget.__name__) is not None or "token_report" in getattr(
        item, "fixturenames", ()
    )


class Meter:
    """A scope for each test, from the first fixture's setup to the last one's teardown."""

    def __init__(self, *, everything: bool) -> None:
        self.everything = everything
        self.scope: Scope | None = None  # of the test that runs
        self.here = Visit(None)  # the scope that is active where pytest calls the test or a fixture
        self._limits: Limits | None = None
        self._excess = ""
        self._earlier: dict[str, Usage] = {}  # by test: runs of it before this one
        if everything:
            # Each test is a name at the top level of the process's report, and of tests there may be many.
            errors._warned.add(f"names:{ROOT!r}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Open the scope."""
        self.scope, self._limits, self._excess = None, None, ""
        if self.everything or asks(item):
            self._limits = limits_of(item)
            self.scope = Recipe((Frame("scope", item.nodeid),)).enter()
            self.scope.held = True  # its report is asked for when it has ended
        self.here = Visit(self.scope)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Let an async fixture stay in the scope."""
        function = fixturedef.func
        wrapped = self._fixture(function)
        if self.scope is None or wrapped is None:
            return (yield)
        self.here = Visit.here()
        fixturedef.func = wrapped
        try:
            return (yield)
        finally:
            fixturedef.func = function

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Let a coroutine test stay in the scope, and check the budget after it."""
        if self.scope is None:
            return (yield)
        self.here = Visit.here()
        with self._inside(item):
            try:
                result = yield
            except BaseException:
                self._excess = self._check(item)
                raise
        excess = self._check(item)
        if excess:
            raise pytest.fail.Exception(excess, pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """Close the scope."""
        try:
            return (yield)
        finally:
            if self.scope is not None:
                self.scope.leave()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Give the numbers to the report, and the excess to that of a test that failed anyway."""
        report = yield
        if self.scope is None:
            return report
        if call.when == "call" and self._excess:
            report.sections.append(("token budget", self._excess))
        if self.everything:
            # In every report of a test, because a worker of pytest-xdist may crash before it sends the next one.
            spent = self.scope.report().total
            total = self._earlier.get(item.nodeid, ZERO) + spent
            report.tokenscope = packed(total, spent.total_tokens)
            if call.when == "teardown":
                self._earlier[item.nodeid] = total
        if call.when == "teardown":
            self.scope = None
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Leave the scope of a test that was interrupted."""
        if self.scope is not None:
            self.scope.leave()
            self.scope = None

    def _check(self, item: pytest.Item) -> str:
        """Return what to say about a budget that is exceeded; nothing where it is kept."""
        if self._limits is None or self.scope is None:
            return ""
        report = self.scope.report()
        spent = report.total
        exceeded = self._limits.exceeded_by(spent)
        if exceeded:
            return f"{item.nodeid} exceeded its token budget: {' and '.join(exceeded)}\n\n{report.render('tree')}"
        if self._limits.cost is not None and spent.unpriced_calls:
            models = ", ".join(name for name, usage in report.by_model().items() if usage.unpriced_calls)
            message = (
                f"{item.nodeid}: its budget of ${self._limits.cost:f} could not be checked, because the price of "
                f"{spent.unpriced_calls:,} of its {spent.calls:,} calls is not known ({models}); the others cost "
                f"{dollars(spent)}"
            )
            try:
                item.warn(TokenScopeWarning(message))
            except TokenScopeWarning:  # `-W error` makes it a failure, without a traceback of ours
                return message
        return ""

    # -- tests and fixtures that run in another Context -----------------------------------------------------------------

    @contextlib.contextmanager
    def _inside(self, item: pytest.Item) -> Generator[None]:
        """Let a coroutine test stay in its scope: a session's event loop may run it in a Context older than the scope."""
        context = getattr(getattr(item, "instance", None), "_asyncioTestContext", None)
        if context is not None:  # an IsolatedAsyncioTestCase has one of its own since it was collected
            context.run(_current.set, _current.get())
        owner: Any = item
        name = "obj"
        hypothesis = getattr(getattr(item, "obj", None), "hypothesis", None)
        if hypothesis is not None:
            owner, name = hypothesis, "inner_test"
        function = getattr(owner, name, None)
        if not inspect.iscoroutinefunction(function):
            yield
            return
        setattr(owner, name, wrap(function, Inside(self)))
        try:
            yield
        finally:
            setattr(owner, name, function)

    def _fixture(self, function: Any) -> Any:
        """Return an async fixture's function that stays in the scope of the test that runs; None for a sync fixture."""
        if inspect.iscoroutinefunction(function):
            return wrap(function, Inside(self))
        if not inspect.isasyncgenfunction(function):
            return None

        @functools.wraps(function)
        async def steps(*args: Any, **kwargs: Any) -> Any:
            async with contextlib.aclosing(function(*args, **kwargs)) as body:
                while True:
                    stay = Inside(self).enter()
                    entered = _current.get()
                    try:
                        item = await anext(body)
                    except StopAsyncIteration:
                        return
                    finally:
                        if _current.get() is entered:  # else it opened a scope for the test
                            stay.leave()
                    yield item

        return steps


class Inside(Visit):
    """Stay in the scope of the test that runs; where that is so already, change nothing."""

    __slots__ = ("_meter",)

    def __init__(self, meter: Meter) -> None:
        super().__init__(None)
        self._meter = meter

    def enter(self) -> Any:
        """Make a scope of the test current until `leave`."""
        scope = current_scope()
        while scope is not None and scope is not self._meter.scope:
            scope = scope.parent
        return (self._meter.here if scope is None else Visit.here()).enter()
