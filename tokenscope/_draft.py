"""Rows of a report, and drafts: rows in the making, from which the canonical order is frozen."""

from __future__ import annotations

from typing import Final, NamedTuple

from tokenscope._call import Frame
from tokenscope._usage import ZERO, Usage

_SHOWN_WHERE_SPENT: Final = frozenset({"tool", "evaluate", "compile"})


class Row(NamedTuple):
    """One path of a report: what was counted at that path itself."""

    parent: int  # the index of the row above; -1 at the top level
    frame: Frame
    entries: int
    nanoseconds: int
    models: tuple[tuple[str, Usage], ...]


class Draft:
    """A row in the making."""

    __slots__ = ("children", "entries", "models", "nanoseconds")

    def __init__(self) -> None:
        self.entries = 0
        self.nanoseconds = 0
        self.models: dict[str, Usage] = {}
        self.children: dict[Frame, Draft] = {}

    def below(self, frame: Frame) -> Draft:
        found = self.children.get(frame)
        if found is None:
            found = self.children[frame] = Draft()
        return found

    def add(self, model: str, usage: Usage) -> None:
        self.models[model] = self.models.get(model, ZERO) + usage

    def prune(self) -> None:
        """Drop tools, evaluations and optimizers below which no call was made."""
        order: list[tuple[Draft, Frame, Draft]] = []
        stack: list[Draft] = [self]
        while stack:
            draft = stack.pop()
            order.extend((draft, frame, child) for frame, child in draft.children.items())
            stack.extend(draft.children.values())
        spent: set[int] = set()
        for above, frame, draft in reversed(order):
            if draft.models or id(draft) in spent:
                spent.add(id(above))
            elif frame.kind in _SHOWN_WHERE_SPENT:
                del above.children[frame]

    def freeze(self) -> tuple[Row, ...]:
        """Return the rows below, in canonical order."""
        rows: list[Row] = []
        stack = [(-1, frame, draft) for frame, draft in sorted(self.children.items(), key=_by_name, reverse=True)]
        while stack:
            parent, frame, draft = stack.pop()
            index = len(rows)
            rows.append(Row(parent, frame, draft.entries, draft.nanoseconds, tuple(sorted(draft.models.items()))))
            stack.extend((index, f, d) for f, d in sorted(draft.children.items(), key=_by_name, reverse=True))
        return tuple(rows)


def _by_name(item: tuple[Frame, Draft]) -> tuple[str, str]:
    return item[0].name, item[0].kind
