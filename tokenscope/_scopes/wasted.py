"""Marking all that was spent in a scope as wasted, when it turns out that its result is not used."""

from __future__ import annotations

from typing import Any

from tokenscope._scopes.event_log import Wasted, append, collect
from tokenscope._scopes.process import Counted
from tokenscope._usage.keys import UsageKey, WasteReason
from tokenscope._usage.usage import ZERO_COUNTS, Counts, add_counts


def mark_all_wasted(scope: Counted, reason: WasteReason) -> None:
    """Mark what was counted in a scope as wasted, but for what is marked already: each call is wasted for one reason."""
    for path, row in collect(scope).all_rows.items():  # those of attributes, too
        marked: dict[UsageKey, Counts] = {}
        for key, counts in row.counts.items():
            if key.wasted is not None:
                key = key._replace(wasted=None)  # noqa: PLW2901
                marked[key] = add_counts(marked.get(key, ZERO_COUNTS), counts)
        for key, counts in row.counts.items():
            if key.is_repeated or key.source == "cache":
                continue
            before: tuple[Any, ...] = marked.get(key, ZERO_COUNTS)
            rest = Counts._make(max(a - b, 0) for a, b in zip(counts, before, strict=True))
            rest = rest._replace(calls=max(0, rest.calls - rest.cached_calls), cached_calls=0)
            if any(rest):
                append(Wasted(scope, path, key, rest, reason))
