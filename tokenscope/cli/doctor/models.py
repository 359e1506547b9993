"""The checks of `tokenscope doctor` that concern models: the engine, the price, DSPy's cache, and a real call by each engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final

from tokenscope import Usage, token_scope
from tokenscope._report.formats.text import dollars, listed, one_line, plural, unused_price
from tokenscope._scopes.process import DISABLED
from tokenscope.cli.console import quiet
from tokenscope.cli.doctor.checks import LITELLM, NATIVE, NOTE, OK, PROBLEM, load
from tokenscope.integrations.patches import is_active

if TYPE_CHECKING:
    from tokenscope.testing import LoopbackProvider

_MILLION: Final = 1_000_000
_TIMEOUT: Final = 30  # seconds, for a call on loopback
_PROMPT: Final = "Is this counted?"


def engine(model: Any, *, fresh: bool) -> tuple[str, str, str]:
    """Return the engine of DSPy that a name or an LM would use (`native`, `litellm` or another), and the finding.

    In a fresh process, import litellm to ask it for the provider.
    """
    import dspy

    name = name_of(model)
    if not isinstance(model, str | dspy.LM):
        return "", OK, f"{name}: an LM of its own, {type(model).__qualname__}"
    if (select := _selection()) is not None:
        try:
            lm = dspy.LM(model) if isinstance(model, str) else model
            spec = getattr(lm, "_engine_spec", "")
            if not isinstance(spec, str):
                return "", OK, f"{name}: an engine of its own, {type(spec).__qualname__}"
            selection = select(lm)
        except Exception as error:  # noqa: BLE001
            return "", PROBLEM, f"{name}: dspy.LM does not take that: {one_line(error)}"
        if selection.native:
            provider = selection.resolution.provider
            text = f"{name}: DSPy's native engine ({provider}), which uses neither litellm nor the provider's SDK"
            return NATIVE, OK, text
    if not fresh and "litellm" not in sys.modules:
        return LITELLM, OK, f"{name}: litellm"
    options = {} if isinstance(model, str) else model.kwargs
    where = {key: options[key] for key in ("custom_llm_provider", "api_base") if options.get(key)}
    try:
        litellm = load("litellm")
        with quiet():
            provider = litellm.get_llm_provider(name, **where)[1]
    except Exception as error:  # noqa: BLE001
        known = "knows no such provider" if type(error).__name__ == "BadRequestError" else one_line(error)
        return LITELLM, NOTE, f"{name}: litellm, which {known}"
    return LITELLM, OK, f"{name}: litellm ({provider})"


def _selection() -> Any:
    """Return the function with which DSPy selects engines; None before DSPy 3.4, where there is only litellm."""
    try:
        return import_module("dspy.clients.backend_selection").select_backend
    except (ImportError, AttributeError):
        return None


def name_of(model: Any) -> str:
    """Return the name of a model in reports."""
    return model if isinstance(model, str) else str(getattr(model, "model", None) or type(model).__name__)


def prices(models: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the price of each model, where prices come from, and which of those that are set no model has."""
    from tokenscope import report
    from tokenscope._usage.custom_prices import PRICES_VARIABLE, custom_names, unused_names
    from tokenscope._usage.prices import check_priced, known_models, price

    for model in models:
        try:
            check_priced(model)
        except ValueError as error:
            yield NOTE, str(error)
            continue
        rates = [price(model, usage, 0) for usage in (Usage(input_tokens=_MILLION), Usage(output_tokens=_MILLION))]
        read, written = (dollars(rate) if rate is not None else "?" for rate in rates)
        yield OK, f"{model}: {read} for a million input tokens, {written} for output"
    if names := custom_names():
        file = os.environ.get(PRICES_VARIABLE)
        where = f" ({PRICES_VARIABLE} is {file})" if file else ""
        yield OK, f"prices are set for {plural(len(names), 'name')}{where}"
    known = {*models, *report().by_model()}  # to be checked, or called
    others = []
    for name in unused_names(names, known):
        if note := unused_price(name, sorted(known)):
            yield NOTE, note
        else:
            others.append(repr(name))
    if others:
        unused = f"prices are set for {listed(others)}, but no call has such a name here"
        yield NOTE, f"{unused}; name the models of your program to compare them"
    in_table = len(known_models()) - len(names)
    yield OK, f"genai-prices {metadata.version('genai-prices')}, {in_table:,} models; nothing is fetched"


def cache() -> tuple[str, str]:
    """Return whether DSPy's own cache is on."""
    import dspy

    kinds = {"disk": dspy.cache.enable_disk_cache, "memory": dspy.cache.enable_memory_cache}
    on = " and ".join(kind for kind, enabled in kinds.items() if enabled)
    if not on:
        return OK, "DSPy's cache is off: every call asks the provider"
    return OK, f"DSPy's cache is on ({on}): its answers cost nothing, and count as cached_calls"


def trials() -> Iterator[tuple[str, str]]:
    """Make a real call on loopback by each engine and one for embeddings, and compare what is counted with the bill."""
    if DISABLED or not is_active():
        yield NOTE, "no call was made, since it would not be counted"
        return
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # a proxy cannot reach this machine's loopback
    native = _selection() is not None
    if native:
        yield trial("DSPy's native engine", lambda provider: provider.lm(timeout=_TIMEOUT, engine="lm15")(_PROMPT))
    try:
        load("litellm")
    except Exception as error:  # noqa: BLE001
        yield NOTE if native else PROBLEM, f"litellm cannot be imported: {one_line(error)}"
        return
    options = {"engine": "litellm"} if native else {}
    yield trial("litellm", lambda provider: provider.lm(timeout=_TIMEOUT, **options)(_PROMPT))
    yield trial("embeddings by litellm", _embed)


def _embed(provider: LoopbackProvider) -> None:
    import dspy

    where: dict[str, Any] = {"api_base": provider.url, "api_key": "loopback", "timeout": _TIMEOUT}
    dspy.Embedder("openai/text-embedding-3-small", caching=False, **where)([_PROMPT])


def trial(name: str, call: Callable[[LoopbackProvider], object]) -> tuple[str, str]:
    """Make a call to a provider on loopback, and compare what is counted with the bill."""
    from tokenscope.testing import LoopbackProvider

    try:
        with quiet(), LoopbackProvider() as provider, token_scope("tokenscope doctor") as scope:
            call(provider)
    except Exception as error:  # noqa: BLE001
        return PROBLEM, f"{name}: a call to a server on loopback failed: {one_line(error)}"
    billed, counted = _amount(provider.total), _amount(scope.usage)
    text = f"{name}: a call to a server on loopback was billed {billed}, and counted as"
    return (OK, f"{text} that") if billed == counted else (PROBLEM, f"{text} {counted}")


def _amount(usage: Usage) -> str:
    return f"{usage.input_tokens} + {usage.output_tokens} tokens in {plural(usage.calls, 'call')}"
