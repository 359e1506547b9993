"""The tree of a report, and its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tokenscope._report.breakdown import Breakdown, counted, no_such, spent_by_model
from tokenscope._report.parts import by_part
from tokenscope._report.rows import Rows
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.usage import ZERO, Usage, sum_usages, sum_values, tokens_in, unchecked, values_of

T = TypeVar("T")
_MOST_PATHS: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One scope of the tree.

    Args:
        name: The scope's name.
        kind: What opened it: `scope`, `module`, `operation`, `dspy`, `tool`, `evaluate`, `compile`,
            `phase` (of an optimizer), or `root`.
        entries: How often it was entered.
        seconds: How long it was open, in seconds, all entries together.
    """

    name: str
    kind: str
    entries: int
    seconds: float
    _tree: Tree | Usage  # a usage if it is no scope
    _index: int = -1

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the top level down."""
        names: list[str] = []
        index = self._index
        while index >= 0 and isinstance(self._tree, Tree):
            names.append(self._tree.rows.frames[index].name)
            index = self._tree.rows.parents[index]
        return tuple(reversed(names))

    @property
    def usage(self) -> Usage:
        """What was spent here and below."""
        tree = self._tree
        return unchecked(tree.totals[self._index]) if isinstance(tree, Tree) else tree

    @property
    def own(self) -> Usage:
        """What was spent here itself."""
        tree = self._tree
        return sum_usages(map(unchecked, tree.spent(self._index))) if isinstance(tree, Tree) else tree

    @property
    def by_model(self) -> Mapping[str, Usage]:
        """`usage`, by model, the costliest first."""
        if not isinstance(tree := self._tree, Tree):
            return {}
        return spent_by_model(tree.usages(self._index))

    @property
    def parts(self) -> Breakdown:
        """The input of `usage`, by part of the prompt, as `Report.by_part` has it for the whole."""
        return by_part(tree.usages(self._index)) if isinstance(tree := self._tree, Tree) else Breakdown()

    @property
    def own_parts(self) -> Breakdown:
        """The input of `own`, by part of the prompt."""
        tree = self._tree
        return by_part(tree.own_usages(self._index)) if isinstance(tree, Tree) and self._index >= 0 else Breakdown()

    @property
    def call_sizes(self) -> CallSizes | None:
        """How many tokens and seconds the calls took that were made here itself, if their prompts were measured."""
        return tree.call_sizes(self._index) if isinstance(tree := self._tree, Tree) else None

    @property
    def root(self) -> Node:
        """The nameless root above the top level of its tree."""
        return self._tree.node(-1) if isinstance(self._tree, Tree) else self

    @property
    def children(self) -> tuple[Node, ...]:
        """The scopes one level below, the costliest first."""
        tree = self._tree
        return tuple(map(tree.node, sorted(tree.below(self._index), key=tree.order))) if isinstance(tree, Tree) else ()

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield this node and every node below, each with its depth, parents before children."""
        top: list[Node] = [self]
        return walk(top, lambda _depth, node: node.children)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same scope of the same tree."""
        if not isinstance(other, Node):
            return NotImplemented
        return self is other or (self._tree is other._tree and self._index == other._index)

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self._index))

    def __repr__(self) -> str:
        return f"<Node {self.name!r}, {self.usage.total_tokens:,} tokens, {len(self.children)} below>"


class Tree:
    """What the nodes of a tree share: the rows, and what was spent at and below each. As rows do, it keeps plain numbers.

    The rows below a row follow it. So what was spent below is a part of all usages.
    """

    __slots__ = ("ends", "rows", "totals")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        # Where the rows below each end; the last one is of the index -1, the root above all.
        self.ends = [*range(1, len(rows) + 1), len(rows)]
        self.totals = [values_of(ZERO)] * (len(rows) + 1)
        parts: dict[int, list[tuple[Any, ...]]] = {}  # of rows whose rows below are being added up
        for index in range(len(rows) - 1, -2, -1):
            several = [*parts.pop(index, ()), *self.spent(index)]
            if several:
                self.totals[index] = several[0] if len(several) == 1 else sum_values(several)
            if index >= 0:
                parent = rows.parents[index]
                self.ends[parent] = max(self.ends[parent], self.ends[index])
                if several:
                    parts.setdefault(parent, []).append(self.totals[index])

    def node(self, index: int) -> Node:
        """Return a node; -1 is a nameless root above the top level."""
        if index < 0:
            return Node("", "root", 1, sum(map(self._seconds, self.below(-1))), self)
        frame = self.rows.frames[index]
        return Node(frame.name, frame.kind, self.rows.entries[index], self._seconds(index), self, index)

    def below(self, index: int) -> Iterator[int]:
        """Yield the indexes one level below."""
        here = index + 1
        while here < self.ends[index]:
            yield here
            here = self.ends[here]

    def order(self, index: int) -> tuple[int, str, str, str]:
        """Return what siblings are sorted by."""
        frame = self.rows.frames[index]
        return -tokens_in(self.totals[index]), *counted(frame.name), frame.kind

    def _seconds(self, index: int) -> float:
        return self.rows.nanoseconds[index] / 1e9

    def usages(self, index: int) -> Iterator[ModelUsage]:
        """Yield the usages at an index and below."""
        return self.rows.usages(self.rows.starts[max(0, index)], self.rows.starts[self.ends[index]])

    def own_usages(self, index: int) -> Iterator[ModelUsage]:
        """Yield the usages at an index itself."""
        return self.rows.usages(*self.rows.starts[index : index + 2])

    def call_sizes(self, index: int) -> CallSizes | None:
        """Return how calls' sizes at an index itself are distributed."""
        return dict(self.rows.sizes).get(index)

    def spent(self, index: int) -> list[tuple[Any, ...]]:
        """Return what was spent at an index itself, as the values of usages."""
        return self.rows.spent(*self.rows.starts[index : index + 2]) if index >= 0 else []


def tree_of(rows: Rows, *, scoped: bool) -> Node:
    """Return the tree of a report's rows: a scope's own node, or a nameless root above the top level of a process."""
    tree = Tree(rows)
    return tree.node(0 if scoped and rows.parents.count(-1) == 1 else -1)


def walk(top: Sequence[T], below: Callable[[int, T], Sequence[T]]) -> Iterator[tuple[int, T]]:
    """Yield nodes and those below them, each with its depth. `below` returns the children to visit, given a depth and a node."""
    stack = [(0, node) for node in reversed(top)]
    while stack:
        depth, node = stack.pop()
        yield depth, node
        stack.extend((depth + 1, child) for child in reversed(below(depth, node)))


def find(tree: Node, path: str) -> Node:
    """Return the node at a path, as `Snapshot.find` does. A name may contain a `/` itself."""
    missed: list[tuple[Node, str]] = []
    if found := _matches(tree.root, path, missed):
        return found[0]
    by_last_names = {found: None for _, node in tree.root.walk() for found in _matches(node, path, [])}
    if len(by_last_names) == 1:
        return next(iter(by_last_names))
    if by_last_names:
        paths = [repr("/".join(node.path)) for node in by_last_names]
        more = f" and {len(paths) - _MOST_PATHS:,} more" if len(paths) > _MOST_PATHS else ""
        raise KeyError(f"{path!r} is at several paths: {', '.join(paths[:_MOST_PATHS])}{more}")
    node, rest = min(missed, key=lambda item: len(item[1]))
    raise KeyError(no_such(rest, [child.name for child in node.children], path.removesuffix(rest).rstrip("/")))


def _matches(top: Node, path: str, missed: list[tuple[Node, str]]) -> list[Node]:
    """Return the nodes at a path below a node, the last ones first. What of the path is missing below others is noted."""
    candidates = [(top, path)]
    found: list[Node] = []
    while candidates:
        node, rest = candidates.pop()
        if not rest:
            found.append(node)
            continue
        missed.append((node, rest))
        for child in node.children:
            for name in (child.name, child.name.partition("(")[0]):
                if name and (rest == name or rest.startswith(name + "/")):
                    candidates.append((child, rest[len(name) + 1 :]))
                    break
    return found
