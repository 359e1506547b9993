"""Watching usage where DSPy or litellm report it, inside the call that spends it.

OpenTelemetry's side needs this: when a call is counted, the span that belongs to it may have ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from tokenscope._scopes.lm_calls import current_lm_call

Watcher = Callable[[str, Any], None]

watchers: Final[list[Watcher]] = []
"""Functions that are called with a model and its usage entry, where the call was made."""
embedding: Final[ContextVar[bool]] = ContextVar("tokenscope_embedding", default=False)
"""Whether this runs inside an embedding that is counted when it ends."""


def watch(watcher: Watcher) -> None:
    """Call a function with each usage entry from now on; it must not raise."""
    if watcher not in watchers:
        watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Call a function no more."""
    with contextlib.suppress(ValueError):
        watchers.remove(watcher)


def notify(model: str, entry: Any) -> None:
    """Call the watchers with a usage entry."""
    for watcher in tuple(watchers):
        watcher(model, entry)


def inside_counted_call() -> bool:
    """Return whether this runs inside a call that the DSPy bridge counts as a whole, or was started there: logs come late."""
    return embedding.get() or current_lm_call.get() is not None
