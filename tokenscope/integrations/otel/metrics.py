"""Usage out of tokenscope, as OpenTelemetry's GenAI metrics: tokens, durations and costs by scope, module and model.

Platforms read the names of the conventions' version 1.36. The newest ones stand behind OpenTelemetry's own opt-in.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache, partial
from typing import Final

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider

from tokenscope._report.attribution import attribution_of, inherited
from tokenscope._scopes.enforcement import report_of
from tokenscope._scopes.event_log import observe, unobserve
from tokenscope._scopes.process import STATE
from tokenscope._usage.calls import OTHER, ROOT, Call, Frame, ScopePath
from tokenscope._usage.keys import NO_MODEL
from tokenscope._usage.warnings import internal_error
from tokenscope._version import __version__
from tokenscope.integrations.otel.attributes import OPERATION, request_attributes, wants_latest

_MOST: Final = 990
"""How many attribute sets there are at most. With two types of tokens each, they stay below OpenTelemetry's limit of 2,000."""
_MOST_ERRORS: Final = 50
_DEPTH: Final = 8  # how many levels of a path an attribute has at most

_TOKENS: Final = "{token}"
_BUCKETS: Final = {_TOKENS: [4**power for power in range(14)], "s": [0.01 * 2**power for power in range(14)]}
"""The boundaries of a histogram's buckets, by its unit."""
_USAGE: Final = {  # the newest names of counters, the fields of usage that they count, and descriptions
    "input_tokens": ("input_tokens", "Input tokens, cached ones included"),
    "output_tokens": ("output_tokens", "Output tokens, reasoning included"),
    "cache_read.input_tokens": ("cache_read_tokens", "Input tokens read from the provider's cache"),
    "cache_write.input_tokens": ("cache_write_tokens", "Input tokens written to the provider's cache"),
    "reasoning.output_tokens": ("reasoning_tokens", "Output tokens spent on reasoning"),
}

Attributes = dict[str, str]


class _AttributeSets:
    """The attribute sets of calls, by path and model: a limited number, and one set for all further calls."""

    def __init__(self, *additions: Attributes) -> None:
        self._additions = additions
        self._sets: dict[tuple[str, str, str, bool], tuple[Attributes, ...]] = {}
        self._errors: set[str] = set()
        self.of_path = lru_cache(maxsize=10_000)(self.of)

    def of(self, frames: Iterable[Frame], model: str, is_embedding: bool = False) -> tuple[Attributes, ...]:
        """Return the attributes of calls of a model at a path: as they are, and with each of the additions."""
        frames = tuple(frames)
        key = "/".join(frame.name for frame in frames[:_DEPTH]), attribution_of(frames).module, model, is_embedding
        if (found := self._sets.get(key)) is None:
            if len(self._sets) >= _MOST:
                key = OTHER.name, OTHER.name, OTHER.name, is_embedding
            scope, module, model, _ = key
            plain = {"tokenscope.scope": scope, "tokenscope.module": module}
            if model != NO_MODEL:
                operation = "embeddings" if is_embedding else "chat"
                named = {OPERATION: operation, "gen_ai.provider.name": OTHER.name, **request_attributes(model)}
                plain = {**named, **plain}
            found = self._sets.setdefault(key, (plain, *({**plain, **addition} for addition in self._additions)))
        return found

    def with_error(self, attributes: Attributes, call: Call) -> Attributes:
        """Return attributes with the type of the error that ended a call, if one did."""
        return attributes if call.error is None else {**attributes, "error.type": self.error(call.error)}

    def error(self, name: str) -> str:
        """Return an error's type, or OpenTelemetry's `_OTHER` if there are too many types."""
        if len(self._errors) < _MOST_ERRORS:
            self._errors.add(name)
        return name if name in self._errors else "_OTHER"


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    unit = "s" if name.endswith("duration") else _TOKENS
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=_BUCKETS[unit])


class _Instruments:
    """The GenAI metrics that platforms read."""

    def __init__(self, meter: Meter) -> None:
        self.sets = _AttributeSets({"gen_ai.token.type": "input"}, {"gen_ai.token.type": "output"})
        self._tokens = _histogram(meter, "gen_ai.client.token.usage", "Input and output tokens of each model call")
        self._seconds = _histogram(meter, "gen_ai.client.operation.duration", "How long each model call took")

    def record(self, call: Call) -> None:
        counts = call.counts
        plain, input_, output = self.sets.of_path(call.path, call.key.model)
        if counts.input_tokens:
            self._tokens.record(counts.input_tokens, input_)
        if counts.output_tokens:
            self._tokens.record(counts.output_tokens, output)
        if call.seconds:
            self._seconds.record(call.seconds, self.sets.with_error(plain, call))


class _LatestInstruments:
    """The newest GenAI metrics, of semantic-conventions-genai in November 2026. Embeddings have metrics of their own."""

    def __init__(self, meter: Meter) -> None:
        self.sets = _AttributeSets({"gen_ai.token.modality": "unknown"})
        self._usage = [
            (meter.create_counter(f"gen_ai.client.inference.usage.{name}", _TOKENS, description), field)
            for name, (field, description) in _USAGE.items()
        ]
        histogram = partial(_histogram, meter)
        inference, embeddings = "gen_ai.client.inference", "gen_ai.client.embeddings"
        self._input = histogram(f"{inference}.operation.input_tokens", "Input tokens of each model call")
        self._output = histogram(f"{inference}.operation.output_tokens", "Output tokens of each model call")
        self._seconds = histogram(f"{inference}.duration", "How long each model call took")
        self._embedded = histogram(f"{embeddings}.operation.input_tokens", "Input tokens of each embedding request")
        self._embedding_seconds = histogram(f"{embeddings}.duration", "How long each embedding request took")

    def record(self, call: Call) -> None:
        """Record one call. The tokens of one that reports none, as failed ones do, are recorded as 0."""
        counts = call.counts
        plain, with_modality = self.sets.of_path(call.path, call.key.model, call.is_embedding)
        plain = self.sets.with_error(plain, call)
        if call.is_embedding:
            self._embedded.record(counts.input_tokens, plain)
        else:
            for counter, field in self._usage:
                counter.add(getattr(counts, field), with_modality)
            self._input.record(counts.input_tokens, plain)
            self._output.record(counts.output_tokens, plain)
        if call.seconds:
            (self._embedding_seconds if call.is_embedding else self._seconds).record(call.seconds, plain)


class _Export:
    """Records calls with the instruments of one meter provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        self.stopped = False
        self.observer = self.record  # each access to a method makes another object
        meter = provider.get_meter("tokenscope", __version__)
        self._is_latest = wants_latest()
        self._instruments = _LatestInstruments(meter) if self._is_latest else _Instruments(meter)
        for field, unit, description in (
            ("cost", "{USD}", "What the priced calls of the process cost"),
            ("unpriced_calls", "{call}", "Calls of the process that spent tokens of models without a known price"),
        ):
            meter.create_observable_counter(f"tokenscope.{field}", [partial(self._observe, field)], unit, description)

    def record(self, call: Call) -> None:
        """Record one call, unless DSPy's cache answered it. A plain amount is none."""
        try:
            if call.counts.calls and not call.counts.cached_calls and call.key.source != "cache":
                self._instruments.record(call)
        except Exception:  # noqa: BLE001 - metrics must not break the host program
            internal_error("recording metrics")

    def _observe(self, field: str, options: CallbackOptions) -> list[Observation]:
        """Return the sums of a field of usage. Prices are looked up when metrics are collected, not in each call."""
        if self.stopped:
            return []
        sums: defaultdict[tuple[tuple[str, str], ...], Decimal] = defaultdict(Decimal)
        for row, path in inherited(report_of(STATE.root).rows, ROOT, ScopePath):
            for each in row.usages:
                plain = self._instruments.sets.of(path, each.key.model)[0]
                # The newest names tell embeddings apart, and sums do not.
                items = (item for item in plain.items() if not (self._is_latest and item[0] == OPERATION))
                sums[tuple(items)] += getattr(each.spent, field) or 0
        return [Observation(float(value), dict(items)) for items, value in sums.items() if value]

    def stop(self) -> None:
        with _lock:
            self.stopped = True
            unobserve(self.observer)
            if self in _exports:
                _exports.remove(self)


_lock: Final = threading.Lock()
_exports: Final[list[_Export]] = []


def export_metrics(meter_provider: MeterProvider | None = None) -> Callable[[], None]:
    """Record each call that tokenscope counts from now on as metrics, by scope path, module and model.

    `gen_ai.client.token.usage` (tokens) and `gen_ai.client.operation.duration` (seconds) are the GenAI conventions' histograms,
    with two further attributes, `tokenscope.scope` and `tokenscope.module`. `tokenscope.cost` (dollars) and
    `tokenscope.unpriced_calls` count everything that the process has spent. There are at most 990 combinations of scope, module
    and model; further ones are recorded as `(other)`. A scope path has at most 8 levels.

    If the environment variable `OTEL_SEMCONV_STABILITY_OPT_IN` contains `gen_ai_latest_experimental` now, the conventions' newest
    metrics take the place of the two histograms: `gen_ai.client.inference.*` and `gen_ai.client.embeddings.*`.

    Args:
        meter_provider: The meter provider; the global one by default.

    Returns:
        A function that stops the recording.

    Example:
        >>> from opentelemetry.sdk.metrics import MeterProvider
        >>> from tokenscope.integrations.otel import export_metrics
        >>> stop = export_metrics(MeterProvider())
        >>> stop()
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    with _lock:
        for export in _exports:
            if export.provider is provider:
                return export.stop
        export = _Export(provider)
        _exports.append(export)
        observe(export.observer)
    return export.stop
