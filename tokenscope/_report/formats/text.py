"""How every format writes what it shows: names made visible, dollars, durations.

A line break or an escape in a name becomes visible characters. Money is $0.12; ≥ $0.12 where some prices are unknown, and a
dash where all of them are. A time is 900ms, 1.2s or 1m15s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from typing import Final, TypeVar

from tokenscope._usage.usage import Usage

UNKNOWN: Final = "\N{EN DASH}"
AT_LEAST: Final = "≥ "
NOTHING_YET: Final = "nothing was counted yet"
_EXACT: Final = Context(prec=60)
_LONGEST_MESSAGE: Final = 300  # characters of an exception's message
N = TypeVar("N", int, float, Decimal)


def printable(name: str) -> str:
    """Return a name with its line breaks, escapes and other control characters made visible."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def one_line(error: BaseException) -> str:
    """Return an exception as a short line: its type and its message, or the message alone of an error of the system."""
    text = printable(" ".join(str(error).split()))
    if len(text) > _LONGEST_MESSAGE:
        text = f"{text[:_LONGEST_MESSAGE]}…"
    return text if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {text}"


def plural(count: int, noun: str) -> str:
    """Return a count and what is counted: `1 call`, `1,000 calls`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def money(usage: Usage) -> str:
    """Return what a usage cost: rounded to cents, or to two digits where it is less than a dollar.

    A lower bound is rounded down, so that it stays one.
    """
    cost = usage.known_cost
    if cost is None:
        return UNKNOWN
    return AT_LEAST + dollars(cost, ROUND_FLOOR) if usage.unpriced_calls else dollars(cost)


def dollars(amount: Decimal, rounding: str = ROUND_HALF_UP) -> str:
    """Return an amount of money that is known."""
    size = amount.adjusted()
    if amount and not -9 < size < 30:  # nobody's bill; written out it would fill the page
        return f"${amount:.1e}"
    if size < 0:
        amount = Context(prec=2, rounding=rounding).plus(amount)
    attributions = Decimal(1).scaleb(min(-2, amount.adjusted() - 1) if amount else -2)
    return f"${amount.quantize(attributions, rounding, _EXACT):,f}"


def number(amount: Decimal) -> str:
    """Return an exact amount as a plain number, for files that programs read."""
    if not amount:
        return "0"
    if not -20 < amount.adjusted() < 30:
        return str(amount)
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Return a time as people say it; nothing for none."""
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
    """Return a part of a whole as a number from 0 to 1; nothing has no parts."""
    return float(part / whole) if whole else 0.0


def summary(usage: Usage) -> str:
    """Return the totals as a sentence."""
    parts = [
        plural(usage.calls, "call"),
        f"{usage.input_tokens:,} in + {usage.output_tokens:,} out = {usage.total_tokens:,} tokens",
        *([money(usage)] if usage.cost else []),
    ]
    return "; ".join(parts)


def unpriced(by_model: Mapping[str, Usage], write: Callable[[str], str] = printable) -> str:
    """Return a sentence that names the models whose price is unknown, each as `write` writes it; nothing for none."""
    names = [write(model) for model, usage in by_model.items() if usage.unpriced_calls]
    if not names:
        return ""
    calls = sum(usage.unpriced_calls for usage in by_model.values())
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f"No price is known for {plural(calls, 'call')} of {', '.join(names[:10])}{more}."
