"""The pytest plugin: what each test spends, and what a test may spend.

    pytest --tokens                                         tokens by test, and the ten costliest
    @pytest.mark.token_budget(tokens=2_000, cost=0.01)      fails a test that spends more
    def test_it(token_report): ...                          what this test has spent so far
    pytest --tokens-baseline FILE --tokens-fail-on-increase 10

Here is how a run is asked for this; `meter` measures a test, `budget` is the marker, and what becomes of the numbers is in
`summary` and `baseline`. A run that asks for nothing gets none of the hooks that run for each test.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Final

import pytest

from tokenscope._report.report import Report
from tokenscope._scopes.scope import DISABLED
from tokenscope.pytest_plugin.baseline import Baseline
from tokenscope.pytest_plugin.budget import marker_line
from tokenscope.pytest_plugin.meter import Meter, asks
from tokenscope.pytest_plugin.summary import Summary

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
    group.addoption(
        "--tokens",
        action="store_true",
        dest="tokenscope_show",
        help="Show how many tokens each test spent, the ten costliest tests and the total.",
    )
    group.addoption(
        "--tokens-baseline",
        metavar="FILE",
        dest="tokenscope_baseline",
        help="Compare each test's tokens with those in this file.",
    )
    group.addoption(
        "--tokens-fail-on-increase",
        metavar="PERCENT",
        type=_percent,
        dest="tokenscope_fail_on_increase",
        help="Fail the session where a test spent more than PERCENT percent above --tokens-baseline.",
    )
    group.addoption(
        "--tokens-update",
        action="store_true",
        dest="tokenscope_update",
        help="Write the tokens of the tests that passed to --tokens-baseline; entries of other tests are kept.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what the options ask for."""
    config.addinivalue_line("markers", marker_line())
    option = config.option
    for name in ("fail_on_increase", "update"):
        given = getattr(option, f"tokenscope_{name}")
        if given is not None and given is not False and not option.tokenscope_baseline:
            raise pytest.UsageError(f"--tokens-{name.replace('_', '-')} needs --tokens-baseline FILE")
    if not (option.tokenscope_show or option.tokenscope_baseline):
        return
    if DISABLED:
        raise pytest.UsageError("--tokens: TOKENSCOPE_DISABLED is set in the environment, so nothing can be counted")
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist sends its numbers to the session that prints them
        baseline = None
        if option.tokenscope_baseline:
            path = config.invocation_params.dir / option.tokenscope_baseline
            try:
                baseline = Baseline.read(path, new=option.tokenscope_update)
            except (OSError, ValueError) as error:
                raise pytest.UsageError(f"--tokens-baseline {option.tokenscope_baseline}: {error}") from None
        plugin = Summary(
            show=option.tokenscope_show,
            baseline=baseline,
            fail_on_increase=option.tokenscope_fail_on_increase,
            update=option.tokenscope_update,
        )
        config.pluginmanager.register(plugin, "tokenscope-summary")
    config.pluginmanager.register(Meter(everything=True), _METER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure tests with a budget, and those that use `token_report`, also where no option asks for anything."""
    if not config.pluginmanager.has_plugin(_METER) and any(map(asks, items)):
        config.pluginmanager.register(Meter(everything=False), _METER)


@pytest.fixture
def token_report(request: pytest.FixtureRequest) -> Callable[[], Report]:
    """Return a function that gives the report of the current test so far, its fixtures' setup included.

    `assert token_report().total.calls == 1`, `print(token_report())`, `token_report().find(...)`.
    """
    meter: Meter | None = request.config.pluginmanager.get_plugin(_METER)
    if meter is None or meter.scope is None:
        raise pytest.fail.Exception(
            "token_report has to be among the arguments of the test or of its fixtures: it was asked for by "
            "request.getfixturevalue(), when part of the test had already run unmeasured",
            pytrace=False,
        )
    return meter.scope.report
