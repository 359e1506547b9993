"""Nodes and breakdowns: what the views of a report are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenscope._report.rows import Row
from tokenscope._usage.calls import Frame
from tokenscope._usage.usage import ZERO, Usage


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A level of the tree.

    Args:
        name: The scope's name.
        kind: What opened it: `scope`, `module`, `operation`, `dspy`, `tool`, `evaluate`, `compile`,
            `phase` (of an optimizer), or `root`.
        usage: What was spent here and below.
        own: What was spent here itself.
        by_model: The same as `usage`, by model.
        entries: How often it was entered.
        seconds: How long it was open, all entries together, in seconds.
        children: The levels below, the costliest first.
    """

    name: str
    kind: str
    usage: Usage
    own: Usage
    by_model: Mapping[str, Usage]
    entries: int
    seconds: float
    children: tuple[Node, ...]

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield every node below and this one first, with its depth, in the order of the tree."""
        stack: list[tuple[int, Node]] = [(0, self)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            stack.extend((depth + 1, child) for child in reversed(node.children))

    def __repr__(self) -> str:
        return f"<Node {self.name!r}, {self.usage.total_tokens:,} tokens, {len(self.children)} below>"


class Breakdown(dict[str, Usage]):
    """Usage by name; a name that is not there is a KeyError that shows the nearest ones."""

    def __missing__(self, name: object) -> Usage:
        raise KeyError(no_such(str(name), self))


def tree_of(rows: Sequence[Row], *, scoped: bool) -> Node:
    """Return the tree of a report's rows: the one at the top level for a scope's, else a nameless node above them."""
    below: list[list[Node]] = [[] for _ in rows]
    top: list[Node] = []
    for index in range(len(rows) - 1, -1, -1):
        row = rows[index]
        node = _node(row.frame, dict(row.models), row.entries, row.nanoseconds / 1e9, below[index])
        below[index] = []
        (below[row.parent] if row.parent >= 0 else top).append(node)
    if scoped and len(top) == 1:
        return top[0]
    return _node(Frame("root", ""), {}, 1, sum(node.seconds for node in top), top)


def find(root: Node, path: str) -> Node:
    """Return the node at a path of names joined by `/`; names may hold some themselves.

    Raises:
        KeyError: there is no such node; the message shows the nearest names.
    """
    above = Node("", "root", root.usage, ZERO, root.by_model, 1, root.seconds, (root,))
    candidates = [(root if root.kind == "root" else above, path)]
    nearest: tuple[int, Node] = (len(path) + 1, candidates[0][0])
    while candidates:
        node, rest = candidates.pop()
        if not rest:
            return node
        nearest = min(nearest, (len(rest), node), key=lambda item: item[0])
        for child in node.children:
            for name in (child.name, child.name.partition("(")[0]):
                if name and (rest == name or rest.startswith(name + "/")):
                    candidates.append((child, rest[len(name) + 1 :]))
                    break
    rest_length, node = nearest
    where = path[: len(path) - rest_length].rstrip("/")
    raise KeyError(no_such(path[len(path) - rest_length :], [child.name for child in node.children], where))


def _node(frame: Frame, own: dict[str, Usage], entries: int, seconds: float, children: list[Node]) -> Node:
    by_model = Breakdown(own)
    for child in children:
        for model, usage in child.by_model.items():
            by_model[model] = by_model.get(model, ZERO) + usage
    return Node(
        name=frame.name,
        kind=frame.kind,
        usage=sum(by_model.values(), ZERO),
        own=sum(own.values(), ZERO),
        by_model=costliest_first(by_model),
        entries=entries,
        seconds=seconds,
        children=tuple(sorted(children, key=lambda node: (-node.usage.total_tokens, node.name, node.kind))),
    )


def costliest_first(usages: Breakdown) -> Breakdown:
    return Breakdown(sorted(usages.items(), key=lambda item: (-item[1].total_tokens, item[0])))


def no_such(name: str, names: Iterable[str], where: str = "") -> str:
    known = list(names)
    near = difflib.get_close_matches(name.partition("/")[0], known, n=3, cutoff=0.4) or known[:5]
    return (
        f"no {name!r}"
        + (f" below {where!r}" if where else "")
        + (f"; the nearest: {', '.join(map(repr, near))}" if near else "; there is nothing")
    )
