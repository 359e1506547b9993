"""LM calls inside LM calls: which of them only hand on what others have spent, and are not counted again.

An LM of a user's own may ask another LM and hand on its answer, or ask one and then spend something itself; a callback may ask an
LM in the middle of another's call. What an answer hands on is known by identity: it is the inner call's response, or has its
usage or a part of that. Equal numbers prove nothing: two calls may spend the same. They count only where the LM adds up
several calls, or tracks what it asks, or where the program itself has recorded what its LM spends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

from tokenscope._scopes.process import Counted
from tokenscope._usage.calls import Call
from tokenscope._usage.usage import Counts, sum_counts

# One object of these kinds may stand in many places.
_SHARED = (int, float, Decimal, str, bytes, tuple, frozenset, Enum, type, type(None))


class InnerCall(NamedTuple):
    """An LM call that has ended inside another one."""

    counts: Counts
    evidence: Sequence[Any]
    is_tracked: bool  # whether code inside the other call tracks what is spent there
    counted: tuple[tuple[Counted, Call], ...]


class Request(NamedTuple):
    """A call of `LM.forward` inside an LM call."""

    usage: Any  # its usage; None if the cache answered; a `Counts` once it is read
    evidence: Sequence[Any] = ()  # empty if it is the LM's own: then the answer is made of it


def evidence(found: Iterable[Any]) -> list[Any]:
    """Return objects by which an answer and its usage are known wherever they appear again."""
    result: list[Any] = []
    for each in found:
        try:
            usage = getattr(each, "usage", None)
            parts = [*_parts(each), *_parts(usage)]
        except Exception:  # noqa: BLE001 - an object of a program's that cannot be looked at is known by itself alone
            usage, parts = None, []
        result += (each, usage, *parts)
    return [each for each in result if not issubclass(type(each), _SHARED)]


def _parts(usage: Any) -> Iterable[Any]:
    return usage.values() if issubclass(type(usage), Mapping) else ()


def latest_in_history(lm: Any, answer: Any, entries: Sequence[Any]) -> list[Any]:
    """Return the response and the usage that DSPy has kept of a call in its LM's history, where other code may find them."""
    history = getattr(lm, "history", None)
    latest = history[-1] if isinstance(history, list) and history else None
    if not isinstance(latest, dict):
        return []
    response, usage = latest.get("response"), latest.get("usage")
    is_this = (answer is not None and response is answer) or any(usage is entry for entry in entries)
    return [response, usage] if is_this else []


def spent_in_requests(counts: Counts, requests: Sequence[Request], ids: frozenset[int]) -> Counts:
    """Return what a call spent in all its requests: DSPy only sees the response that the LM returns, which has `counts`."""
    spent = [request for request in requests if request.usage]
    total = sum_counts(request.usage for request in spent)
    if not any(counts) or counts == total:
        return total
    for request in spent:
        if counts == request.usage if not request.evidence else _is_among(request.evidence, ids):
            return total
    return sum_counts([total, counts])


def hands_on(
    counts: Counts, inner: Sequence[InnerCall], recorded: Sequence[Counts], ids: frozenset[int], *, may_add_up: bool
) -> bool:
    """Return whether an answer with `counts` only hands on what calls inside spent, or what was recorded there by hand.

    `may_add_up`: whether the LM has code of its own, which may report sums, or nothing.
    """
    if counts in recorded or any(_is_among(call.evidence, ids) for call in inner):
        return True
    several = [*recorded, *(call.counts for call in inner)]
    if not may_add_up or not several:
        return False
    return (
        not any(counts)
        or any(call.is_tracked and counts == call.counts for call in inner)
        or (len(several) > 1 and counts == sum_counts(several))
    )


def _is_among(objects: Sequence[Any], ids: frozenset[int]) -> bool:
    return any(id(each) in ids for each in objects)
