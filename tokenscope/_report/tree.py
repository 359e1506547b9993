"""The tree of a report, its nodes, and breakdowns of usage by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from tokenscope._report.rows import Row
from tokenscope._usage.calls import Frame
from tokenscope._usage.usage import ZERO, Usage, sum_usages

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One scope of the tree.

    Args:
        name: The scope's name.
        kind: What opened it: `scope`, `module`, `operation`, `dspy`, `tool`, `evaluate`, `compile`,
            `phase` (of an optimizer), or `root`.
        usage: What was spent here and below.
        own: What was spent here itself.
        by_model: `usage`, by model.
        entries: How often it was entered.
        seconds: How long it was open, in seconds, all entries together.
        children: The scopes one level below, the costliest first.
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
        """Yield this node and every node below, each with its depth, parents before children."""
        top: list[Node] = [self]
        return walk(top, lambda _depth, node: node.children)

    def __repr__(self) -> str:
        return f"<Node {self.name!r}, {self.usage.total_tokens:,} tokens, {len(self.children)} below>"


class Breakdown(dict[str, Usage]):
    """Usage by name, the costliest first. The KeyError for a missing name shows the nearest names."""

    def __missing__(self, name: object) -> Usage:
        raise KeyError(no_such(str(name), self))


def breakdown_of(parts: Iterable[tuple[str, Usage]]) -> Breakdown:
    """Add up usages by name, the costliest first; equal ones are in the order of their names."""
    groups: dict[str, list[Usage]] = {}
    for name, usage in parts:
        groups.setdefault(name, []).append(usage)
    sums = [(name, sum_usages(usages)) for name, usages in groups.items()]
    return Breakdown(sorted(sums, key=lambda item: (-item[1].total_tokens, item[0])))


def tree_of(rows: Sequence[Row], *, scoped: bool) -> Node:
    """Return the tree of a report's rows: a scope's own node, or a nameless root above the top level of a process."""
    top: list[Node] = []
    below: dict[int, list[Node]] = {-1: top}
    for index in range(len(rows) - 1, -1, -1):
        row = rows[index]
        node = _node(row.frame, row.models, row.entries, row.nanoseconds / 1e9, below.pop(index, ()))
        below.setdefault(row.parent, []).append(node)
    if scoped and len(top) == 1:
        return top[0]
    return _node(Frame("root", ""), (), 1, sum(node.seconds for node in top), top)


def rooted(tree: Node) -> Node:
    """Return a tree with a nameless root above its top level, as the tree of a process has one."""
    if tree.kind == "root":
        return tree
    return Node("", "root", tree.usage, ZERO, tree.by_model, 1, tree.seconds, (tree,))


def walk(top: Sequence[T], below: Callable[[int, T], Sequence[T]]) -> Iterator[tuple[int, T]]:
    """Yield nodes and those below them, each with its depth. `below` returns the children to visit, given a depth and a node."""
    stack = [(0, node) for node in reversed(top)]
    while stack:
        depth, node = stack.pop()
        yield depth, node
        stack.extend((depth + 1, child) for child in reversed(below(depth, node)))


def find(tree: Node, path: str) -> Node:
    """Return the node at a path, as `Snapshot.find` does. A name may contain a `/` itself."""
    candidates = [(rooted(tree), path)]
    missed: list[tuple[Node, str]] = []
    while candidates:
        node, rest = candidates.pop()
        if not rest:
            return node
        missed.append((node, rest))
        for child in node.children:
            for name in (child.name, child.name.partition("(")[0]):
                if name and (rest == name or rest.startswith(name + "/")):
                    candidates.append((child, rest[len(name) + 1 :]))
                    break
    node, rest = min(missed, key=lambda item: len(item[1]))
    raise KeyError(no_such(rest, [child.name for child in node.children], path.removesuffix(rest).rstrip("/")))


def _node(frame: Frame, own: Sequence[tuple[str, Usage]], entries: int, seconds: float, below: Sequence[Node]) -> Node:
    # Most nodes of a large tree spend nothing themselves and have one node below, or the other way around.
    spending = [child for child in below if child.by_model]
    by_model: Mapping[str, Usage]
    if len(spending) == 1 and not own:
        by_model, usage = spending[0].by_model, spending[0].usage
    elif len(own) == 1 and not spending:
        by_model, usage = Breakdown(own), own[0][1]
    else:
        by_model = breakdown_of(chain(own, *(child.by_model.items() for child in spending)))
        usage = sum_usages(by_model.values())
    spent_here = sum_usages([each for _, each in own]) if spending else usage
    if len(below) > 1:
        below = sorted(below, key=lambda node: (-node.usage.total_tokens, node.name, node.kind))
    return Node(frame.name, frame.kind, usage, spent_here, by_model, entries, seconds, tuple(below))


def no_such(name: str, names: Iterable[str], where: str = "") -> str:
    """Return the message for a missing name: it shows the nearest names."""
    known = list(names)
    near = difflib.get_close_matches(name.partition("/")[0], known, n=3, cutoff=0.4) or known[:5]
    below = f" below {where!r}" if where else ""
    return f"no {name!r}{below}; " + (f"the nearest: {', '.join(map(repr, near))}" if near else "there is nothing")
