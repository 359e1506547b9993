"""The analysis of a run: totals, averages per sample, and shares that add up to 100%."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law.test_properties import QUICK, reports
from markdown_it import MarkdownIt
from rich.cells import cell_len
from support.formats import HOSTILE, HUGE, PRICED, deep, hostile, huge, usage
from support.reports import build, made

from tokenscope import Report
from tokenscope._report.formats.analysis import render as analysis
from tokenscope._report.formats.analysis import shares
from tokenscope._usage.calls import Frame

TEXT = """\
=== Token Usage Analysis ===
Total Samples: 7
Total Token Usage: 33,800 tokens (27,140 input, 6,660 output)
Average Token Cost Per Sample: 4,828.6 tokens
Total Calls: 24 (2 answered by DSPy's cache, 1 failed)
Total Cost: ≥ $0.054
Average Cost Per Sample: ≥ $0.0078
Saved by DSPy's Cache: 240 tokens, worth $0.00013

Breakdown by Module:
  ResearchAgent.searcher:    64.7%  21,880 tokens  13 calls    ≥ $0.011
  ResearchAgent.synthesizer: 21.4%   7,230 tokens    1 call      $0.040
  ResearchAgent.planner:      9.6%   3,230 tokens   2 calls     $0.0024
  ingest:                     3.7%   1,260 tokens   6 calls  ≥ $0.00019
  ResearchAgent:              0.4%     150 tokens    1 call   $0.000090
  研究エージェント:           0.2%      50 tokens    1 call   $0.000013

Breakdown by Model:
  openai/gpt-5-mini:           66.5%  22,470 tokens  14 calls  $0.015
  anthropic/claude-sonnet-4-5: 21.4%   7,230 tokens    1 call  $0.040
  local/rerank:                 9.5%   3,200 tokens   6 calls       –
  local/embed:                  2.6%     900 tokens   3 calls       –

No price is known for 9 calls of local/rerank, local/embed.
"""  # noqa: RUF001 - the dash of an unknown cost

MARKDOWN = """\
# Token Usage Analysis

| | |
|:--|--:|
| Total Samples | 7 |
| Total Token Usage | 33,800 tokens (27,140 input, 6,660 output) |
| Average Token Cost Per Sample | 4,828.6 tokens |
| Total Calls | 24 (2 answered by DSPy's cache, 1 failed) |
| Total Cost | ≥ $0.054 |
| Average Cost Per Sample | ≥ $0.0078 |
| Saved by DSPy's Cache | 240 tokens, worth $0.00013 |

## Breakdown by Module

| Module | Share | Tokens | Calls | Cost |
|:--|--:|--:|--:|--:|
| `ResearchAgent.searcher` | 64.7% | 21,880 | 13 | ≥ $0.011 |
| `ResearchAgent.synthesizer` | 21.4% | 7,230 | 1 | $0.040 |
| `ResearchAgent.planner` | 9.6% | 3,230 | 2 | $0.0024 |
| `ingest` | 3.7% | 1,260 | 6 | ≥ $0.00019 |
| `ResearchAgent` | 0.4% | 150 | 1 | $0.000090 |
| `研究エージェント` | 0.2% | 50 | 1 | $0.000013 |

## Breakdown by Model

| Model | Share | Tokens | Calls | Cost |
|:--|--:|--:|--:|--:|
| `openai/gpt-5-mini` | 66.5% | 22,470 | 14 | $0.015 |
| `anthropic/claude-sonnet-4-5` | 21.4% | 7,230 | 1 | $0.040 |
| `local/rerank` | 9.5% | 3,200 | 6 | – |
| `local/embed` | 2.6% | 900 | 3 | – |

No price is known for 9 calls of `local/rerank`, `local/embed`.
"""  # noqa: RUF001 - the same


def test_the_whole_text():
    """The text has totals, averages and both breakdowns, in columns that are aligned after wide characters, too."""
    assert TEXT == analysis(PRICED, 7)


def test_the_whole_markdown():
    """The Markdown has the same numbers as the text, in tables."""
    assert MARKDOWN == analysis(PRICED, 7, "markdown")


def test_without_samples():
    """Without a number of samples, the lines about samples are left out."""
    assert [line for line in TEXT.splitlines() if "Sample" not in line] == analysis(PRICED).splitlines()


def test_the_seeds_numbers():
    """The analysis of a known run of 500 samples and four modules has the expected numbers."""
    names = ["interaction_generation", "query_generation", "distractor", "persona_formulation"]
    counts = [6_941_480, 909_634, 512_221, 468_065]
    report = build(
        [
            (-1, Frame("module", name), 1, 1, {"openai/gpt-4o-mini": usage(1, count, 0, "1")})
            for name, count in zip(names, counts, strict=True)
        ],
        scoped=False,
    )
    text = analysis(report, 500)

    assert "Total Samples: 500\nTotal Token Usage: 8,831,400 tokens (" in text
    assert "Average Token Cost Per Sample: 17,662.8 tokens\n" in text
    assert "Average Cost Per Sample: $0.0080\n" in text
    assert [
        ("interaction_generation", "78.6"),
        ("query_generation", "10.3"),
        ("distractor", "5.8"),
        ("persona_formulation", "5.3"),
    ] == re.findall(r"^  (\w+): +([\d.]+)%", text, re.MULTILINE)


def test_an_empty_report():
    """The analysis of an empty report has totals of zero and no breakdowns."""
    assert (
        "=== Token Usage Analysis ===\nTotal Samples: 3\nTotal Token Usage: 0 tokens (0 input, 0 output)\n"
        "Average Token Cost Per Sample: 0.0 tokens\nTotal Calls: 0\nTotal Cost: $0.00\nAverage Cost Per Sample: $0.00\n"
    ) == analysis(Report(), 3)
    assert "##" not in analysis(Report(), 3, "markdown")


def test_an_unknown_cost():
    """A cost is a dash if no price is known, and a lower bound, rounded down, if some prices are known."""
    unknown = build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(2, 10, 0, None)})], scoped=True)
    partly = unknown + build([(-1, Frame("scope", "s"), 1, 1, {"y": usage(1, 10, 0, "0.199")})], scoped=True)

    assert "Total Cost: \N{EN DASH}\nAverage Cost Per Sample: \N{EN DASH}\n" in analysis(unknown, 2)
    assert "Total Cost: ≥ $0.19\nAverage Cost Per Sample: ≥ $0.099\n" in analysis(partly, 2)
    assert analysis(partly).endswith("\nNo price is known for 2 calls of x.\n")


def test_what_the_cache_saved_may_have_no_price():
    """Tokens saved by the cache are shown without dollars if their price is unknown."""
    cached = usage(2, 0, 0, "0", cached_calls=2, saved_tokens=50)
    report = build([(-1, Frame("scope", "s"), 1, 1, {"x": cached})], scoped=True)

    assert "Total Calls: 2 (2 answered by DSPy's cache)\n" in analysis(report)
    assert "Saved by DSPy's Cache: 50 tokens\n" in analysis(report)
    assert "Cache" not in analysis(made((-1, "scope", "s", 1, 1, 10)))


def test_calls_without_tokens():
    """If no tokens were spent, the share of a module is 0.0%."""
    report = build([(-1, Frame("scope", "s"), 1, 1, {"x": usage(2, 0, 0, "0")})], scoped=True)

    assert "  s: 0.0%  0 tokens  2 calls  $0.00" in analysis(report).splitlines()


# -- shares -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([1, 1, 1], ["33.4%", "33.3%", "33.3%"]),
        ([2, 1], ["66.7%", "33.3%"]),
        ([1, 1, 1, 1, 1, 1, 1], ["14.3%"] * 6 + ["14.2%"]),
        ([5], ["100.0%"]),
        ([99_999, 1], ["100.0%", "0.0%"]),
        ([0, 0], ["0.0%", "0.0%"]),
        ([], []),
    ],
)
def test_shares(parts, expected):
    """Shares are rounded so that they add up to 100%."""
    assert expected == shares(parts)


@QUICK
@given(st.lists(st.integers(0, 10**9) | st.integers(0, 10**30), max_size=40))
def test_shares_add_up(parts):
    """Shares add up to 100%, are exact to a tenth of a percent, and keep the order of the parts."""
    found = [Decimal(share.removesuffix("%")) for share in shares(parts)]
    whole = sum(parts)

    assert (100 if whole else 0) == sum(found)
    for part, share in zip(parts, found, strict=True):
        assert abs(share - (Decimal(part) * 100 / whole if whole else 0)) < Decimal("0.1000001")
    for (one, first), (other, second) in zip(
        sorted(zip(parts, found, strict=True)), sorted(zip(parts, found, strict=True))[1:], strict=False
    ):
        assert one == other or first <= second


# -- extremes ---------------------------------------------------------------------------------------------------------------


@QUICK
@given(reports(), st.integers(1, 10**6))
def test_any_report_can_be_analyzed(report, samples):
    """The analysis of any report has a line for each module and model, and no control characters."""
    for form in ("text", "markdown"):
        lines = analysis(report, samples, form).removesuffix("\n").split("\n")
        assert all(line.isprintable() for line in lines)
        assert len(lines) >= len(report.by_module()) + len(report.by_model())


def test_hostile_names():
    """Control characters in names are escaped, long names are cut, and no name becomes markup."""
    lines = analysis(hostile()).splitlines()
    modules = lines[lines.index("Breakdown by Module:") + 1 : lines.index("Breakdown by Model:") - 1]
    document = MarkdownIt("commonmark").enable("table").render(analysis(hostile(), 2, "markdown"))

    assert 1 == len({cell_len(line) for line in modules})
    assert all(cell_len(line) <= 120 for line in modules)
    assert any(line.startswith("  \\x1b[31mred\\x1b[0m\\x07: ") for line in modules)
    assert any("very long…: " in line for line in modules)
    assert {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code"} == set(
        re.findall(r"<([a-z0-9]+)", document)
    )
    assert len(HOSTILE) <= len(modules)


def test_huge_numbers():
    """Averages are exact at any size."""
    assert f"Average Token Cost Per Sample: {(2 * HUGE + 1) // 3:,}.7 tokens" in analysis(huge(), 3)


@pytest.mark.parametrize("kind", ["scope", "dspy"])
def test_deep_reports(kind):
    """A report of 1,100 levels is analyzed without recursion."""
    assert "1,100 tokens" in analysis(deep(kind), 3)
