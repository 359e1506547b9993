"""The pytest plugin: what each test spends, and what a test may spend.

    pytest --tokens                                         tokens by test, and the ten costliest tests
    @pytest.mark.token_budget(tokens=2_000, cost=0.01)      fails a test that spends more
    def test_it(token_report): ...                          the report of this test so far
    pytest --tokens-parts                                   and which parts of the prompts their input was
    pytest --tokens-baseline FILE --tokens-fail-on-increase 10

This file has the options and the fixture. `meter` measures tests, `budget` is the marker, `summary` and `baseline` show and
compare the numbers. Without an option, a marker or the fixture, no hook runs for each test.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pytest

from tokenscope import Report, instrument
from tokenscope._scopes.process import DISABLED, STATE
from tokenscope._usage.custom_prices import PRICES_VARIABLE, PYPROJECT, load_prices
from tokenscope.pytest_plugin.baseline import Baseline
from tokenscope.pytest_plugin.budget import marker_line
from tokenscope.pytest_plugin.meter import TestMeter, asks
from tokenscope.pytest_plugin.summary import Summary

if TYPE_CHECKING:
    from tokenscope._report.settings import Settings

_METER: Final = "tokenscope-meter"


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be a percentage, 0 or more, not {text!r}")
    return value


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("tokenscope", "tokens spent by tests (tokenscope)")

    def add(flag: str, name: str, explanation: str, **settings: Any) -> None:
        group.addoption(flag, dest=f"tokenscope_{name}", help=explanation, **settings)

    show = "Show how many tokens each test spent, the ten costliest tests and the total."
    parts = "As --tokens, and measure which parts of the prompts the input is."
    compare = "Compare each test's tokens with those in this file."
    fail = "Fail the session if a test spent over PERCENT percent more than in --tokens-baseline."
    update = "Write the tokens of passed tests to --tokens-baseline. Entries of other tests are kept."
    add("--tokens", "show", show, action="store_true")
    add("--tokens-parts", "parts", parts, action="store_true")
    add("--tokens-baseline", "baseline", compare, metavar="FILE")
    add("--tokens-fail-on-increase", "fail_on_increase", fail, metavar="PERCENT", type=_percent)
    add("--tokens-update", "update", update, action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the plugins that the options ask for."""
    config.addinivalue_line("markers", marker_line())
    option = config.option
    option.tokenscope_show = option.tokenscope_show or option.tokenscope_parts
    asked = [option.tokenscope_show, option.tokenscope_update, option.tokenscope_fail_on_increase is not None]
    if option.tokenscope_baseline or any(asked):
        project = _use_project(config)
        option.tokenscope_baseline = option.tokenscope_baseline or project.tests
        if option.tokenscope_fail_on_increase is None and project.fail_above is not None and option.tokenscope_baseline:
            option.tokenscope_fail_on_increase = float(project.fail_above)
    for name in ("fail_on_increase", "update"):
        given = getattr(option, f"tokenscope_{name}")
        if given is not None and given is not False and not option.tokenscope_baseline:
            advice = f"--tokens-baseline FILE, or [tool.tokenscope.baselines] tests in {PYPROJECT}"
            raise pytest.UsageError(f"--tokens-{name.replace('_', '-')} needs {advice}")
    if not (option.tokenscope_show or option.tokenscope_baseline):
        return
    if DISABLED:
        raise pytest.UsageError("--tokens: TOKENSCOPE_DISABLED is set in the environment, so nothing would be counted")
    if option.tokenscope_parts and STATE.read_prompt is None:
        instrument(prompt_parts=True)
        config.add_cleanup(functools.partial(instrument, prompt_parts=False))
    if not hasattr(config, "workerinput"):  # workers of pytest-xdist send their numbers to the main process
        baseline = None
        if option.tokenscope_baseline:
            path = config.invocation_params.dir / option.tokenscope_baseline
            try:
                baseline = Baseline.read(path, new=option.tokenscope_update)
            except (OSError, ValueError) as error:
                raise pytest.UsageError(f"--tokens-baseline {option.tokenscope_baseline}: {error}") from None
        limit = option.tokenscope_fail_on_increase
        plugin = Summary(option.tokenscope_show, baseline, limit, option.tokenscope_update)
        config.pluginmanager.register(plugin, "tokenscope-summary")
    config.pluginmanager.register(TestMeter(everything=True, parts=option.tokenscope_parts), _METER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure tests with a budget, and tests that use `token_report`, even without an option."""
    if not config.pluginmanager.has_plugin(_METER) and any(map(asks, items)):
        _use_project(config)
        config.pluginmanager.register(TestMeter(everything=False), _METER)


def _use_project(config: pytest.Config) -> Settings:
    """Return what the project's `pyproject.toml` sets; its prices hold until the session ends, if the environment names none."""
    from tokenscope._report.settings import read_settings

    try:
        project = read_settings(config.invocation_params.dir)
        if project.prices is not None and not os.environ.get(PRICES_VARIABLE):
            patch = pytest.MonkeyPatch()
            patch.setenv(PRICES_VARIABLE, load_prices(project.prices))
            config.add_cleanup(patch.undo)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    return project


@pytest.fixture
def token_report(request: pytest.FixtureRequest) -> Callable[[], Report]:
    """Return a function that returns the report of the current test so far, including its fixtures' setup.

    `assert token_report().total.calls == 1`, `print(token_report())`, `token_report().find(...)`.
    """
    meter: TestMeter | None = request.config.pluginmanager.get_plugin(_METER)
    if meter is None or meter.scope is None:
        raise pytest.fail.Exception(
            "token_report has to be an argument of the test or of one of its fixtures. With request.getfixturevalue(), part "
            "of the test has run unmeasured",
            pytrace=False,
        )
    return meter.scope.report
