"""Frame, Path, Call: where a model call was made, and the one immutable record of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tokenscope._usage.keys import Key
from tokenscope._usage.usage import Counts

MAX_NAMES: Final = 2_000
"""How many distinct names one level holds (OpenTelemetry's limit for a metric's attribute sets); the rest is `(other)`."""


class Frame(NamedTuple):
    """One level of the tree.

    The kinds: `scope` (a `token_scope`), `module` and `operation` (from `track_tokens` and `record_tokens`), `dspy` (a
    DSPy module), `tool`, `evaluate`, `compile` (DSPy's), `phase` (what an optimizer is at), `none` (no scope was active)
    and `other` (too many names).
    """

    kind: str
    name: str


def check_name(what: str, name: object) -> str:
    """Return a scope's name, or raise for one that is not a non-empty string."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__} {name!r}")
    if not name.strip():
        raise ValueError(f"{what} must not be empty, but is {name!r}")
    return str(name)


class Path:
    """Frames from the top level down, as a chain: a child costs the same at any depth, and equal paths hash alike."""

    __slots__ = ("_hash", "children", "depth", "frame", "parent")

    def __init__(self, parent: Path | None, frame: Frame) -> None:
        self.parent = parent
        self.frame = frame
        self.depth: int = 0 if parent is None else parent.depth + 1
        self._hash = hash((parent, frame))
        self.children: dict[Frame, Path] = {}

    def child(self, frame: Frame) -> Path:
        """Return the path one level further down; the same object again, while names are few."""
        found = self.children.get(frame)
        if found is None:
            found = Path(self, frame)
            if len(self.children) < MAX_NAMES:
                found = self.children.setdefault(frame, found)
        return found

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Compare frame by frame, up to where the two chains are one."""
        if not isinstance(other, Path):
            return NotImplemented
        if self._hash != other._hash or self.depth != other.depth:
            return False
        here: Path | None = self
        there: Path | None = other
        while here is not there:
            if here is None or there is None or here.frame != there.frame:
                return False
            here, there = here.parent, there.parent
        return True

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
        return f"<Path {'/'.join(self.names[-8:])}>"


ROOT: Final = Path(None, Frame("root", ""))
NO_SCOPE: Final = Frame("none", "(no scope)")
OTHER: Final = Frame("other", "(other)")


class Call(NamedTuple):
    """One model call as it was counted."""

    path: Path  # the scope in which it was made
    key: Key  # `provider/model`, as the caller named it, and the bracket
    values: Counts  # what it spent; where DSPy's cache answered, what that saved
    started: float  # in seconds since the epoch
    seconds: float
    error: str | None  # the name of the exception that ended it, if one did
    metadata: Mapping[str, Any] | None  # what the caller attached to it
