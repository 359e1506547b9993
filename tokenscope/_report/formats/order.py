"""The order in which formats list scopes and names, which of them they show, and the ways through a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from typing import Any, Final, Generic, NamedTuple, TypeVar

from tokenscope._report.breakdown import counted
from tokenscope._report.formats.text import plural
from tokenscope._report.tree import Node, walk
from tokenscope._usage.usage import Usage, sum_usages

T = TypeVar("T")
_KEYS: Final[dict[str, Callable[[Usage, float, tuple[str, ...]], Any]]] = {
    "tokens": lambda usage, _seconds, _name: -usage.total_tokens,
    "cost": lambda usage, _seconds, _name: (usage.cost is None, -(usage.cost or 0)),  # unknown costs come last
    "calls": lambda usage, _seconds, _name: -usage.calls,
    "time": lambda _usage, seconds, _name: -seconds,
    "name": lambda _usage, _seconds, name: (*counted(name[0]), *name),
}
SORTS: Final = tuple(_KEYS)
"""Names ascend, the others descend. Equal ones are in the order of tokens, then of names."""
DEEPEST: Final = 1_000  # levels of a path that a format writes in full, at most


class Shown(NamedTuple, Generic[T]):
    """What a format shows, and what it leaves out."""

    lines: Iterable[T]
    rows: int = 0
    tokens: int = 0

    def rest(self) -> str:
        """Say what is left out; empty if nothing is."""
        return f"and {plural(self.rows, 'more row')} with {plural(self.tokens, 'token')}" if self.rows else ""


_MEASURES: Final[dict[str, Callable[[Usage, float], Any]]] = {
    "cost": lambda usage, _seconds: float(usage.cost or 0),
    "calls": lambda usage, _seconds: usage.calls,
    "time": lambda _usage, seconds: seconds,
}


def _measure(sort: str, top: int | None, min_share: float | None) -> Callable[[Usage, float], Any]:
    """Return what says which lines are shown, given the order: cost, calls or time where it is one by these, and else tokens."""
    if top is not None and top < 1:
        raise ValueError(f"top must be 1 or more, or None to show all, but is {top!r}")
    if min_share is not None and not 0 <= min_share <= 1:
        raise ValueError(f"min_share must be a share from 0 to 1, such as 0.01 for 1%, but is {min_share!r}")
    return _MEASURES.get(sort, lambda usage, _seconds: usage.total_tokens)


def shown(tree: Node, sort: str, top: int | None = None, min_share: float | None = None) -> Shown[tuple[int, Node]]:
    """Return the lines of a drawing, as `lines` does: those that spent most and their parents, or all.

    Args:
        tree: The tree.
        sort: The order.
        top: How many lines to show; None for all. The parents of those that are shown are never left out.
        min_share: Leave out what has a smaller share of the total, from 0 to 1.

    Raises:
        ValueError: `top` is below 1, or `min_share` is no share.
    """
    measure = _measure(sort, top, min_share)
    if top is None and min_share is None:
        return Shown(lines(tree, sort))
    least = measure(tree.usage, tree.seconds) * (min_share or 0)
    count = 0

    def ranked() -> Iterator[tuple[Any, int, Any]]:
        """Yield the size of each line, a number to compare equal ones by, and the line with those above it, a linked list."""
        nonlocal count
        above: list[Any] = []
        for depth, node in lines(tree, sort):
            del above[depth:]
            above.append((count, depth, node, above[-1] if above else None))
            if (size := measure(node.usage, node.seconds)) >= least:
                yield size, -count, above[-1]
            count += 1

    found: dict[int, tuple[int, Node]] = {}
    for _, _, line in ranked() if top is None else nlargest(top, ranked()):
        here = line
        while here is not None and here[0] not in found:
            found[here[0]] = here[1:3]
            here = here[3]
    kept = [found[number] for number in sorted(found)]
    tokens = sum(node.own.total_tokens for _, node in kept if not self_line(node, node.children))
    return Shown(kept, count - len(kept), tree.usage.total_tokens - tokens)


def _key(sort: str) -> Callable[[Usage, float, tuple[str, ...]], Any]:
    if sort not in _KEYS:
        raise ValueError(f"a report cannot be sorted by {sort!r}, but by {', '.join(SORTS)}")
    return _KEYS[sort]


def _children(node: Node, sort: str) -> Sequence[Node]:
    if sort == "tokens":  # as they are
        return node.children
    key = _key(sort)
    return sorted(node.children, key=lambda node: key(node.usage, node.seconds, (node.name, node.kind)))


def breakdown(
    usages: Mapping[str, Usage], sort: str, top: int | None = None, min_share: float | None = None
) -> Shown[tuple[str, Usage]]:
    """Return a breakdown in an order, by tokens instead of time, as it has no times; all names, or those that spent most."""
    key = _key(sort)
    measure = _measure(sort, top, min_share)
    least = measure(sum_usages(usages.values()), 0.0) * (min_share or 0)
    items = sorted(usages.items(), key=lambda item: key(item[1], 0.0, (item[0],)))
    kept = [item for item in items if measure(item[1], 0.0) >= least]
    if top is not None:
        best = {name for name, _ in nlargest(top, kept, lambda item: measure(item[1], 0.0))}
        kept = [item for item in kept if item[0] in best]
    tokens = sum(usage.total_tokens for usage in usages.values()) - sum(usage.total_tokens for _, usage in kept)
    return Shown(kept, len(items) - len(kept), tokens)


def lines(tree: Node, sort: str) -> Iterator[tuple[int, Node]]:
    """Yield the nodes that have a line in a drawing, each with its depth: top level 0, parents before children."""

    def below(_depth: int, node: Node) -> Sequence[Node]:
        children = _children(node, sort)
        return [*children, *self_line(node, children)]

    return walk(_children(tree.root, sort), below)


def self_line(node: Node, children: Sequence[Node]) -> list[Node]:
    """Return a line `[self]` for what a scope spent itself, if something was spent below it, too."""
    if children and (own := node.own) and any(child.usage for child in children):
        return [Node("[self]", "self", 0, 0.0, own)]
    return []


def stacks(tree: Node, sort: str = "tokens") -> Iterator[list[Node]]:
    """Yield each node as the last of the nodes that lead to it, for formats that write a path in each line.

    Writing all paths of a deep tree takes the square of its depth. So what lies below the 1,000th level (Python's own limit for
    recursion) is one node, `(deeper)`, which has the sum. The list changes with the next step.
    """

    def below(depth: int, node: Node) -> Sequence[Node]:
        children = _children(node, sort)
        return [_deeper(children)] if depth + 1 == DEEPEST and children else children

    stack: list[Node] = []
    for depth, node in walk(_children(tree.root, sort), below):
        del stack[depth:]
        stack.append(node)
        yield stack


def _deeper(nodes: Sequence[Node]) -> Node:
    usage = sum_usages(node.usage for node in nodes)
    entries, seconds = sum(node.entries for node in nodes), sum(node.seconds for node in nodes)
    return Node("(deeper)", "other", entries, seconds, usage)
