"""Usage out of tokenscope, as span attributes: a DSPy call's usage, on the span that is current when DSPy makes the call.

Each token is written on one span, on the call's own if an instrumentor opens one. Backends add up by themselves.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from opentelemetry import trace

from tokenscope._providers.openai_usage import read_counts, reported_cost
from tokenscope._providers.terms import terms_of
from tokenscope._scopes.process import STATE
from tokenscope._usage.keys import key_of
from tokenscope._usage.prices import load_table, priced
from tokenscope._usage.usage import Usage
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.otel.attributes import (
    COST,
    GENAI,
    MLFLOW,
    MLFLOW_USAGE,
    OPENINFERENCE,
    request_attributes,
    wants_latest,
)
from tokenscope.integrations.usage_watchers import Watcher, unwatch, watch

_lock: Final = threading.RLock()
_WHOLE: Final = ("input_tokens", "output_tokens")
_USAGE_PREFIXES: Final = ("gen_ai.usage.", "llm.token_count.", "llm.usage.", "mlflow.")
"""How attributes begin on spans that report usage already. MLflow's spans have an attribute of their own."""
_written: Final[weakref.WeakKeyDictionary[Any, Usage]] = weakref.WeakKeyDictionary()
"""The usage that was written on a span so far: some calls report usage more than once, and a span may contain several calls."""
_reckoned: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""Spans with costs that come from the table of prices: no provider has told them."""


def annotate_spans() -> Callable[[], None]:
    """Write the usage of each DSPy call on the span that is current when DSPy makes the call.

    This is the span of OpenInference's instrumentor for DSPy (which Phoenix, Langfuse and Logfire use), MLflow's span, or one of
    your own. A span that reports usage already is left as it is.

    If the environment variable `OTEL_SEMCONV_STABILITY_OPT_IN` contains `gen_ai_latest_experimental` now, spans also get
    `gen_ai.usage.cost.amount`, `.currency` and `.source`, if the price is known.

    Returns:
        A function that stops the writing.

    Example:
        >>> from tokenscope.integrations.otel import annotate_spans
        >>> stop = annotate_spans()
        >>> stop()
    """
    watcher: Watcher = _annotate
    if wants_latest():
        STATE.loading(load_table)  # no call should wait for that
        watcher = _annotate_with_costs
    watch(watcher)
    return partial(unwatch, watcher)


def _annotate(model: str, entry: Any, *, with_costs: bool = False) -> None:
    try:
        counts = read_counts(model, entry)
        is_told = reported_cost(entry) is not None
        key = key_of(model, counts, time.time(), terms_of(None, entry), source="provider" if is_told else None)
        spent = priced(key, counts) if with_costs else Usage.from_counts(counts)
        if (span := trace.get_current_span()).is_recording():
            _write(span, model, spent)
            if with_costs:
                _write_cost(span, is_told=is_told)
        active = getattr(sys.modules.get("mlflow"), "get_current_active_span", None)
        if active is not None and (current := active()) is not None:  # not always OpenTelemetry's
            _write_mlflow(current, spent)
    except Exception:  # noqa: BLE001 - a span's own methods must not break the host program
        internal_error("annotating a span")


_annotate_with_costs: Final = partial(_annotate, with_costs=True)


def _write(span: Any, model: str, spent: Usage) -> None:
    attributes = getattr(span, "attributes", None) or {}
    with _lock:
        whole = _add(span, spent, is_reported=any(name.startswith(_USAGE_PREFIXES) for name in attributes))
        if whole is None:
            return
        if "openinference.span.kind" in attributes:
            # Some backends need OpenTelemetry's names of input and output, too. But the parts have one name each:
            # Langfuse takes each name for another kind of token.
            values: dict[str, Any] = {**_named(whole, OPENINFERENCE), **_named(whole, GENAI, _WHOLE)}
        else:
            values = _named(whole, GENAI, (*_WHOLE, "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"))
        missing = {name: value for name, value in request_attributes(model).items() if name not in attributes}
        span.set_attributes({**values, **missing})


def _write_cost(span: Any, *, is_told: bool) -> None:
    with _lock:
        if not is_told:
            _reckoned.add(span)
        whole = _written.get(span)
        if whole is None or whole.cost is None or whole.unpriced_calls:
            return  # a part of the cost would look like all of it
        source = "local" if span in _reckoned else "provider"
        span.set_attributes({f"{COST}amount": float(whole.cost), f"{COST}currency": "USD", f"{COST}source": source})


def _write_mlflow(span: Any, spent: Usage) -> None:
    with _lock:
        whole = _add(span, spent, is_reported=span.get_attribute(MLFLOW_USAGE) is not None)
        if whole is not None:
            span.set_attribute(MLFLOW_USAGE, _named(whole, MLFLOW))


def _add(span: Any, spent: Usage, *, is_reported: bool) -> Usage | None:
    """Return all that is to be written on a span; None if somebody else has reported its usage there."""
    if (before := _written.get(span)) is None and is_reported:
        return None
    whole = _written[span] = spent if before is None else before + spent
    return whole


def _named(usage: Usage, convention: dict[str, tuple[str, ...]], fields: Iterable[str] = ()) -> dict[str, int]:
    """Return fields of usage by their first names in a convention; parts only if they are not 0."""
    return {
        convention[field][0]: value
        for field in fields or convention
        if (value := getattr(usage, field)) or field in (*_WHOLE, "total_tokens")
    }
