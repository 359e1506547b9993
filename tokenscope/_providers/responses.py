"""record_response: counting what a provider's SDK returned, by what the response itself tells."""

from __future__ import annotations

import inspect
import time
from dataclasses import replace
from decimal import Decimal
from typing import Final, TypeVar

from tokenscope._providers.detection import ResponseSource, source_of
from tokenscope._providers.extractors import PERPLEXITY, Extracted, extract
from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._scopes.context import active
from tokenscope._scopes.event_log import warn_later
from tokenscope._scopes.lm_calls import LMCall, is_counted, lm_call_in_progress, note_inner_usage
from tokenscope._scopes.process import DISABLED, STATE, Counted
from tokenscope._scopes.recording import record
from tokenscope._usage.calls import check_name
from tokenscope._usage.usage import Usage, counts_of
from tokenscope._usage.warnings import internal_error

T = TypeVar("T")


def record_response(response: T, *, provider: str | None = None, model: str | None = None) -> T:
    """Count what a provider's SDK returned, in the current scope, and return it: wrap it around the call.

    Read are the responses of OpenAI (chat, responses, embeddings) and what speaks like it, Anthropic, Google, Mistral, Groq,
    Bedrock's Converse, Cohere and LiteLLM, as the SDK's objects or as dicts. Calls that DSPy makes are counted without this.

    Args:
        response: What the SDK returned, whole; `record_stream` takes streams.
        provider: Who served it, where the response does not tell: one in OpenAI's words may come from anywhere.
        model: The model, where the response does not name it (Bedrock's does not) or you call it otherwise. With a slash, the
            provider is in it: `azure/my-deployment`.

    Returns:
        The response itself.

    Raises:
        TypeError: it is no response: None, text, a stream, a coroutine that nobody has awaited.
        ValueError: it names no model, and neither do you.

    Example:
        >>> from tokenscope import record_response, token_scope
        >>> with token_scope("answer") as scope:
        ...     response = record_response(
        ...         {"model": "gpt-5-mini", "usage": {"prompt_tokens": 90, "completion_tokens": 30, "total_tokens": 120}}
        ...     )
        >>> scope.usage.total_tokens
        120
    """
    _check(response, provider, model)
    if DISABLED or is_counted(response):
        return response
    try:
        source = source_of(response, provider, model)
    except Exception:  # noqa: BLE001 - attributes may be properties that do anything
        internal_error("telling where a response comes from")
        return response
    name = source.name
    if name is None:
        raise ValueError(
            f"this response ({_kind(response)}) does not name its model: "
            "pass record_response(response, model=...) the name that you called it by"
        )
    try:
        _count(source, name)
    except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
        internal_error("reading a response")
    return response


NO_RESPONSES: Final = (str, bytes, bytearray, int, float, complex, Decimal, list, tuple, set, frozenset, type)


def _check(response: object, provider: object, model: object) -> None:
    if provider is not None:
        check_name("provider", provider)
    if model is not None:
        check_name("model", model)
    kind = type(response)
    if response is None or isinstance(response, NO_RESPONSES) or inspect.isroutine(response):
        raise TypeError(
            "record_response takes a response as the provider's SDK returned it, an object or a dict, "
            f"not {_kind(response)} {response!r:.60}"
        )
    if hasattr(kind, "__await__"):
        raise TypeError(f"record_response takes a response, and this {_kind(response)} will become one: await it first")
    if (hasattr(kind, "__next__") or hasattr(kind, "__anext__")) and not hasattr(response, "usage"):
        raise TypeError(
            f"record_response takes a whole response, and this {_kind(response)} comes in pieces: "
            "hand the stream to record_stream, or pass the last chunk or the final message"
        )


def _kind(response: object) -> str:
    return type(response).__name__


def _count(source: ResponseSource, name: str) -> None:
    """Count a response: one call, and one more for each other model that had a part in it."""
    found = read_usages(source, name)
    if not found:
        warn_later(
            f"no usage:{name}",
            f"a response of {name} tells no usage; tokenscope counts the call, without tokens. "
            "(Streams tell it where asked to: OpenAI's with stream_options={'include_usage': True}.)",
        )
        found = [Extracted(name, Usage(calls=1), None)]
    count_usages(found, active() or STATE.root, lm_call_in_progress(), started=time.time())


def count_usages(
    found: list[Extracted],
    scope: Counted,
    outer_call: LMCall | None,
    *,
    started: float,
    seconds: float = 0.0,
    error: str | None = None,
) -> None:
    """Count what a response told: a call of each model that had a part in it."""
    for model, usage, cost in found:
        counts = counts_of(usage if cost is None else replace(usage, cost=cost))
        note_inner_usage(outer_call, counts)
        record(scope, model, counts, cost_is_told=cost is not None, started=started, seconds=seconds, error=error)


def read_usages(source: ResponseSource, name: str) -> list[Extracted]:
    usage = source.usage
    if usage is None:
        return []
    if source.words is None:
        spent = Usage.from_counts(read_counts(source.model, usage)._replace(calls=1))
        return [Extracted(name, spent, reported_cost(usage))]
    found = extract(source.words, usage, name)
    told = reported_cost(usage) if source.words is PERPLEXITY else None
    return found if told is None or not found else [found[0]._replace(cost=told)]
