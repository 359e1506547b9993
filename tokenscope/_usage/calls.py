"""Where model calls are made, and one call as it was counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from tokenscope._usage.keys import UsageKey
from tokenscope._usage.prompts import Prompt
from tokenscope._usage.usage import Counts

MAX_NAMES: Final = 2_000
"""How many distinct names one level holds (OpenTelemetry's limit for a metric's attribute sets); the rest is `(other)`."""
MAX_PATHS: Final = 50_000
"""How many paths a process holds in all; the rest is `(other)`."""


class Frame(NamedTuple):
    """One level of the tree.

    The kinds: `scope` (a `token_scope`), `module` and `operation` (from `track_tokens` and `record_…`), `dspy` (a
    DSPy module), `tool`, `evaluate`, `compile` (DSPy's), `phase` (of an optimizer), `none` (no scope was active)
    and `other` (too many names).
    """

    kind: str
    name: str


@lru_cache(maxsize=MAX_NAMES)
def _shared(frame: Frame) -> Frame:
    """Return the first one of equal frames: large trees repeat names."""
    return frame


def check_name(what: str, name: object) -> str:
    """Return a scope's name, or raise for one that is not a non-empty string."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__} {name!r}")
    if not name.strip():
        raise ValueError(f"{what} must not be empty, but is {name!r}")
    return str(name)


def model_name(model: object, provider: object) -> str:
    """Join provider and model to the name that reports use."""
    name = check_name("model", model)
    if provider is None:
        return name
    prefix = check_name("provider", provider) + "/"
    return name if name.startswith(prefix) else prefix + name


class ScopePath:
    """Frames from the top level down, as a chain: a child costs the same at any depth.

    Paths are compared by identity, which costs nothing. `child` returns the same object again while a level has few names, and
    the tree few paths; beyond that, tables of counts compare the names (`UsageTable.row`).
    """

    __slots__ = ("_numbers", "children", "depth", "frame", "is_compile", "is_of_attribute", "parent")

    def __init__(self, parent: ScopePath | None, frame: Frame, numbers: Iterator[int] | None = None) -> None:
        self.parent = parent
        self.frame = frame
        self.is_compile = frame.kind == "compile"  # asked at each call; a named tuple's attributes are slow
        self.is_of_attribute: bool = frame.kind == "attributes" if parent is None else parent.is_of_attribute
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[Frame, ScopePath] = {}
        self._numbers = itertools.count() if numbers is None else numbers
        """Numbers the paths that the whole tree keeps."""

    def child(self, frame: Frame) -> ScopePath:
        """Return the path one level further down."""
        found = self.children.get(frame)
        if found is None:
            if len(self.children) < MAX_NAMES and next(self._numbers) < MAX_PATHS:
                frame = _shared(frame)
                return self.children.setdefault(frame, ScopePath(self, frame, self._numbers))
            found = ScopePath(self, frame)  # not kept
        return found

    def forget_children(self) -> None:
        """Begin a new tree below this path. Paths of the old one stay valid."""
        self.children.clear()
        self._numbers = itertools.count()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames from the top level down."""
        frames: list[Frame] = []
        path = self
        while path.parent is not None:
            frames.append(path.frame)
            path = path.parent
        return reversed(frames)

    @property
    def names(self) -> tuple[str, ...]:
        """The names from the top level down."""
        return tuple(frame.name for frame in self)

    def __repr__(self) -> str:
        return f"<ScopePath {'/'.join(self.names[-8:])}>"


ROOT: Final = ScopePath(None, Frame("root", ""))
NO_SCOPE: Final = Frame("none", "(no scope)")
OTHER: Final = Frame("other", "(other)")
ATTRIBUTES: Final = ScopePath(None, Frame("attributes", ""))
"""In a table, the rows below it hold what was spent by attribute and value. They repeat what the scopes' rows hold."""
NO_ATTRIBUTES: Final[Mapping[str, Any]] = {}


class Call(NamedTuple):
    """One model call as it was counted."""

    path: ScopePath  # the scope in which it was made
    key: UsageKey
    counts: Counts  # what it spent; where DSPy's cache answered, what that saved
    started: float  # in seconds since the epoch
    seconds: float
    error: str | None  # the name of the exception that ended it, if one did
    metadata: Mapping[str, Any] | None  # what the caller attached to it
    is_embedding: bool = False
    attributes: Mapping[str, Any] = NO_ATTRIBUTES  # those of the scopes around it
    prompt: Prompt | None = None  # what was asked, if its prompt was measured


def value_path(name: str, value: object) -> ScopePath:
    """Return the path in a table at which the calls are counted that were made where an attribute had a value."""
    return ATTRIBUTES.child(Frame("attribute", name)).child(Frame("value", str(value)))


_ENDINGS: Final = {"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "BudgetStop", "Stop"}
"""Exceptions that end a call because the program is to end, or no longer wants its answer. `Stop` is version 0.1's."""


def is_failure(error: str) -> bool:
    """Whether an exception of this name ended a call against the program's will."""
    return error not in _ENDINGS
