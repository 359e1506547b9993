"""The patch around a method: its hook's entry is told once how the call ended."""

from __future__ import annotations

import asyncio

import pytest

from tokenscope.integrations import patches


class Entry:
    """Notes what it is told."""

    def __init__(self, told, fails=0):
        self._told = told
        self._fails = fails  # how often it is interrupted when it is told

    @staticmethod
    def begin(entry):
        entry._told.append("begin")

    def finish(self, error, result):
        self._fails -= 1
        if self._fails >= 0:
            raise KeyboardInterrupt
        self._told.append((type(error).__name__, result))


def run(method, entry, *, is_async):
    """Call a method under a patch."""

    async def amethod(self):
        return method(self)

    patched = patches._around(amethod if is_async else method, lambda *_: entry, [True])
    return asyncio.run(patched(object())) if is_async else patched(object())


@pytest.mark.parametrize("is_async", [False, True])
def test_told_once(is_async):
    """An entry is told once, whether the method returns or raises."""
    told = []
    assert 1 == run(lambda _: 1, Entry(told), is_async=is_async)
    with pytest.raises(ZeroDivisionError):
        run(lambda _: 1 / 0, Entry(told), is_async=is_async)
    assert ["begin", ("NoneType", 1), "begin", ("ZeroDivisionError", None)] == told


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("method", [lambda _: 1, lambda _: 1 / 0])
def test_told_again_if_interrupted(method, is_async):
    """If telling it is interrupted, it is told again, of the interrupt."""
    told = []
    with pytest.raises(KeyboardInterrupt):
        run(method, Entry(told, fails=1), is_async=is_async)
    assert ["begin", ("KeyboardInterrupt", None)] == told
