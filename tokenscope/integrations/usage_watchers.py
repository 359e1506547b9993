"""Who wants to see usage at the spot where DSPy or litellm tells of it, inside the call that spent it.

OpenTelemetry's side does: a span that belongs to the call may have ended by the time the call is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from tokenscope._scopes.lm_calls import current_lm_call

Watcher = Callable[[str, Any], None]

watchers: tuple[Watcher, ...] = ()
"""Told of the model and its usage entry, where the call was made; nobody, unless somebody asks."""

embedding: Final[ContextVar[bool]] = ContextVar("tokenscope_embedding", default=False)
"""Whether this runs inside an embedding that is counted when it ends."""


def watch(watcher: Watcher) -> None:
    """Tell a function of each entry from now on; it must not raise."""
    global watchers  # noqa: PLW0603
    if watcher not in watchers:
        watchers = (*watchers, watcher)


def unwatch(watcher: Watcher) -> None:
    """Tell it no more."""
    global watchers  # noqa: PLW0603
    watchers = tuple(each for each in watchers if each != watcher)


def tell(model: str, entry: Any) -> None:
    """Tell the watchers of an entry."""
    for watcher in watchers:
        watcher(model, entry)


def inside_counted_call() -> bool:
    """Whether this runs inside a call that the DSPy bridge counts as a whole, or was started there: late logs are."""
    return embedding.get() or current_lm_call.get() is not None
