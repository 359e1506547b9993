"""The measurement of a test, from the setup of its first fixture to the teardown of its last one.

Each test has a scope. Async tests and fixtures may run in a Context older than that scope, so the scope is attached there.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest

from tokenscope import Budget, Scope, Usage, current_scope, token_scope
from tokenscope._report.formats.text import money, plural
from tokenscope._scopes.context import CapturedScope
from tokenscope._usage.calls import ROOT
from tokenscope._usage.warnings import TokenScopeWarning, silence
from tokenscope.pytest_plugin.budget import budget_of, excess, token_budget
from tokenscope.pytest_plugin.summary import Prompts, packed


def asks(item: pytest.Item) -> bool:
    """Return whether a test is measured even if no option asks for it."""
    fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
    return item.get_closest_marker(token_budget.__name__) is not None or "token_report" in fixtures


class TestMeter:
    """The plugin that measures tests, each in a scope of its own."""

    def __init__(self, *, everything: bool, parts: bool = False) -> None:
        self.everything = everything
        self.parts = parts  # tells the input by part of the prompt
        self.scope: Scope | None = None  # of the test that runs
        self._entered = contextlib.ExitStack()
        self._here = CapturedScope(None)  # the scope that is active where pytest calls the test or a fixture
        self._budget: Budget | None = None
        self._excess = ""
        self._earlier: dict[str, Usage] = {}  # by test: its runs before this one
        self._prompts: dict[str, Prompts] = {}  # the prompts of these
        if everything:
            silence(f"names:{ROOT!r}")  # each test is a name at the top level of the process's report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Open the scope."""
        self.scope, self._budget, self._excess = None, None, ""
        if self.everything or asks(item):
            self._budget = budget_of(item)
            self.scope = self._entered.enter_context(token_scope(item.nodeid))
        self._here = CapturedScope(self.scope)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Run an async fixture in the scope."""
        function = fixturedef.func
        if self.scope is None or not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            return (yield)
        self._here = CapturedScope.capture()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fixturedef, "func", self._in_scope(function))
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Run an async test in the scope, and check the budget after the test."""
        if self.scope is None:
            return (yield)
        self._here = CapturedScope.capture()
        with self._async_test_in_scope(item):
            try:
                result = yield
            except BaseException:
                self._excess = self._check(item)
                raise
        if message := self._check(item):
            raise pytest.fail.Exception(message, pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """Close the scope."""
        try:
            return (yield)
        finally:
            self._entered.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Add the numbers to the report, and the excess to the report of a test that failed for another reason."""
        report = yield
        if self.scope is None:
            return report
        if call.when == "call" and self._excess:
            report.sections.append(("token budget", self._excess))
        if self.everything:
            # In every report of a test, because a worker of pytest-xdist may crash before it sends the next one.
            here = self.scope.report()
            spent = here.total
            total = self._earlier.get(item.nodeid, Usage()) + spent
            report.tokenscope = packed(total, spent.total_tokens)
            if self.parts:
                prompts = self._prompts.get(item.nodeid, Prompts()) + Prompts.of(here)
                report.tokenscope["prompts"] = prompts.packed()
                if call.when == "teardown":
                    self._prompts[item.nodeid] = prompts
            if call.when == "teardown":
                self._earlier[item.nodeid] = total
        if call.when == "teardown":
            self.scope = None
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Leave the scope of a test that was interrupted."""
        self._entered.close()
        self.scope = None

    def _check(self, item: pytest.Item) -> str:
        """Return a message about a budget that is exceeded, or an empty string."""
        if self._budget is None or self.scope is None:
            return ""
        report = self.scope.report()
        spent = report.total
        if exceeded := excess(self._budget, spent):
            return f"{item.nodeid} exceeded its token budget: {exceeded}\n\n{report.render('tree')}"
        if self._budget.cost is not None and spent.unpriced_calls:
            models = ", ".join(name for name, usage in report.by_model().items() if usage.unpriced_calls)
            message = (
                f"{item.nodeid}: its budget of ${self._budget.cost:f} could not be checked: the price of "
                f"{spent.unpriced_calls:,} of its {plural(spent.calls, 'call')} is not known ({models}); the others cost "
                f"{money(spent)}"
            )
            try:
                item.warn(TokenScopeWarning(message))
            except TokenScopeWarning:  # `-W error` makes it a failure, without a traceback of ours
                return message
        return ""

    @contextlib.contextmanager
    def _async_test_in_scope(self, item: pytest.Item) -> Generator[None]:
        """Run a coroutine test in its scope: the event loop of a session may run it in a Context older than the scope."""
        context = getattr(getattr(item, "instance", None), "_asyncioTestContext", None)
        if context is not None:  # an IsolatedAsyncioTestCase has a Context of its own since it was collected
            context.run(self._here.attach)
        hypothesis = getattr(getattr(item, "obj", None), "hypothesis", None)
        owner, name = (item, "obj") if hypothesis is None else (hypothesis, "inner_test")
        function = getattr(owner, name, None)
        with pytest.MonkeyPatch.context() as patch:
            if inspect.iscoroutinefunction(function):
                patch.setattr(owner, name, self._in_scope(function))
            yield

    def _in_scope(self, function: Any) -> Any:
        """Return a coroutine function, or an async generator function, that runs in the scope of the test that runs."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                with self._attached():
                    return await function(*args, **kwargs)

            return call

        @functools.wraps(function)
        async def steps(*args: Any, **kwargs: Any) -> Any:
            async with contextlib.aclosing(function(*args, **kwargs)) as body:
                while True:
                    with self._attached():
                        try:
                            item = await anext(body)
                        except StopAsyncIteration:
                            return
                    yield item

        return steps

    @contextlib.contextmanager
    def _attached(self) -> Generator[None]:
        """Attach the scope of the test that runs, unless a scope of that test is active already."""
        scope = current_scope()
        while scope is not None and scope is not self.scope:
            scope = scope.parent
        if scope is not None:
            yield
            return
        token = self._here.attach()
        before = current_scope()
        try:
            yield
        finally:
            if current_scope() is before:  # otherwise a fixture has opened a scope, which stays for the test
                self._here.detach(token)
