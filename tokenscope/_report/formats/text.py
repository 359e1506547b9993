"""Text that all formats share: printable names, dollars, durations, shares and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Final, TypeVar

from tokenscope._report.changes import EXACT
from tokenscope._report.snapshot import Snapshot, is_by_part
from tokenscope._usage import shown
from tokenscope._usage.custom_prices import nearest
from tokenscope._usage.usage import Usage

UNKNOWN: Final = shown.UNKNOWN
AT_LEAST: Final = shown.AT_LEAST
NOTHING_YET: Final = "nothing was counted yet"
READ_ON: Final = 'the page "Nothing is counted" (how-to/nothing-is-counted) helps'
WHY_NOTHING: Final = f"DSPy made no LM call, nothing was recorded, or TOKENSCOPE_DISABLED is set; {READ_ON}"
_LONGEST_MESSAGE: Final = 300  # characters of an exception's message
_MOST_NAMES: Final = 3
N = TypeVar("N", int, float, Decimal)


printable = shown.printable
dollars = shown.dollars


def one_line(error: BaseException) -> str:
    """Return an exception as a short line: its type and message, or only the message of an operating system error."""
    text = printable(" ".join(str(error).split()))
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]}…"
    return text if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {text}"


def plural(count: int, noun: str) -> str:
    """Return a count and what is counted: `1 call`, `1,000 calls`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def money(usage: Usage, part: Decimal | None = None) -> str:
    """Return what a usage cost, or a part: `$0.12`; `≥ $0.12`, rounded down, if some prices are unknown; a dash if all are."""
    cost = usage.cost if part is None or usage.cost is None else part
    return shown.cost_of(cost, is_part=usage.unpriced_calls > 0)


def compared(before: Usage, after: Usage) -> tuple[str, str]:
    """Return two costs as `money` does, but with the digits in which they differ, if rounding would hide these."""
    if before.cost is None or after.cost is None or before.unpriced_calls or after.unpriced_calls:
        return money(before), money(after)
    costs = before.cost, after.cost
    digit = EXACT.subtract(*costs).adjusted()
    if before.cost == after.cost or digit >= min(-2, max(costs).adjusted() - 1) or digit < -20:
        return money(before), money(after)
    first, second = (f"${cost.quantize(Decimal(1).scaleb(digit - 1), context=EXACT):,f}" for cost in costs)
    return first, second


def number(amount: Decimal) -> str:
    """Return an exact amount as a plain number, for files that programs read."""
    if not amount:
        return "0"
    if not -20 < amount.adjusted() < 30:
        return str(amount)
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `900ms`, `1.2s` or `1m15s`; empty for 0."""
    if not seconds:
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:,.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def share(part: N, whole: N) -> float:
    """Return a part of a whole as a number from 0 to 1; 0 if the whole is 0."""
    return float(part / whole) if whole else 0.0


def counts(usage: Usage) -> tuple[str, str, str, str]:
    """Return the calls, input tokens, output tokens and total tokens of a usage, as columns show them."""
    return f"{usage.calls:,}", f"{usage.input_tokens:,}", f"{usage.output_tokens:,}", f"{usage.total_tokens:,}"


def headline(snapshot: Snapshot) -> str:
    """Return the totals of a report in one line. Parts of prompts have their calls in common, so these have no sum."""
    usage = snapshot.total
    if not is_by_part(snapshot):
        return summary(usage)
    return "; ".join([plural(usage.input_tokens, "input token"), *([money(usage)] if usage.cost else [])])


def summary(usage: Usage) -> str:
    """Return the totals in one line, tokens and cost first."""
    tokens = f"{plural(usage.total_tokens, 'token')} ({usage.input_tokens:,} in + {usage.output_tokens:,} out)"
    return "; ".join([tokens, *([money(usage)] if usage.cost else []), plural(usage.calls, "call")])


_DETAILS: Final = {
    "cached_calls": ("call", "answered by DSPy's cache"),
    "failed_calls": ("call", "failed"),
    "cache_read_tokens": ("input token", "read from the provider's cache"),
    "cache_write_tokens": ("input token", "written to the provider's cache"),
    "reasoning_tokens": ("output token", "spent on reasoning"),
    "saved_tokens": ("token", "saved by DSPy's cache"),
}


def details(usage: Usage, *names: str) -> Iterator[str]:
    """Yield what some fields of a usage count, each as a clause; those that are 0 are left out."""
    for name in names or _DETAILS:
        noun, what = _DETAILS[name]
        if count := getattr(usage, name):
            yield f"{plural(count, noun)} {what}"


def notes(snapshot: Snapshot, write: Callable[[str], str] | None = None) -> list[str]:
    """Return what the columns of a report do not say, a sentence each: caches, failed calls, waste, and unknown prices.

    Args:
        snapshot: The report.
        write: How the format writes names. Text for people to read needs none.
    """
    usage, by_model = snapshot.total, snapshot.by_model()
    worth = f", worth {dollars(usage.saved_cost)}" if usage.saved_cost else ""
    wasted = waste_line(snapshot, write or printable)
    found = (
        "; ".join(details(usage)) + worth,  # what was saved comes last
        wasted and f"wasted: {wasted}",
        unpriced(by_model, write or printable, counted=not is_by_part(snapshot)),
        misnamed(snapshot.unused_prices, by_model, write or repr),
        "" if usage else f"{NOTHING_YET.capitalize()}: {WHY_NOTHING}.",
    )
    return list(filter(None, found))


def unpriced(by_model: Mapping[str, Usage], write: Callable[[str], str] = printable, *, counted: bool = True) -> str:
    """Return a sentence that names the models without a known price, as a format writes them; empty if there are none.

    It tells how many calls they answered, if these can be counted.
    """
    if not (names := [write(model) for model, usage in by_model.items() if usage.unpriced_calls]):
        return ""
    calls = sum(usage.unpriced_calls for usage in by_model.values())
    whose = f"{plural(calls, 'call')} of " if counted else ""
    return f"No price is known for {whose}{listed(names)}."


def misnamed(unused_prices: Iterable[str], by_model: Mapping[str, Usage], write: Callable[[str], str] = repr) -> str:
    """Return a sentence for each name that a price was set for, and no call has, if it is near to a model without a price."""
    models = [model for model, usage in by_model.items() if usage.unpriced_calls]
    sentences = (unused_price(name, models, write) for name in unused_prices if models)
    return " ".join(islice(filter(None, sentences), _MOST_NAMES))


def unused_price(name: str, models: Iterable[str], write: Callable[[str], str] = repr) -> str:
    """Return a sentence about a name that a price was set for, and the models that may be meant; empty if there are none."""
    if not (near := nearest(name, models)):
        return ""
    return f"A price is set for {write(name)}, but no call here has that name; did you mean {' or '.join(map(write, near))}?"


def waste_line(snapshot: Snapshot, write: Callable[[str], str] = printable) -> str:
    """Return in one line what was wasted, and why; empty if nothing was."""
    if not any(key.wasted for key in snapshot.rows.keys):
        return ""
    wastes = snapshot.waste()
    total = wastes.total
    percent = share(100 * total.total.total_tokens, snapshot.total.total_tokens)
    reasons = "; ".join(f"{name.replace('_', ' ')} {_spent(usage)}" for name, usage in total.reasons())
    where = f"{'most in' if len(wastes) > 1 else 'in'} {write(next(iter(wastes)))}"
    return f"{total.total.total_tokens:,} tokens ({percent:.1f}%), {money(total.total)}: {reasons}, {where}"


def _spent(usage: Usage) -> str:
    calls = plural(usage.calls, "call")
    return f"{calls} with {usage.total_tokens:,} tokens" if usage.total_tokens else calls
