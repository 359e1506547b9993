"""Marking all that was spent in a scope as wasted: each call once, for one reason."""

from __future__ import annotations

from support.spending import count, spend

from tokenscope import Usage, token_scope
from tokenscope._scopes.wasted import mark_all_wasted

FAILED = Usage(calls=1, failed_calls=1, input_tokens=100)
SAVED = Usage(calls=1, input_tokens=1_000)


def wasted(scope):
    """Return what was wasted in a scope, by reason."""
    wastes = scope.report().waste().values()
    found = {reason: sum(getattr(waste, reason) for waste in wastes) for reason in ("retries", "stragglers")}
    return {reason: usage for reason, usage in found.items() if usage}


def test_each_call_is_wasted_once():
    """What is marked as wasted already is not marked again. What is spent later can be."""
    with token_scope("attempt") as scope:
        spend(1)
        spend(2)
        mark_all_wasted(scope, "retries")
        mark_all_wasted(scope, "stragglers")
        assert {"retries": (2, 3)} == {key: (each.calls, each.input_tokens) for key, each in wasted(scope).items()}
        spend(4)
        mark_all_wasted(scope, "stragglers")
        mark_all_wasted(scope, "retries")

    found = {key: (each.calls, each.input_tokens) for key, each in wasted(scope).items()}
    assert {"retries": (2, 3), "stragglers": (1, 4)} == found
    assert 7 == scope.usage.total_tokens


def test_answers_of_the_cache_waste_nothing():
    """An answer from DSPy's cache cost nothing, so only the others are wasted, whichever came first."""
    with token_scope("attempt") as scope:
        count(scope, "other/model", Usage(calls=1, cached_calls=1), saved=SAVED)
        count(scope, "other/model", FAILED)
        spend(1)
        count(scope, "other/model", Usage(calls=1, cached_calls=1), saved=SAVED)
        count(scope, "other/model", Usage(calls=1, cached_calls=1))  # the cache does not tell what it saved
        count(scope, "other/model", Usage(calls=1, failed_calls=1))
        mark_all_wasted(scope, "retries")

    total = wasted(scope)["retries"]
    assert (3, 0, 2, 101) == (total.calls, total.cached_calls, total.failed_calls, total.input_tokens)
    assert 3 == scope.usage.cached_calls
