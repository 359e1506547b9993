"""The checks of `tokenscope doctor` that make no call: installed versions, patches, and other code that watches LM calls."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import platform
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from functools import reduce
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenscope._report.formats.text import listed, one_line
from tokenscope._scopes.process import DISABLED
from tokenscope._version import __version__
from tokenscope.integrations import patches as applied_patches
from tokenscope.integrations.patch_table import OPTIMIZERS, PATCHES, Patch

OK: Final = "ok"
NOTE: Final = "note"
PROBLEM: Final = "problem"
NATIVE: Final = "native"
LITELLM: Final = "litellm"
_DISTRIBUTION: Final = "dspy-tokenscope"
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
_WATCHERS: Final = _PLATFORMS | {prefix + topic for prefix in _PREFIXES for topic in _INSTRUMENTED}
_CALLBACKS: Final = ("callbacks", "input_callback", "success_callback", "failure_callback", "_async_success_callback")


class CheckResult(NamedTuple):
    """The result of one check: what it is about, `ok`, `note` or `problem`, and a sentence. A check returns the last two."""

    about: str
    mark: str
    text: str


def versions() -> Iterator[tuple[str, str]]:
    """Yield the installed versions, compared with those that the packages' own metadata require."""
    try:
        ours = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield OK, f"Python {platform.python_version()}"
        yield NOTE, f"tokenscope {__version__} is not installed by pip, so its requirements are unknown"
        return
    if find_spec("packaging") is None:  # compares versions; litellm requires it, and so does DSPy
        yield NOTE, "packaging is not installed, so versions are not compared with the requirements"
        return
    from packaging.requirements import Requirement

    yield compared("Python", platform.python_version(), ours.metadata["Requires-Python"])
    yield OK, f"tokenscope {__version__}"
    requirements = list(ours.requires or ())
    with contextlib.suppress(metadata.PackageNotFoundError):
        requirements += [line for line in metadata.requires("dspy") or () if line.startswith("litellm")]
    for line in requirements:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):  # it applies here
            try:
                yield compared(needed.name, metadata.version(needed.name), str(needed.specifier))
            except metadata.PackageNotFoundError:
                yield PROBLEM, f"{needed.name} is not installed: pip install '{needed.name}{needed.specifier}'"


def installation() -> Iterator[tuple[str, str]]:
    """Yield a finding if another distribution has our import name, such as `tokenscope`, or our installed files are not ours."""
    others = set(metadata.packages_distributions().get("tokenscope", ())) - {_DISTRIBUTION}
    names = " and ".join(sorted(f"{name} {metadata.version(name)}" for name in others))
    try:
        ours = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        if others:
            text = f"{names} is another project with the same import name; this one is installed as {_DISTRIBUTION}"
            yield PROBLEM, f"{text}: pip uninstall -y {' '.join(sorted(others))} && pip install {_DISTRIBUTION}"
        return
    # Not `ours.files`: where the package importlib_metadata is imported, these are only the files that are there.
    record = csv.reader((ours.read_text("RECORD") or "").splitlines())
    files = {path: digest for path, digest, _ in record if path.startswith("tokenscope/") and digest}
    damaged = [path for path in sorted(files) if not _is_as_recorded(Path(str(ours.locate_file(path))), files[path])]
    advice = f"pip install --force-reinstall --no-deps {_DISTRIBUTION}"
    if others:
        advice = f"pip uninstall -y {' '.join(sorted(others))} && {advice}"
    if damaged:
        cause = f", by {names}, another project with the same import name" if others else ""
        yield PROBLEM, f"installed files were replaced or removed{cause} ({listed(damaged, 3)}): {advice}"
    elif others:
        yield NOTE, f"{names} is another project with the same import name; either may overwrite the other: {advice}"


def _is_as_recorded(file: Path, recorded: str) -> bool:
    """Return whether an installed file has the content that was installed, given its digest in RECORD: `sha256=...`."""
    mode, _, value = recorded.partition("=")
    try:
        digest = hashlib.new(mode, file.read_bytes()).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == value


def compared(name: str, version: str, wanted: str) -> tuple[str, str]:
    """Return whether a version satisfies a requirement."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return OK, f"{name} {version}, and {wanted} is needed"
    return PROBLEM, f"{name} {version} is not supported: {wanted} is needed"


def import_dspy(*, fresh: bool) -> tuple[str, str]:
    """Return whether DSPy is imported. In a fresh process, import it, and report how long that took."""
    if sys.modules.get("dspy") is not None:
        return OK, "dspy is imported already"
    if not fresh:
        return NOTE, "dspy is not imported yet; it is patched when it is"
    since = time.perf_counter()
    try:
        load("dspy")
    except Exception as error:  # noqa: BLE001 - another package's import can raise anything
        return PROBLEM, f"dspy cannot be imported, so there is nothing to count: {one_line(error)}"
    return OK, f"dspy was imported in {time.perf_counter() - since:.1f} seconds"


def patches(*, fresh: bool) -> Iterator[tuple[str, str]]:
    """Yield the state of each patch. In a fresh process, import the modules to patch."""
    inert = DISABLED or not applied_patches.is_active()
    if DISABLED:
        yield PROBLEM, "TOKENSCOPE_DISABLED is set in the environment: nothing is counted"
    elif inert:
        yield PROBLEM, "tokenscope.uninstrument() was called: what DSPy spends is not counted"
    for patch in PATCHES:
        mark, text = _state(patch, fresh=fresh, inert=inert)
        yield mark, f"{patch.module}.{patch.name}: {text}"
    if OPTIMIZERS in sys.modules:
        done = applied_patches.are_optimizers_adopted()
        mark = OK if done else NOTE if inert else PROBLEM
        yield mark, f"{OPTIMIZERS}, compile of each optimizer: {'' if done else 'not '}applied"


def _state(patch: Patch, *, fresh: bool, inert: bool) -> tuple[str, str]:
    package = patch.module.partition(".")[0]
    if patch.module not in sys.modules:
        if not fresh:
            return OK, "not loaded; it is patched when it is imported"
        try:
            load(patch.module)
        except Exception as error:  # noqa: BLE001
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing == package != "dspy":
                return OK, "not installed"
            absent = missing == patch.module and "." in patch.module
            text = f"not in this version of {package}" if absent else f"cannot be imported: {one_line(error)}"
            return NOTE if patch.optional or package != "dspy" else PROBLEM, text
    if patch in applied_patches.applied():
        return OK, "applied"
    *path, attribute = patch.name.split(".")
    try:
        owner: Any = reduce(getattr, path, sys.modules[patch.module])
        getattr(owner, attribute)
    except AttributeError:
        if patch.optional:
            return NOTE, f"not in this version of {package}"
        return PROBLEM, f"missing in this version of {package}; 'pip install -U {_DISTRIBUTION}' may help"
    if attribute not in vars(owner):
        return OK, "inherited, and patched where it comes from"
    return NOTE if inert else PROBLEM, "not applied"


def others(engines: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield a finding for all other code that watches or changes the LM calls of a program that uses some engines."""
    active = _active_instrumentors()
    if LITELLM in engines and "litellm" in active and active.keys() & {"openai", "openai-v2"}:
        both = "litellm and openai are both instrumented: litellm calls OpenAI's SDK, so each call is in the spans of"
        yield PROBLEM, f"{both} both. The sum of the spans counts it twice; tokenscope counts it once"
    nothing = "that adds nothing to what is counted"
    installed = {f"{name} {each.version}" for each in metadata.distributions() if (name := _name(each)) in _WATCHERS}
    if installed:
        yield NOTE, f"installed, and active if a program turns them on: {', '.join(sorted(installed))}"
    for topic, instrumentors in active.items():
        yield NOTE, f"{topic} is instrumented by {' and '.join(instrumentors)}; within DSPy's calls, {nothing}"
    if NATIVE in engines and active.keys() & {*_SDKS, "litellm"}:
        text = "DSPy's native engine uses neither litellm nor the SDKs, so their instrumentors do not see its calls"
        yield NOTE, f"{text}; tokenscope counts them"
    for package, callbacks in _callbacks().items():
        if callbacks:
            yield NOTE, f"{package} calls back {', '.join(callbacks)}; {nothing}"
    for patch in applied_patches.covered():
        text = f"{patch.module}.{patch.name} was wrapped or replaced after tokenscope had patched it"
        yield NOTE, f"{text}: calls are counted if it still calls what it wraps"
    for kind in _subclasses(getattr(sys.modules.get("dspy.clients.base_lm"), "BaseLM", None)):
        own = [name for name in ("__call__", "acall") if name in vars(kind)]
        if own and not kind.__module__.startswith("dspy."):
            text = f"{kind.__module__}.{kind.__qualname__} has its own {' and '.join(own)}"
            yield NOTE, f"{text}: its calls are counted if it calls super() or another LM"
    unseen = "no check sees a call to a provider's SDK or to litellm.completion without DSPy"
    yield NOTE, f"{unseen}: record_response counts it"
    unseen = "no check sees a response of DSPy that is taken from lm.history and given to record_response"
    yield NOTE, f"{unseen}: it is counted twice"


def _name(distribution: metadata.Distribution) -> str:
    return str(distribution.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")


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


def load(name: str) -> Any:
    """Import a module, without warnings: a patch that is missing is a finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)
