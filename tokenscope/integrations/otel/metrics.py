"""Usage out of tokenscope, as OpenTelemetry's GenAI metrics: tokens, durations and costs by scope, module and model."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache, partial
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from tokenscope._report.attribution import attribution_of
from tokenscope._scopes.enforcement import report_of
from tokenscope._scopes.event_log import observe, unobserve
from tokenscope._scopes.process import STATE
from tokenscope._usage.calls import OTHER, Call, Frame
from tokenscope._usage.warnings import internal_error
from tokenscope._version import __version__
from tokenscope.integrations.otel.attributes import request_attributes

_MOST: Final = 990
"""How many attribute sets there are at most. With two types of tokens each, they stay below OpenTelemetry's limit of 2,000."""
_MOST_ERRORS: Final = 50
_DEPTH: Final = 8
"""How many levels of a path an attribute has at most."""

_TOKEN_BUCKETS: Final = [4**power for power in range(14)]
_SECONDS_BUCKETS: Final = [0.01 * 2**power for power in range(14)]
_HISTOGRAMS: Final = (
    ("gen_ai.client.token.usage", "{token}", "Input and output tokens of each model call", _TOKEN_BUCKETS),
    ("gen_ai.client.operation.duration", "s", "How long each model call took", _SECONDS_BUCKETS),
)
"""Names, units, descriptions and the boundaries of buckets."""
_COUNTERS: Final = (
    ("cost", "{USD}", "What the priced calls of the process cost"),
    ("unpriced_calls", "{call}", "Calls of the process that spent tokens of models without a known price"),
)
"""Fields of usage, units and descriptions."""

Attributes = dict[str, str]
AttributeTriple = tuple[Attributes, Attributes, Attributes]
"""A call's attributes: without a type of tokens, for its input, and for its output."""


class _AttributeSets:
    """The attribute sets of calls, by path and model: a limited number, and one set for all further calls."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, str, str], AttributeTriple] = {}
        self._errors: set[str] = set()
        self.of_path = lru_cache(maxsize=10_000)(self.of)

    def of(self, frames: Iterable[Frame], model: str) -> AttributeTriple:
        """Return the attributes of calls of a model at a path."""
        frames = tuple(frames)
        key = "/".join(frame.name for frame in frames[:_DEPTH]), attribution_of(frames).module, model
        found = self._sets.get(key)
        if found is None:
            if len(self._sets) >= _MOST:
                key = OTHER.name, OTHER.name, OTHER.name
            scope, module, model = key
            plain = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": OTHER.name,
                **request_attributes(model),
                "tokenscope.scope": scope,
                "tokenscope.module": module,
            }
            triple = plain, {**plain, "gen_ai.token.type": "input"}, {**plain, "gen_ai.token.type": "output"}
            found = self._sets.setdefault(key, triple)
        return found

    def error(self, name: str) -> str:
        """Return an error's type, or OpenTelemetry's `_OTHER` if there are too many types."""
        if name not in self._errors:
            if len(self._errors) >= _MOST_ERRORS:
                return "_OTHER"
            self._errors.add(name)
        return name


class _Export:
    """Records calls with the instruments of one meter provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        self.stopped = False
        self.observer = self.record  # each access to a method makes another object
        self._sets = _AttributeSets()
        meter = provider.get_meter("tokenscope", __version__)
        self._tokens, self._seconds = (
            meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)
            for name, unit, description, buckets in _HISTOGRAMS
        )
        for field, unit, description in _COUNTERS:
            observe_field = partial(self._observe, field)
            meter.create_observable_counter(f"tokenscope.{field}", [observe_field], unit=unit, description=description)

    def record(self, call: Call) -> None:
        """Record one call, unless DSPy's cache answered it."""
        try:
            counts = call.counts
            if counts.cached_calls or call.key.source == "cache":
                return
            plain, input_, output = self._sets.of_path(call.path, call.key.model)
            if counts.input_tokens:
                self._tokens.record(counts.input_tokens, input_)
            if counts.output_tokens:
                self._tokens.record(counts.output_tokens, output)
            if call.error is not None:
                plain = {**plain, "error.type": self._sets.error(call.error)}
            if call.seconds:
                self._seconds.record(call.seconds, plain)
        except Exception:  # noqa: BLE001 - metrics must not break the host program
            internal_error("recording metrics")

    def _observe(self, field: str, options: CallbackOptions) -> list[Observation]:
        """Return the sums of a field of usage. Prices are looked up when metrics are collected, not in each call."""
        if self.stopped:
            return []
        sums: defaultdict[tuple[tuple[str, str], ...], Decimal] = defaultdict(Decimal)
        paths: list[tuple[Frame, ...]] = []
        for row in report_of(STATE.root).rows:
            paths.append((*(paths[row.parent] if row.parent >= 0 else ()), row.frame))
            for model, usage in row.models:
                plain = self._sets.of(paths[-1], model)[0]
                sums[tuple(plain.items())] += getattr(usage, field) or 0
        return [Observation(float(value), dict(items)) for items, value in sums.items() if value]

    def stop(self) -> None:
        """Record no more calls."""
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
