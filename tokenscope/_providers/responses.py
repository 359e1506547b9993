"""record_response: counting what a provider's SDK returned, by what the response itself reports."""

from __future__ import annotations

import time
from typing import TypeVar

from tokenscope._providers.counting import check_arguments, count_response
from tokenscope._providers.detection import source_of
from tokenscope._scopes.context import active
from tokenscope._scopes.lm_calls import is_counted, lm_call_in_progress
from tokenscope._scopes.process import DISABLED, STATE
from tokenscope._usage.warnings import internal_error

T = TypeVar("T")


def record_response(response: T, *, provider: str | None = None, model: str | None = None) -> T:
    """Count what a provider's SDK returned, in the current scope, and return it: wrap it around the call.

    It reads responses of OpenAI (chat, responses, embeddings) and of compatible APIs, of Anthropic, Google, Mistral, Groq,
    Bedrock's Converse, Cohere and LiteLLM, as the SDK's objects or as dicts. Calls that DSPy makes are counted without it.

    Args:
        response: What the SDK returned, whole; `record_stream` takes streams.
        provider: The provider, if the response does not show it: many serve OpenAI's format.
        model: The model, if the response does not name it (Bedrock's does not) or you call it by another name. A name with a
            slash includes the provider: `azure/my-deployment`.

    Returns:
        The response itself.

    Raises:
        TypeError: `response` is None, text, a stream, or a coroutine that was not awaited.
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
    check_arguments("record_response", "response", "an object or a dict", response, provider, model)
    kind = type(response)
    if (hasattr(kind, "__next__") or hasattr(kind, "__anext__")) and not hasattr(response, "usage"):
        raise TypeError(
            f"record_response takes a whole response, and this {kind.__name__} comes in pieces: "
            "pass the stream to record_stream, or the last chunk or the final message to record_response"
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
        count_response(source, scope, lm_call_in_progress(), kind="response", started=time.time())
    except Exception:  # noqa: BLE001 - nothing that a provider sends may break the host program
        internal_error("reading a response")
    return response
