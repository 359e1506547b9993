"""Analysis: what a run spent in all and a sample, and the shares of its modules and models, as text or Markdown.

    === Token Usage Analysis ===
    Total Samples: 500
    Total Token Usage: 8,831,400 tokens (6,120,300 input, 2,711,100 output)
    Average Token Cost Per Sample: 17,662.8 tokens
    Average Cost Per Sample: $0.0051

    Breakdown by Module:
      interaction_generation: 78.6%  6,941,500 tokens  10,000 calls  $1.99
      query_generation:       10.3%    909,600 tokens   2,000 calls  $0.26

The shares of a breakdown add up to 100.0%.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from typing import Final

from rich.cells import cell_len, set_cell_size

from tokenscope._report.formats.markdown import code
from tokenscope._report.formats.text import AT_LEAST, UNKNOWN, dollars, money, plural, printable, unpriced
from tokenscope._report.formats.wasted import wasted
from tokenscope._report.report import Report
from tokenscope._usage.usage import Usage

FORMATS: Final = {"text": ".txt", "markdown": ".md"}
"""Each format's name and the suffix of its files."""
_LONGEST_NAME: Final = 60
_EXACT: Final = Context(prec=60)


def analysis(report: Report, samples: int | None = None, format: str = "text") -> str:  # noqa: A002 - the usual word
    """Return the analysis of a report.

    Args:
        report: What was spent.
        samples: How many samples the run made, for what one of them took.
        format: `text` or `markdown`.
    """
    facts = list(_facts(report.total, samples))
    if said := wasted(report):
        facts.append(("Wasted", said))
    breakdowns = {"Module": report.by_module(), "Model": report.by_model()}
    return (_markdown if format == "markdown" else _text)(facts, breakdowns)


def shares(parts: list[int]) -> list[str]:
    """Return each part's share of the sum, in percent with one decimal, such that they add up to 100.0.

    What rounding down leaves over goes to those that lost most by it.
    """
    whole = sum(parts)
    if not whole:
        return ["0.0%" for _ in parts]
    tenths = [part * 1000 // whole for part in parts]
    lost = sorted(range(len(parts)), key=lambda index: (-(parts[index] * 1000 % whole), index))
    for index in lost[: 1000 - sum(tenths)]:
        tenths[index] += 1
    return [f"{count // 10}.{count % 10}%" for count in tenths]


def _facts(total: Usage, samples: int | None) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of the whole, each with its name."""
    if samples is not None:
        yield "Total Samples", f"{samples:,}"
    tokens = f"{total.total_tokens:,} tokens ({total.input_tokens:,} input, {total.output_tokens:,} output)"
    yield "Total Token Usage", tokens
    if samples is not None:
        average = _EXACT.divide(Decimal(total.total_tokens), Decimal(samples))
        yield "Average Token Cost Per Sample", f"{average.quantize(Decimal('0.1'), ROUND_HALF_UP, _EXACT):,f} tokens"
    details = [f"{total.cached_calls:,} answered by DSPy's cache"] if total.cached_calls else []
    details += [f"{total.failed_calls:,} failed"] if total.failed_calls else []
    yield "Total Calls", f"{total.calls:,}" + (f" ({', '.join(details)})" if details else "")
    yield "Total Cost", money(total)
    if samples is not None:
        yield "Average Cost Per Sample", _cost_per(total, samples)
    if total.saved_tokens:
        worth = f", worth {dollars(total.saved_cost)}" if total.saved_cost else ""
        yield "Saved by DSPy's Cache", f"{total.saved_tokens:,} tokens{worth}"


def _cost_per(total: Usage, samples: int) -> str:
    if total.known_cost is None:
        return UNKNOWN
    each = _EXACT.divide(total.cost, Decimal(samples))
    return AT_LEAST + dollars(each, ROUND_FLOOR) if total.unpriced_calls else dollars(each)


def _text(facts: list[tuple[str, str]], breakdowns: Mapping[str, Mapping[str, Usage]]) -> str:
    lines = ["=== Token Usage Analysis ===", *(f"{what}: {said}" for what, said in facts)]
    for title, usages in breakdowns.items():
        if usages:
            lines += ["", f"Breakdown by {title}:", *_aligned(usages)]
    if note := unpriced(breakdowns["Model"]):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _aligned(usages: Mapping[str, Usage]) -> Iterator[str]:
    rows = [
        (
            share,
            f"{usage.total_tokens:,} tokens",
            plural(usage.calls, "call"),
            money(usage),
        )
        for share, usage in zip(shares([usage.total_tokens for usage in usages.values()]), usages.values(), strict=True)
    ]
    names = [printable(name) for name in usages]
    room = min(_LONGEST_NAME, max(map(cell_len, names)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, cells in zip(names, rows, strict=True):
        shown = name if cell_len(name) <= room else set_cell_size(name, room - 1).rstrip() + "…"
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {set_cell_size(shown + ':', room + 1)} {numbers}"


def _markdown(facts: list[tuple[str, str]], breakdowns: Mapping[str, Mapping[str, Usage]]) -> str:
    lines = ["# Token Usage Analysis", "", "| | |", "|:--|--:|", *(f"| {what} | {said} |" for what, said in facts)]
    for title, usages in breakdowns.items():
        if not usages:
            continue
        lines += [
            "",
            f"## Breakdown by {title}",
            "",
            f"| {title} | Share | Tokens | Calls | Cost |",
            "|:--|--:|--:|--:|--:|",
        ]
        parts = shares([usage.total_tokens for usage in usages.values()])
        for share, (name, usage) in zip(parts, usages.items(), strict=True):
            cells = (code(name), share, f"{usage.total_tokens:,}", f"{usage.calls:,}", money(usage))
            lines.append("| " + " | ".join(cells) + " |")
    if note := unpriced(breakdowns["Model"], code):
        lines += ["", note]
    return "\n".join(lines) + "\n"
