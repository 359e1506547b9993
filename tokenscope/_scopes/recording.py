"""Counting one model call: what the DSPy bridge does when a call has ended, and `record_tokens` for everybody else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tokenscope._scopes import scope as _scope
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._scopes.lm_calls import counted_within, lm_call
from tokenscope._scopes.recent import keep
from tokenscope._scopes.scope import DISABLED, active
from tokenscope._scopes.wasted import discard, is_failure
from tokenscope._usage.calls import NO_SCOPE, Call, Frame, check_name
from tokenscope._usage.keys import FREE, OWN_PRICE, SAVED, bracket_of
from tokenscope._usage.usage import Counts, Usage, check_money, counts


def record_tokens(
    module: str,
    operation: str,
    model: str,
    provider: str | None,
    input_tokens: int,
    output_tokens: int,
    metadata: Mapping[str, Any] | None = None,
    *,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
    input_audio_tokens: int = 0,
    output_audio_tokens: int = 0,
    cost: Decimal | float | None = None,
) -> None:
    """Count one model call that DSPy does not make, under a module and an operation of the current scope.

    Args:
        module: The upper level in the tree.
        operation: The level below it.
        model: The model's name, as you call it.
        provider: Who serves it; joined to the model's name, `provider/model`. None where the name says it already.
        input_tokens: Prompt tokens, those read from and written to the provider's cache included.
        output_tokens: Completion tokens, reasoning included.
        metadata: Anything to keep with the record.
        cache_read_tokens: How many of the input tokens came from the provider's cache.
        cache_write_tokens: How many of the input tokens went to the provider's cache.
        reasoning_tokens: How many of the output tokens were reasoning.
        input_audio_tokens: How many of the input tokens were audio.
        output_audio_tokens: How many of the output tokens were audio.
        cost: What the call cost, in dollars, where you know; else reports look it up by the model's name.

    Raises:
        TypeError: a name is no str, a count is no number or a bool.
        ValueError: a name is empty, a count is negative, fractional or NaN, or a part is larger than its whole.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("ingest") as scope:
        ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        >>> scope.usage.total_tokens
        1200
    """
    frames = (
        Frame("module", check_name("the module of record_tokens", module)),
        Frame("operation", check_name("the operation of record_tokens", operation)),
    )
    name = model_name(model, provider)
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type(metadata).__name__} {metadata!r}")
    usage = Usage(
        calls=1,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        reasoning_tokens=reasoning_tokens,
        input_audio_tokens=input_audio_tokens,
        output_audio_tokens=output_audio_tokens,
        cost=Decimal(0) if cost is None else check_money("cost", Decimal(str(cost)) if type(cost) is float else cost),
    )
    check_parts(usage)
    counted_within(lm_call(), counts(usage))
    count(
        active(),
        name,
        counts(usage),
        own_price=cost is not None,
        frames=frames,
        started=time.time(),
        metadata=None if metadata is None else dict(metadata),
    )


def model_name(model: object, provider: object) -> str:
    """Join provider and model to the name that reports use."""
    name = check_name("model", model)
    if provider is None:
        return name
    prefix = check_name("provider", provider) + "/"
    return name if name.startswith(prefix) else prefix + name


def check_parts(usage: Usage) -> None:
    """Raise where a part of the tokens is larger than their whole.

    Raises:
        ValueError: naming the part and the whole.
    """
    parts = {
        "cache_read_tokens + cache_write_tokens": (usage.cache_read_tokens + usage.cache_write_tokens, "input_tokens"),
        "input_audio_tokens": (usage.input_audio_tokens, "input_tokens"),
        "reasoning_tokens": (usage.reasoning_tokens, "output_tokens"),
        "output_audio_tokens": (usage.output_audio_tokens, "output_tokens"),
    }
    for part, (value, whole) in parts.items():
        if value > getattr(usage, whole):
            raise ValueError(
                f"{part} ({value:,}) is part of {whole}, which is only {getattr(usage, whole):,}: "
                f"{whole} counts everything, cached and reasoning tokens included"
            )


def count(
    ledger: Ledger | None,
    model: str,
    values: Counts,
    *,
    own_price: bool = False,
    saved: Counts | None = None,
    frames: tuple[Frame, ...] = (),
    started: float = 0.0,
    seconds: float = 0.0,
    error: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    reserved: bool = False,
) -> Call | None:
    """Count one call in a scope (None: in the process, at the top level); return it as it was counted.

    Its price is looked up when somebody asks, unless `own_price` says that the counts tell it. `saved` are the tokens that a
    cached answer once cost. `reserved`: budgets were asked before the call was made.
    """
    if DISABLED:
        return None
    if ledger is None:
        ledger = PROCESS
    path = ledger.path
    if path.parent is None:
        frames = frames or (NO_SCOPE,)
    for frame in frames:
        path = path.child(frame)
    if saved is not None:
        values = (*values[:3], *saved[3:])
        key = model, SAVED - bracket_of(values[3])
    elif own_price:
        key = model, OWN_PRICE - bracket_of(values[3])
    else:
        key = model, bracket_of(values[3]) if values[3] or values[4] else FREE
    ledger.add(path, key, values)
    if _scope.guard is not None:
        _scope.guard.spend(ledger, key, values, reserved=reserved)
    if error is not None and is_failure(error):
        discard(ledger, path, key, values, "provider_errors")
    call = Call(path, key, values, started, seconds, error, metadata)
    keep(call)
    return call
