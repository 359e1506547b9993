"""The formats of a diff: `text` (a tree of what changed), `markdown`, `html` and `json`.

    scope                   before   after  change  growth  calls      cost
    pipeline                33,800  34,150    +350   +1.0%     +1  +$0.0021
    ├─ ResearchAgent        32,490  34,100  +1,610   +5.0%     +7  +$0.0023
    │  └─ + critic               0   1,610  +1,610     new     +7  +$0.0023
    └─ - ingest              1,260       0  -1,260    gone     -6  -$0.0002

Each line has what was spent there and below. Paths that are equal in both reports are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from html import escape
from itertools import islice
from typing import Final, Literal

from rich.cells import cell_len

from tokenscope._report.changes import Change, Comparison, percent
from tokenscope._report.formats import part_shares
from tokenscope._report.formats.columns import Column, Columns, ScopeColumn, guides, shortened
from tokenscope._report.formats.markdown import Part, bounded, code, indent
from tokenscope._report.formats.order import DEEPEST
from tokenscope._report.formats.terminal import WIDTH, Drawing, Line
from tokenscope._report.formats.text import UNKNOWN, compared, dollars, plural, printable, share, summary, unpriced
from tokenscope._report.highlights import highlights_of_diff
from tokenscope._report.part_changes import PartChange, part_changes
from tokenscope._report.parts import measured_by
from tokenscope._usage.calls import ROOT, Frame, ScopePath
from tokenscope._usage.shown import html_table
from tokenscope._usage.usage import ZERO, Usage
from tokenscope._version import __version__

FORMATS: Final = {"text": ".txt", "markdown": ".md", "html": ".html", "json": ".json"}
"""The name of each format and the suffix of its files."""
JSON_FORMAT: Final = 1  # 1: the first
_HEADS: Final = ("before", "after", "change", "growth", "calls", "cost")
_CAPITALS: Final = tuple(head.capitalize() for head in _HEADS)
_NEW: Final = 1e15  # sorts the growth of what is new, in percent, above all other
_BLANKS: Final = ("", "0", "$0.00", UNKNOWN)
_COLUMNS: Final = (*map(Column, _HEADS[:3]), *(Column(head, _BLANKS) for head in _HEADS[3:]))
_MOST_PREDICTORS: Final = 10  # whose prompts are compared by part in text
_LONGEST_NAME: Final = 60  # cells of a predictor in such a line
_AND_MORE: Final = ", and {} more"
_MOST_PARTS: Final = 8  # rows of changed parts that Markdown does not fold
_PARTS: Final = ("Predictor", "Part", "Before", "After", "Change")
_MARKS: Final = {"new": "+ ", "gone": "- ", "changed": ""}
_STYLES: Final = {"new": "bold", "gone": "dim", "changed": ""}


def renderer(name: str) -> Callable[..., str]:
    """Return the function that renders a format, or raise a ValueError that names the formats."""
    if name not in FORMATS:
        raise ValueError(f"there is no diff format {name!r}; there are {', '.join(FORMATS)}")
    return {"text": text, "markdown": markdown, "html": html, "json": as_json}[name]


def text(diff: Comparison, *, width: int = WIDTH, ascii_only: bool = False) -> str:
    """Return the diff as plain text that keeps to a width, in cells."""
    return drawing(diff).plain(width, ascii_only=ascii_only)


def drawing(diff: Comparison) -> Drawing:
    """Return the diff as a drawing."""
    return Drawing(partial(_draw, diff))


def markdown(diff: Comparison) -> str:
    """Return the diff as a Markdown document, for a pull request or a note."""
    heads = ("Scope", *_CAPITALS)
    rows = [(indent(change.where.depth - 1) + code(change.name), *_cells(change)) for change in diff.changes]
    part = Part(rows, _weights(diff), heads, f"{len(rows):,} changes")
    tokens = diff.total.tokens
    growth = f"{diff.growth.tokens:+,.1f}%" if diff.growth.tokens else f"{tokens:+,} tokens" if tokens else "unchanged"
    grown = part_changes(diff.before, diff.after)
    rows = [(code(each.predictor), code(each.part), *_part_cells(each)) for each in grown]
    sizes = [round(each.size) for each in grown]
    parts = Part(rows, sizes, _PARTS, f"{len(rows):,} changed parts", "Prompts, in tokens a call", _MOST_PARTS)
    return bounded(f"Token usage: {growth}", headline(diff), [part, parts], _unpriced(diff, code))


def notebook(diff: Comparison) -> str:
    """Return the diff as a fragment of HTML, for notebooks."""
    rows = [(_MARKS[change.status] + change.name, *_cells(change)) for change in diff.changes]
    depths = [change.where.depth - 1 for change in diff.changes]
    table = html_table(("scope",), _HEADS, rows, depths, _weights(diff)) if diff else ""
    note = escape(_unpriced(diff))
    return f"<div><b>{escape(headline(diff))}</b></div>{table}" + (
        f'<div style="opacity:.7">{note}</div>' if note else ""
    )


def _weights(diff: Comparison) -> list[int]:
    """Return the largest change at or below each path: if a row is shown, so are those above it."""
    weights: list[int] = []
    below: dict[int, int] = {}  # the largest change by depth, of rows whose row above is still to come
    for change in reversed(diff.changes):
        depth = change.where.depth
        weights.append(max(abs(change.tokens), below.pop(depth + 1, 0)))
        below[depth] = max(weights[-1], below.get(depth, 0))
    return weights[::-1]


def html(diff: Comparison) -> str:
    """Return the diff as a web page, as the `html` format of a report is one."""
    from tokenscope._report.formats.html import isolated, page, short, table

    numbers = partial(_numbers, diff.total.before + diff.total.after)
    top, tables = diff.after.tree().root.children, []
    for by in ("module", "model"):
        before, after = (getattr(snapshot, f"by_{by}")() for snapshot in (diff.before, diff.after))
        names = {name: None for name in (*after, *before) if before.get(name) != after.get(name)}
        changes = [_change_of(name, before.get(name), after.get(name)) for name in names]
        changes.sort(key=lambda change: -abs(change.tokens))
        rows = (((printable(each.name), *_cells(each)), (None, *numbers(each)[:-2])) for each in changes)
        tables.append(table(by, f"By {by}", (by.capitalize(), *_CAPITALS), rows))
    parts = part_changes(diff.before, diff.after)
    most = max((each.size for each in parts), default=1)
    rows = (
        (
            (f"{printable(each.predictor)}: {printable(each.part)}", *_part_cells(each)),
            (None, each.before / most, each.after / most, each.tokens / most),
        )
        for each in parts
    )
    note = part_shares.estimate(measured_by(diff.after.rows)) if parts else ""
    tables.append(table("part", "Prompts, in tokens a call", ("Predictor and part", *_PARTS[2:]), rows, note=note))
    return page(
        {
            "title": f"What changed in {printable(top[0].name)}" if len(top) == 1 else "What changed",
            "empty": "" if diff else f"{headline(diff).capitalize()}.",
            "facts": list(_facts(diff.total)),
            "findings": highlights_of_diff(diff, isolated),
            "more": [],
            "notes": _unpriced(diff, short),
            "columns": _HEADS,
            "measures": [("change", 6, 2), ("cost", 7, 5)],
            "tables": [each for each in tables if each["rows"]],
            "diff": True,
        },
        _nodes(diff, numbers),
    )


def _part_cells(change: PartChange) -> tuple[str, str, str]:
    """Return the tokens a call before and after, and the change; the side that lacks the part is said to be new or gone."""
    before, after = (f"{round(tokens):,}" for tokens in (change.before, change.after))
    is_new, is_gone = change.status == "new", change.status == "gone"
    return "new" if is_new else before, "gone" if is_gone else after, _signed(round(change.tokens))


def _change_of(name: str, before: Usage | None, after: Usage | None) -> Change:
    status: Literal["new", "gone", "changed"] = "changed" if before and after else "gone" if before else "new"
    return Change(ScopePath(ROOT, Frame("scope", name)), status, before or ZERO, after or ZERO)


def _facts(total: Change) -> Iterator[tuple[str, ...]]:
    """Yield what each total was before and is after, and the change."""
    before, after = total.before, total.after
    yield ("tokens", f"{before.total_tokens:,}", f"{after.total_tokens:,}", _signed(total.tokens))
    change = "" if total.cost is None else _signed_dollars(total.cost)
    yield ("cost", *compared(before, after), change)
    yield ("calls", f"{before.calls:,}", f"{after.calls:,}", _signed(total.calls))


def _nodes(diff: Comparison, numbers: Callable[[Change], tuple[float | None, ...]]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a page: parent, kind, name, status, cells, and numbers to sort and draw by."""
    above: list[int] = []
    for index, change in enumerate(diff.changes):
        del above[change.where.depth - 1 :]
        parent = above[-1] if above else -1
        above.append(index)
        status = change.status.replace("changed", "")
        yield parent, change.kind, printable(change.name), status, _cells(change), numbers(change)


def _numbers(whole: Usage, change: Change) -> tuple[float | None, ...]:
    """Return a number for each column, and the sizes in tokens and in dollars, as shares of what both reports have."""
    before, after = change.before.total_tokens, change.after.total_tokens
    grown = percent(before, after)
    cost = max(change.before.cost or 0, change.after.cost or 0)
    return (
        *(share(tokens, whole.total_tokens) for tokens in (before, after, change.tokens)),
        _NEW if grown is None else min(grown, _NEW),
        share(change.calls, whole.calls),
        None if change.cost is None else share(change.cost, whole.cost or Decimal(0)),
        share(max(before, after), whole.total_tokens),
        share(Decimal(cost), whole.cost or Decimal(0)),
    )


def as_json(diff: Comparison) -> str:
    """Return the diff as JSON, for scripts: totals, growth in percent, and the changes down to the 1,000th level."""
    head = {
        "diff": JSON_FORMAT,
        "generator": f"tokenscope {__version__}",
        "before": diff.before.total.to_dict(),
        "after": diff.after.total.to_dict(),
        "growth": diff.growth._asdict(),
    }
    changes = (
        {name: getattr(change, name) for name in ("path", "kind", "status", "tokens", "calls")}
        | {"cost": None if change.cost is None else float(change.cost)}
        | {"before": change.before.to_dict(), "after": change.after.to_dict()}
        for change in diff.changes
        if change.where.depth <= DEEPEST
    )
    grown = [
        {**each._asdict(), "before": round(each.before, 3), "after": round(each.after, 3)}
        for each in part_changes(diff.before, diff.after)
    ]
    lists = {"changes": list(changes)} | ({"tokens_a_call": grown} if grown else {})
    return json.dumps(head, indent=1)[:-2] + "".join(map(_list_in_json, lists, lists.values())) + "\n}\n"


def _list_in_json(name: str, values: Iterable[object]) -> str:
    lines = ",\n".join(f"  {json.dumps(each)}" for each in values)
    return f',\n "{name}": [\n{lines}\n ]'


def headline(diff: Comparison) -> str:
    """Return the totals, before and after, as a sentence."""
    total, growth = diff.total, diff.growth
    before, after = total.before, total.after
    if not diff:
        return f"nothing changed: {summary(before)}"
    parts = [
        f"tokens {before.total_tokens:,} -> {after.total_tokens:,}{_by(_signed(total.tokens), growth.tokens)}",
        f"calls {before.calls:,} -> {after.calls:,}{_by(_signed(total.calls), None)}",
    ]
    if before.cost or after.cost:
        change = "" if total.cost is None else _signed_dollars(total.cost)
        parts.append(f"cost {' -> '.join(compared(before, after))}{_by(change, growth.cost)}")
    return "; ".join(parts)


def _by(change: str, growth: float | None) -> str:
    details = [change, f"{growth:+,.1f}%" if growth else ""]
    return f" ({', '.join(filter(None, details))})" if any(details) else ""


def _signed(count: int) -> str:
    return f"{count:+,}" if count else "0"


def _signed_dollars(amount: Decimal) -> str:
    sign = "-" if amount < 0 else "+" if amount else ""
    return sign + dollars(amount.copy_abs())


def _draw(diff: Comparison, width: int, ascii_only: bool) -> Iterator[Line]:
    if not diff:
        yield [(headline(diff), "dim")]
        yield from _part_lines(part_changes(diff.before, diff.after), width)
        return
    rows = [_cells(change) for change in diff.changes]
    columns = Columns(_COLUMNS, rows)
    depths = [change.where.depth - 1 for change in diff.changes]
    names = [_MARKS[change.status] + printable(change.name) for change in diff.changes]
    scopes = ScopeColumn(guides(depths, ascii_only=ascii_only), names)
    scopes.narrow(width - columns.width)

    yield [(scopes.head, "bold"), *columns.styled(columns.heads, ["bold"] * len(_COLUMNS))]
    name_styles = [_STYLES[change.status] for change in diff.changes]
    for change, row, scope in zip(diff.changes, rows, scopes.lines(name_styles, ascii_only=ascii_only), strict=True):
        more = change.tokens or change.cost or change.calls
        colour = "red" if more > 0 else "green" if more < 0 else ""
        yield [*scope, *columns.styled(row, ("", "", colour, colour, "", colour))]
    yield [(headline(diff), "dim")]
    if note := _unpriced(diff):
        yield [(note, "dim")]
    yield from _part_lines(part_changes(diff.before, diff.after), width)


def _part_lines(changes: list[PartChange], width: int) -> Iterator[Line]:
    """Yield a line for each predictor whose prompts changed: which parts grew and shrank, and by how many tokens a call."""
    by_predictor: dict[str, list[PartChange]] = {}
    for change in changes:
        by_predictor.setdefault(change.predictor, []).append(change)
    for predictor, several in islice(by_predictor.items(), _MOST_PREDICTORS):
        line: Line = [(f"{shortened(printable(predictor), _LONGEST_NAME)}: ", "")]
        room = width - cell_len(line[0][0]) - len(_AND_MORE)
        for index, change in enumerate(several):
            tokens, rest = _grown(change, "tokens a call" if not index else ""), len(several) - index
            room -= cell_len("".join(text for text, _ in tokens)) + 2
            if index and room < 0:
                line.append((_AND_MORE.format(f"{rest:,}"), "dim"))
                break
            line += [(", ", ""), *tokens] if index else tokens
        yield line
    if len(by_predictor) > _MOST_PREDICTORS:
        yield [(f"The prompts of {plural(len(by_predictor) - _MOST_PREDICTORS, 'more predictor')} changed.", "dim")]


def _grown(change: PartChange, unit: str) -> Line:
    """Return how a part changed: `demos +1,840 tokens a call (460 -> 2,300)`."""
    before, after = round(change.before), round(change.after)
    where = f"{before:,} -> {after:,}" if change.status == "changed" else change.status
    colour = "red" if after > before else "green"
    amount = " ".join(filter(None, [_signed(round(change.tokens)), unit]))
    return [(f"{shortened(printable(change.part), _LONGEST_NAME)} ", ""), (amount, colour), (f" ({where})", "dim")]


def _cells(change: Change) -> tuple[str, ...]:
    growth = percent(change.before.total_tokens, change.after.total_tokens)
    return (
        f"{change.before.total_tokens:,}",
        f"{change.after.total_tokens:,}",
        _signed(change.tokens),
        change.status if change.status != "changed" else f"{growth:+,.1f}%" if growth else "",
        _signed(change.calls),
        UNKNOWN if change.cost is None else _signed_dollars(change.cost),
    )


def _unpriced(diff: Comparison, write: Callable[[str], str] = printable) -> str:
    return unpriced(diff.after.by_model(), write) or unpriced(diff.before.by_model(), write)
