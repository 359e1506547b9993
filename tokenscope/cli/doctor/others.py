"""The checks of `tokenscope doctor` that concern other code: instrumentors, callbacks, covered patches, LMs of one's own."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from importlib import metadata
from typing import Any, Final

from tokenscope.cli.doctor.checks import NOTE, PROBLEM, Finding
from tokenscope.cli.doctor.models import LITELLM, NATIVE
from tokenscope.integrations.patches import covered

_PREFIXES: Final = ("opentelemetry-instrumentation-", "openinference-instrumentation-")
_SDKS: Final = {
    *("anthropic", "bedrock", "cohere", "google-genai", "google-generativeai", "groq", "mistralai", "ollama"),
    *("openai", "openai-v2", "together", "vertexai"),
}
_INSTRUMENTED: Final = _SDKS | {"dspy", "litellm"}
_PLATFORMS: Final = {
    *("agentops", "braintrust", "ddtrace", "langfuse", "langsmith", "logfire", "mlflow", "mlflow-skinny"),
    *("openlit", "opik", "traceloop-sdk", "weave"),
}
_CALLBACKS: Final = ("callbacks", "input_callback", "success_callback", "failure_callback", "_async_success_callback")
_UNSEEN: Final = (
    "no check sees a call to a provider's SDK or to litellm.completion without DSPy: record_response counts it",
    "no check sees a response of DSPy that is taken from lm.history and given to record_response: it is counted twice",
)


def others(engines: Collection[str]) -> Iterator[Finding]:
    """Yield a finding for all other code that watches or changes the LM calls of a program that uses some engines."""
    active = _active_instrumentors()
    if LITELLM in engines and "litellm" in active and active.keys() & {"openai", "openai-v2"}:
        both = (
            "litellm and openai are both instrumented: litellm calls OpenAI's SDK, so each call is in the spans of both"
        )
        yield Finding("others", PROBLEM, f"{both}. The sum of the spans counts it twice; tokenscope counts it once")
    for text in _notes(active, native=NATIVE in engines):
        yield Finding("others", NOTE, text)


def _notes(active: dict[str, list[str]], *, native: bool) -> Iterator[str]:
    nothing = "that adds nothing to what is counted"
    installed = {f"{name} {each.version}" for each in metadata.distributions() if _watches(name := _name(each))}
    if installed:
        yield f"installed, and active if a program turns them on: {', '.join(sorted(installed))}"
    for topic, instrumentors in active.items():
        yield f"{topic} is instrumented by {' and '.join(instrumentors)}; within DSPy's calls, {nothing}"
    if native and active.keys() & {*_SDKS, "litellm"}:
        text = "DSPy's native engine uses neither litellm nor the SDKs, so their instrumentors do not see its calls"
        yield f"{text}; tokenscope counts them"
    for package, callbacks in _callbacks().items():
        if callbacks:
            yield f"{package} calls back {', '.join(callbacks)}; {nothing}"
    for patch in covered():
        text = f"{patch.module}.{patch.name} was wrapped or replaced after tokenscope had patched it"
        yield f"{text}: calls are counted if it still calls what it wraps"
    for kind in _subclasses(getattr(sys.modules.get("dspy.clients.base_lm"), "BaseLM", None)):
        own = [name for name in ("__call__", "acall") if name in vars(kind)]
        if own and not kind.__module__.startswith("dspy."):
            text = f"{kind.__module__}.{kind.__qualname__} has its own {' and '.join(own)}"
            yield f"{text}: its calls are counted if it calls super() or another LM"
    yield from _UNSEEN


def _name(distribution: metadata.Distribution) -> str:
    return str(distribution.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")


def _watches(name: str) -> bool:
    topic = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), None)
    return topic in _INSTRUMENTED or name in _PLATFORMS


def _active_instrumentors() -> dict[str, list[str]]:
    """Return the packages that OpenTelemetry's or OpenInference's instrumentors watch now, with these instrumentors."""
    found: dict[str, list[str]] = {}
    module = sys.modules.get("opentelemetry.instrumentation.instrumentor")
    for kind in _subclasses(getattr(module, "BaseInstrumentor", None)):
        instance = vars(kind).get("_instance")  # one a class; calling the class would make it
        if getattr(instance, "is_instrumented_by_opentelemetry", False):
            # openai-v2 of opentelemetry.instrumentation.openai_v2
            topic = "".join(kind.__module__.split(".")[2:3]).replace("_", "-")
            if topic in _INSTRUMENTED:
                found.setdefault(topic, []).append(f"{kind.__module__}.{kind.__qualname__}")
    return found


def _callbacks() -> dict[str, list[str]]:
    """Return the names of the callbacks of litellm, without those that DSPy adds to it, and of DSPy."""
    import dspy

    litellm = sys.modules.get("litellm")
    theirs = [_callback_name(each) for kind in _CALLBACKS for each in getattr(litellm, kind, None) or ()]
    return {
        "litellm": list(dict.fromkeys(name for name in theirs if not name.startswith("dspy."))),
        "DSPy": list(dict.fromkeys(map(_callback_name, dspy.settings.callbacks or ()))),
    }


def _callback_name(callback: Any) -> str:
    if isinstance(callback, str):
        return callback
    kind: Any = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{kind.__module__}.{kind.__qualname__}"


def _subclasses(kind: Any) -> dict[Any, None]:
    found: dict[Any, None] = {}
    for below in () if kind is None else kind.__subclasses__():
        found |= {below: None} | _subclasses(below)
    return found
