"""Places: whose calls a row holds, told by the frames from the top level down to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tokenscope._report.rows import Row
from tokenscope._usage.calls import NO_SCOPE, Frame

_LONGEST_PREDICTOR: Final = 1_000


class Attribution:
    """What the frames from the top level down to a row say about whose calls it holds."""

    __slots__ = ("_levels", "_predictor", "module", "operation", "scope")

    def __init__(self, above: Attribution | None, frame: Frame) -> None:
        self.module: str | None = above.module if above else None
        self.operation: str | None = above.operation if above else None
        self.scope: str | None = above.scope if above else None
        self._predictor: tuple[Any, str] | None = above._predictor if above else None
        self._levels: int = above._levels if above else 0
        if frame.kind == "module":
            self.module = frame.name
            self.operation = None
        elif frame.kind == "operation":
            self.operation = f"{self.module}.{frame.name}" if self.module else frame.name
        elif frame.kind == "dspy":
            if self._levels < _LONGEST_PREDICTOR:
                self._predictor = (self._predictor, frame.name)
                self._levels += 1
        elif frame.kind in ("scope", "other"):
            self.scope = frame.name

    @property
    def whose(self) -> str:
        """The module that the calls are added up under."""
        return self.module or self.predictor or self.scope or NO_SCOPE.name

    @property
    def predictor(self) -> str | None:
        names: list[str] = []
        link = self._predictor
        while link is not None:
            names.append(link[1])
            link = link[0]
        return ".".join(reversed(names)) or None


def attributions(rows: Iterable[Row]) -> Iterator[tuple[Row, Attribution]]:
    """Yield each row with its place; those above come before those below."""
    found: list[Attribution] = []
    for row in rows:
        place = Attribution(found[row.parent] if row.parent >= 0 else None, row.frame)
        found.append(place)
        yield row, place
