"""record_response: counting what a provider's SDK returned, by what the response itself reports.

`record_stream` checks its arguments here, and counts what the stream has reported as this counts a whole response.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

from tokenscope._providers.detection import ResponseSource, source_of
from tokenscope._providers.extractors import PERPLEXITY, ReportedCall, extract
from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._scopes.context import active
from tokenscope._scopes.event_log import EndedCall, append, warn_later
from tokenscope._scopes.lm_calls import is_counted, lm_call_in_progress, note_inner_usage
from tokenscope._scopes.process import DISABLED, STATE, Counted
from tokenscope._scopes.recording import path_of
from tokenscope._usage.calls import Call, check_name
from tokenscope._usage.keys import PriceSource, key_of
from tokenscope._usage.usage import Counts
from tokenscope._usage.warnings import internal_error

T = TypeVar("T")
PLAIN_VALUES: Final = (str, bytes, bytearray, int, float, complex, Decimal, list, tuple, set, frozenset, type)
"""Types whose objects are neither responses nor streams."""


def record_response(
    response: T,
    *,
    provider: str | None = None,
    model: str | None = None,
    messages: str | Sequence[Any] | Mapping[str, Any] | None = None,
) -> T:
    """Count what a provider's SDK returned, in the current scope, and return it: wrap it around the call.

    It reads responses of OpenAI (chat, responses, embeddings) and of compatible APIs, of Anthropic, Google, Mistral, Groq,
    Bedrock's Converse, Cohere and LiteLLM, as the SDK's objects or as dicts. Calls that DSPy makes are counted without it.

    Args:
        response: What the SDK returned, whole; `record_stream` takes streams.
        provider: The provider, if the response does not show it: many serve OpenAI's format.
        model: The model, if the response does not name it (Bedrock's does not) or you call it by another name. A name with a
            slash includes the provider: `azure/my-deployment`.
        messages: What was sent: the text, the messages, or all keyword arguments of the call as a dict, which may hold a system
            prompt and tools, too. If prompts are measured (`instrument(prompt_parts=True)`), its input is split by role, see
            `Report.by_part`; otherwise this makes no difference. No text is kept.

    Returns:
        The response itself.

    Raises:
        TypeError: `response` is None, text, a stream, or a coroutine that was not awaited; `messages` is of another type.
        ValueError: the response does not name its model, and `model` is not given.

    Example:
        >>> from tokenscope import record_response, token_scope
        >>> with token_scope("answer") as scope:
        ...     response = record_response(
        ...         {"model": "gpt-5-mini", "usage": {"prompt_tokens": 90, "completion_tokens": 30, "total_tokens": 120}}
        ...     )
        >>> scope.usage.total_tokens
        120
    """
    check_arguments("response", "an object or a dict", response, provider, model)
    kind = type(response)
    if (hasattr(kind, "__next__") or hasattr(kind, "__anext__")) and not hasattr(response, "usage"):
        raise TypeError(
            f"record_response takes a whole response, and this {kind.__name__} comes in pieces: "
            "pass the stream to record_stream, or the last chunk or the final message to record_response"
        )
    if messages is not None and not isinstance(messages, (str, Sequence, Mapping)):
        raise TypeError(
            "messages must be what was sent: a text, a list of messages, or a dict of the call's keyword arguments, "
            f"not {type(messages).__name__} {messages!r:.60}"
        )
    if DISABLED or is_counted(response):
        return response
    try:
        source = source_of(response, provider, model)
    except Exception:  # noqa: BLE001 - attributes may be properties that do anything
        internal_error("detecting where a response comes from")
        return response
    if source.name is None:
        raise ValueError(
            f"this response ({kind.__name__}) does not name its model: "
            "pass record_response(response, model=...) the name that you called it by"
        )
    try:
        scope = active() or STATE.root
        outer = lm_call_in_progress()
        calls = calls_of(source, scope, outer, "response", time.time(), seconds=0, error=None)
        if messages is not None and STATE.read_sent is not None:
            calls[0] = calls[0]._replace(prompt=STATE.read_sent(messages, source.name))
        for call in calls:
            append(EndedCall(scope, call))
    except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
        internal_error("reading a response")
    return response


def check_arguments(wanted: str, shape: str, value: object, provider: object, model: object) -> None:
    """Raise for invalid names, and for a value that cannot be what is `wanted`: a response or a stream."""
    if provider is not None:
        check_name("provider", provider)
    if model is not None:
        check_name("model", model)
    kind = type(value).__name__
    if value is None or isinstance(value, PLAIN_VALUES) or inspect.isroutine(value):
        raise TypeError(
            f"record_{wanted} takes a {wanted} as the provider's SDK returned it, {shape}, not {kind} {value!r:.60}"
        )
    if hasattr(type(value), "__await__"):
        raise TypeError(f"record_{wanted} takes a {wanted}, and this {kind} will become one: await it first")


def calls_of(
    source: ResponseSource, scope: Counted, outer: Any, kind: str, started: float, seconds: float, error: str | None
) -> list[Call]:
    """Return what a response or a stream (its `kind`) tells of: one call, and one for each other model that took part in it."""
    name = source.name
    assert name is not None
    calls = _reported_calls(source, name, started)
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
    found: list[Call] = []
    for model, counts, cost_source in calls:
        note_inner_usage(outer, counts)
        key = key_of(model, counts, started, source.terms, source=cost_source)
        found.append(Call(path_of(scope), key, counts, started, seconds, error, None, attributes=scope.all_attributes))
    return found


def _reported_calls(source: ResponseSource, name: str, started: float) -> list[ReportedCall]:
    usage = source.usage
    if usage is None:
        return []
    if source.usage_format is None:
        told: PriceSource | None = None if reported_cost(usage) is None else "provider"
        return [ReportedCall(name, read_counts(source.model, usage, calls=1), told)]
    calls = extract(source.usage_format, usage, name, started, source.terms)
    if calls and source.usage_format is PERPLEXITY and (cost := reported_cost(usage)) is not None:
        return [ReportedCall(name, calls[0].counts._replace(cost=cost), cost_source="provider")]
    return calls
