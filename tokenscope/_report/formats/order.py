"""The orders in which a format can list scopes that stand beside each other, and the names of a breakdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenscope._report.tree import Node
    from tokenscope._usage.usage import Usage

_KEYS: Final[dict[str, Callable[[Usage], Any]]] = {
    "tokens": lambda usage: -usage.total_tokens,
    "cost": lambda usage: (usage.known_cost is None, -usage.cost),  # what nobody knows comes last
    "calls": lambda usage: -usage.calls,
}
SORTS: Final = (*_KEYS, "time", "name")
"""Names ascend; the others descend, and what is equal is in the order of tokens, then of names."""
SORTABLE: Final = ("tree", "table", "markdown", "csv")
"""The formats that take one of these; the others have an order of their own."""


def siblings(nodes: Iterable[Node], sort: str) -> list[Node]:
    """Return the children of a node in an order.

    Raises:
        ValueError: there is no such order.
    """
    found = list(nodes)  # a node's children are in the order of tokens
    if sort == "name":
        found.sort(key=lambda node: (node.name, node.kind))
    elif sort == "time":
        found.sort(key=lambda node: -node.seconds)
    elif sort != "tokens":
        key = _key(sort)
        found.sort(key=lambda node: key(node.usage))
    return found


def breakdown(usages: Mapping[str, Usage], sort: str) -> list[tuple[str, Usage]]:
    """Return a breakdown in an order; by tokens where that is time, which it has none of.

    Raises:
        ValueError: there is no such order.
    """
    found = list(usages.items())  # breakdowns are in the order of tokens
    if sort == "name":
        found.sort(key=lambda item: item[0])
    elif sort not in ("tokens", "time"):
        key = _key(sort)
        found.sort(key=lambda item: key(item[1]))
    return found


def _key(sort: str) -> Callable[[Usage], Any]:
    if sort not in _KEYS:
        raise ValueError(f"a report cannot be sorted by {sort!r}, but by {', '.join(SORTS)}")
    return _KEYS[sort]
