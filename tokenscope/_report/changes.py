"""Changes: what differs between two snapshots, path by path, and by how much the totals grew."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Final, Literal, NamedTuple

from tokenscope._report.breakdown import counted
from tokenscope._report.snapshot import Snapshot
from tokenscope._report.tree import Node, walk
from tokenscope._usage.calls import ROOT, Frame, ScopePath
from tokenscope._usage.usage import ZERO, Usage

EXACT: Final = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
"""Arithmetic in which differences and percentages of any bill are exact."""
Amount = int | Decimal


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What changed at one path and below.

    Args:
        where: The path, with the kind of each level. Paths with the same names and other kinds are different.
        status: `new` or `gone` if only one of the two reports has the path, else `changed`.
        before: What the older report has there and below.
        after: What the newer report has there and below.
    """

    where: ScopePath
    status: Literal["new", "gone", "changed"]
    before: Usage
    after: Usage

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Change) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[object, ...]:
        return self.status, self.before, self.after, *self.where  # a path itself is compared by identity

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the top level down."""
        return self.where.names

    @property
    def name(self) -> str:
        """The last of these names."""
        return self.where.frame.name

    @property
    def kind(self) -> str:
        """What opened the scope, as in `Node.kind`."""
        return self.where.frame.kind

    @property
    def tokens(self) -> int:
        """How many more tokens the newer report has. Negative if it has fewer."""
        return self.after.total_tokens - self.before.total_tokens

    @property
    def calls(self) -> int:
        """How many more calls the newer report has."""
        return self.after.calls - self.before.calls

    @property
    def cost(self) -> Decimal | None:
        """How many more dollars the newer report has. None if a call on either side has no known price."""
        if self.before.unpriced_calls or self.after.unpriced_calls:
            return None
        return EXACT.subtract(self.after.cost or 0, self.before.cost or 0)


class Growth(NamedTuple):
    """By how many percent the totals grew. Negative if they shrank."""

    tokens: float | None
    """None if there were no tokens before."""
    cost: float | None
    """None if it cost nothing before, or if a call on either side has no known price."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a `Diff` knows of two snapshots. It draws nothing."""

    before: Snapshot
    after: Snapshot
    changes: tuple[Change, ...] = field(compare=False)  # they follow from the two

    @property
    def total(self) -> Change:
        """The change of everything together."""
        return Change(ROOT, "changed", self.before.total, self.after.total)

    @property
    def growth(self) -> Growth:
        """By how many percent the total tokens and the total cost grew."""
        total = self.total
        return Growth(
            percent(total.before.total_tokens, total.after.total_tokens),
            None if total.cost is None else percent(total.before.cost or 0, total.after.cost or 0),
        )

    def __bool__(self) -> bool:
        """Whether anything changed at any path."""
        return bool(self.changes)


@dataclass(slots=True, eq=False)
class _Pair:
    """A path that either snapshot has, or both."""

    above: _Pair | None
    where: ScopePath
    before: Node | None
    after: Node | None
    changed_below: list[_Pair] = field(default_factory=list)

    def changed(self) -> bool:
        return not (self.before and self.after) or bool(self.changed_below) or self.before.own != self.after.own

    def below(self) -> list[_Pair]:
        olds, news = (
            {Frame(child.kind, child.name): child for child in node.children} if node else {}
            for node in (self.before, self.after)
        )
        return [_Pair(self, ScopePath(self.where, each), olds.get(each), news.get(each)) for each in {**olds, **news}]

    def change(self) -> Change:
        before, after = (node.usage if node else ZERO for node in (self.before, self.after))
        one_side: Literal["new", "gone"] = "gone" if self.before else "new"
        return Change(self.where, "changed" if self.before and self.after else one_side, before, after)

    def largest_first(self) -> list[_Pair]:
        return sorted(self.changed_below, key=_Pair.order)

    def order(self) -> tuple[int, Decimal, str, str, str]:
        change = self.change()
        return -abs(change.tokens), -abs(change.cost or Decimal(0)), *counted(change.name), change.kind


def changes_between(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """Return what changed from one snapshot to another, as `Comparison.changes` holds it."""
    top = _Pair(None, ROOT, before.tree().root, after.tree().root)
    pairs = [pair for _, pair in walk(top.below(), lambda _depth, pair: pair.below())]
    for pair in reversed(pairs):  # children before parents
        if pair.above and pair.changed():
            pair.above.changed_below.append(pair)
    return tuple(pair.change() for _, pair in walk(top.largest_first(), lambda _depth, pair: pair.largest_first()))


def percent(old: Amount, new: Amount) -> float | None:
    """Return by how many percent an amount grew. None if there was none before."""
    if not old:
        return None
    return float(EXACT.divide(EXACT.multiply(EXACT.subtract(Decimal(new), Decimal(old)), 100), Decimal(old)))
