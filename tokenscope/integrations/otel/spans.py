"""Usage into tokenscope: spans that report usage are counted in the scope in which they were started.

When a span starts, its scope and the spans above it are noted. When it ends and reports usage, it becomes a call, unless the
same usage is counted already: in a span below it, in a span above it that ended earlier, or by the DSPy bridge.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from tokenscope._scopes.context import active
from tokenscope._scopes.process import DISABLED, STATE, Counted
from tokenscope._scopes.recording import record
from tokenscope._usage.usage import ZERO_COUNTS
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.otel.attributes import Reading, is_embedding, is_model_call, model_of, read
from tokenscope.integrations.usage_watchers import inside_counted_call, watch

_REMEMBERED: Final = 2_048  # how many spans that have ended are remembered, for spans that start below them later

_NONE, _CALL, _TOKENS = range(3)  # how much is counted: nothing, a call without tokens, tokens

_Key = tuple[int, int]


@dataclass(slots=True, eq=False)
class _Noted:
    """What is known of a span: its scope, the spans above it, and what of it is counted."""

    key: _Key
    above: _Noted | None
    scope: Counted | None
    started: int  # in nanoseconds
    hidden: bool  # whether it belongs to a call that is counted as a whole
    ended: int | None = None
    counted: int = _NONE  # of this span
    below: int = _NONE  # of spans below it, or by the DSPy bridge while this span was current
    alive: Any = None

    def ancestors(self) -> Iterator[_Noted]:
        """Yield the spans above that are open, or that were counted and ended after the span below them had started.

        Other spans are dropped from the chain. It could grow for ever if each span starts below one that has ended.
        """
        here = self
        while True:
            above = here.above
            while above is not None and above.ended is not None and not (above.counted and above.ended > here.started):
                above = above.above
            here.above = above
            if above is None:
                return
            yield above
            here = above


# Shared by all processors: they see the same spans.
_open: Final[dict[_Key, _Noted]] = {}
_ended: Final[dict[_Key, _Noted]] = {}


class TokenScopeSpanProcessor(SpanProcessor):
    """Count the usage that any instrumentor's spans report, each in the scope in which it was started.

    It reads OpenTelemetry's GenAI attributes, old and new, OpenInference's and MLflow's. If a span and one inside it both report
    usage, the innermost is counted. Calls that DSPy makes are counted by the DSPy bridge, and not again.
    Only recorded spans can be counted: a sampler that drops spans drops their tokens.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from tokenscope import token_scope
        >>> from tokenscope.integrations.otel import TokenScopeSpanProcessor
        >>> provider = TracerProvider()
        >>> provider.add_span_processor(TokenScopeSpanProcessor())
        >>> with token_scope("chat") as scope:
        ...     with provider.get_tracer("my-instrumentor").start_as_current_span("chat gpt-5-mini") as span:
        ...         span.set_attributes({"gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5-mini"})
        ...         span.set_attributes({"gen_ai.usage.input_tokens": 90, "gen_ai.usage.output_tokens": 30})
        >>> scope.usage.total_tokens
        120
    """

    def __init__(self) -> None:
        watch(_bridge_counts)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note the scope in which a span starts."""
        try:
            if not DISABLED:
                _note(span)
        except Exception:  # noqa: BLE001 - a span must not break the host program
            internal_error("noting the start of a span")

    def on_end(self, span: ReadableSpan) -> None:
        """Count the usage of a span, unless it is counted elsewhere."""
        try:
            if not DISABLED:
                _end(span)
        except Exception:  # noqa: BLE001 - a span must not break the host program
            internal_error("counting a span")


def _key(context: trace.SpanContext | None) -> _Key:
    return (0, 0) if context is None else (context.trace_id, context.span_id)


def _note(span: ReadableSpan) -> _Noted:
    key, parent = _key(span.context), span.parent
    if (found := _open.get(key) or _ended.get(key)) is not None:
        return found  # another processor has noted it
    above = None if parent is None else _open.get(_key(parent)) or _ended.get(_key(parent))
    hidden = (above is not None and above.hidden) or inside_counted_call()
    noted = _Noted(key, above, active(), span.start_time or 0, hidden=hidden)
    # A span that never ends is forgotten when the program has dropped it.
    noted.alive = weakref.ref(span, lambda _: _open.pop(key, None))
    _open[key] = noted
    return noted


def _end(span: ReadableSpan) -> None:
    key = _key(span.context)
    noted = _note(span)  # now, if it was started before there was a processor
    _open.pop(key, None)
    if noted.ended is not None:
        return  # another processor has counted it
    scope, noted.scope, noted.alive, noted.ended = noted.scope, None, None, span.end_time or 0
    _ended[key] = noted
    with contextlib.suppress(RuntimeError, StopIteration):  # another thread does the same
        while len(_ended) > _REMEMBERED:
            _ended.pop(next(iter(_ended)), None)
    if not noted.hidden:
        _count(span, noted, scope)


def _count(span: ReadableSpan, noted: _Noted, scope: Counted | None) -> None:
    attributes = span.attributes or {}
    reading = read(attributes, span.instrumentation_scope.name if span.instrumentation_scope else "")
    failed = span.status.status_code is StatusCode.ERROR
    if reading is None and failed and is_model_call(attributes):
        reading = Reading(model_of(attributes), ZERO_COUNTS)
    if reading is None:
        return
    spent = _TOKENS if reading.counts.tokens else _CALL
    if noted.below >= spent or any(above.counted >= spent for above in noted.ancestors()):
        return
    noted.counted = spent  # from now on, open spans below it are not counted in addition
    for above in noted.ancestors():
        above.below = max(above.below, spent)
    trace_id, span_id = trace.format_trace_id(noted.key[0]), trace.format_span_id(noted.key[1])
    record(
        scope or STATE.root,
        reading.model,
        reading.counts._replace(calls=1, failed_calls=int(failed)),
        noted.started / 1e9,
        reading.terms,
        cost_source="provider" if reading.cost_is_told else None,
        is_embedding=is_embedding(attributes),
        seconds=max(0, (noted.ended or 0) - noted.started) / 1e9,
        error=_error(span) if failed else None,
        metadata={"span": span.name, "trace_id": trace_id, "span_id": span_id},
    )


def _error(span: ReadableSpan) -> str:
    """Return the name of the exception or the error type that a span reports."""
    for event in reversed(span.events):
        kind = (event.attributes or {}).get("exception.type")
        if isinstance(kind, str):
            return kind.rpartition(".")[2]
    kind = (span.attributes or {}).get("error.type")
    return kind if isinstance(kind, str) and kind else "error"


def _bridge_counts(_: str, __: Any) -> None:
    """Mark the current span and all above it, when DSPy reports usage to the bridge: their usage is the same."""
    noted = _open.get(_key(trace.get_current_span().get_span_context()))
    if noted is not None:
        for each in (noted, *noted.ancestors()):
            each.below = _TOKENS
