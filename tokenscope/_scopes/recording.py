"""Recording by hand: what `record_tokens` and `record_cost` do, and everything else that counts a call by itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, overload

from tokenscope._scopes.context import active
from tokenscope._scopes.event_log import EndedCall, append, drain, warn_of_overflow
from tokenscope._scopes.lm_calls import lm_call_in_progress, note_inner_usage
from tokenscope._scopes.process import STATE, Counted
from tokenscope._usage.calls import MAX_NAMES, NO_SCOPE, Call, Frame, ScopePath, check_name, model_name
from tokenscope._usage.keys import NO_MODEL, PriceSource, Terms, key_of
from tokenscope._usage.keywords import wrong_keyword
from tokenscope._usage.prompts import Prompt
from tokenscope._usage.usage import TOKENS, ZERO_COUNTS, Counts, check_count, check_money, check_parts

_REQUIRED: Final[Any] = ...
"""Stands for an argument that must be given, after others that may be left out."""


@overload
def record_tokens(
    module: str | None,
    operation: str | None,
    model: str,
    provider: str | None,
    input_tokens: int,
    output_tokens: int,
    metadata: Mapping[str, Any] | None = None,
    *,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    cache_write_1h_tokens: int = 0,
    reasoning_tokens: int = 0,
    input_audio_tokens: int = 0,
    output_audio_tokens: int = 0,
    cost: Decimal | float | None = None,
) -> None: ...
@overload
def record_tokens(
    module: str | None = None,
    operation: str | None = None,
    *,
    model: str,
    provider: str | None = None,
    input_tokens: int,
    output_tokens: int,
    metadata: Mapping[str, Any] | None = None,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    cache_write_1h_tokens: int = 0,
    reasoning_tokens: int = 0,
    input_audio_tokens: int = 0,
    output_audio_tokens: int = 0,
    cost: Decimal | float | None = None,
) -> None: ...
def record_tokens(
    module: str | None = None,
    operation: str | None = None,
    model: str = _REQUIRED,
    provider: str | None = None,
    input_tokens: int = _REQUIRED,
    output_tokens: int = _REQUIRED,
    metadata: Mapping[str, Any] | None = None,
    *,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    cache_write_1h_tokens: int = 0,
    reasoning_tokens: int = 0,
    input_audio_tokens: int = 0,
    output_audio_tokens: int = 0,
    cost: Decimal | float | None = None,
    **unknown: Any,
) -> None:
    """Count one model call that DSPy does not make, in the current scope, or under a module and an operation in it.

    Args:
        module: A level in the tree, below the current scope. None adds none.
        operation: A level below that one. None adds none.
        model: The model's name, as you call it.
        provider: Who serves it; joined to the model's name, `provider/model`. None where the name says it already.
        input_tokens: Prompt tokens, those read from and written to the provider's cache included.
        output_tokens: Completion tokens, reasoning included.
        metadata: Anything to keep with the record.
        cache_read_tokens: How many of the input tokens came from the provider's cache.
        cache_write_tokens: How many of the input tokens went to the provider's cache.
        cache_write_1h_tokens: How many of those the provider keeps for an hour, where that costs more.
        reasoning_tokens: How many of the output tokens were reasoning.
        input_audio_tokens: How many of the input tokens were audio.
        output_audio_tokens: How many of the output tokens were audio.
        cost: What the call cost, in dollars, where you know; else reports look it up by the model's name.
        **unknown: None: a wrong keyword raises a TypeError that names the right one.

    Raises:
        TypeError: the model or the tokens are not given, a name is no str, a count is no number or a bool.
        ValueError: a name is empty, a count is negative, fractional or NaN, or a part is larger than its whole.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("ingest") as scope:
        ...     record_tokens(model="mistral-ocr", input_tokens=900, output_tokens=300)
        ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=90, output_tokens=30)
        >>> scope.usage.total_tokens, scope.report().find("ingest/ocr/page").usage.total_tokens
        (1320, 120)
    """
    if unknown:
        name = next(iter(unknown))
        raise TypeError(wrong_keyword("record_tokens", name, _ARGUMENTS, _OTHER_NAMES.get(name)))
    for argument, value in (("model", model), ("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if value is _REQUIRED:
            raise TypeError(f"record_tokens needs {argument}=..., as in {_USE}")
    frames = _frames("record_tokens", module, operation)
    name = model_name(model, provider)
    kept = _checked_metadata(metadata)
    given = (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens)
    tokens = [*map(check_count, TOKENS, (*given, reasoning_tokens, input_audio_tokens, output_audio_tokens))]
    dollars = ZERO_COUNTS.cost if cost is None else _dollars(cost)
    counts = Counts._make((1, 0, 0, *tokens, dollars))  # 1 call, neither cached nor failed
    if any(tokens[2:]):
        check_parts(counts)
    outer_call = lm_call_in_progress()
    if outer_call is not None:
        note_inner_usage(outer_call, counts)
    source: PriceSource | None = None if cost is None else "provider"
    record(active() or STATE.root, name, counts, time.time(), cost_source=source, frames=frames, metadata=kept)


_ARGUMENTS: Final = record_tokens.__code__.co_varnames[:14]
_OTHER_NAMES: Final = {
    **dict.fromkeys(("prompt_tokens", "tokens_in", "input"), "input_tokens"),
    **dict.fromkeys(("completion_tokens", "tokens_out", "output"), "output_tokens"),
    **dict.fromkeys(("cached_tokens", "cache_read_input_tokens"), "cache_read_tokens"),
    "cache_creation_input_tokens": "cache_write_tokens",
    "model_name": "model",
}
"""What other libraries call these arguments."""
_USE: Final = 'record_tokens(model="gpt-4o-mini", input_tokens=10, output_tokens=5)'


@overload
def record_cost(
    module: str | None, operation: str | None, cost: Decimal | float, metadata: Mapping[str, Any] | None = None
) -> None: ...
@overload
def record_cost(
    module: str | None = None,
    operation: str | None = None,
    *,
    cost: Decimal | float,
    metadata: Mapping[str, Any] | None = None,
) -> None: ...
def record_cost(
    module: str | None = None,
    operation: str | None = None,
    cost: Decimal | float = _REQUIRED,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Count an amount of dollars that no model call cost, such as a search API's, in the current scope.

    It is added to the cost of all scopes around it and to their budgets, but it is no call and has no tokens. `Report.by_model`
    has it under `(no model)`.

    Args:
        module: A level in the tree, below the current scope. None adds none.
        operation: A level below that one. None adds none.
        cost: The amount, in dollars.
        metadata: Anything to keep with the record.

    Raises:
        TypeError: the cost is not given or no number, or a name is no str.
        ValueError: a name is empty, or the cost is negative, infinite or NaN.

    Example:
        >>> from tokenscope import record_cost, token_scope
        >>> with token_scope("research") as scope:
        ...     record_cost("search", "web", cost=0.001)
        >>> scope.usage.cost, scope.usage.calls
        (Decimal('0.001'), 0)
    """
    if cost is _REQUIRED:
        raise TypeError("record_cost needs cost=..., as in record_cost(cost=0.001)")
    frames, counts = _frames("record_cost", module, operation), Counts(cost=_dollars(cost))
    kept = _checked_metadata(metadata)
    record(active() or STATE.root, NO_MODEL, counts, time.time(), cost_source="provider", frames=frames, metadata=kept)


def _frames(what: str, module: object, operation: object) -> tuple[Frame, ...]:
    try:
        return _checked_frames(what, module, operation)
    except TypeError:  # some cannot be hashed
        return _checked_frames.__wrapped__(what, module, operation)


@lru_cache(maxsize=MAX_NAMES, typed=True)
def _checked_frames(what: str, module: object, operation: object) -> tuple[Frame, ...]:
    names = {"module": module, "operation": operation}
    given = {kind: name for kind, name in names.items() if name is not None}
    return tuple(Frame(kind, check_name(f"the {kind} of {what}", name)) for kind, name in given.items())


def _checked_metadata(metadata: object) -> dict[str, Any] | None:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type(metadata).__name__} {metadata!r}")
    return None if metadata is None else dict(metadata)


def _dollars(cost: object) -> Decimal:
    return check_money("cost", Decimal(str(float(cost))) if isinstance(cost, float) else cost)


def path_of(scope: Counted, frames: tuple[Frame, ...] = ()) -> ScopePath:
    """Return the path at which a call is counted that was made in a scope; outside of any it stands under `(no scope)`."""
    path = scope.path
    if path.parent is None:
        frames = frames or (NO_SCOPE,)
    for frame in frames:
        path = path.child(frame)
    return path


def record(
    scope: Counted,
    model: str,
    counts: Counts,
    started: float,
    terms: Terms = (),
    *,
    cost_source: PriceSource | None = None,
    frames: tuple[Frame, ...] = (),
    seconds: float = 0.0,
    error: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    is_embedding: bool = False,
    prompt: Prompt | None = None,
) -> None:
    """Note one call that has ended, or a plain amount, to be counted in a scope."""
    key = key_of(model, counts, started, terms, source=cost_source)
    path = path_of(scope, frames)
    call = Call(path, key, counts, started, seconds, error, metadata, is_embedding, scope.all_attributes, prompt)
    append(EndedCall(scope, call))
    for _ in frames:
        path = path.parent or path
        if len(path.children) >= MAX_NAMES:  # a level has many names: if too many, the warning is to name this line
            drain()
            warn_of_overflow()
    table = STATE.root.table
    if table is not None and table.overflowed:
        warn_of_overflow()
