"""The `markdown` format: the tree as a table, then one by module and one by model, for issues, pull requests and notes.

    ## Token usage

    **516 tokens (420 in + 96 out); $0.0012; 3 calls**

    | Scope                | Calls | Input | Output | Total | Share |    Cost | Time |
    |:---------------------|------:|------:|-------:|------:|------:|--------:|-----:|
    | `pipeline`           |     3 |   420 |     96 |   516 |  100% | $0.0012 | 1.2s |
    | &nbsp;&nbsp;`planner`|     2 |   300 |     80 |   380 |   74% | $0.0009 | 0.9s |

Names are in code spans, in which Markdown has no meaning: no link, no mention, no HTML. A long table is folded, below its
costliest rows. A document fits into a comment on GitHub, however large the report is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from tokenscope._report.formats import text
from tokenscope._report.formats.columns import DEEPEST_GUIDE, shortened
from tokenscope._report.formats.order import breakdown, shown
from tokenscope._report.formats.part_shares import a_call, is_measured, note, percent
from tokenscope._report.formats.prices import HEADS, NOTE, TITLE, price_rows
from tokenscope._report.parts import has_parts, prompts_of
from tokenscope._report.snapshot import Snapshot, is_by_part
from tokenscope._usage.usage import Usage

MOST: Final = 65_000
"""Characters of a document, at most. GitHub refuses a comment of more than 65,536 characters: `Body is too long (maximum is 65536
characters)`. See github.com/telia-oss/github-pr-resource/issues/259 and github.com/google/go-github/pull/440."""
_NUMBERS: Final = ("Calls", "Input", "Output", "Total", "Share", "Cost")
_OF_PARTS: Final = (0, 1, 2, 5, 6)
"""The columns of a breakdown by part: parts are input, and have no times."""
_SPECIAL: Final = frozenset("`|\\")
_OPEN: Final = 20  # rows of a table that are not folded
_LONGEST_NAME: Final = 200  # cells
_SENTENCE: Final = 200  # more characters than the sentence has that says what was left out


class Part(NamedTuple):
    """A table of a document."""

    rows: Sequence[tuple[str, ...]]
    weights: Sequence[int]  # where rows have to be left out, those with the least go first
    heads: Sequence[str]
    fold: str  # the line that unfolds the table
    title: str = ""
    most: int = _OPEN
    note: str = ""

    def shown(self, room: int) -> str:
        """Return the table, or its costliest rows if it is long, in so many characters."""
        return self._table(self.title and f"### {self.title}\n\n", self.most, room, "") if self.most else ""

    def folded(self, room: int) -> str:
        """Return a long table as `<details>`, in so many characters; empty if the table is not long."""
        start = f"<details><summary>{self.fold}</summary>\n\n"
        return self._table(start, len(self.rows), room, "\n\n</details>") if len(self.rows) > self.most else ""

    def _table(self, start: str, most: int, room: int, end: str) -> str:
        lines = [_line(row) for row in self.rows]
        room -= len(start) + len(table(self.heads, ())) + len(self.note) + _SENTENCE + len(end)
        kept: list[int] = []
        by_weight = sorted(range(len(lines)), key=lambda index: -self.weights[index])  # equal ones stay in order
        for index in by_weight[:most]:
            room -= len(lines[index]) + 1
            if room < 0:
                break
            kept.append(index)
        rows = [self.rows[index] for index in sorted(kept)]
        return (
            start + "\n\n".join(filter(None, [table(self.heads, rows), self.note, self._rest(len(kept), most)])) + end
        )

    def _rest(self, kept: int, most: int) -> str:
        if kept == len(self.rows):
            return ""
        which = ", those with the fewest tokens" if any(self.weights) else ""
        why = "" if kept == most else ": GitHub takes no comment with more than 65,536 characters"
        return f"{len(self.rows) - kept:,} of {len(self.rows):,} rows are left out here{which}{why}."


def render(
    snapshot: Snapshot,
    *,
    sort: str = "tokens",
    top: int | None = None,
    min_share: float | None = None,
    parts: bool = True,
    measured_by: Sequence[str] | None = None,
) -> str:
    """Return the report as a Markdown document; with the parts of prompts, if these were measured."""
    chosen = shown(snapshot.tree(), sort, top, min_share)
    if not snapshot:
        return f"{text.NOTHING_YET.capitalize()}: {text.WHY_NOTHING}.\n"
    total, by_model, by_part = snapshot.total, snapshot.by_model(), is_by_part(snapshot)
    rows: list[tuple[str, ...]] = []
    weights: list[int] = []
    for depth, node in chosen.lines:  # no node is kept
        usage = node.usage
        row = (indent(depth) + code(node.name), *_cells(usage, total), text.duration(node.seconds))
        rows.append(tuple(row[index] for index in _OF_PARTS) if by_part else row)
        weights.append(usage.total_tokens)
    heads: tuple[str, ...] = ("Scope", *_NUMBERS, "Time")
    heads = tuple(heads[index] for index in _OF_PARTS) if by_part else heads
    tables = [Part(rows, weights, heads, text.plural(len(rows), "scope"), note=chosen.rest())]
    # Parts have their calls in common. So a sum by model would count these several times.
    for name, usages in () if by_part else (("module", snapshot.by_module()), ("model", by_model)):
        items = list(breakdown(usages, sort).lines)
        rows = [(code(each), *_cells(usage, total)) for each, usage in items]
        weights = [usage.total_tokens for _, usage in items]
        heads = (name.capitalize(), *_NUMBERS)
        tables.append(Part(rows, weights, heads, text.plural(len(rows), name), f"By {name}"))
    if parts and has_parts(snapshot.rows):
        tables.append(_parts(snapshot, measured_by))
    rows = price_rows(snapshot.prices(), code)
    tables.append(Part(rows, [0] * len(rows), HEADS, TITLE, most=0, note=NOTE))
    about_parts = [note(snapshot, measured_by)] if by_part else []
    return bounded("Token usage", text.headline(snapshot), tables, *text.notes(snapshot, code), *about_parts)


def _parts(snapshot: Snapshot, measured_by: Sequence[str] | None) -> Part:
    """Return the table of the parts of prompts, by predictor."""
    rows: list[tuple[str, ...]] = []
    weights: list[int] = []
    sizes = snapshot.call_sizes()
    for name, parts in snapshot.parts().items():
        if not is_measured(parts):
            continue
        whole, prompts = sum(usage.input_tokens for usage in parts.values()), prompts_of(parts, sizes.get(name))
        for part, usage in parts.items():
            tokens = usage.input_tokens
            numbers = (
                f"{tokens:,}",
                percent(tokens, whole),
                a_call(part, tokens, prompts),
                f"{usage.cache_read_tokens:,}",
            )
            rows.append((code(name), code(part), *numbers, text.money(usage)))
            weights.append(tokens)
    heads = ("Predictor", "Part", "Tokens", "Share", "A call", "Cached", "Cost")
    return Part(rows, weights, heads, "Parts of prompts, by predictor", most=0, note=note(snapshot, measured_by))


def bounded(title: str, totals: str, parts: Iterable[Part], *notes: str) -> str:
    """Return a document of at most `MOST` characters. What is not folded comes first, and small tables before large ones."""
    blocks = [f"## {title}", f"**{totals}**", *notes]
    tables = [part for part in parts if part.rows]
    room = MOST - len(document(*blocks))
    shown: list[list[str]] = [[] for _ in tables]
    for write in (Part.shown, Part.folded):
        for done, index in enumerate(sorted(range(len(tables)), key=lambda index: len(tables[index].rows))):
            if block := write(tables[index], room // (len(tables) - done) - 2):
                shown[index].append(block)
                room -= len(block) + 2
    return document(*blocks[:2], *chain.from_iterable(shown), *notes)


def document(*blocks: str) -> str:
    """Return blocks of text with a blank line between each two. Empty ones are left out."""
    return "\n\n".join(filter(None, blocks)) + "\n"


def table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table: the first column is aligned on the left, the others on the right."""
    return "\n".join([_line(heads), "|:--|" + "--:|" * (len(heads) - 1), *map(_line, rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def indent(depth: int) -> str:
    """Return what stands before the name of a scope at a depth."""
    return "&nbsp;&nbsp;" * depth if depth <= DEEPEST_GUIDE else f"{depth:,}&gt; "


def code(name: str) -> str:
    """Return a name as inline code that ends where it ends, in a table too."""
    shown = shortened(text.printable(name), _LONGEST_NAME)
    if shown == shown.strip() != "" and not _SPECIAL & set(shown):
        return f"`{shown}`"
    return f"<code>{''.join(c if c.isalnum() or c == ' ' else f'&#{ord(c)};' for c in shown)}</code>"


def _cells(usage: Usage, total: Usage) -> tuple[str, ...]:
    return *text.counts(usage), f"{text.share(usage.total_tokens, total.total_tokens):.0%}", text.money(usage)
