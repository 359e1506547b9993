"""After an LM call, nothing of it is reachable through tokenscope but numbers and names, also while it waits to be counted."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.dsp.utils.settings import thread_local_overrides

import tokenscope
from tokenscope import token_scope

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Text(str):
    """A text that can be referred to weakly."""

    __slots__ = ("__weakref__",)


class Object(SimpleNamespace):
    """An object that can be referred to weakly."""


class OwnError(Exception):
    """An error that can be referred to weakly."""


class Own(dspy.BaseLM):
    """An LM that notes weakly what it has at hand during a call."""

    refs: dict[str, weakref.ref[Any]]
    inner: Any = None
    error: OwnError | None = None

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if self.inner is not None:
            self.inner(prompt)
        if self.error is not None:
            raise self.error
        message = Object(content="[[ ## answer ## ]]\nyes", tool_calls=None)
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        response = Object(choices=[Object(message=message, finish_reason="stop")], usage=usage, model="own")
        self.refs["lm"] = weakref.ref(self)
        self.refs["settings"] = weakref.ref(thread_local_overrides.get()["in_settings"])
        self.refs["response"] = weakref.ref(response)
        self.refs["message"] = weakref.ref(message)
        return response

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.forward(prompt, messages, **kwargs)


@pytest.fixture(autouse=True)
def no_history() -> Iterator[None]:
    """DSPy keeps calls in its history otherwise."""
    with dspy.context(disable_history=True):
        yield


def call(how: str, refs: dict[str, weakref.ref[Any]]) -> None:
    """Make an LM call in one of several ways, and forget all that belongs to it."""
    lm = Own(model="own")
    lm.refs = refs
    prompt = Text("Why?")
    refs["prompt"] = weakref.ref(prompt)
    if how in ("nested", "nested failure"):
        lm.inner = Own(model="inner")
        lm.inner.refs = {}
    if how in ("failure", "nested failure"):
        lm.error = OwnError("no")
        refs["error"] = weakref.ref(lm.error)
    if how == "async":
        with dspy.context(in_settings=Text("kept")):
            asyncio.run(lm.acall(prompt))
    else:
        try:
            with dspy.context(in_settings=Text("kept")):
                lm(prompt)
        except Exception:
            assert lm.error is not None


@pytest.mark.parametrize("how", ["sync", "async", "failure", "nested", "nested failure"])
def test_nothing_of_a_call_is_kept(how: str) -> None:
    """LM, prompt, settings, response and error are gone when the call has ended, before and after it is counted."""
    refs: dict[str, weakref.ref[Any]] = {}
    with token_scope("run") as run:
        call(how, refs)
        gc.collect()
        assert refs
        assert [] == [name for name, ref in refs.items() if ref() is not None]
        assert run.usage.calls in (1, 2)
        assert tokenscope.report().total.calls == run.usage.calls
