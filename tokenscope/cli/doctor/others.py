"""What `tokenscope doctor` looks at of others: instrumentors and callbacks, and what they do to what is counted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any, Final

from tokenscope.cli.doctor.checks import NOTE, PROBLEM, Finding
from tokenscope.cli.doctor.models import LITELLM, NATIVE
from tokenscope.cli.doctor.wrappers import overriding, subclasses, wrappers

_PREFIXES: Final = ("opentelemetry-instrumentation-", "openinference-instrumentation-")
_SDKS: Final = frozenset(
    (
        "anthropic",
        "bedrock",
        "cohere",
        "google-genai",
        "google-generativeai",
        "groq",
        "mistralai",
        "ollama",
        "openai",
        "openai-v2",
        "together",
        "vertexai",
    )
)
_INSTRUMENTED: Final = _SDKS | {"dspy", "litellm"}
_PLATFORMS: Final = frozenset(
    (
        "agentops",
        "braintrust",
        "ddtrace",
        "langfuse",
        "langsmith",
        "logfire",
        "mlflow",
        "mlflow-skinny",
        "openlit",
        "opik",
        "traceloop-sdk",
        "weave",
    )
)
_CALLBACKS: Final = ("callbacks", "input_callback", "success_callback", "failure_callback", "_async_success_callback")
_UNSEEN: Final = (
    "not counted by itself would be a call of a provider's SDK or of litellm.completion without DSPy: record_response counts it",
    "counted twice would be a call of DSPy's whose response is looked up later, in lm.history, and given to record_response",
)
"""What no look from outside can find in a program."""


def others(engines: Iterable[str]) -> Iterator[Finding]:
    """Yield who else watches LM calls, installed and active; and where that is counted twice, or not at all.

    Args:
        engines: Which engines the program uses.
    """
    installed = sorted({f"{name} {each.version}" for each in metadata.distributions() if _watches(name := _name(each))})
    if installed:
        yield Finding("others", NOTE, f"installed, and active where a program turns them on: {', '.join(installed)}")
    active = dict(_active())
    for topic, names in active.items():
        text = f"{topic} is instrumented by {' and '.join(names)}: within DSPy's calls, spans add nothing to what is counted"
        yield Finding("others", NOTE, text)
    yield from _blind_or_double(set(active), set(engines))
    yield from _callbacks()
    yield from wrappers()
    yield from overriding()
    yield from (Finding("others", NOTE, text) for text in _UNSEEN)


def _name(distribution: metadata.Distribution) -> str:
    return str(distribution.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")


def _watches(name: str) -> bool:
    topic = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), None)
    return topic in _INSTRUMENTED or name in _PLATFORMS


def _active() -> Iterator[tuple[str, list[str]]]:
    """Yield what is instrumented now by OpenTelemetry's or OpenInference's instrumentors, and by whom."""
    module = sys.modules.get("opentelemetry.instrumentation.instrumentor")
    found: dict[str, list[str]] = {}
    for kind in subclasses(getattr(module, "BaseInstrumentor", None)):
        instance = vars(kind).get("_instance")  # one a class; asking for it would make it
        topic = kind.__module__.removeprefix("opentelemetry.instrumentation.").removeprefix(
            "openinference.instrumentation."
        )
        topic = topic.partition(".")[0].replace("_", "-")
        if topic in _INSTRUMENTED and getattr(instance, "is_instrumented_by_opentelemetry", False):
            found.setdefault(topic, []).append(f"{kind.__module__}.{kind.__qualname__}")
    yield from found.items()


def _blind_or_double(topics: set[str], engines: set[str]) -> Iterator[Finding]:
    """Yield what other instrumentors' own numbers lack or hold twice, by the engine that makes the calls."""
    if LITELLM in engines and "litellm" in topics and topics & {"openai", "openai-v2"}:
        text = "litellm and openai are both instrumented: litellm asks OpenAI by its SDK, so a call is in the spans of both"
        yield Finding("others", PROBLEM, f"{text}, and counted twice by who adds them up; tokenscope counts it once")
    if NATIVE in engines and topics & {*_SDKS, "litellm"}:
        text = "DSPy's native engine passes by litellm and the SDKs: who instruments those sees nothing of its calls"
        yield Finding("others", NOTE, f"{text}; tokenscope counts them")


def _callbacks() -> Iterator[Finding]:
    litellm = sys.modules.get("litellm")
    names = {_told(each): None for kind in _CALLBACKS for each in getattr(litellm, kind, None) or ()}
    names = {name: None for name in names if not name.startswith("dspy.")}
    if names:
        yield Finding("others", NOTE, f"litellm calls back {', '.join(names)}; that adds nothing to what is counted")
    settings: Any = getattr(sys.modules.get("dspy"), "settings", None)
    names = {_told(each): None for each in getattr(settings, "callbacks", None) or ()}
    if names:
        yield Finding("others", NOTE, f"DSPy calls back {', '.join(names)}; that adds nothing to what is counted")


def _told(callback: Any) -> str:
    if isinstance(callback, str):
        return callback
    kind: Any = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{kind.__module__}.{kind.__qualname__}"
