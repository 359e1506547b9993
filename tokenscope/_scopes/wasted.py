"""Marking all that was spent in a scope as wasted, when it turns out that its result is not used."""

from __future__ import annotations

from typing import Any

from tokenscope._scopes.event_log import collect, mark_wasted
from tokenscope._scopes.process import Counted
from tokenscope._usage.keys import UsageKey, WasteReason
from tokenscope._usage.usage import ZERO_COUNTS, Counts, CountsSum


def mark_all_wasted(scope: Counted, reason: WasteReason) -> None:
    """Mark what was counted in a scope as wasted, but for what is marked already: each call is wasted for one reason."""
    for path, row in collect(scope).rows.items():
        marked: dict[UsageKey, CountsSum] = {}
        for key, spent in row.counts.items():
            if key.wasted is not None:
                marked.setdefault(key._replace(wasted=None), CountsSum()).add(spent.counts())
        for key, spent in row.counts.items():
            if key.wasted is not None or key.source == "cache":
                continue
            before: tuple[Any, ...] = marked[key].counts() if key in marked else ZERO_COUNTS
            counts: tuple[Any, ...] = spent.counts()
            rest = Counts._make(max(a - b, 0) for a, b in zip(counts, before, strict=True))
            rest = rest._replace(calls=max(0, rest.calls - rest.cached_calls), cached_calls=0)
            if any(rest):
                mark_wasted(scope, path, key, rest, reason)
