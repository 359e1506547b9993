"""Spending tokens without a model, and running code in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tokenscope import record_tokens
from tokenscope._scopes.event_log import EndedCall, append, drain
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import path_of
from tokenscope._usage.calls import Call, Frame
from tokenscope._usage.keys import key_of, usage_key
from tokenscope._usage.price_tiers import tier_of
from tokenscope._usage.usage import ZERO_COUNTS, Counts

if TYPE_CHECKING:
    from tokenscope import Report, Scope, Usage


def spend(tokens: int = 1, module: str = "m", operation: str = "o") -> None:
    """Record this many input tokens in the current scope."""
    record_tokens(module, operation, "model", "provider", input_tokens=tokens, output_tokens=0)


def count(
    scope: Scope | None,
    model: str,
    usage: Usage,
    *,
    cost_is_told: bool = False,
    saved: Usage | None = None,
    frames: tuple[Frame, ...] = (),
    reserved: bool = False,
) -> None:
    """Count a call in a scope, or in none. `saved`: a cache has answered it. `reserved`: budgets have reserved it."""
    counts = _counts_of(usage)
    key = key_of(model, counts, time.time(), source="provider" if cost_is_told else None)
    if saved is not None:  # the usage of the call whose answer is in the cache
        counts = _counts_of(saved)._replace(calls=usage.calls, cached_calls=usage.cached_calls)
        key = usage_key(model, tier_of(counts.input_tokens), "cache")
    where = STATE.root if scope is None else scope
    call = Call(path_of(where, frames), key, counts, 0.0, 0.0, None, None)
    append(EndedCall(where, call, reserved=reserved))
    drain()


def _counts_of(usage: Usage) -> Counts:
    counts = Counts(*(getattr(usage, name) for name in Counts._fields))
    return counts._replace(cost=usage.cost or ZERO_COUNTS.cost)


def spent(scope: Scope | Report) -> int:
    """Return the input tokens of a scope or a report, including everything inside."""
    from tokenscope import Scope

    return (scope.usage if isinstance(scope, Scope) else scope.total).input_tokens


def python(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a fresh interpreter, and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1", **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
