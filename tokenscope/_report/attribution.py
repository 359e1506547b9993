"""The attribution rule: which module, operation and DSPy path the calls at a path belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, Final, NamedTuple, TypeVar

from tokenscope._report.rows import Row, Rows
from tokenscope._usage.calls import NO_SCOPE, Frame

T = TypeVar("T")
_DEEPEST_PREDICTOR: Final = 1_000  # levels of nested DSPy modules that a predictor's path names


class Attribution(NamedTuple):
    """To what the calls at a path belong, as its frames from the top level down say."""

    tracked_module: str | None = None  # the nearest one of `track_tokens` or `record_tokens`
    operation: str = ""  # in that module
    scope: str | None = None  # the nearest `token_scope`
    dspy_modules: tuple[Any, str] | None = None  # linked from the innermost up: deep paths share links
    dspy_depth: int = 0

    def below(self, frame: Frame) -> Attribution:
        """Return the attribution one level further down."""
        if frame.kind == "module":
            return self._replace(tracked_module=frame.name, operation="")
        if frame.kind == "operation":
            return self._replace(operation=frame.name)
        if frame.kind in ("scope", "other", "part"):
            return self._replace(scope=frame.name)
        if frame.kind == "dspy" and self.dspy_depth < _DEEPEST_PREDICTOR:
            return self._replace(dspy_modules=(self.dspy_modules, frame.name), dspy_depth=self.dspy_depth + 1)
        return self

    @property
    def module(self) -> str:
        """The nearest module of `track_tokens` or `record_tokens`; else the DSPy path; else the scope; else `(no scope)`."""
        return self.tracked_module or self.predictor or self.scope or NO_SCOPE.name

    @property
    def qualified_operation(self) -> str:
        """`module.operation`; without an operation, the module."""
        if not self.operation:
            return self.module
        return f"{self.tracked_module}.{self.operation}" if self.tracked_module else self.operation

    @property
    def predictor(self) -> str | None:
        """The path of DSPy modules, joined by dots; None outside of DSPy."""
        names: list[str] = []
        link = self.dspy_modules
        while link is not None:
            names.append(link[1])
            link = link[0]
        return ".".join(reversed(names)) or None


_NOWHERE: Final = Attribution()


def attribution_of(frames: Iterable[Frame]) -> Attribution:
    """Return to what the calls at a path belong, given its frames."""
    return reduce(Attribution.below, frames, _NOWHERE)


def attributions(rows: Rows) -> Iterator[tuple[Row, Attribution]]:
    """Yield each row with its attribution."""
    return inherited(rows, _NOWHERE, Attribution.below)


def inherited(rows: Rows, top: T, below: Callable[[T, Frame], T]) -> Iterator[tuple[Row, T]]:
    """Yield each row with what follows from its frame and from that of the row above. Only those above are kept."""
    above = [(-1, top)]
    for index, row in enumerate(rows):
        while above[-1][0] != row.parent:
            above.pop()
        above.append((index, below(above[-1][1], row.frame)))
        yield row, above[-1][1]
