"""Forks: a child never waits for its parent's locks, and starts to count from zero."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time

import pytest
from support.spending import python

from tokenscope._scopes.process import Loading, ProcessState

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# These tests run in processes without coverage. Coverage tools have locks of their own, which a fork may break.
CHILD = """
import json, os, signal, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
import tokenscope
from tokenscope import get_tracker, record_tokens, token_scope

def spend(tokens=1, module="m"):
    record_tokens(module, "o", "model", "provider", tokens, 0)

# Python's own locks of modules stay locked in a child that is forked while another thread imports: so import before.
spend()
str(tokenscope.report())
get_tracker().reset()

def spent(report):
    return report.total.input_tokens

def in_child(function, seconds=10):
    # Return what a function returns in a forked child, or None where that hangs.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)
    with os.fdopen(reader) as file:
        return json.loads(file.read())
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """Run code after the code in `CHILD`."""
    return python(
        CHILD + textwrap.dedent(code), *arguments, COVERAGE_PROCESS_START="", COVERAGE_PROCESS_CONFIG="", **environment
    )


SLOW_IMPORT = """
import importlib.abc, importlib.util, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
from tokenscope import Budget, record_tokens, report, token_scope

slow, how = sys.argv[1:]
is_loading = threading.Event()


class Slowly(importlib.abc.MetaPathFinder):
    # Takes half a second to load one module.
    def find_spec(self, name, path, target=None):
        if name != slow:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            is_loading.set()
            time.sleep(0.5)
            execute(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Slowly())


def read():
    if how == "report":
        return report().total
    if how == "budget":
        with token_scope("limited", budget=Budget(cost=1)) as limited:
            record_tokens("m", "o", "gpt-4o-mini", "openai", 7, 0)
        return limited.usage
    return scope.usage


with token_scope("run") as scope:
    record_tokens("m", "o", "gpt-4o-mini", "openai", 5, 0)
    first = threading.Thread(target=read)
    first.start()
    assert is_loading.wait(10)
    child = os.fork()
    if not child:
        signal.alarm(10)
        with token_scope("inner") as scope:
            record_tokens("m", "o", "gpt-4o-mini", "openai", 7, 0)
            found = read()
            os._exit(0 if found.input_tokens == 7 and found.cost > 0 else 1)
    first.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), read().input_tokens)
"""


@pytest.mark.parametrize(
    ("slow", "how"),
    [
        ("tokenscope._report.report", "report"),
        ("genai_prices", "report"),
        ("genai_prices", "usage"),
        ("genai_prices", "budget"),
        ("tokenscope._usage.model_usage", "usage"),
    ],
)
def test_a_fork_waits_until_a_first_report_is_loaded(slow, how):
    """A child that is forked while another thread loads what reports need can take a report itself."""
    printed = python(SLOW_IMPORT, slow, how, COVERAGE_PROCESS_START="", COVERAGE_PROCESS_CONFIG="")
    assert f"0 {7 if how == 'budget' else 5}\n" == printed


def test_a_child_counts_its_own():
    """In a forked child, the report, the records and the open scopes start at zero and hold only the child's calls."""
    code = """
    spend(1)
    with token_scope("closed"):
        spend(2)
    with token_scope("a") as a, token_scope("b") as b:
        spend(4)
        with token_scope("inner"):
            spend(8)

        def child():
            begun = [spent(each.report()) for each in (tokenscope, a, b)]
            begun += [len(get_tracker().records), tokenscope.current_scope().name]
            spend(16)
            with token_scope("inner"):
                spend(32)
            b.leave()
            spend(64)
            return begun, [spent(each.report()) for each in (tokenscope, a, b)], len(get_tracker().records)

        print(in_child(child))
    print([spent(each.report()) for each in (tokenscope, a, b)], len(get_tracker().records))
    """
    assert "[[0, 0, 0, 0, 'b'], [112, 112, 48], 3]\n[15, 12, 12] 4\n" == run(code)


def test_calls_that_were_not_read_yet():
    """DSPy calls that still wait in the event log at the fork count in the parent, not in the child."""
    code = """
    import dspy
    from tokenscope.testing import LoopbackProvider
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        program = dspy.Predict("question -> answer")
        program(question="Why?")
        counts = in_child(lambda: tokenscope.report().total.calls)
        program(question="Why?")
        print(counts, tokenscope.report().total.calls, provider.total.calls)
    """
    assert "0 2 2\n" == run(code)


@pytest.mark.unmeasured
def test_a_lock_held_in_another_thread():
    """A child counts as usual, even if another thread of its parent held the lock at the fork."""
    code = """
    from tokenscope._scopes.process import STATE
    inside, done = threading.Event(), threading.Event()
    def hold():
        with STATE.lock:
            inside.set()
            done.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    def child():
        with token_scope("child") as scope:
            spend(3)
        return spent(scope.report()), spent(tokenscope.report())
    print(in_child(child))
    done.set()
    thread.join()
    spend(1)
    print(spent(tokenscope.report()))
    """
    assert "[3, 3]\n1\n" == run(code)


def test_a_signal_that_forks_while_calls_are_counted():
    """A child starts from zero, even if a signal handler forks while calls are counted."""
    code = """
    from tokenscope._scopes.event_log import EndedCall, Event, append, drain
    from tokenscope._scopes.process import STATE
    found = []
    class Forking(Event):
        found = None
        def count(self):
            found.append(os.fork())
            self.found = ()
        def put(self, batch):
            batch.add(STATE.root, other, reserved=False)
    spend(1)
    drain()
    other = STATE.records[-1]._replace(key=STATE.records[-1].key._replace(model="other"))
    append(EndedCall(STATE.root, STATE.records[-1]))
    append(Forking())
    drain()
    if not found[0]:
        spend(3)
        print(spent(tokenscope.report()), flush=True)
        os._exit(0)
    os.waitpid(found[0], 0)
    print(spent(tokenscope.report()))
    """
    assert "3\n3\n" == run(code)


@pytest.mark.slow
def test_forks_under_load():
    """Children that are forked while threads count do not hang. Parent and children count exactly."""
    code = """
    stop = threading.Event()
    shared = token_scope("shared")
    totals = [0] * 6
    def work(n):
        while not stop.is_set():
            with shared, token_scope(f"thread {n}"):
                for step in range(40):
                    with token_scope(f"step {step}"):
                        spend()
                    totals[n] += 1
                time.sleep(0.0001)
            if n == 0:
                tokenscope.report()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    def child():
        with token_scope("child") as scope:
            for n in range(50):
                with token_scope(f"step {n}"):
                    spend(2)
        return spent(scope.report()), spent(tokenscope.report()), len(tokenscope.report().rows)
    found = []
    with token_scope("main") as main:
        for _ in range(40):
            found.append(in_child(child))
            if found[-1] is None:
                break
    stop.set()
    for thread in threads:
        thread.join()
    print(len(found), {tuple(each or ()) for each in found}, sum(totals) == spent(tokenscope.report()), spent(main.report()))
    """
    assert "40 {(100, 100, 152)} True 0\n" == run(code)


def test_a_sink_in_a_child(tmp_path):
    """A child writes only its own records to a sink. The parent writes the records of its threads, once."""
    code = """
    import sys
    from tokenscope import JSONLSink, Report
    sink = JSONLSink(sys.argv[1])
    get_tracker().add_sink(sink)
    stop = threading.Event()
    def work():
        while not stop.is_set():
            spend(1, "parent")
            time.sleep(0.0001)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = [in_child(lambda: [spend(1, "child") for _ in range(20)] and spent(tokenscope.report())) for _ in range(20)]
    stop.set()
    for thread in threads:
        thread.join()
    found = Report.load(sink.path).by_module()
    print(set(children), found["child"].input_tokens, found["parent"] == tokenscope.report().by_module()["parent"])
    """
    assert "{20} 400 True\n" == run(code, str(tmp_path / "calls.jsonl"))


def test_processes_of_multiprocessing():
    """A `multiprocessing.Process` counts from zero, and its usage is not in the parent's report."""
    code = """
    import multiprocessing
    context = multiprocessing.get_context("fork")
    def child(queue):
        spend(3)
        queue.put(spent(tokenscope.report()))
    with token_scope("a") as a:
        spend(1)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(queue.get(), spent(a.report()))
        process.join()
    """
    assert "3 1\n" == run(code)


def test_a_fork_takes_no_lock_of_logging_while_it_waits():
    """`logging` has forks take its lock. A reader that logs meanwhile is waited for all the same: it can have the lock first."""
    program = """
    import logging  # after tokenscope, so that forks take its lock before they call what tokenscope has registered
    from tokenscope._scopes.process import STATE

    steps = []
    is_reading = threading.Event()

    def read():
        is_reading.set()
        time.sleep(0.3)
        logging.getLogger("a new one")
        steps.append("read")

    reader = threading.Thread(target=STATE.loading, args=(read,))
    reader.start()
    assert is_reading.wait(10)
    print(in_child(lambda: steps))
    reader.join()
    """
    assert "['read']\n" == run(program)


def test_readers_and_forks_wait_for_each_other():
    """A fork waits for those who read counts. Who begins to read meanwhile waits for the fork. Nested readers go on."""
    loading = Loading(bool)
    steps: list[str] = []
    is_reading, may_end = threading.Event(), threading.Event()

    def read(name: str) -> None:
        is_reading.set()
        may_end.wait(10)
        loading(steps.append, name)

    first = threading.Thread(target=loading, args=(read, "first"))
    first.start()
    assert is_reading.wait(10)
    threading.Timer(0.05, may_end.set).start()
    loading.wait()
    steps.append("fork")
    second = threading.Thread(target=loading, args=(read, "second"))
    second.start()
    time.sleep(0.05)
    loading(steps.append, "still forking")  # a reader in the thread that forks, as in a handler of its own
    loading.go_on()
    for thread in (first, second):
        thread.join(10)

    assert ["first", "fork", "still forking", "second"] == steps


def elsewhere(step):
    """Do something in another thread, and return what it returned."""
    done = []
    thread = threading.Thread(target=lambda: done.append(step()))
    thread.start()
    thread.join(10)
    return done


def test_waiting_ends(monkeypatch):
    """If somebody reads or forks for longer than a fork has patience, it goes on."""
    loading = Loading(bool)
    monkeypatch.setattr("tokenscope._scopes.process._PATIENCE", 0.02)

    def fork():
        loading.wait()
        loading.go_on()

    assert [None] == loading(elsewhere, fork)
    loading.wait()
    assert [None] == elsewhere(fork)
    loading.go_on()
    assert [1] == elsewhere(lambda: loading(lambda: 1))  # all is released


def test_two_forks_at_once():
    """One that did not wait, as in a signal handler that changes counts, does not end the other's."""
    loading = Loading(bool)
    assert [1] == elsewhere(lambda: loading(lambda: 1))  # a reader whose lock a fork takes
    loading.wait()
    assert [None] == elsewhere(loading.go_on)
    reader = threading.Thread(target=loading, args=(time.sleep, 0))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    loading.go_on()
    reader.join(10)
    assert not reader.is_alive()


def test_a_fork_that_is_asked_twice_waits_once():
    """It takes each lock once, and lets go of it at its end."""
    loading = Loading(bool)
    assert [1] == elsewhere(lambda: loading(lambda: 1))
    loading.wait()
    held = list(loading._held[threading.get_ident()])
    loading.wait()
    assert held == loading._held[threading.get_ident()]
    assert 2 == len(held)
    loading.go_on()
    assert [1] == elsewhere(lambda: loading(lambda: 1))


def test_an_interrupted_reader_holds_up_no_fork():
    """Who was interrupted while reading reads no more."""
    loading = Loading(bool)
    with pytest.raises(KeyboardInterrupt):
        loading(signal.raise_signal, signal.SIGINT)
    began = time.monotonic()
    assert [None] == elsewhere(loading.wait)
    assert time.monotonic() - began < 5


def test_a_fork_does_not_wait_for_those_whom_it_holds_up(monkeypatch):
    """A fork by a thread that changes counts, as in a signal handler, does not wait for readers: they wait for that thread."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)  # the other forks of this process are none of its own
    state = ProcessState()

    def fork():
        began = time.monotonic()
        state.wait_to_fork()
        assert time.monotonic() - began < 5

    with state.lock:
        state.loading(fork)
    state = ProcessState()
    state.wait_to_fork()
    state.loading.go_on()
