"""The tools, each as its documentation says to set it up for DSPy, and in its best set-up that we know.

A tool's scope is its own `with` block. To a scope belong the tokens of the spans below its span. A span with counts is counted
once: what is below it is part of it. Nothing leaves the machine: spans are exported to memory, or to a file in a new folder.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

NOWHERE = "http://127.0.0.1:9"  # no server answers there
Totals = dict[str, "int | None"]


class Tool(NamedTuple):
    """A tool that is set up: its scope, and a function that returns the tokens of each scope at the end."""

    scope: Callable[[str], AbstractContextManager[Any]]
    totals: Callable[[], Totals]
    lm: dict[str, Any] = {}  # options of the LMs


class Span(NamedTuple):
    """A span as all tools have it."""

    key: object
    parent: object
    name: str
    tokens: int | None


def add_up(spans: Iterable[Span]) -> Totals:
    """Return the tokens below each span, by its name; None where no span below has counts."""
    below: dict[object, list[Span]] = {}
    spans = list(spans)
    for span in spans:
        below.setdefault(span.parent, []).append(span)

    def total(span: Span) -> int | None:
        if span.tokens is not None:
            return span.tokens
        found = [tokens for each in below.get(span.key, ()) if (tokens := total(each)) is not None]
        return sum(found) if found else None

    return {span.name: total(span) for span in spans}


def tokenscope() -> Tool:
    """`import tokenscope`, and `token_scope`."""
    from tokenscope import token_scope

    scopes: dict[str, Any] = {}

    @contextlib.contextmanager
    def scope(name: str) -> Iterator[None]:
        with token_scope(name) as scopes[name]:
            yield

    return Tool(scope, lambda: {name: each.usage.total_tokens for name, each in scopes.items()})


def track_usage() -> Tool:
    """`with dspy.track_usage()`."""
    import dspy

    trackers: dict[str, Any] = {}

    @contextlib.contextmanager
    def scope(name: str) -> Iterator[None]:
        with dspy.track_usage() as trackers[name]:
            yield

    def tokens(tracker: Any) -> int:
        usages = tracker.get_total_tokens().values()
        return sum(usage.get("prompt_tokens", 0) + (usage.get("completion_tokens") or 0) for usage in usages)

    return Tool(scope, lambda: {name: tokens(tracker) for name, tracker in trackers.items()})


def callback() -> Tool:
    """A callback that adds up the usage in `lm.history`, and scopes that subtract the sum before from the sum after."""
    import dspy
    from dspy.utils.callback import BaseCallback

    class Sum(BaseCallback):
        def __init__(self) -> None:
            self.tokens = 0
            self.lms: dict[str, Any] = {}

        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            self.lms[call_id] = instance

        def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            history = self.lms.pop(call_id).history
            if exception is None and history:
                self.tokens += history[-1]["usage"].get("total_tokens", 0)

    counted, totals = Sum(), {}
    dspy.configure(callbacks=[counted])

    @contextlib.contextmanager
    def scope(name: str) -> Iterator[None]:
        before = counted.tokens
        yield
        totals[name] = counted.tokens - before

    return Tool(scope, lambda: totals)


_COUNTS = (
    ("llm.token_count.prompt", "llm.token_count.completion"),
    ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
)


def _of_otel(spans: Iterable[Any]) -> Iterator[Span]:
    for span in spans:
        given = span.attributes or {}
        found = [given[name] for both in _COUNTS for name in both if name in given][:2]
        parent = span.parent.span_id if span.parent else None
        yield Span(span.context.span_id, parent, span.name, sum(found) if found else None)


def _instrument(*, best: bool) -> dict[str, Any]:
    """Turn OpenInference's instrumentors on, and return the options that LMs need for them."""
    from openinference.instrumentation.dspy import DSPyInstrumentor

    DSPyInstrumentor().instrument()
    if not best:
        return {}
    from openinference.instrumentation.litellm import LiteLLMInstrumentor
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor

    LiteLLMInstrumentor().instrument()
    ThreadingInstrumentor().instrument()
    return {"engine": "litellm"}


def openinference(*, best: bool = False) -> Tool:
    """`DSPyInstrumentor`; at best also those of litellm and of threads, and LMs of DSPy's engine `litellm`."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    options = _instrument(best=best)
    tracer = trace.get_tracer("peers")
    return Tool(tracer.start_as_current_span, lambda: add_up(_of_otel(exporter.get_finished_spans())), options)


def langfuse(*, best: bool = False) -> Tool:
    """`DSPyInstrumentor` and Langfuse's client; at best with the other instrumentors, and without its filter of spans."""
    from langfuse import Langfuse
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    unfiltered = {"should_export_span": lambda _: True} if best else {}
    client = Langfuse(public_key="pk", secret_key="sk", base_url=NOWHERE, span_exporter=exporter, **unfiltered)
    options = _instrument(best=best)

    def totals() -> Totals:
        client.flush()
        return add_up(_of_otel(exporter.get_finished_spans()))

    return Tool(lambda name: client.start_as_current_observation(name=name), totals, options)


def logfire(*, best: bool = False) -> Tool:
    """`logfire.instrument_dspy()`; at best also `instrument_litellm()`, and LMs of DSPy's engine `litellm`."""
    import logfire
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    processors = [SimpleSpanProcessor(exporter)]
    logfire.configure(send_to_logfire=False, console=False, additional_span_processors=processors)
    logfire.instrument_dspy()
    if best:
        logfire.instrument_litellm()
    options = {"engine": "litellm"} if best else {}
    span = lambda name: logfire.span(name, _span_name=name)  # noqa: E731 - else it reads the name in its caller's source
    return Tool(span, lambda: add_up(_of_otel(exporter.get_finished_spans())), options)


def mlflow(*, best: bool = False) -> Tool:
    """`mlflow.dspy.autolog()`; at best also traces of compiling. Traces go to a new SQLite file, synchronously."""
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    import mlflow

    folder = tempfile.mkdtemp()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("peers")
    mlflow.dspy.autolog(**({"log_traces_from_compile": True} if best else {}))

    def spans() -> Iterator[Span]:
        for trace in mlflow.search_traces(return_type="list", max_results=10_000):
            for span in trace.data.spans:
                usage = span.get_attribute("mlflow.chat.tokenUsage") or {}
                key, parent = (trace.info.trace_id, span.span_id), (trace.info.trace_id, span.parent_id)
                yield Span(key, parent, span.name, usage.get("total_tokens"))

    return Tool(mlflow.start_span, lambda: add_up(spans()))


def opik() -> Tool:
    """`OpikCallback` in DSPy's settings; traces are recorded locally."""
    folder = tempfile.mkdtemp()
    os.environ.update(OPIK_URL_OVERRIDE=NOWHERE, OPIK_CONFIG_PATH=f"{folder}/opik.config", OPIK_SENTRY_ENABLE="false")
    import dspy
    import opik
    from opik.integrations.dspy.callback import OpikCallback

    recording = contextlib.ExitStack()
    handle = recording.enter_context(opik.record_traces_locally())
    dspy.configure(callbacks=[OpikCallback()])

    def spans() -> Iterator[Span]:
        waiting = [(None, span) for trace in handle.trace_trees for span in trace.spans]
        while waiting:
            parent, span = waiting.pop()
            usage = span.usage or {}
            yield Span(span.id, parent, str(span.name), usage.get("total_tokens"))
            waiting += [(span.id, below) for below in span.spans]

    def totals() -> Totals:
        with recording:  # it ends here, and not before
            return add_up(spans())

    return Tool(lambda name: opik.start_as_current_span(name=name), totals)


class Way(NamedTuple):
    """A tool in one set-up."""

    title: str
    set_up: Callable[[], Tool]
    requirements: tuple[str, ...]  # what its environment has, besides DSPy
    versions: tuple[str, ...] = ()  # the distributions whose versions are reported
    best: bool = True


_SPANS = ("openinference-instrumentation-dspy", "openinference-instrumentation-litellm")
_THREADS = "opentelemetry-instrumentation-threading"
WAYS: dict[str, Way] = {
    "track_usage": Way("`dspy.track_usage()`", track_usage, (), ("dspy",)),
    "callback": Way("a callback that diffs", callback, ()),
    "mlflow": Way("MLflow", lambda: mlflow(best=True), ("mlflow",), ("mlflow",)),
    "mlflow-documented": Way("MLflow", mlflow, ("mlflow",), ("mlflow",), best=False),
    "opik": Way("Opik", opik, ("opik",), ("opik",)),
    "openinference": Way(
        "OpenInference", lambda: openinference(best=True), (*_SPANS, _THREADS, "opentelemetry-sdk"), (*_SPANS, _THREADS)
    ),
    "openinference-documented": Way(
        "OpenInference", openinference, (*_SPANS, _THREADS, "opentelemetry-sdk"), _SPANS[:1], best=False
    ),
    "langfuse": Way("Langfuse", lambda: langfuse(best=True), ("langfuse", *_SPANS, _THREADS), ("langfuse",)),
    "langfuse-documented": Way("Langfuse", langfuse, ("langfuse", *_SPANS, _THREADS), ("langfuse",), best=False),
    "logfire": Way("Logfire", lambda: logfire(best=True), ("logfire[dspy,litellm]",), ("logfire",)),
    "logfire-documented": Way("Logfire", logfire, ("logfire[dspy,litellm]",), ("logfire",), best=False),
    "tokenscope": Way("tokenscope", tokenscope, (), ("dspy-tokenscope",)),
}
