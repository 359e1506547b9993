"""The event log: events are counted in order, when counts are read or many events wait. None is lost."""

from __future__ import annotations

import threading
import time
import warnings
from contextlib import ExitStack
from itertools import islice

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import Budget, token_scope
from tokenscope._scopes import enforcement, event_log
from tokenscope._scopes.event_log import Event, append, drain, observe, outside_lock, unobserve
from tokenscope._scopes.process import MANY_EVENTS, STATE
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning


class Running(Event):
    """An event that runs a function when it is counted."""

    found = None

    def __init__(self, function, *arguments):
        self._function = function
        self._arguments = arguments

    def count(self):
        self._function(*self._arguments)
        self.found = ()

    def put(self, batch):
        pass


def note(function, *arguments):
    """Append an event that calls the function when it is counted."""
    append(Running(function, *arguments))


def test_counted_in_order():
    """Calls are counted in the order in which they ended."""
    seen = []
    for n in range(5):
        note(seen.append, n)

    assert [] == seen
    drain()
    assert [0, 1, 2, 3, 4] == seen


def test_asking_counts():
    """The events in the log are counted before a scope returns its counts."""
    seen = []
    with token_scope("a") as scope:
        note(seen.append, 1)
        assert 0 == scope.usage.calls
    assert [1] == seen


def test_many_are_counted_at_once():
    """The log has a maximum length. When it is full, its events are counted."""
    seen = []
    for n in range(10 * MANY_EVENTS):
        note(seen.append, n)
        assert len(STATE.log) <= MANY_EVENTS
    drain()
    assert list(range(10 * MANY_EVENTS)) == seen


def test_empty_scopes_are_bounded_too():
    """The log keeps its maximum length even if all its events are ends of empty scopes."""
    for _ in range(10 * MANY_EVENTS):
        with token_scope("empty"):
            pass
        assert len(STATE.log) <= MANY_EVENTS

    assert 10 * MANY_EVENTS == tokenscope.report().find("empty").entries


def test_a_call_that_cannot_be_counted_holds_up_no_other():
    """If counting a call fails, the error is raised under pytest, and the events after it are still counted."""
    seen = []

    def fail():
        raise RuntimeError("uncountable")

    note(seen.append, 1)
    note(fail)
    note(seen.append, 2)
    with pytest.raises(RuntimeError, match="uncountable"):
        drain()
    drain()
    assert [1, 2] == seen


def test_two_that_ask_at_once():
    """If one thread is counting, a second thread that reads counts waits until everything is counted."""
    began = threading.Event()
    seen = []

    def slow():
        began.set()
        time.sleep(0.1)
        seen.append("slow")

    note(slow)
    thread = threading.Thread(target=drain)
    thread.start()
    began.wait()
    drain()
    assert ["slow"] == seen
    thread.join()


def test_asking_while_a_call_is_counted():
    """Code that runs while a call is counted, such as a finaliser, may count and read counts without a deadlock."""
    with token_scope("a") as scope:
        spend(1)
        note(lambda: (spend(2), drain()))
        spend(4)
        threads = [threading.Thread(target=drain, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert [False, False] == [thread.is_alive() for thread in threads]

    assert 7 == spent(scope) == spent(tokenscope.report())


def test_notices_are_given_outside_of_the_lock():
    """`outside_lock` calls a function at once. If this thread holds the lock, the call waits for the release."""
    seen = []

    def tell():
        thread = threading.Thread(
            target=lambda: seen.append(STATE.lock.acquire(timeout=5) and STATE.lock.release() is None)
        )
        thread.start()
        thread.join()

    note(outside_lock, tell)
    with STATE.lock:
        drain()
        assert [] == seen
    drain()
    assert [True] == seen
    outside_lock(tell)
    assert [True, True] == seen


def test_observers_are_told_at_once():
    """With an observer, calls are counted as they end. The observer gets no calls that ended before it was added."""
    seen = []
    spend(1)
    observe(seen.append)
    try:
        assert [] == seen
        spend(2)
        assert [2] == [call.counts.input_tokens for call in seen]
    finally:
        unobserve(seen.append)
    spend(3)
    drain()
    assert [2, 3] == [call.counts.input_tokens for call in seen]  # `unobserve` got a new bound method
    for observer in STATE.observers:
        unobserve(observer)
    spend(4)
    drain()
    assert [2, 3] == [call.counts.input_tokens for call in seen]
    assert MANY_EVENTS == STATE.most_events


def test_a_warning_made_an_error_is_told_in_a_line(capsys):
    """If warnings are errors, a warning about an earlier call is printed, and nothing is raised."""
    from tokenscope._scopes.event_log import warn_later

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_later("a test of the event log", "something is odd")

    assert "tokenscope: something is odd\n" == capsys.readouterr().err


def test_scopes_deeper_than_a_table_reaches():
    """The process's report names every level. A scope's report ends 1,000 levels down, and adds the rest there."""
    with ExitStack() as scopes:
        outermost = scopes.enter_context(token_scope("level 0"))
        for n in range(1, 1_010):
            scopes.enter_context(token_scope(f"level {n}"))
        spend(7)
    report = tokenscope.report()
    levels = [node for _, node in report.tree().walk() if node.name.startswith("level ")]
    assert [(f"level {n}", 1, 7) for n in range(1_010)] == [
        (node.name, node.entries, node.usage.input_tokens) for node in levels
    ]
    assert 7 == spent(report) == spent(outermost)
    names = {node.name for _, node in outermost.report().tree().walk()}
    assert "level 1000" in names
    assert "level 1001" not in names


def test_one_of_two_observers_leaves():
    """If one of two observers leaves, the other still gets each call when it ends."""
    first, second = [], []
    tell_first, tell_second = first.append, second.append
    observe(tell_first)
    observe(tell_second)
    try:
        spend(1)
        unobserve(tell_first)
        spend(2)
        assert [1] == [call.counts.input_tokens for call in first]
        assert [1, 2] == [call.counts.input_tokens for call in second]
    finally:
        unobserve(tell_second)
    assert MANY_EVENTS == STATE.most_events


def test_a_reading_in_the_middle_of_draining():
    """If a signal or a finalizer asks while the log is drained, it gets all calls that have ended before."""
    seen = []

    with token_scope("run") as scope:
        spend(1)
        spend(2)
        note(lambda: seen.append(spent(scope)))
        spend(4)
        drain()
    assert [7] == seen
    assert 7 == spent(scope)
    assert not STATE.counting
    assert not STATE.batches


def test_a_budget_that_cannot_be_charged(monkeypatch):
    """If a budget fails to look up a price, the call is still counted, and one warning tells of the fault."""
    forget_warnings()
    monkeypatch.setattr(enforcement, "priced", lambda key, counts: 1 / 0)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning, match="(?s)work in charging a budget.*ZeroDivisionError"):
        with token_scope("run", budget=Budget(cost=1)) as scope:
            spend(3)
            assert 3 == spent(scope)
    assert 3 == sum(call.counts.input_tokens for call in STATE.records)


def test_an_event_that_comes_while_the_log_is_read(monkeypatch):
    """A finaliser may note an event between the moment in which the log is looked at and the next one. Nothing is lost then."""
    comes_late = [2]

    def islice_and_then(log, most):
        events = islice(log, most)
        while comes_late:
            spend(comes_late.pop())
        return events

    with token_scope("a") as scope:
        spend(1)
        monkeypatch.setattr(event_log, "islice", islice_and_then)
        assert 3 == spent(scope)
    assert not comes_late
