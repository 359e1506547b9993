"""The `html` format: one page that stands alone: findings, a chart that zooms, a folding tree, and tables that sort.

    <script type="application/json" id="report">{"title": "pipeline", "nodes": [[-1, "scope", "pipeline", ...], ...]}</script>

Names from user code are in that JSON, with all characters escaped that have a meaning in HTML, and are shown as text. The page's
policy allows its own script and style, by their hashes, and nothing else: the page makes no request. See page.html, .css, .js.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

from tokenscope._report.breakdown import Breakdown
from tokenscope._report.formats import part_shares, text
from tokenscope._report.formats.columns import shortened
from tokenscope._report.formats.html_prompts import PromptsOfPage, Shares
from tokenscope._report.formats.order import self_line
from tokenscope._report.formats.prices import HEADS, NOTE, TITLE, price_rows
from tokenscope._report.highlights import highlights
from tokenscope._report.parts import has_parts
from tokenscope._report.snapshot import Snapshot, is_by_part
from tokenscope._report.tree import Node
from tokenscope._usage.usage import Usage
from tokenscope._version import __version__

_ESCAPES: Final = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
_COLUMNS: Final = ("calls", "input", "output", "tokens", "cost", "time")
_MEASURES: Final = ("tokens", "cost", "time")
_LONGEST_NAME: Final = 60
_HEADS: Final = ("Calls", "Tokens", "Share", "Cost")


def render(snapshot: Snapshot, *, parts: bool = True, measured_by: Sequence[str] | None = None) -> str:
    """Return the page; with the parts of prompts, if these were measured."""
    tree = snapshot.tree()
    prompts = PromptsOfPage(snapshot) if parts and has_parts(snapshot.rows) else None
    return page(_content(snapshot, tree, prompts, measured_by), _nodes(tree, prompts))


def page(content: Mapping[str, Any], nodes: Iterable[Any]) -> str:
    """Return a page that shows a content and the nodes of a tree. page.js says what is in them."""
    folder = files("tokenscope._report.formats")
    html, style, script = (folder.joinpath(f"page.{suffix}").read_text("utf-8") for suffix in ("html", "css", "js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    rows = ",".join(map(_json, nodes))  # one by one: other threads wait while Python writes a value as JSON
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    data = f'{_json({**content, "when": when, "made": _made()})[:-1]},"nodes":[{rows}]}}'
    return Template(html).substitute(policy=policy, style=style, script=script, report=data, version=__version__)


def isolated(name: str) -> str:
    """Return a name between two characters that no printable name has. The page takes them out, and makes the name bold."""
    return f"\u2068{short(name)}\u2069"


def short(name: str) -> str:
    """Return a name as a sentence has it: printable, and not too long."""
    return shortened(text.printable(name), _LONGEST_NAME)


def table(
    kind: str, title: str, heads: Sequence[str], rows: Iterable[tuple[Sequence[str], Sequence[Any]]], **more: Any
) -> dict[str, Any]:
    """Return a table for a page: the cells of each row, and a number for each cell to sort it by; None sorts it as text."""
    return {"kind": kind, "title": title, "heads": heads, "rows": list(rows), **more}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":")).translate(_ESCAPES)


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _made() -> str:
    """Return with what the page was made: the program's name and versions, but no path and no name of a host."""
    program = Path((sys.argv or [""])[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    by = f" by {text.printable(name)}" if name not in ("", "-c", "-m") else ""
    try:
        dspy = [f"DSPy {version('dspy')}"]
    except PackageNotFoundError:
        dspy = []
    versions = f"Python {platform.python_version()} on {platform.system()}", *dspy, f"tokenscope {__version__}"
    return f"Made{by} with {', '.join(versions)}."


def _content(
    snapshot: Snapshot, tree: Node, prompts: PromptsOfPage | None, measured_by: Sequence[str] | None
) -> dict[str, Any]:
    usage = tree.usage
    by_model = snapshot.by_model()
    by_part = is_by_part(snapshot)  # which have their calls in common
    note = text.unpriced(by_model, short, counted=not by_part)
    if note and usage.cost is not None:
        note += " A cost with ≥ is what the priced calls cost: a lower bound."
    about_parts = part_shares.note(snapshot, measured_by) if by_part else ""
    notes = filter(None, (note, text.misnamed(snapshot.unused_prices, by_model), about_parts))
    facts = ("input", "cost") if by_part else ("tokens", "cost", "calls", "input", "output", "time")
    cells = dict(zip(_COLUMNS, (*_cells(usage), text.duration(tree.seconds)), strict=True))
    return {
        "title": text.printable(_title(tree)),
        "empty": "" if snapshot else text.NOTHING_YET.capitalize() + ".",
        "facts": [(name, cells[name]) for name in facts if cells[name]],
        "findings": [] if by_part else highlights(snapshot, isolated),
        "more": list(text.details(usage, "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")),
        "notes": " ".join(notes),
        "columns": _COLUMNS,
        "measures": [(name, _COLUMNS.index(name), _COLUMNS.index(name)) for name in _MEASURES],
        "tables": [each for each in _tables(snapshot, usage, by_model) if each["rows"]],
        **({} if prompts is None else {"prompts": prompts.content()}),
    }


def _title(tree: Node) -> str:
    top = tree.root.children
    return top[0].name if len(top) == 1 else "All scopes"


def _tables(snapshot: Snapshot, total: Usage, by_model: Breakdown) -> Iterator[dict[str, Any]]:
    breakdowns = [("module", "module", snapshot.by_module()), ("model", "model", by_model)]
    breakdowns *= not is_by_part(snapshot)
    names = [row.frame.name for row in snapshot.attributes if row.parent < 0]
    breakdowns += [("attribute", text.printable(name), snapshot.by_attribute(name)) for name in names]
    for kind, by, usages in breakdowns:
        rows = (_row([name], usage, total) for name, usage in usages.items())
        yield table(kind, f"By {by}", (by.capitalize(), *_HEADS), rows, bar=3)
    waste = (
        _row([module, why.replace("_", " ")], usage, total)
        for module, each in snapshot.waste().items()
        for why, usage in each.reasons()
    )
    yield table("wasted", "Wasted", ("Module", "Why", *_HEADS), waste)
    sides = ("input_tokens", "output_tokens")
    rates = ([None] * 3 + [float(price.rates.get(side, -1)) for side in sides] + [None] for price in snapshot.prices())
    yield table("prices", TITLE, HEADS, zip(price_rows(snapshot.prices()), rates, strict=True), note=NOTE)


def _row(names: list[str], usage: Usage, total: Usage) -> tuple[list[str], list[Any]]:
    calls, _, _, tokens = text.counts(usage)
    part = _share(usage.total_tokens, total.total_tokens)
    cells = [*map(text.printable, names), calls, tokens, f"{part:.0%}", text.money(usage)]
    return cells, [*(None for _ in names), _share(usage.calls, total.calls), part, part, _cost_share(usage, total)]


def _nodes(tree: Node, prompts: PromptsOfPage | None) -> Iterator[tuple[Any, ...]]:
    """Yield rows, parents first and siblings by tokens: parent, kind, name, entries, cells, and shares to sort by.

    If prompts were measured, there is a list of shares by part, too.
    """
    index, total = 0, tree.usage
    parts: dict[Node, Shares] = {}
    if prompts is not None:
        every = [*tree.root.walk()][1:]
        parts = dict(zip((node for _, node in every), prompts.below(every), strict=True))
    stack = [(-1, node) for node in reversed(tree.root.children)]
    while stack:
        parent, node = stack.pop()
        shares = parts.get(node, [])
        yield (
            parent,
            node.kind,
            text.printable(node.name),
            f"{node.entries:,}" if node.entries > 1 else "",
            (*_cells(usage := node.usage), text.duration(node.seconds)),
            (*_shares(usage, total), _share(node.seconds, tree.seconds)),
            *([shares] if shares else []),
        )
        children = node.children
        itself = self_line(node, children)
        if prompts is not None:
            parts.update((line, prompts.own(node)) for line in itself)
        below = sorted([*children, *itself], key=lambda child: -child.usage.total_tokens)
        stack.extend((index, child) for child in reversed(below))
        index += 1


def _cells(usage: Usage) -> list[str]:
    return [*text.counts(usage), text.money(usage)]


def _shares(usage: Usage, total: Usage) -> list[float]:
    names = ("calls", "input_tokens", "output_tokens", "total_tokens")
    return [*(_share(getattr(usage, name), getattr(total, name)) for name in names), _cost_share(usage, total)]


def _cost_share(usage: Usage, total: Usage) -> float:
    """Return the share of the cost; an unknown cost sorts below 0."""
    return -1.0 if usage.cost is None else _share(usage.cost, total.cost or Decimal(0))


def _share(part: Any, whole: Any) -> float:
    return float(f"{text.share(part, whole):.9g}")
