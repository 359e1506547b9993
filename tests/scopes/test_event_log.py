"""The event log: events are counted in order, when counts are read or many events wait. None is lost."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from contextlib import ExitStack
from itertools import islice

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import Budget, current_scope, token_scope, track_tokens
from tokenscope._scopes import enforcement, event_log
from tokenscope._scopes.event_log import (
    EndedCall,
    Event,
    append,
    drain,
    hand_over,
    observe,
    outside_lock,
    records,
    unobserve,
)
from tokenscope._scopes.process import MANY_EVENTS, STATE
from tokenscope._scopes.recording import record
from tokenscope._usage.calls import NO_SCOPE, ROOT, Call
from tokenscope._usage.keys import key_of
from tokenscope._usage.prompts import Piece, Prompt
from tokenscope._usage.usage import Counts
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


def test_more_calls_than_are_counted_in_one_batch():
    """Many calls may wait between the ends of empty scopes. All are counted, each once, in order."""
    empties = []
    with token_scope("a") as scope:
        for n in range(MANY_EVENTS // 3):
            spend(n + 1)
            with token_scope(f"empty {n % 2}") as empty:
                empties.append(empty)
            spend(n + 1)
        waiting = len(STATE.log)
        counted = spent(scope)

    assert waiting > 200
    assert (MANY_EVENTS // 3) * (MANY_EVENTS // 3 + 1) == counted == spent(scope) == spent(tokenscope.report())
    assert MANY_EVENTS // 3 == sum(scope.report().find(f"a/empty {each}").entries for each in range(2))
    taken = sum(each.seconds for each in empties if each.name == "empty 0")
    assert taken == pytest.approx(scope.report().find("a/empty 0").seconds)
    recorded = [call.counts.input_tokens for call in STATE.records]
    assert recorded == sorted(recorded)
    assert 2 * (MANY_EVENTS // 3) == len(recorded)


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


def test_a_call_that_cannot_be_counted_is_a_warning(monkeypatch):
    """Without pytest, a warning tells of a call that cannot be counted. The events after it are counted at once."""
    forget_warnings()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    seen = []
    note(lambda: 1 / 0)
    note(seen.append, 1)
    with pytest.warns(TokenScopeWarning, match="(?s)do its work in counting a call;.*ZeroDivisionError"):
        drain()
    assert [1] == seen


async def test_equal_scopes_that_are_open_at_once():
    """Two tasks may be in scopes of one name. Each scope has the entries of the scopes inside it."""
    both_are_in = asyncio.Barrier(2)

    async def work():
        with token_scope("a") as scope:
            with token_scope("b"):
                pass
            await both_are_in.wait()
        return scope

    scopes = await asyncio.gather(work(), work())
    assert [1, 1] == [scope.report().find("a/b").entries for scope in scopes]
    assert 2 == tokenscope.report().find("a/b").entries


def test_what_was_counted_before_a_scope_is_asked_for():
    """A scope of a decorated function has what was counted in it while it was open, also if it is asked for later."""

    @track_tokens("m", "inner")
    def inner():
        spend(1)

    @track_tokens("m", "outer")
    def outer():
        inner()
        tokenscope.report()
        return current_scope().report()

    report = outer()
    node = report.find("m/outer/m/inner")
    assert (1, 1) == (node.entries, node.usage.input_tokens)
    assert 1 == report.find("m/outer/m").entries


def test_the_time_of_a_scope():
    """A scope in which something was counted has the same time in its report as one in which nothing was."""
    with token_scope("spends") as spends:
        spend(1)
        drain()
    with token_scope("idle") as idle:
        pass

    for scope in (spends, idle):
        assert (
            0 < scope.seconds == tokenscope.report().find(scope.name).seconds == scope.report().find(scope.name).seconds
        )


def test_the_latest_calls_are_in_the_order_of_their_ends():
    """A long call that began earlier may end later."""
    for started, seconds in ((1.0, 10.0), (2.0, 1.0), (0.0, 4.0)):
        counts = Counts(calls=1, input_tokens=1)
        call = Call(ROOT.child(NO_SCOPE), key_of("m", counts, 0.0), counts, started, seconds, None, None)
        append(EndedCall(STATE.root, call))

    assert [3.0, 4.0, 11.0] == [call.started + call.seconds for call in records()]


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


def test_a_reading_in_the_middle_counts_what_waits():
    """What asks in the middle of draining gets the calls, too, that the draining has not come to."""
    seen = []
    note(lambda: (drain(), seen.append("the first")))
    note(seen.append, "the second")
    drain()
    assert ["the second", "the first"] == seen


def test_a_call_that_asks_while_it_is_counted():
    """Reading what a call spent may run code that asks for counts. The call is counted once, after that."""

    class Asking(EndedCall):
        found = None

        def count(self):
            seen.append(spent(scope))
            self.found = ()

    seen = []
    counts = Counts(calls=1, input_tokens=10)
    with token_scope("a") as scope:
        append(Asking(scope, Call(scope.path, key_of("m", counts, 0.0), counts, 0.0, 0.0, None, None)))
        spend(1)
        assert 11 == spent(scope)
    assert [1] == seen
    assert 11 == spent(scope) == spent(tokenscope.report())


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


def test_a_prompt_that_cannot_be_divided_loses_no_call(monkeypatch):
    """A call is counted even if its input cannot be divided among the parts of its prompt, and so are calls after it."""
    forget_warnings()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    prompt = Prompt((Piece("demos", float("nan")),))
    with token_scope("run") as scope, pytest.warns(TokenScopeWarning, match="dividing input among parts of prompts"):
        record(scope, "openai/gpt-4o-mini", Counts(1, input_tokens=7), time.time(), prompt=prompt)
        drain()
    with token_scope("next") as following:
        record(following, "openai/gpt-4o-mini", Counts(1, input_tokens=5), time.time())

    assert (7, 5) == (scope.usage.input_tokens, following.usage.input_tokens)
    assert {"(not measured)": 7} == {name: usage.input_tokens for name, usage in scope.report().by_part().items()}


def test_a_process_hands_over_what_it_has_counted():
    """As a pool's worker does after each task: what it hands over, it forgets."""
    with token_scope("task"):
        spend(5)

    handed = hand_over(STATE.root)

    assert 5 == sum(counts.input_tokens for row in handed.rows.values() for counts in row.counts.values())
    assert 0 == tokenscope.report().total.calls
    assert not hand_over(STATE.root).rows
