"""Errors and warnings: their types, and the user's line that a warning points at."""

from __future__ import annotations

import pytest

import tokenscope
from tokenscope import ReportFormatError, TokenScopeError
from tokenscope._usage.warnings import forget_warnings, internal_error, silence, warn_once
from tokenscope.errors import TokenScopeWarning


@pytest.fixture(autouse=True)
def may_warn(monkeypatch):
    """Forget earlier warnings, so that they can be given again."""
    forget_warnings()


def test_types():
    """ReportFormatError is a ValueError, and TokenScopeWarning is a UserWarning."""
    assert issubclass(ReportFormatError, TokenScopeError)
    assert issubclass(ReportFormatError, ValueError)
    assert issubclass(TokenScopeWarning, UserWarning)


def test_warns_once_at_the_nearest_line_that_is_not_ours():
    """The warning points at the caller's file, and comes once for each key."""
    with pytest.warns(TokenScopeWarning) as caught:
        warn_once("a", "first")
        warn_once("a", "again")
        warn_once("b", "second")

    assert ["first", "second"] == [str(warning.message) for warning in caught]
    assert {__file__} == {warning.filename for warning in caught}


def test_a_silenced_warning_never_comes(recwarn):
    """What is silenced is not warned of. Other warnings come."""
    silence("a")
    warn_once("a", "silenced")
    warn_once("b", "heard")

    assert ["heard"] == [str(each.message) for each in recwarn]


def test_a_warning_without_a_host():
    """A warning is given even if `warn_once` is called by a module of tokenscope."""
    with pytest.warns(TokenScopeWarning):
        exec("warn_once('a', 'x')", {"warn_once": warn_once, "__name__": "tokenscope.test"})


def test_internal_errors_are_raised_under_pytest():
    """Under pytest, `internal_error` raises the exception again."""
    with pytest.raises(ZeroDivisionError):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            internal_error("a test")


def test_internal_errors_are_one_warning_elsewhere(monkeypatch):
    """Without pytest, an internal error is one warning with its place and its traceback."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(
        TokenScopeWarning, match="(?s)work in a test; your program is not affected.*ZeroDivisionError"
    ) as caught:
        for _ in range(2):
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError:
                internal_error("a test")

    assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
    assert tokenscope.TokenScopeError is TokenScopeError


def test_internal_errors_in_two_places_are_two_warnings(monkeypatch):
    """Each place has a warning of its own."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning) as caught:
        for place in ("one place", "another place"):
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError:
                internal_error(place)

    assert 2 == len([each for each in caught if "place;" in str(each.message)])
