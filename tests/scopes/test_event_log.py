"""Counting later: what has ended is read in its order, by whoever asks first, and nothing is lost where reading fails."""

from __future__ import annotations

import threading
import time

import pytest

from tokenscope import token_scope
from tokenscope._scopes.changes import write
from tokenscope._scopes.event_log import _MANY, _unread, afterwards, lock, read_later, read_now, read_promptly


def test_read_in_order():
    """Calls are read in the order in which they ended."""
    seen = []
    for n in range(5):
        read_later(seen.append, n)

    assert [] == seen
    read_now()
    assert [0, 1, 2, 3, 4] == seen


def test_asking_reads():
    """Whoever asks a scope for its counts has everything read before."""
    seen = []
    with token_scope("a") as scope:
        read_later(seen.append, 1)
        assert 0 == scope.usage.calls
    assert [1] == seen


def test_many_are_read_at_once():
    """When many have gathered they are read, though nobody asked: what waits is bounded."""
    seen = []
    for n in range(10 * _MANY):
        read_later(seen.append, n)
        assert len(_unread) <= _MANY
    read_now()
    assert list(range(10 * _MANY)) == seen


def test_nothing_is_lost_where_reading_fails():
    """One that fails is not read again, those behind it are."""
    seen = []

    def fail():
        raise RuntimeError("unreadable")

    read_later(seen.append, 1)
    read_later(fail)
    read_later(seen.append, 2)
    with pytest.raises(RuntimeError, match="unreadable"):
        read_now()
    read_now()
    assert [1, 2] == seen


def test_who_asks_waits_for_who_reads():
    """While one thread reads, another that asks waits until all are read."""
    began = threading.Event()
    seen = []

    def slow():
        began.set()
        time.sleep(0.1)
        seen.append("slow")

    read_later(slow)
    thread = threading.Thread(target=read_now)
    thread.start()
    began.wait()
    read_now()
    assert ["slow"] == seen
    thread.join()


def test_asking_in_the_midst_of_a_change():
    """A signal may ask for counts while a change is made, and another thread may be about to read: nobody waits for ever."""
    changing = threading.Event()

    def change():
        changing.set()
        time.sleep(0.2)  # the other thread comes to read
        read_now()

    def other():
        changing.wait()
        read_now()

    read_later(write, lambda: None)
    threads = [
        threading.Thread(target=write, args=(change,), daemon=True),
        threading.Thread(target=other, daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [False, False] == [thread.is_alive() for thread in threads]


def test_afterwards_is_outside_of_the_lock():
    """It waits for the lock that this thread holds; where it holds none, there is nothing to wait for."""
    seen = []

    def note():
        thread = threading.Thread(target=lambda: seen.append(lock.acquire(timeout=5) and lock.release() is None))
        thread.start()
        thread.join()

    read_later(afterwards, note)
    with lock:
        read_now()
        assert [] == seen
    read_now()
    assert [True] == seen
    afterwards(note)
    assert [True, True] == seen


def test_promptly():
    """Where somebody wants to be told at once, calls are read as they end."""
    seen = []
    read_later(seen.append, 1)
    read_promptly(True)
    try:
        assert [1] == seen
        read_later(seen.append, 2)
        assert [1, 2] == seen
    finally:
        read_promptly(False)
    read_later(seen.append, 3)
    assert [1, 2] == seen
    read_now()
