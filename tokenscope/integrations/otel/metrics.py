"""The way out, as metrics: tokens, durations and costs by scope, module and model, in OpenTelemetry's GenAI names."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from tokenscope._report.attribution import Attribution
from tokenscope._report.report import Report
from tokenscope._scopes.enforcement import report_of
from tokenscope._scopes.event_log import observe, unobserve
from tokenscope._scopes.process import STATE
from tokenscope._usage.calls import NO_SCOPE, OTHER, Call, Frame, ScopePath
from tokenscope._usage.warnings import internal_error
from tokenscope._version import __version__
from tokenscope.integrations.otel.names import request_attributes

_MOST: Final = 990
"""How many attribute sets there are at most; times two kinds of tokens, that is below OpenTelemetry's own limit of 2,000."""
_MOST_ERRORS: Final = 50
_CACHED: Final = 10_000
_DEPTH: Final = 8
"""How many levels of a path there are in an attribute."""

_TOKEN_BUCKETS: Final = [4**power for power in range(14)]
_SECONDS_BUCKETS: Final = [0.01 * 2**power for power in range(14)]

Attributes = dict[str, str]


class _AttributeSets:
    """The attributes of calls, by where they were made and of which model: so many, and one for all the others."""

    def __init__(self) -> None:
        self._of_call: dict[tuple[ScopePath, str], tuple[Attributes, Attributes, Attributes]] = {}
        self._sets: dict[tuple[str, str, str], tuple[Attributes, Attributes, Attributes]] = {}
        self._errors: set[str] = set()

    def of_call(self, call: Call) -> tuple[Attributes, Attributes, Attributes]:
        """Return a call's attributes: plain, those of its input, those of its output."""
        key = call.path, call.key.model
        found = self._of_call.get(key)
        if found is None:
            found = self.of(tuple(call.path), call.key.model)
            if len(self._of_call) < _CACHED:
                self._of_call[key] = found
        return found

    def of(self, frames: Iterable[Frame], model: str) -> tuple[Attributes, Attributes, Attributes]:
        place: Attribution | None = None
        names: list[str] = []
        for frame in frames:
            place = Attribution(place, frame)
            names.append(frame.name)
        module = NO_SCOPE.name
        if place is not None:
            module = place.module or place.predictor or place.scope or module
        key = "/".join(names[:_DEPTH]), module, model
        found = self._sets.get(key)
        if found is None:
            if len(self._sets) >= _MOST:
                key = OTHER.name, OTHER.name, OTHER.name
            found = self._sets.setdefault(key, _attributes(*key))
        return found

    def error(self, name: str) -> str:
        """Return an error's type; OpenTelemetry's `_OTHER` where there are too many."""
        if name not in self._errors:
            if len(self._errors) >= _MOST_ERRORS:
                return "_OTHER"
            self._errors.add(name)
        return name


def _attributes(scope: str, module: str, model: str) -> tuple[Attributes, Attributes, Attributes]:
    plain = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": OTHER.name,
        **request_attributes(model),
        "tokenscope.scope": scope,
        "tokenscope.module": module,
    }
    return plain, {**plain, "gen_ai.token.type": "input"}, {**plain, "gen_ai.token.type": "output"}


class _Export:
    """Instruments of one meter provider, and what is recorded with them."""

    def __init__(self, provider: MeterProvider) -> None:
        self.provider = provider
        self.stopped = False
        self.observer = self.record  # one object: each look at a method makes another
        self._sets = _AttributeSets()
        meter = provider.get_meter("tokenscope", __version__)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Input and output tokens of each model call",
            explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS,
        )
        self._seconds = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="How long each model call took",
            explicit_bucket_boundaries_advisory=_SECONDS_BUCKETS,
        )
        meter.create_observable_counter(
            "tokenscope.cost", [self._costs], unit="{USD}", description="What the priced calls of the process cost"
        )
        meter.create_observable_counter(
            "tokenscope.unpriced_calls",
            [self._unpriced],
            unit="{call}",
            description="Calls of the process that spent tokens at a price nobody knows",
        )

    def record(self, call: Call) -> None:
        """Record one call; what DSPy's cache answered is none."""
        try:
            counts = call.counts
            if counts.cached_calls or call.key.source == "cache":
                return
            plain, input_, output = self._sets.of_call(call)
            if counts.input_tokens:
                self._tokens.record(counts.input_tokens, input_)
            if counts.output_tokens:
                self._tokens.record(counts.output_tokens, output)
            if call.error is not None:
                plain = {**plain, "error.type": self._sets.error(call.error)}
            if call.seconds:
                self._seconds.record(call.seconds, plain)
        except Exception:  # noqa: BLE001 - the host program goes on, whatever its metrics do
            internal_error("recording metrics")

    def _costs(self, options: CallbackOptions) -> Iterable[Observation]:
        """Prices are looked up here, when metrics are collected, and not when a call is counted."""
        return [] if self.stopped else self._observe(lambda usage: usage.cost)

    def _unpriced(self, options: CallbackOptions) -> Iterable[Observation]:
        return [] if self.stopped else self._observe(lambda usage: usage.unpriced_calls)

    def _observe(self, measure: Callable[[Any], Decimal | int]) -> list[Observation]:
        sums: defaultdict[int, Decimal] = defaultdict(Decimal)
        sets: dict[int, Attributes] = {}
        for frames, model, usage in _spent(report_of(STATE.root)):
            plain = self._sets.of(frames, model)[0]
            sets[id(plain)] = plain
            sums[id(plain)] += measure(usage)
        return [Observation(float(value), sets[key]) for key, value in sums.items() if value]

    def stop(self) -> None:
        """Record nothing more."""
        with _lock:
            self.stopped = True
            unobserve(self.observer)
            if self in _exports:
                _exports.remove(self)


def _spent(report: Report) -> Iterator[tuple[tuple[Frame, ...], str, Any]]:
    paths: list[tuple[Frame, ...]] = []
    for row in report.rows:
        above = paths[row.parent] if row.parent >= 0 else ()
        paths.append((*above, row.frame))
        for model, usage in row.models:
            yield paths[-1], model, usage


_lock: Final = threading.Lock()
_exports: Final[list[_Export]] = []


def export_metrics(meter_provider: MeterProvider | None = None) -> Callable[[], None]:
    """Record each call that tokenscope counts from now on as metrics, by scope path, module and model.

    `gen_ai.client.token.usage` (tokens) and `gen_ai.client.operation.duration` (seconds) are the GenAI conventions' histograms,
    with the attributes `tokenscope.scope` and `tokenscope.module` beside theirs; `tokenscope.cost` (dollars) and
    `tokenscope.unpriced_calls` count all that the process has spent. There are at most 990 sets of scope, module and model;
    what comes after is `(other)`, and of a path, the first 8 levels are told.

    Args:
        meter_provider: Where to; the global one where left out.

    Returns:
        A function that ends it.

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
