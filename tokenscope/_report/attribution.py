"""The attribution rule: which module, operation and DSPy path the calls at a path belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tokenscope._report.rows import Row
from tokenscope._usage.calls import NO_SCOPE, Frame

_DEEPEST_PREDICTOR: Final = 1_000
"""How many levels of nested DSPy modules a predictor's path names."""


class Attribution:
    """To what the calls at a path belong, as its frames from the top level down say.

    Args:
        above: The attribution one level up; None at the top level.
        frame: The level itself.
    """

    __slots__ = ("_modules", "_named", "_predictor", "_scope", "operation")

    def __init__(self, above: Attribution | None, frame: Frame) -> None:
        self.operation: str = above.operation if above else ""
        """The operation of `track_tokens` or `record_tokens`; empty where there is none."""
        self._named: str | None = above._named if above else None  # the module of `track_tokens` or `record_tokens`  # noqa: SLF001 - of the same class
        self._scope: str | None = above._scope if above else None  # noqa: SLF001 - of the same class
        self._predictor: tuple[Any, str] | None = above._predictor if above else None  # linked, from the innermost up  # noqa: SLF001 - of the same class
        self._modules: int = above._modules if above else 0  # noqa: SLF001 - of the same class
        if frame.kind == "module":
            self._named = frame.name
            self.operation = ""
        elif frame.kind == "operation":
            self.operation = frame.name
        elif frame.kind == "dspy":
            if self._modules < _DEEPEST_PREDICTOR:
                self._predictor = (self._predictor, frame.name)
                self._modules += 1
        elif frame.kind in ("scope", "other"):
            self._scope = frame.name

    @property
    def module(self) -> str:
        """The nearest module of `track_tokens` or `record_tokens`; else the DSPy path; else the scope; else `(no scope)`."""
        return self._named or self.predictor or self._scope or NO_SCOPE.name

    @property
    def qualified_operation(self) -> str:
        """`module.operation`; without an operation, the module."""
        if not self.operation:
            return self.module
        return f"{self._named}.{self.operation}" if self._named else self.operation

    @property
    def predictor(self) -> str | None:
        """The path of DSPy modules, joined by dots; None outside of DSPy."""
        names: list[str] = []
        link = self._predictor
        while link is not None:
            names.append(link[1])
            link = link[0]
        return ".".join(reversed(names)) or None


def attribution_of(frames: Iterable[Frame]) -> Attribution:
    """Return to what the calls at a path belong, given its frames."""
    found = NOWHERE
    for frame in frames:
        found = Attribution(found, frame)
    return found


def attributions(rows: Iterable[Row]) -> Iterator[tuple[Row, Attribution]]:
    """Yield each row with its attribution."""
    found: list[Attribution] = []
    for row in rows:
        found.append(Attribution(found[row.parent] if row.parent >= 0 else None, row.frame))
        yield row, found[-1]


NOWHERE: Final = Attribution(None, NO_SCOPE)
"""The attribution of calls outside of every scope."""
