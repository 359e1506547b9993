"""The order in which formats list scopes and names, and the ways through a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tokenscope._report.tree import Node, walk
from tokenscope._usage.usage import Usage, sum_usages

_KEYS: Final[dict[str, Callable[[Usage, float, tuple[str, ...]], Any]]] = {
    "tokens": lambda usage, _seconds, _name: -usage.total_tokens,
    "cost": lambda usage, _seconds, _name: (usage.cost is None, -(usage.cost or 0)),  # unknown costs come last
    "calls": lambda usage, _seconds, _name: -usage.calls,
    "time": lambda _usage, seconds, _name: -seconds,
    "name": lambda _usage, _seconds, name: name,
}
SORTS: Final = tuple(_KEYS)
"""Names ascend, the others descend. Equal ones are in the order of tokens, then of names."""
SORTABLE: Final = ("tree", "table", "markdown", "csv")
"""The formats that take one of these. The others have a fixed order."""
DEEPEST: Final = 1_000  # levels of a path that a format writes in full, at most


def _key(sort: str) -> Callable[[Usage, float, tuple[str, ...]], Any]:
    if sort not in _KEYS:
        raise ValueError(f"a report cannot be sorted by {sort!r}, but by {', '.join(SORTS)}")
    return _KEYS[sort]


def _children(node: Node, sort: str) -> Sequence[Node]:
    if sort == "tokens":  # as they are
        return node.children
    key = _key(sort)
    return sorted(node.children, key=lambda node: key(node.usage, node.seconds, (node.name, node.kind)))


def breakdown(usages: Mapping[str, Usage], sort: str) -> list[tuple[str, Usage]]:
    """Return a breakdown in an order; by tokens instead of time, as it has no times."""
    key = _key(sort)
    return sorted(usages.items(), key=lambda item: key(item[1], 0.0, (item[0],)))


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
