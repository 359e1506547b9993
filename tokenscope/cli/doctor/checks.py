"""The first checks of `tokenscope doctor`: the installed versions, and whether every patch is applied."""

from __future__ import annotations

import platform
import sys
import time
import warnings
from collections.abc import Iterator
from functools import reduce
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from tokenscope._report.formats.text import one_line
from tokenscope._scopes.process import DISABLED
from tokenscope._version import __version__
from tokenscope.integrations import patches as applied_patches
from tokenscope.integrations.patch_table import OPTIMIZERS, PATCHES, Patch

OK: Final = "ok"
NOTE: Final = "note"
PROBLEM: Final = "problem"
_DISTRIBUTION: Final = "dspy-tokenscope"


class Finding(NamedTuple):
    """The result of one check: what it is about, `ok`, `note` or `problem`, and a sentence."""

    about: str
    mark: str
    text: str


def versions() -> Iterator[Finding]:
    """Yield the installed versions, compared with those that the packages' own metadata require."""
    try:
        ours = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield Finding("versions", OK, f"Python {platform.python_version()}")
        text = f"tokenscope {__version__} is not installed by pip, so its requirements are unknown"
        yield Finding("versions", NOTE, text)
        return
    if find_spec("packaging") is None:  # compares versions; litellm requires it, and so does DSPy
        text = "packaging is not installed, so versions are not compared with the requirements"
        yield Finding("versions", NOTE, text)
        return
    from packaging.requirements import Requirement

    yield compared("Python", platform.python_version(), ours.metadata["Requires-Python"])
    yield Finding("versions", OK, f"tokenscope {__version__}")
    for line in [*(ours.requires or ()), *_needed_by("dspy", "litellm")]:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):  # it applies here
            try:
                yield compared(needed.name, metadata.version(needed.name), str(needed.specifier))
            except metadata.PackageNotFoundError:
                text = f"{needed.name} is not installed: pip install '{needed.name}{needed.specifier}'"
                yield Finding("versions", PROBLEM, text)


def _needed_by(package: str, name: str) -> list[str]:
    try:
        return [line for line in metadata.requires(package) or () if line.startswith(name)]
    except metadata.PackageNotFoundError:
        return []


def compared(name: str, version: str, wanted: str) -> Finding:
    """Return whether a version satisfies a requirement."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("versions", OK, f"{name} {version}, and {wanted} is needed")
    return Finding("versions", PROBLEM, f"{name} {version} is not supported: {wanted} is needed")


def import_dspy(*, fresh: bool) -> Finding:
    """Return whether DSPy is imported. In a fresh process, import it, and report how long that took."""
    if sys.modules.get("dspy") is not None:
        return Finding("patches", OK, "dspy is imported already")
    if not fresh:
        return Finding("patches", NOTE, "dspy is not imported yet; it is patched when it is")
    since = time.perf_counter()
    try:
        load("dspy")
    except Exception as error:  # noqa: BLE001 - another package's import can raise anything
        return Finding("patches", PROBLEM, f"dspy cannot be imported, so there is nothing to count: {one_line(error)}")
    return Finding("patches", OK, f"dspy was imported in {time.perf_counter() - since:.1f} seconds")


def patches(*, fresh: bool) -> Iterator[Finding]:
    """Yield the state of each patch. In a fresh process, import the modules to patch."""
    inert = DISABLED or not applied_patches.is_active()
    if DISABLED:
        yield Finding("patches", PROBLEM, "TOKENSCOPE_DISABLED is set in the environment: nothing is counted")
    elif inert:
        yield Finding("patches", PROBLEM, "tokenscope.uninstrument() was called: what DSPy spends is not counted")
    for patch in PATCHES:
        mark, text = _state(patch, fresh=fresh, inert=inert)
        yield Finding("patches", mark, f"{patch.module}.{patch.name}: {text}")
    if OPTIMIZERS in sys.modules:
        done = applied_patches.are_optimizers_adopted()
        mark = OK if done else NOTE if inert else PROBLEM
        yield Finding("patches", mark, f"{OPTIMIZERS}, compile of each optimizer: {'' if done else 'not '}applied")


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


def load(name: str) -> Any:
    """Import a module, without warnings: a patch that is missing is a finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)
