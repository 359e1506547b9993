"""The analysis of a run: what it spent in all and per sample, and the shares of its modules and models.

    === Token Usage Analysis ===
    Total Token Usage: 8,831,400 tokens (6,120,300 input, 2,711,100 output)
    Average Cost Per Sample: $0.0051

    Breakdown by Module:
      interaction_generation: 78.6%  6,941,500 tokens  10,000 calls  $1.99
      query_generation:       10.3%    909,600 tokens   2,000 calls  $0.26

The shares of a breakdown add up to 100.0%.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

from tokenscope._report.forecast import CONFIDENCE, Forecast
from tokenscope._report.formats.columns import GAP, Column, Columns, shortened
from tokenscope._report.formats.markdown import code, document, table
from tokenscope._report.formats.text import dollars, listed, money, plural, printable, unpriced, waste_line
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.usage import Usage

FORMATS: Final = {"text": ".txt", "markdown": ".md"}
"""The name of each format and the suffix of its files."""
_LONGEST_NAME: Final = 60
_MOST_PATHS: Final = 5
_EXACT: Final = Context(prec=60)
_Breakdowns = Mapping[str, Mapping[str, Usage]]


def render(
    snapshot: Snapshot,
    samples: int | None = None,
    format: str = "text",  # noqa: A002 - the usual word
    forecast: Forecast | None = None,
) -> str:
    """Return the analysis of a run that made so many samples, in one of the `FORMATS`, with what a larger run would spend."""
    facts = list(_facts(snapshot.total, samples))
    if waste := waste_line(snapshot):
        facts.append(("Wasted", waste))
    if forecast is not None:
        facts += _estimate(forecast, code if format == "markdown" else _short)
    breakdowns = {"Module": snapshot.by_module(), "Model": snapshot.by_model()}
    return (_markdown if format == "markdown" else _text)(facts, breakdowns)


def shares(parts: list[int]) -> list[str]:
    """Return each part's share of the sum, rounded down to a tenth of a percent; those that lost most by it get the rest."""
    whole = sum(parts)
    if not whole:
        return ["0.0%" for _ in parts]
    tenths = [part * 1000 // whole for part in parts]
    lost = sorted(range(len(parts)), key=lambda index: (-(parts[index] * 1000 % whole), index))
    for index in lost[: 1000 - sum(tenths)]:
        tenths[index] += 1
    return [f"{count // 10}.{count % 10}%" for count in tenths]


def _facts(total: Usage, samples: int | None) -> Iterator[tuple[str, str]]:
    if samples is not None:
        yield "Total Samples", f"{samples:,}"
    sides = f"{total.input_tokens:,} input, {total.output_tokens:,} output"
    yield "Total Token Usage", f"{total.total_tokens:,} tokens ({sides})"
    if samples is not None:
        average = _EXACT.divide(Decimal(total.total_tokens), Decimal(samples))
        yield "Average Token Cost Per Sample", f"{average.quantize(Decimal('0.1'), ROUND_HALF_UP, _EXACT):,f} tokens"
    details = [f"{total.cached_calls:,} answered by DSPy's cache"] if total.cached_calls else []
    details += [f"{total.failed_calls:,} failed"] if total.failed_calls else []
    yield "Total Calls", f"{total.calls:,}" + (f" ({', '.join(details)})" if details else "")
    yield "Total Cost", money(total)
    if samples is not None:
        each = _EXACT.divide(total.cost or 0, Decimal(samples))
        yield "Average Cost Per Sample", money(total, each)
    if total.saved_tokens:
        worth = f", worth {dollars(total.saved_cost)}" if total.saved_cost else ""
        yield "Saved by DSPy's Cache", f"{total.saved_tokens:,} tokens{worth}"


def _estimate(forecast: Forecast, shown: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    expected = forecast.expected
    sides = f"{expected.input_tokens:,} input, {expected.output_tokens:,} output"
    yield (
        f"Estimate for {plural(forecast.to, 'Sample')}",
        f"{expected.total_tokens:,} tokens ({sides}), {money(expected)}",
    )
    if forecast.tokens is not None:
        low, high = forecast.tokens
        yield "Range of Tokens", f"{low:,} to {high:,}"
        if forecast.cost is not None:
            yield "Range of Cost", " to ".join(map(dollars, forecast.cost))
        method = f"{CONFIDENCE}% prediction interval (Student's t) from {plural(forecast.samples, 'sample')}"
        yield "About the Range", f"{method}, told apart by {forecast.basis}"
    else:
        yield "Range", f"none: {forecast.basis}"
    if forecast.repeated:
        yield "Grows With the Samples", listed([shown(path) for path in forecast.repeated], _MOST_PATHS)
    if forecast.once:
        yield "Spent Once", listed([shown(path) for path in forecast.once], _MOST_PATHS)


def _short(name: str) -> str:
    return shortened(printable(name), _LONGEST_NAME)


def _text(facts: list[tuple[str, str]], breakdowns: _Breakdowns) -> str:
    blocks = ["\n".join(["=== Token Usage Analysis ===", *(f"{name}: {fact}" for name, fact in facts)])]
    for title, usages in breakdowns.items():
        rows = []
        for name, part, usage in _with_shares(usages):
            tokens, calls = f"{usage.total_tokens:,} tokens", plural(usage.calls, "call")
            rows.append((f"{_short(name)}:", part, tokens, calls, money(usage)))
        columns = Columns([Column(align_left=True), *[Column()] * 4], rows)
        lines = (f"  {name} {GAP.join(numbers)}" for name, *numbers in map(columns.fit, rows))
        blocks.append("\n".join([f"Breakdown by {title}:", *lines]) if rows else "")
    return document(*blocks, unpriced(breakdowns["Model"]))


def _markdown(facts: list[tuple[str, str]], breakdowns: _Breakdowns) -> str:
    lines = ["| | |", "|:--|--:|", *(f"| {name} | {fact} |" for name, fact in facts)]
    blocks = ["# Token Usage Analysis", "\n".join(lines)]
    for title, usages in breakdowns.items():
        rows = [
            (code(name), part, f"{usage.total_tokens:,}", f"{usage.calls:,}", money(usage))
            for name, part, usage in _with_shares(usages)
        ]
        if rows:
            blocks += [f"## Breakdown by {title}", table((title, "Share", "Tokens", "Calls", "Cost"), rows)]
    return document(*blocks, unpriced(breakdowns["Model"], code))


def _with_shares(usages: Mapping[str, Usage]) -> Iterator[tuple[str, str, Usage]]:
    parts = shares([usage.total_tokens for usage in usages.values()])
    return zip(usages.keys(), parts, usages.values(), strict=True)
