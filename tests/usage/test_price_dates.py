"""Calls are priced as of when they were made: over the whole price table, on both sides of each date and hour."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain, product
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from support.spending import python

from tokenscope._usage.keys import UsageKey, key_of
from tokenscope._usage.price_dates import earlier_moments, moment_of, settled
from tokenscope._usage.prices import known_models, priced, settle
from tokenscope._usage.usage import Counts

COUNTS = Counts(
    calls=1,
    input_tokens=230_000,
    output_tokens=700,
    cache_read_tokens=9_000,
    cache_write_tokens=4_000,
    cache_write_1h_tokens=1_500,
    reasoning_tokens=300,
)
SHORT = COUNTS._replace(input_tokens=14_000)


def conditions(model: Any) -> list[Any]:
    """Return what a price in the table depends on: dates and times of the day."""
    prices = model.prices if isinstance(model.prices, list) else []
    found = [each.constraint for each in chain(prices, model.price_variants or [])]
    return [each for each in found if each is not None]


def both_sides(model: Any) -> list[datetime]:
    """Return a moment before each date and time at which a price may change, and that moment itself."""
    edges = {datetime(2026, 11, 27, 12, tzinfo=UTC)}
    days = {datetime(2026, 11, 27, tzinfo=UTC)}
    for each in conditions(model):
        if hasattr(each, "start_date"):
            day = datetime.combine(each.start_date, datetime.min.time(), UTC)
            edges |= {day, day - timedelta(seconds=1)}
            days.add(day)
    for each in conditions(model):
        if hasattr(each, "start_time"):
            for day, edge in product(days, (each.start_time, each.end_time)):
                moment = datetime.combine(day.date(), edge.replace(tzinfo=None), UTC)
                edges |= {moment, moment - timedelta(seconds=1)}
    return sorted(edges)


def conditional_models() -> Iterator[tuple[str, str, Any]]:
    """Yield the provider, the name and the entry of each model whose price depends on when, or on which service."""
    for provider in get_snapshot().providers:
        for model in provider.models:
            if conditions(model) or model.price_variants:
                yield provider.id, model.id, model


def their_cost(provider: str, model: str, counts: Counts, made: datetime, terms: dict[str, str]) -> Decimal | None:
    """Return what genai-prices itself says that a call costs."""
    usage = TheirUsage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cache_read_tokens=counts.cache_read_tokens,
        cache_write_tokens=counts.cache_write_tokens,
        cache_write_1h_tokens=counts.cache_write_1h_tokens,
        output_reasoning_tokens=counts.reasoning_tokens,
    )
    try:
        found = calc_price(
            usage, model, provider_id=provider, genai_request_timestamp=made, price_context=terms or None
        )
    except (LookupError, ValueError):
        return None
    return Decimal(found.total_price)


@pytest.mark.unmeasured
def test_every_conditional_price():
    """Each conditional price is genai-prices' own on both sides of each of its dates and hours, for each service."""
    known_models()
    compared, keys = 0, set()
    for provider, name, model in conditional_models():
        services = [{}, *(variant.when for variant in model.price_variants or [])]
        for made, terms, counts in product(both_sides(model), services, (COUNTS, SHORT)):
            key = key_of(f"{provider}/{name}", counts, made.timestamp(), tuple(terms.items()))
            keys.add(settle(key))
            theirs = their_cost(provider, name, counts, made, terms)
            assert theirs == priced(settle(key), counts).cost == priced(key, counts).cost, (provider, name, made, terms)
            compared += 1
    assert compared > 2_000
    assert {"deepseek"} == {key.model.partition("/")[0] for key in keys if "T" in key.moment}


def test_a_key_noted_before_the_table_is_loaded():
    """No call waits for the table: its key holds the day, or the half-hour, until the price is looked up."""
    code = """
import sys
from tokenscope import record_tokens, report
from tokenscope._scopes.event_log import records
for model in ("openai/gpt-5-mini", "openai/davinci-002", "deepseek/deepseek-chat"):
    record_tokens("m", "o", model, None, 1_000, 10)
print([len(call.key.moment) for call in records()], "genai_prices" in sys.modules)
print(sorted(len(each.key.moment) for row in report().rows for each in row.usages))
record_tokens("m", "o", "openai/gpt-5-mini", None, 1_000, 10)
print(len({each.key for row in report().rows for each in row.usages}))
"""
    assert "[10, 10, 16] False\n[0, 10, 16]\n3\n" == python(code)


@pytest.mark.parametrize(
    ("model", "made", "moment"),
    [
        ("openai/gpt-5-mini", "2026-10-11T23:59:59", "1970-01-01"),
        ("openai/gpt-5-mini", "2026-10-12T00:00:00", "2026-10-12"),
        ("openai/gpt-5-mini", "2026-11-27T00:00:00", "2026-10-14"),
        ("unknown/model", "2026-11-27T00:00:00", ""),
    ],
)
def test_moments(model, made, moment):
    """One key lasts for as long as the price stays the same."""
    known_models()
    started = datetime.fromisoformat(made).replace(tzinfo=UTC).timestamp()
    assert moment == key_of(model, COUNTS, started).moment


def test_earlier_moments():
    """Before a moment, prices may have changed at earlier dates, at the same time of day; none is before the first."""
    known_models()
    assert ["2026-10-12", "1970-01-01"] == earlier_moments("openai/gpt-5-mini", "2026-10-14")
    assert [] == earlier_moments("openai/gpt-5-mini", "1970-01-01") == earlier_moments("openai/gpt-5-mini", "")
    assert {"T16:30"} == {each[10:] for each in earlier_moments("deepseek/deepseek-chat", "2099-01-01T16:30")}
    assert "" == settled("openai/gpt-5-mini", "")
    assert ("2026-10-12", "2026-10-14") == tuple(
        settled("openai/gpt-5-mini", moment) for moment in ("2026-10-12", "2026-10-14T23:59")
    )


def test_what_a_price_does_not_depend_on():
    """Terms of which the table knows no price of the model are dropped when the price is looked up."""
    known_models()
    key = UsageKey("openai/gpt-5-mini", 0, "table", None, "2026-11-27", (("service_tier", "flex"), ("speed", "slow")))
    assert UsageKey("openai/gpt-5-mini", 0, "table", None, "2026-10-14", (("service_tier", "flex"),)) == settle(key)
    assert key._replace(source="provider") == settle(key._replace(source="provider"))
    assert moment_of("openai/gpt-5-mini", 0) == "1970-01-01"


def test_a_process_that_never_looks_at_a_cost():
    """It loads the table when calls have been made at many moments, which would else be sums of their own for ever."""
    code = """
import sys, time
from unittest.mock import patch
from tokenscope import record_tokens
from tokenscope._scopes.event_log import drain
from tokenscope._scopes.process import STATE
from tokenscope._usage.price_dates import MANY_MOMENTS
def spend_for(days):
    for day in range(days):
        with patch("time.time", return_value=day * 86_400):
            record_tokens("m", "o", "openai/gpt-5-mini", None, 1_000, 10)
        drain()
    return len({key for row in STATE.root.table.rows.values() for key in row.counts})
print(spend_for(MANY_MOMENTS) == MANY_MOMENTS, "genai_prices" in sys.modules)
print(spend_for(3 * MANY_MOMENTS) - MANY_MOMENTS, "genai_prices" in sys.modules)
"""
    assert "True False\n1 True\n" == python(code)
