"""Stacks: every node of a tree with those above it, for the formats that write a whole path a line.

A path is as long as its node is deep, so that writing all of them grows with the square of the depth. What lies below the
1,000th level (Python's own limit for recursion) is added up as one node, `(deeper)`: nothing is lost from any sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tokenscope._report.formats.order import siblings
from tokenscope._report.report import Report
from tokenscope._report.tree import Node
from tokenscope._usage.usage import ZERO

DEEPEST: Final = 1_000


def stacks(report: Report, sort: str = "tokens") -> Iterator[list[Node]]:
    """Yield each node as the last of the nodes that lead to it; the list changes with the next step."""
    root = report.tree()
    stack: list[Node] = []
    waiting = [(0, node) for node in reversed(siblings(root.children, sort) if root.kind == "root" else [root])]
    while waiting:
        depth, node = waiting.pop()
        del stack[depth:]
        stack.append(node)
        yield stack
        below = siblings(node.children, sort)
        if depth + 1 == DEEPEST and below:
            below = [_deeper(below)]
        waiting.extend((depth + 1, child) for child in reversed(below))


def _deeper(nodes: list[Node]) -> Node:
    usage = sum((node.usage for node in nodes), ZERO)
    entries, seconds = sum(node.entries for node in nodes), sum(node.seconds for node in nodes)
    return Node("(deeper)", "other", usage, usage, {}, entries, seconds, ())
