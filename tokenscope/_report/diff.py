"""Diff: what changed from one report to another, path by path, and by how much it grew."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any, Final, Literal, NamedTuple

from tokenscope._report.report import Report
from tokenscope._report.tree import Node
from tokenscope._usage.calls import Frame, ScopePath
from tokenscope._usage.usage import ZERO, Usage

EXACT: Final = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
"""Arithmetic in which differences and percents of anybody's bill are exact."""
Amount = int | Decimal


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What changed at one path and below.

    Args:
        where: The path, with the kind of each level: paths that differ in a kind only are different ones.
        status: `new` and `gone` where only one of the two reports has the path, else `changed`.
        before: What the older report has there and below.
        after: What the newer report has there and below.
    """

    where: ScopePath
    status: Literal["new", "gone", "changed"]
    before: Usage
    after: Usage

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Change):
            return NotImplemented
        return (self.status, self.before, self.after, *self.where) == (
            other.status,
            other.before,
            other.after,
            *other.where,
        )

    def __hash__(self) -> int:
        return hash((self.status, self.before, self.after, *self.where))

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the top level down."""
        return self.where.names

    @property
    def name(self) -> str:
        """The last of them."""
        return self.where.frame.name

    @property
    def kind(self) -> str:
        """What opened the scope, as in `Node.kind`."""
        return self.where.frame.kind

    @property
    def tokens(self) -> int:
        """How many tokens more there are; fewer, where it is negative."""
        return self.after.total_tokens - self.before.total_tokens

    @property
    def calls(self) -> int:
        """How many calls more."""
        return self.after.calls - self.before.calls

    @property
    def cost(self) -> Decimal | None:
        """How many dollars more; None where a call on either side has no known price."""
        if self.before.unpriced_calls or self.after.unpriced_calls:
            return None
        return EXACT.subtract(self.after.cost, self.before.cost)


class Growth(NamedTuple):
    """By how many percent the totals grew, or shrank where it is negative."""

    tokens: float | None
    """None where there were no tokens before."""
    cost: float | None
    """None where it cost nothing before, or where a call on either side has no known price."""


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed from one report to another: `old.diff(new)`.

    Args:
        before: The older report.
        after: The newer one.
        changes: The paths at which, or below which, anything was spent more or less, appeared or vanished: each with what was
            spent there and below, those above before those below, and of siblings the one that changed most first.
    """

    before: Report
    after: Report
    changes: tuple[Change, ...] = field(compare=False)  # they follow from the two

    @property
    def total(self) -> Change:
        """The change of everything together."""
        return Change(ScopePath(None, Frame("root", "")), "changed", self.before.total, self.after.total)

    @property
    def growth(self) -> Growth:
        """By how many percent the total tokens and the total cost grew."""
        total = self.total
        return Growth(
            percent(total.before.total_tokens, total.after.total_tokens),
            None if total.cost is None else percent(total.before.cost, total.after.cost),
        )

    def __bool__(self) -> bool:
        """Whether any path was spent more or less at, appeared or vanished."""
        return bool(self.changes)

    def render(self, format: str = "text", **options: Any) -> str:  # noqa: A002 - the usual word
        """Return the diff as text: always plain, for files and pipes.

        Args:
            format: `text`, `markdown` or `json`.
            **options: What the format takes; for `text`, `width` in cells.

        Raises:
            ValueError: there is no such format.
        """
        from tokenscope._report.formats import diff as _diff

        return _diff.renderer(format)(self, **options)

    def __str__(self) -> str:
        """Draw it for standard output: in its width, in colour where it is a terminal that shows any."""
        from tokenscope._report.formats import diff as _diff

        return _diff.for_stdout(self)

    def __format__(self, spec: str) -> str:
        """Draw it in plain text."""
        return format(self.render(), spec)

    def __rich__(self) -> object:
        """Let rich print it."""
        from tokenscope._report.formats import diff as _diff

        return _diff.Rich(self)

    def __repr__(self) -> str:
        return f"<Diff of {len(self.changes):,} changes, {self.total.tokens:+,} tokens>"


class _Pair:
    """A path of either report, or of both."""

    __slots__ = ("above", "after", "before", "below", "changed", "frame")

    def __init__(self, above: _Pair | None, frame: Frame, before: Node | None, after: Node | None) -> None:
        self.above = above
        self.frame = frame
        self.before = before
        self.after = after
        self.changed = before is None or after is None or before.own != after.own
        self.below: list[_Pair] = []

    def change(self, where: ScopePath) -> Change:
        before, after = (ZERO if node is None else node.usage for node in (self.before, self.after))
        return Change(
            where, "new" if self.before is None else "gone" if self.after is None else "changed", before, after
        )

    def order(self) -> tuple[int, Decimal, str, str]:
        change = self.change(ScopePath(None, self.frame))
        return -abs(change.tokens), -abs(change.cost or Decimal(0)), self.frame.name, self.frame.kind


def compare(before: Report, after: Report) -> Diff:
    """Return what changed from one report to another."""
    top = _Pair(None, Frame("root", ""), *(_root(report) for report in (before, after)))
    pairs = [top]
    for pair in pairs:  # it grows meanwhile: those above before those below
        olds, news = (
            {Frame(n.kind, n.name): n for n in node.children} if node else {} for node in (pair.before, pair.after)
        )
        pairs.extend(_Pair(pair, frame, olds.get(frame), news.get(frame)) for frame in {**olds, **news})
    for pair in reversed(pairs):
        if pair.changed and pair.above:
            pair.above.changed = True
            pair.above.below.append(pair)

    changes: list[Change] = []
    waiting = [(top, ScopePath(None, top.frame))]
    while waiting:
        pair, where = waiting.pop()
        if pair is not top:
            changes.append(pair.change(where))
        waiting += [(p, ScopePath(where, p.frame)) for p in sorted(pair.below, key=_Pair.order, reverse=True)]
    return Diff(before, after, tuple(changes))


def _root(report: Report) -> Node:
    """Return the nameless node above a report's top level."""
    root = report.tree()
    return root if root.kind == "root" else Node("", "root", root.usage, ZERO, {}, 0, 0.0, (root,))


def percent(old: Amount, new: Amount) -> float | None:
    """Return by how many percent an amount grew; None where there was none before."""
    if not old:
        return None
    return float(EXACT.divide(EXACT.multiply(EXACT.subtract(Decimal(new), Decimal(old)), 100), Decimal(old)))
