"""What `tokenscope doctor` looks at first: what is installed, and whether every patch is applied."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from functools import reduce
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from tokenscope import integrations
from tokenscope._scopes.scope import DISABLED
from tokenscope._version import __version__
from tokenscope.integrations import COMPILE, PATCHES, Patch

OK: Final = "ok"
NOTE: Final = "note"
PROBLEM: Final = "problem"
_DISTRIBUTION: Final = "dspy-tokenscope"


class Finding(NamedTuple):
    """One thing that was looked at: what it concerns, whether that is as it should be, and a sentence."""

    about: str
    mark: str
    text: str


def versions() -> Iterator[Finding]:
    """Yield what is installed, and whether that is what the packages' own metadata ask for."""
    try:
        ours = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield Finding("versions", OK, f"Python {platform.python_version()}")
        yield Finding(
            "versions", NOTE, f"tokenscope {__version__} is not installed by pip: nothing tells what it needs"
        )
        return
    if find_spec("packaging") is None:  # what compares versions; litellm needs it, and so does DSPy
        yield Finding("versions", NOTE, "packaging is not installed, so versions are not compared with what is needed")
        return
    yield _version("Python", platform.python_version(), ours.metadata["Requires-Python"])
    yield Finding("versions", OK, f"tokenscope {__version__}")
    for line in [*(ours.requires or ()), *_needed_by("dspy", "litellm")]:
        name, wanted, here = _requirement(line)
        if here:
            try:
                yield _version(name, metadata.version(name), wanted)
            except metadata.PackageNotFoundError:
                yield Finding("versions", PROBLEM, f"{name} is not installed: pip install '{name}{wanted}'")


def _needed_by(package: str, name: str) -> list[str]:
    try:
        return [line for line in metadata.requires(package) or () if line.startswith(name)]
    except metadata.PackageNotFoundError:
        return []


def _requirement(line: str) -> tuple[str, str, bool]:
    """Return the name, the versions, and whether it is needed here, of one line of a package's requirements."""
    from packaging.requirements import Requirement

    found = Requirement(line)
    return found.name, str(found.specifier), found.marker is None or found.marker.evaluate({"extra": ""})


def _version(name: str, version: str, wanted: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("versions", OK, f"{name} {version}, and {wanted} is needed")
    return Finding("versions", PROBLEM, f"{name} {version} is not supported: {wanted} is needed")


def import_dspy(*, fresh: bool) -> Finding:
    """Import DSPy, and tell how long that took.

    Args:
        fresh: Import it where it is not imported yet.
    """
    if sys.modules.get("dspy") is not None:
        return Finding("patches", OK, "dspy is imported already")
    if not fresh:
        return Finding("patches", NOTE, "dspy is not imported yet; it is patched when it is")
    since = time.perf_counter()
    try:
        load("dspy")
    except Exception as error:  # noqa: BLE001 - another package's import can raise anything
        return Finding("patches", PROBLEM, f"dspy cannot be imported, so there is nothing to count: {told(error)}")
    return Finding("patches", OK, f"dspy was imported in {time.perf_counter() - since:.1f} seconds")


def patches(*, fresh: bool) -> Iterator[Finding]:
    """Yield each function that is to be patched, and whether it is.

    Args:
        fresh: Import the modules that are not imported yet.
    """
    inert = DISABLED or not integrations._active
    if DISABLED:
        yield Finding("patches", PROBLEM, "TOKENSCOPE_DISABLED is set in the environment: nothing is counted")
    elif inert:
        yield Finding("patches", PROBLEM, "tokenscope.uninstrument() was called: what DSPy spends is not counted")
    for patch in PATCHES:
        mark, text = _state(patch, fresh=fresh, inert=inert)
        yield Finding("patches", mark, f"{patch.module}.{patch.name}: {text}")
    if COMPILE in sys.modules:
        from tokenscope.integrations.dspy.optimizers import _COMPILE_ORIGINALS

        done = _COMPILE_ORIGINALS in vars(sys.modules[COMPILE].Teleprompter)
        mark = OK if done else NOTE if inert else PROBLEM
        yield Finding("patches", mark, f"{COMPILE}, compile of each optimizer: {'' if done else 'not '}applied")


def _state(patch: Patch, *, fresh: bool, inert: bool) -> tuple[str, str]:
    whose = patch.module.partition(".")[0]
    if patch.module not in sys.modules:
        if not fresh:
            return OK, "not loaded; it is patched when it is imported"
        try:
            load(patch.module)
        except Exception as error:  # noqa: BLE001
            absent = isinstance(error, ModuleNotFoundError) and error.name == patch.module
            text = f"not in this version of {whose}" if absent and "." in patch.module else f"not here: {told(error)}"
            return NOTE if patch.optional or whose != "dspy" else PROBLEM, text
    if patch in integrations.applied():
        return OK, "applied"
    *path, attribute = patch.name.split(".")
    try:
        owner: Any = reduce(getattr, path, sys.modules[patch.module])
        getattr(owner, attribute)
    except AttributeError:
        if patch.optional:
            return NOTE, f"not in this version of {whose}"
        return PROBLEM, f"missing in this version of {whose}; 'pip install -U {_DISTRIBUTION}' may help"
    if attribute not in vars(owner):
        return OK, "inherited, and patched where it comes from"
    return NOTE if inert else PROBLEM, "not applied"


def told(error: Exception) -> str:
    """Return an exception as a short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'…' if len(text) > 200 else ''}"


def load(name: str) -> Any:
    """Import a module; what our patches would warn of is a finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


@contextlib.contextmanager
def environment(**values: str) -> Generator[None]:
    """Have variables in the environment for the time of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep other libraries' lines out of what is told: litellm prints advice, others log and warn."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    litellm: Any = sys.modules.get("litellm")
    talkative = getattr(litellm, "suppress_debug_info", None)
    if talkative is not None:
        litellm.suppress_debug_info = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if talkative is not None:
            litellm.suppress_debug_info = talkative
