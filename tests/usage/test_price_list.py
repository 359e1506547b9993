"""The prices that a report was reckoned with."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tokenscope import Price, Report, get_tracker, record_response, record_tokens, report, set_price, token_scope
from tokenscope._usage.custom_prices import forget_prices
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.price_list import merged, price_of, price_source
from tokenscope._usage.prices import known_models, table_version
from tokenscope.errors import ReportFormatError


@pytest.fixture
def priced_report():
    """Return a report of calls with all kinds of prices, and with none."""
    set_price("ollama/llama", input=1, output=2, cache_read=Decimal("0.1"))
    with token_scope("run") as scope:
        record_tokens("m", "o", "claude-sonnet-4-5", "anthropic", 300_000, 500)
        record_tokens("m", "o", "claude-sonnet-4-5", "anthropic", 400_000, 500)
        record_tokens("m", "o", "claude-sonnet-4-5", "anthropic", 3_000, 500)
        record_tokens("m", "o", "llama", "ollama", 1_000, 500)
        record_tokens("m", "o", "unheard-of", "unknown", 1_000, 500)
        record_tokens("m", "o", "told", "x", 1_000, 500, cost=0.1)
        usage = {"prompt_tokens": 1_000, "completion_tokens": 10, "total_tokens": 1_010}
        record_response({"model": "gpt-5-mini", "service_tier": "flex", "usage": usage})
    yield scope.report()
    forget_prices()


def test_prices(priced_report):
    """Each price is listed once: by model and tier, with its source and its rates."""
    short, long, flex, llama, told = _by_model(priced_report)
    assert ("anthropic/claude-sonnet-4-5", 0, "genai-prices", table_version(), "") == short[:5]
    assert (200_000, Decimal(3), Decimal(6)) == (long.tier, short.rates["input_tokens"], long.rates["input_tokens"])
    rates = {"input_tokens": Decimal(1), "output_tokens": Decimal(2), "cache_read_tokens": Decimal("0.1")}
    assert Price("ollama/llama", 0, "set_price", rates=rates) == llama
    assert ({"service_tier": "flex"}, "2026-10-12", Decimal("0.125")) == (
        flex.terms,
        flex.since,
        flex.rates["input_tokens"],
    )
    assert Price("x/told", 0, "provider") == told


def _by_model(found):
    prices = {(price.model, price.tier): price for price in found.prices()}
    assert len(prices) == len(found.prices()) == 5
    names = ("anthropic/claude-sonnet-4-5", 0), ("anthropic/claude-sonnet-4-5", 200_000), ("openai/gpt-5-mini", 0)
    return [prices[name] for name in (*names, ("ollama/llama", 0), ("x/told", 0))]


def test_a_saved_report_keeps_them(priced_report, tmp_path):
    """A saved report has the same costs and prices when prices have changed, and sums have the prices of both."""
    priced_report.save(tmp_path / "report.json")
    set_price("ollama/llama", input=100, output=200)
    set_price("openai/gpt-5-mini", input=100, output=200)
    loaded = Report.load(tmp_path / "report.json")
    assert priced_report == loaded
    assert priced_report.prices() == loaded.prices() == (loaded + priced_report).prices()
    assert priced_report.total.cost == loaded.total.cost


def test_repriced(priced_report):
    """A report at another model's price has that model's prices alone."""
    prices = priced_report.reprice("openai/gpt-4o").prices()
    assert {("openai/gpt-4o", "genai-prices")} == {(price.model, price.source) for price in prices}


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        ("7", "a price of the report is damaged"),
        ('{"model": "m"}', "a price of the report lacks 'source'"),
        ('{"model": "m", "source": "a friend"}', "'source' must be one of provider, set_price, genai-prices"),
        ('{"model": "m", "source": "set_price", "rates": {"input_tokens": "-1"}}', "a rate must be dollars, 0 or more"),
        ('{"model": "m", "source": "set_price", "tier": -1}', "tier must not be negative"),
    ],
)
def test_damaged_prices(price, problem, tmp_path):
    """A damaged price of a saved report is an error when it is loaded."""
    (tmp_path / "r.json").write_text(f'{{"format": 1, "scoped": true, "rows": [], "prices": [{price}]}}')
    with pytest.raises(ReportFormatError, match=problem):
        Report.load(tmp_path / "r.json")


def test_shown_folded(priced_report):
    """Markdown and HTML show the prices, folded; a report without any shows nothing of them."""
    markdown = priced_report.render("markdown")
    assert "<details><summary>Prices</summary>" in markdown
    assert "| `ollama/llama` | set_price |  | $1 | $2 | cache read $0.1 |" in markdown
    assert "| `x/told` | told with each call |  |  |  |  |" in markdown
    assert "prompts over 200,000 tokens" in markdown
    assert "service tier flex" in markdown
    assert f"genai-prices {table_version()}, since 2026-10-12 UTC" in markdown
    page = priced_report.render("html")
    assert '"Holds for"' in page
    assert "prompts over 200,000 tokens" in page
    with token_scope("nothing known") as scope:
        record_tokens("m", "o", "unheard-of", "unknown", 1_000, 500)
    assert "<details>" not in scope.report().render("markdown")
    assert '"Holds for"' not in scope.report().render("html")


def test_calls_that_used_more_than_tokens(tmp_path):
    """Of calls with searches, genai-prices reckons each alone: their price has no rates, and is not the provider's."""
    usage = {"input_tokens": 1_000, "output_tokens": 10, "server_tool_use": {"web_search_requests": 2}}
    with token_scope("run") as scope:
        record_response({"type": "message", "model": "claude-sonnet-4-5", "usage": usage}, provider="anthropic")
    found = scope.report()
    price = Price("anthropic/claude-sonnet-4-5", 0, "genai-prices", table_version())
    found.save(tmp_path / "report.json")
    loaded = Report.load(tmp_path / "report.json")
    assert found == loaded
    assert (price,) == found.prices() == loaded.prices()
    assert "calls that used more than tokens" in found.render("markdown")
    assert "genai-prices" == dict(get_tracker().records[-1])["price_source"]
    repriced = found.reprice("anthropic/claude-sonnet-4-5")
    assert Decimal("0.02") == found.total.cost - repriced.total.cost
    assert Decimal(3) == repriced.prices()[0].rates["input_tokens"]


def test_records_have_costs(tmp_path):
    """A record has the cost of its call, as of when it was made; files of records keep it, whatever prices become."""
    from tokenscope import JSONLSink, get_tracker

    tracker = get_tracker()
    sink = JSONLSink(tmp_path / "calls.jsonl")
    tracker.add_sink(sink)
    set_price("ollama/llama", input=1, output=2)
    try:
        with token_scope("run") as scope:
            for _ in range(3):
                record_tokens("m", "o", "gpt-4o-mini", "openai", 1_000, 500)
                record_tokens("m", "o", "llama", "ollama", 1_000, 500)
                record_tokens("m", "o", "told", "x", 1_000, 500, cost=0.1)
                record_tokens("m", "o", "unheard-of", "unknown", 1_000, 500)
    finally:
        tracker.remove_sink(sink)
    found = tracker.records[-4:]
    assert [Decimal("0.00045"), Decimal("0.002"), Decimal("0.1"), None] == [record.cost for record in found]
    assert [0.00045, 0.002, 0.1, None] == [dict(record)["cost"] for record in found]
    assert ["genai-prices", "set_price", "provider", None] == [dict(each).get("price_source") for each in found]
    forget_prices()
    loaded = Report.load(sink.path)
    assert scope.usage.unpriced_calls == 6  # the price of llama is forgotten
    assert 3 * Decimal("0.10245") == loaded.total.cost
    assert loaded.total.unpriced_calls == 3
    assert loaded.by_model()["ollama/llama"].cost == Decimal("0.006")
    assert report()


def test_where_the_price_of_a_key_comes_from():
    """Calls that spent nothing, wasted counts and unknown models have no price of their own."""
    key = UsageKey("openai/gpt-5-mini", moment="2026-10-14")
    assert ("genai-prices", "none", None) == tuple(
        map(price_source, (key, key._replace(source="none"), UsageKey("unknown/model")))
    )
    assert "genai-prices" == price_of(key).source
    for other in (key._replace(source="none"), key._replace(wasted="retries"), UsageKey("unknown/model")):
        assert price_of(other) is None


def test_since_when_a_price_holds():
    """A price holds since a date, or since a time of the day; a date at which only other services' prices changed is not told."""
    known_models()
    key = UsageKey("openai/gpt-5-mini", moment="2026-10-14")
    assert "2026-10-12" == price_of(key._replace(terms=(("service_tier", "flex"),))).since
    assert "" == price_of(key).since == price_of(key._replace(moment="1970-01-01")).since
    assert "16:30" == price_of(UsageKey("deepseek/deepseek-chat", moment="1970-01-01T16:30")).since
    assert "" == price_of(UsageKey("openai/gpt-4o-mini")).since


def test_prices_that_differ_in_terms_or_rates():
    """Prices of one model are in the order of their terms, and then of their rates; equal ones are one."""
    first, second = ({"service_tier": tier} for tier in ("flex", "priority"))
    one, two = ({"input_tokens": Decimal(rate)} for rate in (1, 2))
    prices = [
        Price("m", 0, "genai-prices", terms=terms, rates=rates) for terms in (first, second) for rates in (one, two)
    ]

    assert tuple(prices) == merged([*reversed(prices), *prices])
