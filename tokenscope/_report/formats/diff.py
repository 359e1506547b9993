"""The formats of a diff: `text` (a tree of what changed), `markdown` and `json`.

    scope                   before   after  change  growth  calls      cost
    pipeline                33,800  34,150    +350   +1.0%     +1  +$0.0021
    ├─ ResearchAgent        32,490  34,100  +1,610   +5.0%     +7  +$0.0023
    │  └─ + critic               0   1,610  +1,610     new     +7  +$0.0023
    └─ - ingest              1,260       0  -1,260    gone     -6  -$0.0002

Each line holds what was spent there and below. What is equal in both reports is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Final

from rich.cells import cell_len, set_cell_size

from tokenscope._report.diff import Change, Diff, percent
from tokenscope._report.formats import terminal as _terminal
from tokenscope._report.formats.markdown import code
from tokenscope._report.formats.stacks import DEEPEST
from tokenscope._report.formats.text import UNKNOWN, dollars, money, printable, summary, unpriced
from tokenscope._version import __version__

FORMATS: Final = {"text": ".txt", "markdown": ".md", "json": ".json"}
"""Each format's name and the suffix of its files."""
JSON_FORMAT: Final = 1  # 1: the first
_DEEPEST_GUIDE: Final = 30  # levels drawn with guides; further ones say their number
_SHORTEST_NAME: Final = 12
_GAP: Final = "  "
_HEAD: Final = ("before", "after", "change", "growth", "calls", "cost")
_NOTHING: Final = ("", "0", "$0.00", UNKNOWN)  # a column of these only is left out
_MARKS: Final = {"new": "+ ", "gone": "- ", "changed": ""}
_STYLES: Final = {"new": "bold", "gone": "dim", "changed": ""}


def renderer(name: str) -> Callable[..., str]:
    """Return the function that renders a format.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"there is no diff format {name!r}; there are {', '.join(FORMATS)}")
    return {"text": text, "markdown": markdown, "json": as_json}[name]


def text(diff: Diff, *, width: int = _terminal.WIDTH, ascii_only: bool = False) -> str:
    """Return the diff as plain text.

    Args:
        diff: What to draw.
        width: The width to keep to, in cells.
        ascii_only: Draw guides with ASCII characters.
    """
    return _terminal.plain(_layout(diff, width, ascii_only))


def for_stdout(diff: Diff) -> str:
    """Return the diff as standard output can show it: its width, its colours, its encoding."""
    return _terminal.for_stdout(partial(_layout, diff))


class Rich(_terminal.Printable):
    """The diff as something rich can print."""

    def __init__(self, diff: Diff) -> None:
        super().__init__(partial(_layout, diff))


def markdown(diff: Diff) -> str:
    """Return the diff as a Markdown document, for a pull request or a note."""
    lines = [f"**{headline(diff)}**"]
    if diff:
        lines += ["", "| Scope | " + " | ".join(head.capitalize() for head in _HEAD) + " |"]
        lines += ["|:--|" + "--:|" * len(_HEAD)]
    for change in diff.changes:
        depth = change.where.depth - 1
        indent = "&nbsp;&nbsp;" * depth if depth <= _DEEPEST_GUIDE else f"{depth:,}&gt; "
        lines.append(f"| {indent}{code(change.name)} | " + " | ".join(_cells(change)) + " |")
    if note := _unpriced(diff, code):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def as_json(diff: Diff) -> str:
    """Return the diff as JSON, for scripts: totals, growth in percent, and the changes down to the 1,000th level."""
    head = {
        "diff": JSON_FORMAT,
        "generator": f"tokenscope {__version__}",
        "before": diff.before.total.to_dict(),
        "after": diff.after.total.to_dict(),
        "growth": diff.growth._asdict(),
    }
    lines = ",\n".join("  " + json.dumps(_numbers(change)) for change in diff.changes if change.where.depth <= DEEPEST)
    return json.dumps(head, indent=1)[:-2] + f',\n "changes": [\n{lines}\n ]\n}}\n'


def _numbers(change: Change) -> dict[str, object]:
    return {
        "path": change.path,
        "kind": change.kind,
        "status": change.status,
        "tokens": change.tokens,
        "calls": change.calls,
        "cost": None if change.cost is None else float(change.cost),
        "before": change.before.to_dict(),
        "after": change.after.to_dict(),
    }


def headline(diff: Diff) -> str:
    """Return the totals, before and after, as a sentence."""
    total = diff.total
    before, after = total.before, total.after
    if not diff:
        return f"nothing changed: {summary(before)}"
    parts = [
        _from_to(
            "tokens", f"{before.total_tokens:,}", f"{after.total_tokens:,}", signed(total.tokens), diff.growth.tokens
        ),
        _from_to("calls", f"{before.calls:,}", f"{after.calls:,}", signed(total.calls), None),
    ]
    if before.cost or after.cost:
        change = "" if total.cost is None else signed_dollars(total.cost)
        parts.append(_from_to("cost", money(before), money(after), change, diff.growth.cost))
    return "; ".join(parts)


def _from_to(what: str, before: str, after: str, change: str, growth: float | None) -> str:
    details = [change] if change else []
    if growth:
        details.append(signed_percent(growth))
    return f"{what} {before} -> {after}" + (f" ({', '.join(details)})" if details else "")


def signed(count: int) -> str:
    """Return a number with its sign, nothing for none."""
    return f"{count:+,}" if count else "0"


def signed_percent(growth: float) -> str:
    """Return a growth with its sign."""
    return f"{growth:+,.1f}%"


def signed_dollars(amount: Decimal) -> str:
    """Return an amount of money with its sign."""
    sign = "-" if amount < 0 else "+" if amount else ""
    return sign + dollars(amount.copy_abs())


def _layout(diff: Diff, width: int, ascii_only: bool) -> Iterator[_terminal.Line]:
    """Yield the lines."""
    if not diff:
        yield [(headline(diff), "dim")]
        return
    guides = list(_guides(diff.changes, ascii_only))
    names = [_MARKS[change.status] + printable(change.name) for change in diff.changes]
    cells = [_cells(change) for change in diff.changes]
    columns = [
        max(len(head), *(len(row[i]) for row in cells)) if any(row[i] not in _NOTHING for row in cells) or i < 3 else 0
        for i, head in enumerate(_HEAD)
    ]
    numbers = sum(len(_GAP) + column for column in columns if column)
    longest = max(len("scope"), *(cell_len(guide) + cell_len(name) for guide, name in zip(guides, names, strict=True)))
    room = min(longest, max(_SHORTEST_NAME, width - numbers))

    def aligned(row: tuple[str, ...]) -> Iterator[str]:
        return (_GAP + cell.rjust(column) if column else "" for cell, column in zip(row, columns, strict=True))

    yield [(set_cell_size("scope", room), "bold"), *((cell, "bold") for cell in aligned(_HEAD))]
    for change, guide, name, row in zip(diff.changes, guides, names, cells, strict=True):
        for_name = max(room - cell_len(guide), min(4, cell_len(name)))
        colour = _colour(change)
        styles = ("", "", colour, colour, "", colour)
        yield [
            (set_cell_size(guide, room - for_name), "dim"),
            (_terminal.fit(name, for_name, ascii_only), _STYLES[change.status]),
            *zip(aligned(row), styles, strict=True),
        ]
    yield [(headline(diff), "dim")]
    if note := _unpriced(diff):
        yield [(note, "dim")]


def _cells(change: Change) -> tuple[str, ...]:
    growth = percent(change.before.total_tokens, change.after.total_tokens)
    return (
        f"{change.before.total_tokens:,}",
        f"{change.after.total_tokens:,}",
        signed(change.tokens),
        change.status if change.status != "changed" else signed_percent(growth) if growth else "",
        signed(change.calls),
        UNKNOWN if change.cost is None else signed_dollars(change.cost),
    )


def _colour(change: Change) -> str:
    more = change.tokens or change.cost or change.calls
    return "red" if more > 0 else "green" if more < 0 else ""


def _guides(changes: tuple[Change, ...], ascii_only: bool) -> Iterator[str]:
    """Yield what stands before each name: lines from the levels above, a corner for the last of siblings."""
    tee, corner, bar = ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")
    lasts: list[bool] = []
    later = [-1]  # the depths, ascending, at which a line comes later, seen from the end
    for change in reversed(changes):
        depth = change.where.depth - 1
        while later[-1] > depth:
            later.pop()
        lasts.append(later[-1] != depth)
        if lasts[-1]:
            later.append(depth)
    lasts.reverse()
    open_levels: list[str] = []
    for change, last in zip(changes, lasts, strict=True):
        depth = change.where.depth - 1
        if depth > _DEEPEST_GUIDE:
            yield f"{depth:,}> "
            continue
        del open_levels[max(0, depth - 1) :]
        yield "".join(open_levels) + ((corner if last else tee) if depth else "")
        if depth:
            open_levels.append("   " if last else bar)


def _unpriced(diff: Diff, write: Callable[[str], str] = printable) -> str:
    return unpriced(diff.after.by_model(), write) or unpriced(diff.before.by_model(), write)
