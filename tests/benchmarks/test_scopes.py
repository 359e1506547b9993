"""The time of an empty scope, and of counting a call."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

import pytest
import wrapt
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.ratios import Ratios, Run, loop
from tokenscope import record_tokens, token_scope, track_tokens

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

variable: ContextVar[object] = ContextVar("variable", default=None)
tracer = TracerProvider().get_tracer("benchmark")  # no exporter, no processor


class Bare:
    """The smallest possible scope, which sets and resets a ContextVar."""

    __slots__ = ("token",)
    token: Token[object]

    def __enter__(self) -> None:
        self.token = variable.set(self)

    def __exit__(self, *error: object) -> None:
        variable.reset(self.token)


@contextlib.contextmanager
def manager(name: str) -> Iterator[None]:
    yield


@wrapt.decorator
def passing_on(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def plain() -> None: ...


async def coroutine() -> None: ...


def drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits, without the time of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return


REFERENCES = {
    "contextlib.contextmanager": loop("with manager('step'): pass", 2_000, manager=manager),
    "bare ContextVar set and reset": loop("with Bare(): pass", 2_000, Bare=Bare),
    "OTel SDK span, no exporter": loop("with span('step'): pass", 500, span=tracer.start_as_current_span),
    "wrapt.decorator": loop("empty()", 2_000, empty=passing_on(plain)),
    "wrapt.decorator, async": loop("drive(empty())", 2_000, drive=drive, empty=passing_on(coroutine)),
}
PLACES = {"at the top level": contextlib.nullcontext(), "inside a scope": token_scope("run")}
BOUNDS = {
    "contextlib.contextmanager": 1.8,
    "bare ContextVar set and reset": None,
    "OTel SDK span, no exporter": 1 / 8,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("against", "at_most"), BOUNDS.items())
def test_an_empty_scope(ratios: Ratios, place: str, against: str, at_most: float | None) -> None:
    """An empty scope takes at most 1.8 times as long as a `contextmanager`, and an eighth of an OTel span."""
    scope = loop("with token_scope('step'): pass", 2_000, token_scope=token_scope)
    with PLACES[place]:
        ratios.compare(f"empty token_scope {place}", scope, against, REFERENCES[against], at_most=at_most)


def test_a_recipe_that_is_kept(ratios: Ratios) -> None:
    """An empty scope that is made once takes at most 1.8 times as long as a `contextmanager`."""
    scope = loop("with recipe: pass", 2_000, recipe=token_scope("step"))
    against = "contextlib.contextmanager"
    ratios.compare("empty kept token_scope", scope, against, REFERENCES[against], at_most=1.8)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_decorated_empty_function(ratios: Ratios, place: str, kind: str) -> None:
    """A function under `track_tokens` takes at most twice as long as under wrapt. Async has no bound."""
    subject: Run
    if kind == "sync":
        against = "wrapt.decorator"
        subject = loop("empty()", 2_000, empty=track_tokens("module", "operation")(plain))
    else:
        against = "wrapt.decorator, async"
        subject = loop("drive(empty())", 2_000, drive=drive, empty=track_tokens("module", "operation")(coroutine))
    with PLACES[place]:
        at_most = 2.0 if kind == "sync" else None
        ratios.compare(
            f"decorated empty {kind} function {place}", subject, against, REFERENCES[against], at_most=at_most
        )


@pytest.mark.parametrize("place", PLACES)
def test_record_tokens(ratios: Ratios, place: str) -> None:
    """`record_tokens` takes at most 0.4 times as long as an OTel span."""
    statement = "record_tokens('module', 'operation', 'gpt-5-mini', 'openai', 90, 10)"
    record = loop(statement, 1_000, record_tokens=record_tokens)
    against = "OTel SDK span, no exporter"
    with PLACES[place]:
        ratios.compare(f"record_tokens {place}", record, against, REFERENCES[against], at_most=0.4)
