"""What `record_response` and `record_stream` share: checking their arguments, and counting what a response reports."""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import Any, Final

from tokenscope._providers.detection import ResponseSource
from tokenscope._providers.extractors import PERPLEXITY, ReportedCall, extract
from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._scopes.event_log import warn_later
from tokenscope._scopes.lm_calls import note_inner_usage
from tokenscope._scopes.process import Counted
from tokenscope._scopes.recording import record
from tokenscope._usage.calls import check_name
from tokenscope._usage.usage import Counts

PLAIN_VALUES: Final = (str, bytes, bytearray, int, float, complex, Decimal, list, tuple, set, frozenset, type)
"""Types whose objects are neither responses nor streams."""


def check_arguments(function: str, wanted: str, shape: str, value: object, provider: object, model: object) -> None:
    """Raise for invalid names, and for a value that cannot be what is `wanted`: a response or a stream."""
    if provider is not None:
        check_name("provider", provider)
    if model is not None:
        check_name("model", model)
    kind = type(value).__name__
    if value is None or isinstance(value, PLAIN_VALUES) or inspect.isroutine(value):
        raise TypeError(
            f"{function} takes a {wanted} as the provider's SDK returned it, {shape}, not {kind} {value!r:.60}"
        )
    if hasattr(type(value), "__await__"):
        raise TypeError(f"{function} takes a {wanted}, and this {kind} will become one: await it first")


def count_response(
    source: ResponseSource,
    scope: Counted,
    outer_call: Any,
    *,
    kind: str,
    started: float,
    seconds: float = 0.0,
    error: str | None = None,
) -> None:
    """Count a response: one call, and one more for each other model that took part in it.

    If it reports no usage, a warning names its `kind`: response or stream.
    """
    name = source.name
    assert name is not None
    calls = _reported_calls(source, name)
    if not calls:
        calls = [ReportedCall(name, Counts(calls=1))]
        if error is None:
            early = "It may have been closed too early. " if kind == "stream" else ""
            warn_later(
                f"no usage in a {kind}:{name}",
                f"a {kind} of {name} reports no usage; tokenscope counts the call, without tokens. "
                f"({early}OpenAI's streams report it if asked to: stream_options={{'include_usage': True}}.)",
            )
    if error is not None:
        calls[0] = calls[0]._replace(counts=calls[0].counts._replace(failed_calls=1))
    for model, counts, cost_is_told in calls:
        note_inner_usage(outer_call, counts)
        record(scope, model, counts, cost_is_told=cost_is_told, started=started, seconds=seconds, error=error)


def _reported_calls(source: ResponseSource, name: str) -> list[ReportedCall]:
    usage = source.usage
    if usage is None:
        return []
    if source.usage_format is None:
        counts = read_counts(source.model, usage)._replace(calls=1)
        return [ReportedCall(name, counts, reported_cost(usage) is not None)]
    calls = extract(source.usage_format, usage, name)
    if calls and source.usage_format is PERPLEXITY and (cost := reported_cost(usage)) is not None:
        return [ReportedCall(name, calls[0].counts._replace(cost=cost), cost_is_told=True)]
    return calls
