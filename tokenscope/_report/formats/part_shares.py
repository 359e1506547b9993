"""Input by part of the prompt, as formats show it: a line of shares, the kinds of parts, and a note on how they were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from rich.cells import cell_len

from tokenscope._report.formats.columns import shortened
from tokenscope._report.formats.text import listed, printable, share
from tokenscope._report.parts import NOT_MEASURED, has_parts
from tokenscope._report.parts import measured_by as measured_by_rows
from tokenscope._report.snapshot import Snapshot, is_by_part
from tokenscope._usage.usage import Usage

KINDS: Final = (
    "instructions",
    "fields",
    "format",
    "tools",
    "demos",
    "history",
    "inputs",
    "messages",
    "media",
    "other",
    NOT_MEASURED,
)
"""The kinds of parts, about in the order in which prompts have them. `messages` are those of calls without a DSPy adapter."""
NO_PARTS: Final = (
    "No prompt was measured: tokenscope run --parts, TOKENSCOPE_PROMPT_PARTS=1 or instrument(prompt_parts=True) "
    "asks for it."
)
_SMALL: Final = 0.005  # a smaller share is 0%
_LONGEST_NAME: Final = 40  # cells


def is_measured(parts: Iterable[str]) -> bool:
    """Whether any of some parts was measured."""
    return any(name != NOT_MEASURED for name in parts)


def kind_of(part: str) -> str:
    """Return the kind of a part."""
    if part.startswith("input:"):
        return "inputs"
    return part if part in KINDS else "messages"


def note(snapshot: Snapshot, measured_by: Sequence[str] | None = None) -> str:
    """Return a sentence on how well the parts of a report are known, given what has measured them if its rows do not tell."""
    names = [frame.name for frame in snapshot.rows.frames] if is_by_part(snapshot) else []
    if not (is_measured(names) if names else has_parts(snapshot.rows)):
        return NO_PARTS
    return estimate(measured_by_rows(snapshot.rows) if measured_by is None else measured_by)


def estimate(measured_by: Sequence[str]) -> str:
    """Return a sentence on how well parts are known, given the tokenizers that have measured them, and `bytes`."""
    tokenizers = [printable(name) for name in measured_by if name != "bytes"]
    how = [f"with {listed(tokenizers, 3)}"] if tokenizers else []
    how += ["by bytes"] if "bytes" in measured_by else []
    measured = f", measured {' and '.join(how)}" if how else ""
    return f"Parts of input are estimates{measured}; they add up to what was billed."


def shares_line(
    parts: Mapping[str, Usage], width: int, write: Callable[[str], str] = printable, dot: str = "·", dots: str = "…"
) -> str:
    """Return parts with their shares, the largest first: `demos 63% · input:context 20% · 3 more 17%`.

    Args:
        parts: The input by part.
        width: How many cells the line may have. What does not fit, and what is below 1%, is added up at the end.
        write: How the format writes names.
        dot: What stands between two parts.
        dots: What stands for the rest of a long name.
    """
    tokens = {name: usage.input_tokens for name, usage in parts.items() if usage.input_tokens}
    whole = sum(tokens.values())
    names = sorted(tokens, key=lambda name: -tokens[name])
    large = [name for name in names if share(tokens[name], whole) >= _SMALL]
    first = len(names) if len(names) - len(large) < 2 else max(1, len(large))  # several small ones are shown together
    for count in range(first, 0, -1):
        items = [
            f"{write(shortened(printable(name), _LONGEST_NAME, dots))} {percent(tokens[name], whole)}"
            for name in names[:count]
        ]
        if count < len(names):
            rest = sum(tokens[name] for name in names[count:])
            items.append(f"{len(names) - count} more {percent(rest, whole)}")
        line = f" {dot} ".join(items)
        if cell_len(line) <= width or count == 1:
            return line
    return ""


def percent(part: int, whole: int) -> str:
    """Return the share of a part; `<1%` if rounding would make it 0%."""
    value = share(part, whole)
    return f"{value:.0%}" if value >= _SMALL else "<1%"


def a_call(part: str, tokens: int, prompts: int) -> str:
    """Return the tokens of a part in an average measured prompt."""
    return "" if part == NOT_MEASURED else f"{tokens / prompts:,.0f}"
