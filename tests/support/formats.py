"""Helpers for tests of the formats: a report with everything that a report can hold, and one with harmful names."""

from __future__ import annotations

import functools
import re
from decimal import Decimal
from pathlib import Path

from support.reports import build
from tokenscope import Report, Usage
from tokenscope._usage.calls import Frame

GOLDEN = Path(__file__).parents[1] / "golden"


def usage(calls: int, input_tokens: int, output_tokens: int, cost: str | None, **more) -> Usage:
    """Return a usage. If the cost is None, its calls are unpriced."""
    if cost is None:
        more["unpriced_calls"] = calls
    return Usage(calls=calls, input_tokens=input_tokens, output_tokens=output_tokens, cost=Decimal(cost or 0), **more)


PRICED = build(
    [
        (-1, Frame("scope", "pipeline"), 1, 5_300_000_000, {}),
        (0, Frame("dspy", "ResearchAgent"), 1, 4_900_000_000, {"openai/gpt-5-mini": usage(1, 120, 30, "0.00009")}),
        (
            1,
            Frame("dspy", "planner"),
            2,
            900_000_000,
            {"openai/gpt-5-mini": usage(2, 2340, 890, "0.002365", reasoning_tokens=500)},
        ),
        (
            1,
            Frame("dspy", "searcher"),
            1,
            2_700_000_000,
            {"openai/gpt-5-mini": usage(7, 14560, 4120, "0.01188", cache_read_tokens=9000)},
        ),
        (3, Frame("tool", "search_web"), 6, 1_200_000_000, {"local/rerank": usage(6, 3200, 0, None)}),
        (
            1,
            Frame("dspy", "synthesizer"),
            1,
            800_000_000,
            {"anthropic/claude-sonnet-4-5": usage(1, 5670, 1560, "0.04041")},
        ),
        (0, Frame("module", "ingest"), 3, 300_000_000, {}),
        (6, Frame("operation", "chunk"), 3, 200_000_000, {"local/embed": usage(3, 900, 0, None)}),
        (
            6,
            Frame("operation", "title"),
            3,
            100_000_000,
            {
                "openai/gpt-5-mini": usage(
                    3, 300, 60, "0.000195", cached_calls=2, saved_tokens=240, saved_cost=Decimal("0.00013")
                )
            },
        ),
        (
            0,
            Frame("scope", "研究エージェント"),
            1,
            20_000_000,
            {"openai/gpt-5-mini": usage(1, 50, 0, "0.0000125", failed_calls=1)},
        ),
    ],
    scoped=True,
)

OLD = build(
    [
        (-1, Frame("scope", "pipeline"), 1, 10**9, {}),
        (0, Frame("dspy", "Agent"), 1, 10**9, {"p/x": usage(1, 100, 20, "0.0012")}),
        (1, Frame("dspy", "planner"), 1, 10**9, {"p/x": usage(2, 1000, 200, "0.012")}),
        (1, Frame("dspy", "same"), 1, 10**9, {"p/x": usage(1, 70, 7, "0.0007")}),
        (0, Frame("module", "ingest"), 1, 10**9, {"p/x": usage(3, 900, 0, "0.009")}),
    ],
    scoped=True,
)
NEW = build(
    [
        (-1, Frame("scope", "pipeline"), 9, 9 * 10**9, {}),
        (0, Frame("dspy", "Agent"), 9, 9 * 10**9, {"p/x": usage(1, 100, 20, "0.0012")}),
        (1, Frame("dspy", "planner"), 9, 9 * 10**9, {"p/x": usage(3, 2000, 310, "0.0231")}),
        (1, Frame("dspy", "same"), 9, 9 * 10**9, {"p/x": usage(1, 70, 7, "0.0007")}),
        (1, Frame("dspy", "研究\n"), 1, 10**9, {"p/x": usage(4, 500, 90, "0.0059")}),
    ],
    scoped=True,
)
DIFF = OLD.diff(NEW)

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "<!-- <script>",
    "\"><svg onload='window.hacked = 1'>",
    "javascript:window.hacked=1//",
    "&lt;b&gt; & \"quotes\" 'single'",
    "\x1b[31mred\x1b[0m\x07",
    "two\nlines\r\nand\ttabs",
    '=HYPERLINK("http://x.example","y")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "  =1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "a;b;c 12",
    'a,b,"c"',
    "pipe | and ` tick \\ slash",
    "**bold** _it_ [link](http://x.example) # ~~s~~",
    "研究エージェント",
    "e\u0301clair 👩‍👩‍👧",
    "\u202egnp.exe",
    "שלום עולם",
    "line\u2028separators\u2029",
    "nul\x00 lone \ud800 surrogate",
    "a/b//c",
    "$style ${policy} $$",
    " ",
    "",
    "very long " * 100,
]
"""Names with characters that are special in one of the formats."""

HUGE = 10**40 + 1


def hostile() -> Report:
    """Build a report in which each of these names is a scope, a module inside that scope, and a model."""
    rows = [(-1, Frame("scope", "top"), 1, 0, {})]
    for number, name in enumerate(HOSTILE):
        rows.append((0, Frame("scope", name), 1, 10**9, {name: usage(1, 1000 + number, 0, None)}))
        rows.append((len(rows) - 1, Frame("module", name), 1, 10**9, {name: usage(1, 1, 1, "0.5")}))
    return build(rows, scoped=True)


def huge() -> Report:
    """Build a report with counts and costs far above any real ones."""
    many = usage(HUGE, HUGE, HUGE, f"{HUGE}.5")
    return build([(-1, Frame("scope", "huge"), HUGE, HUGE, {"x": many, "y": usage(1, 1, 0, "1E-30")})], scoped=True)


def undated(page: str) -> str:
    """Return an HTML page without what it says of when and with what it was made."""
    return re.sub(r'"when":"[^"]*","made":"[^"]*"', "", page)


def golden(name: str, text: str) -> None:
    """Compare a text with a file of `tests/golden`."""
    assert (GOLDEN / name).read_text("utf-8") == text


@functools.cache
def deep(kind: str = "scope", levels: int = 1_100) -> Report:
    """Build a report with one token on each level. By default, it is deeper than Python's recursion limit."""
    return build(
        ((n - 1, Frame(kind, f"level {n}"), 1, 10**6, {"x": usage(1, 1, 0, "0.000001")}) for n in range(levels)),
        scoped=True,
    )


def empty_and_free() -> list[Report]:
    """Return two reports in which nothing was spent: an empty one, and one with a scope."""
    return [Report(), build([(-1, Frame("scope", "s"), 1, 0, {})], scoped=True)]
