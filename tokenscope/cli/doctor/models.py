"""What `tokenscope doctor` looks at of models: the engine, the price, DSPy's cache, and a real call by each engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final

from tokenscope import integrations
from tokenscope._scopes.scope import DISABLED
from tokenscope._usage.usage import Usage
from tokenscope.cli.doctor.checks import NOTE, OK, PROBLEM, Finding, environment, load, quiet, told

if TYPE_CHECKING:
    from tokenscope.testing import LoopbackProvider

NATIVE: Final = "native"
LITELLM: Final = "litellm"
_MILLION: Final = 1_000_000
_TIMEOUT: Final = 30  # seconds, for a call on loopback
_PROMPT: Final = "Is this counted?"
_PARTS: Final = ("calls", "input_tokens", "output_tokens")


def engine(model: Any, *, fresh: bool) -> tuple[str, Finding]:
    """Return which engine of DSPy a model would use (`native`, `litellm` or another), and say so.

    Args:
        model: A name as `dspy.LM` takes it, or an LM.
        fresh: Import litellm to ask it for the provider.
    """
    import dspy

    name = name_of(model)
    if not isinstance(model, str | dspy.LM):
        return "", Finding("models", OK, f"{name}: an LM of its own, {type(model).__qualname__}")
    select = _selection()
    if select is not None:
        try:
            lm = dspy.LM(model) if isinstance(model, str) else model
            if not isinstance(lm._engine_spec, str):
                return "", Finding("models", OK, f"{name}: an engine of its own, {type(lm._engine_spec).__qualname__}")
            selection = select(lm)
        except Exception as error:  # noqa: BLE001
            return "", Finding("models", PROBLEM, f"{name}: dspy.LM does not take that: {told(error)}")
        if selection.native:
            provider = selection.resolution.provider
            text = f"{name}: DSPy's native engine ({provider}), which uses neither litellm nor the provider's SDK"
            return NATIVE, Finding("models", OK, text)
    if not fresh and "litellm" not in sys.modules:
        return LITELLM, Finding("models", OK, f"{name}: litellm")
    options = {} if isinstance(model, str) else model.kwargs
    where = {key: options[key] for key in ("custom_llm_provider", "api_base") if options.get(key)}
    try:
        litellm = load("litellm")
        with quiet():
            provider = litellm.get_llm_provider(name, **where)[1]
    except Exception as error:  # noqa: BLE001
        known = "knows no such provider" if type(error).__name__ == "BadRequestError" else told(error)
        return LITELLM, Finding("models", NOTE, f"{name}: litellm, which {known}")
    return LITELLM, Finding("models", OK, f"{name}: litellm ({provider})")


def _selection() -> Any:
    """Return what DSPy chooses engines with; None where there is only litellm, before DSPy 3.4."""
    try:
        return import_module("dspy.clients.backend_selection").select_backend
    except (ImportError, AttributeError):
        return None


def configured() -> tuple[Any, ...]:
    """Return the LM that DSPy is configured with, if any."""
    import dspy

    return () if dspy.settings.lm is None else (dspy.settings.lm,)


def name_of(model: Any) -> str:
    """Return the name that reports call a model by."""
    return model if isinstance(model, str) else str(getattr(model, "model", None) or type(model).__name__)


def prices(models: Iterable[str]) -> Iterator[Finding]:
    """Yield the price of each model, and where prices come from."""
    from tokenscope._report.formats.text import dollars
    from tokenscope._usage.prices import check_priced, known_models, price

    for model in models:
        try:
            check_priced(model)
        except ValueError as error:
            yield Finding("prices", NOTE, str(error))
            continue
        rates = [price(model, usage, 0) for usage in (Usage(input_tokens=_MILLION), Usage(output_tokens=_MILLION))]
        read, written = (dollars(rate) if rate is not None else "?" for rate in rates)
        yield Finding("prices", OK, f"{model}: {read} for a million input tokens, {written} for output")
    table = f"genai-prices {metadata.version('genai-prices')}, {len(known_models()):,} models; nothing is fetched"
    yield Finding("prices", OK, table)


def cache() -> Finding:
    """Tell whether DSPy's own cache is on."""
    import dspy

    kinds = {"disk": dspy.cache.enable_disk_cache, "memory": dspy.cache.enable_memory_cache}
    on = " and ".join(kind for kind, enabled in kinds.items() if enabled)
    if not on:
        return Finding("cache", OK, "DSPy's cache is off: every call asks the provider")
    return Finding("cache", OK, f"DSPy's cache is on ({on}): what it answers costs nothing, and counts as cached_calls")


def trials() -> Iterator[Finding]:
    """Make one real call by each engine and one for embeddings, on loopback, and compare what is counted with the bill."""
    if DISABLED or not integrations._active:
        yield Finding("trial", NOTE, "no call was made, for it would not be counted")
        return
    both = _selection() is not None
    if both:
        yield _trial("DSPy's native engine", lambda provider: provider.lm(timeout=_TIMEOUT, engine="lm15")(_PROMPT))
    try:
        load("litellm")
    except Exception as error:  # noqa: BLE001
        yield Finding("trial", NOTE if both else PROBLEM, f"litellm cannot be imported: {told(error)}")
        return
    options = {"engine": "litellm"} if both else {}
    yield _trial("litellm", lambda provider: provider.lm(timeout=_TIMEOUT, **options)(_PROMPT))
    yield _trial("embeddings by litellm", _embed)


def _embed(provider: LoopbackProvider) -> None:
    import dspy

    where: dict[str, Any] = {"api_base": provider.url, "api_key": "loopback", "timeout": _TIMEOUT}
    dspy.Embedder("openai/text-embedding-3-small", caching=False, **where)([_PROMPT])


def _trial(name: str, call: Callable[[LoopbackProvider], object]) -> Finding:
    from tokenscope._scopes.token_scope import token_scope
    from tokenscope.testing import LoopbackProvider

    try:
        # A proxy that is named in the environment cannot reach this machine's loopback.
        with environment(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1"), quiet(), LoopbackProvider() as provider:
            with token_scope("tokenscope doctor") as scope:
                call(provider)
            billed, spent = provider.total, scope.usage
    except Exception as error:  # noqa: BLE001
        return Finding("trial", PROBLEM, f"{name}: a call to a server on loopback failed: {told(error)}")
    equal = all(getattr(spent, part) == getattr(billed, part) for part in _PARTS)
    said = f"{name}: a call to a server on loopback was billed {_amount(billed)}, and counted as "
    return Finding("trial", OK, f"{said}that") if equal else Finding("trial", PROBLEM, f"{said}{_amount(spent)}")


def _amount(usage: Usage) -> str:
    return f"{usage.input_tokens} + {usage.output_tokens} tokens in {usage.calls} call{'' if usage.calls == 1 else 's'}"
