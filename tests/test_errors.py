"""Errors and warnings: types, and lines that are the user's."""

from __future__ import annotations

import pytest

import tokenscope
from tokenscope import ReportFormatError, TokenScopeError
from tokenscope._usage.warnings import forget_warnings, internal_error, warn_once
from tokenscope.errors import TokenScopeWarning


@pytest.fixture(autouse=True)
def may_warn(monkeypatch):
    """Let warnings be given again."""
    forget_warnings()


def test_types():
    """A damaged file is a ValueError too; warnings are UserWarnings."""
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


def test_warns_at_a_level():
    """A stack level is counted from the caller."""

    def inner():
        warn_once("a", "message", stacklevel=2)

    with pytest.warns(TokenScopeWarning) as caught:
        inner()

    assert __file__ == caught[0].filename


def test_a_warning_without_a_host():
    """Where only our own frames are left, it is given all the same."""
    with pytest.warns(TokenScopeWarning):
        exec("warn_once('a', 'x')", {"warn_once": warn_once, "__name__": "tokenscope.test"})


def test_internal_errors_are_raised_under_pytest():
    """A fault of our own never hides in a test run."""
    with pytest.raises(ZeroDivisionError):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            internal_error("a test")


def test_internal_errors_are_one_warning_elsewhere(monkeypatch):
    """Without pytest, it says where, with the traceback."""
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
