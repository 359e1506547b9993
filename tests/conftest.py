"""Fixtures and hooks for all tests: a test begins with no counts and leaves no open scope."""

from __future__ import annotations

import gc
import os
import signal
import sys

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up of prices on the network

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from support.programs import ENVIRONMENT

from tokenscope import current_scope, integrations
from tokenscope._scopes.context import entered
from tokenscope._scopes.event_log import clear
from tokenscope._scopes.process import STATE
from tokenscope.integrations import patches

if TYPE_CHECKING:
    from collections.abc import Iterator


COVERAGE_OF_PROGRAMS = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
"""What tells coverage, in the environment of a program, to measure it."""

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # a slow machine must not fail a test

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell that starts pytest in the background ignores SIGINT. Programs that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Begin each test with no counts, and fail it if it leaves a scope open or removes a patch."""
    clear()
    entered.set(None)  # so that a scope left open by one test does not fail the next
    patches = set(integrations.applied())
    yield
    assert entered.get() is None, "a scope was left open"
    assert not STATE.generator_scopes, "a generator's scope was left open"
    assert current_scope() is None
    assert patches <= set(integrations.applied()), "a patch was not applied again"


@pytest.fixture(autouse=True)
def unmeasured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let coverage measure no program that a test starts, unless the test is marked so, and pause here, if it is marked so.

    Coverage makes the start of a program half a second longer, and nearly all that programs run is measured here, too.
    """
    coverage: Any = sys.modules.get("coverage")
    running = coverage and coverage.Coverage.current()
    if running and request.node.get_closest_marker("measured_programs") is None:
        for name in COVERAGE_OF_PROGRAMS:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delitem(ENVIRONMENT, name, raising=False)
    if not running or request.node.get_closest_marker("unmeasured") is None:
        yield
        return
    running.stop()
    yield
    running.start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run a single file or the benchmarks in this process, which starts sooner than workers."""
    alone = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if alone or config.getoption("benchmark_only", default=False) else None


def pytest_collection_finish() -> None:
    """Exclude all loaded objects from later garbage collections, each of which would take half a second."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test names that contain an address, because they differ between the processes of one run."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: the test's name holds an address; give it ids=")


if "MUTANT_UNDER_TEST" in os.environ:  # set by mutmut

    @pytest.fixture(autouse=True)
    def patches_of_the_mutant(nothing_leaks: None) -> None:
        """Make the patches anew: the functions that make them have run before mutmut switches a mutant on."""
        integrations.uninstrument()
        patches._registry.undone.clear()
        integrations.instrument()
