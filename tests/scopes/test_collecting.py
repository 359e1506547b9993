"""Collecting: a scope holds the usage of all scopes inside it. Memory grows with the number of paths only."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import current_scope, token_scope, track_tokens
from tokenscope._scopes.context import active
from tokenscope._scopes.event_log import clear
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import record
from tokenscope._usage.calls import MAX_NAMES
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning


@pytest.fixture
def may_warn(monkeypatch):
    """Allow warnings to appear again that earlier tests have caused."""
    forget_warnings()


def kept() -> int:
    """Return how many open scopes and events the process keeps."""
    tokenscope.report()
    return len(STATE.open_scopes) + len(STATE.log)


def late(scope, tokens):
    """Spend tokens in a scope that has ended, as a task does that outlives it."""
    record(scope, "late", Counts(calls=1, input_tokens=tokens), 0.0)


def test_closed_scopes_are_not_kept():
    """The process keeps the counts of closed scopes, but not the scopes."""
    for _ in range(1_000):
        with token_scope("a"), token_scope("b"):
            spend()

    assert 0 == kept()
    assert 1_000 == spent(tokenscope.report())
    assert 1_000 == tokenscope.report().find("a/b").entries


def test_entries_of_scopes_that_spend_nothing_are_counted():
    """Entries of scopes without any usage are counted too."""
    with token_scope("outer") as outer:
        for _ in range(300):
            with token_scope("inner"):
                pass
        assert 300 == outer.report().find("outer/inner").entries

    assert 300 == tokenscope.report().find("outer/inner").entries
    assert 1 == tokenscope.report().find("outer").entries


def test_time_adds_up():
    """The seconds of a path are the sum over all its entries."""
    entries = []
    for _ in range(5):
        with token_scope("a") as scope:
            spend()
        entries.append(scope.seconds)

    assert sum(entries) == pytest.approx(tokenscope.report().find("a").seconds)


def test_what_is_open_is_seen_above():
    """Calls in an open scope are in the reports of all scopes around it."""
    with token_scope("a") as a, token_scope("b") as b, token_scope("c"):
        spend(3)
        assert [3, 3] == [spent(a), spent(b)]
        assert 3 == spent(tokenscope.report())
        assert 1 == a.report().find("a/b/c").entries


def test_late_calls_go_where_their_scope_went():
    """A call in a closed scope counts in that scope and in those around it."""
    with token_scope("a") as a:
        with token_scope("b") as b:
            spend(1)
    before = spent(tokenscope.report())
    late(b, 10)

    assert 1 == before
    assert [11, 11, 11] == [spent(b), spent(a), spent(tokenscope.report())]
    assert 0 == kept()


def test_late_calls_of_scopes_that_had_none_before():
    """A scope without usage still counts late calls after its end, and the process does not keep it."""
    with token_scope("a") as a:
        with token_scope("b") as b:
            pass
    late(b, 10)

    assert [10, 10, 10] == [spent(b), spent(a), spent(tokenscope.report())]
    assert 0 == kept()


def test_scopes_opened_late():
    """Scopes that a late task opens in a closed scope are counted, but the process does not keep them."""
    with token_scope("a") as a:
        visit = tokenscope.carry(lambda: [token_scope("late").__enter__().leave() for _ in range(500)])
    visit()

    assert 500 == a.report().find("a/late").entries
    assert 500 == tokenscope.report().find("a/late").entries
    assert 0 == kept()


def test_an_outer_scope_that_closes_first():
    """If an outer scope closes first, both scopes count correctly, and in the end the process keeps neither."""
    a, b = token_scope("a"), token_scope("b")
    outer, inner = a.__enter__(), b.__enter__()
    spend(1)
    a.__exit__(None, None, None)
    spend(2)
    tokenscope.report()
    assert 1 == len(STATE.open_scopes)
    b.__exit__(None, None, None)

    assert [3, 3, 3] == [spent(outer), spent(inner), spent(tokenscope.report())]
    assert 0 == kept()
    assert 3 == tokenscope.report().find("a/b").usage.input_tokens


def test_many_scopes_with_many_names():
    """Scopes with many names in them are not kept when they have closed, and no token is lost."""
    with token_scope("outer") as outer:
        for _ in range(100):
            with token_scope("large"):
                for name in range(70):
                    spend(1, operation=str(name))
            assert 1 >= kept()
        assert 7_000 == spent(outer)

    assert 7_000 == spent(tokenscope.report())
    assert 100 == tokenscope.report().find("outer/large").entries


def test_late_calls_of_many_scopes():
    """A late call counts exactly once in its scope and in each scope around it."""
    scopes = []
    with token_scope("outer") as outer:
        for _ in range(20):
            with token_scope("large") as large, token_scope("larger") as larger:
                for name in range(70):
                    spend(1, operation=str(name))
            scopes += [large, larger]
    for each in scopes:
        late(each, 1000)

    assert 20 * 70 + 40 * 1000 == spent(outer) == spent(tokenscope.report())
    assert {70 + 2000} == {spent(each) for each in scopes[::2]}
    assert {70 + 1000} == {spent(each) for each in scopes[1::2]}


def test_clear_forgets_what_was_counted():
    """`clear` empties the process's report. Open scopes keep their counts."""
    with token_scope("a") as a:
        with token_scope("b") as b:
            spend(1)
            with token_scope("empty"):
                pass
            clear()
            assert not tokenscope.report()
            spend(2)
            with token_scope("c"):
                spend(4)
                clear()
                spend(8)
        assert [15, 15] == [spent(a), spent(b)]

    assert 8 == spent(tokenscope.report())
    assert [15, 15] == [spent(a), spent(b)]
    with pytest.raises(KeyError):
        tokenscope.report().find("a/b/empty")
    assert 1 == a.report().find("a/b/empty").entries


def test_names_are_capped_and_no_token_is_lost(may_warn):
    """Names beyond 2,000 on one level are counted as `(other)`, with one warning. No token is lost."""
    with warnings.catch_warnings(record=True) as caught, token_scope("outer") as outer:
        warnings.simplefilter("always")
        for number in range(MAX_NAMES + 50):
            spend(1, module=f"m{number}")

    (warning,) = (each for each in caught if each.category is TokenScopeWarning)
    assert (
        "more than 2,000 distinct names below 'outer': the tokens of further ones are added up under '(other)'. Use fewer "
        "names, and put what differs from call to call (ids, urls) into attributes: token_scope('request', id=...)."
    ) == str(warning.message)
    tree = outer.report().tree()
    assert MAX_NAMES + 1 == len(tree.children)
    assert 50 == outer.report().find("outer/(other)/o").usage.input_tokens
    assert MAX_NAMES + 50 == spent(outer) == spent(tokenscope.report())


def test_the_warning_about_names_points_to_the_caller(may_warn):
    """The warning about too many names names the file whose line made one name too many."""
    with warnings.catch_warnings(record=True) as caught, token_scope("outer"):
        warnings.simplefilter("always")
        for number in range(MAX_NAMES + 1):
            spend(1, module=f"m{number}")

    (warning,) = (each for each in caught if each.category is TokenScopeWarning)
    assert warning.filename.endswith("spending.py")


def test_each_open_scope_is_one_entry():
    """A report at any moment counts one entry of each scope that is open, however many are open inside it."""
    with token_scope("a") as a, token_scope("b") as b, token_scope("c"):
        spend()
        report, inner = a.report(), b.report()

    assert [1, 1, 1] == [report.find(path).entries for path in ("a", "a/b", "a/b/c")]
    assert [1, 1] == [inner.find(path).entries for path in ("b", "b/c")]


def test_scopes_that_are_open_elsewhere_are_not_in_a_report():
    """A report of a scope has no entry of a scope that is open at the same time in another thread."""
    is_open, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with token_scope("elsewhere"):
            spend()
            is_open.set()
            done.wait(10)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        assert is_open.wait(10)
        with token_scope("here") as here:
            spend()
            report = here.report()
    finally:
        done.set()
        thread.join()

    assert ["here", "m", "o"] == [node.name for _, node in report.tree().walk()]


def test_counts_of_a_scope_that_is_asked_for_late():
    """A scope that somebody asks for after it has spent something has all of it, waste included."""

    @track_tokens("m", "o")
    def work():
        record(active(), "p/x", Counts(calls=1, failed_calls=1, input_tokens=5), 0.0, error="ConnectionError")
        tokenscope.report()  # counted before anybody asks for this scope
        return current_scope()

    scope = work()
    assert 5 == scope.usage.input_tokens
    assert 5 == scope.report().waste()["m"].provider_errors.input_tokens


def test_capped_scopes_keep_what_is_below_them(may_warn):
    """Scopes beyond the cap are counted under `(other)`, with their entries and the scopes inside them."""
    with warnings.catch_warnings(record=True) as caught, token_scope("outer") as outer:
        warnings.simplefilter("always")
        for number in range(MAX_NAMES + 30):
            with token_scope(f"s{number}"), token_scope("inner"):
                spend(2)
        report = outer.report()

    assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
    assert 30 == report.find("outer/(other)").entries
    assert 30 == report.find("outer/(other)/inner").entries
    assert 60 == report.find("outer/(other)").usage.input_tokens
    assert 2 * (MAX_NAMES + 30) == spent(outer) == spent(tokenscope.report())


def test_a_warning_made_an_error_loses_no_token(may_warn):
    """If the warning about too many names is raised as an error, the call is still counted."""
    with token_scope("outer") as outer:
        with pytest.raises(TokenScopeWarning):
            for number in range(MAX_NAMES + 1):
                spend(1, module=f"m{number}")
        spend(1, module="one more")

    assert MAX_NAMES + 2 == spent(outer)


def test_the_warning_is_given_outside_of_the_lock(may_warn, monkeypatch):
    """The warning appears outside of the lock, so code that shows it may wait for a thread that counts."""
    done = []

    def show(*args, **kwargs):
        thread = threading.Thread(target=spend)
        thread.start()
        thread.join(10)
        done.append(not thread.is_alive())

    with warnings.catch_warnings(), token_scope("outer"):
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        for number in range(MAX_NAMES + 1):
            spend(1, module=f"m{number}")

    assert [True] == done


def test_what_a_collection_counts_is_counted_once():
    """A generator that the garbage collector finalises, at any moment, leaves its scopes and counts exactly once."""
    total = 0

    def abandoned():
        with token_scope("abandoned"):
            spend(1)
            try:
                yield
            finally:
                spend(1)
                assert current_scope().usage.input_tokens >= 1
                with token_scope("last"):
                    spend(1)

    def abandon():
        generator = abandoned()
        next(generator)
        cycle = [generator]
        cycle.append(cycle)

    before = gc.get_threshold()
    try:
        for threshold in [*range(1, 30), *range(1, 30)]:  # so that collections happen at many different places
            gc.set_threshold(threshold)
            with token_scope("outer"):
                with token_scope("inner"):
                    abandon()
                    total += 3
                    for name in range(5):
                        spend(1, operation=str(name))
                        total += 1
                    abandon()
                    total += 3
    finally:
        gc.set_threshold(*before)
    gc.collect()

    assert total == spent(tokenscope.report())


FORKING = """
import os, threading
import genai_prices  # which each child would import, to tell what its tokens cost
from tokenscope import record_tokens, token_scope
stop = threading.Event()
def count_on():
    while not stop.is_set():
        record_tokens("m", "o", "x", None, 1, 0)
thread = threading.Thread(target=count_on)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        with token_scope("child") as scope:
            record_tokens("m", "o", "x", None, 5, 0)
        os._exit(0 if scope.usage.total_tokens == 5 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
print("counted")
"""


def test_a_forked_child_can_count():
    """A child that is forked while a thread counts does not wait for that thread's lock."""
    # This runs in a process without coverage. Coverage tools have locks of their own, which a fork may break.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    assert ("counted\n", 0) == (done.stdout, done.returncode), done.stderr
