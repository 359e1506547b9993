"""The `html` format: one page that stands alone, with a folding tree, bars, sorting and a filter. See page.html, .css, .js.

    <script type="application/json" id="report">{"title": "pipeline", "nodes": [[-1, "scope", "pipeline", ...], ...]}</script>

Names from user code are in that JSON, with all characters escaped that have a meaning in HTML, and are shown as text. The page's
policy allows its own script and style, by their hashes, and nothing else: the page makes no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from importlib.resources import files
from string import Template
from typing import Any, Final

from tokenscope._report.formats import text
from tokenscope._report.formats.order import self_line
from tokenscope._report.formats.prices import HEADS, NOTE, price_rows
from tokenscope._report.snapshot import Snapshot
from tokenscope._report.tree import Node
from tokenscope._usage.usage import Usage
from tokenscope._version import __version__

_ESCAPES: Final = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def render(snapshot: Snapshot) -> str:
    """Return the page."""
    folder = files("tokenscope._report.formats")
    page, style, script = (folder.joinpath(f"page.{suffix}").read_text("utf-8") for suffix in ("html", "css", "js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    tree = snapshot.tree()
    nodes = ",".join(map(_json, _nodes(tree)))  # one by one: other threads wait while Python writes a value as JSON
    content = f'{_json(_content(snapshot, tree))[:-1]},"nodes":[{nodes}]}}'
    return Template(page).substitute(policy=policy, style=style, script=script, report=content, version=__version__)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":")).translate(_ESCAPES)


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _content(snapshot: Snapshot, tree: Node) -> dict[str, Any]:
    usage = tree.usage
    by_model = snapshot.by_model()
    note = text.unpriced(by_model)
    if note and usage.cost is not None:
        note += " A cost with ≥ is what the priced calls cost: a lower bound."
    notes = filter(None, (note, text.misnamed(snapshot.unused_prices, by_model)))
    prices = price_rows(snapshot.prices())
    saved = [f"{text.dollars(usage.saved_cost)} saved by DSPy's cache"] if usage.saved_cost else []
    calls, input_tokens, output_tokens, tokens = text.counts(usage)
    cells = (tokens, text.money(usage), calls, input_tokens, output_tokens, text.duration(tree.seconds))
    facts = zip(("tokens", "cost", "calls", "input", "output", "time"), cells, strict=True)
    return {
        "title": text.printable(tree.name) if tree.kind != "root" else "All scopes",
        "empty": "" if snapshot else text.NOTHING_YET.capitalize() + ".",
        "facts": [fact for fact in facts if fact[1]],
        "more": [*text.details(usage), *saved],
        "modules": list(_breakdown(snapshot.by_module(), usage)),
        "models": list(_breakdown(by_model, usage)),
        "notes": " ".join(notes),
        **({"prices": [HEADS, *prices], "priceNote": NOTE} if prices else {}),
    }


def _nodes(tree: Node) -> Iterator[tuple[Any, ...]]:
    """Yield rows, parents first and siblings by tokens: parent, kind, name, entries, cells, and shares to sort by."""
    index, total = 0, tree.usage
    stack = [(-1, node) for node in reversed(tree.root.children)]
    while stack:
        parent, node = stack.pop()
        yield (
            parent,
            node.kind,
            text.printable(node.name),
            f"{node.entries:,}" if node.entries > 1 else "",
            (*_cells(usage := node.usage), text.duration(node.seconds)),
            (*_shares(usage, total), _share(node.seconds, tree.seconds)),
        )
        children = node.children
        below = sorted([*children, *self_line(node, children)], key=lambda child: -child.usage.total_tokens)
        stack.extend((index, child) for child in reversed(below))
        index += 1


def _breakdown(usages: Mapping[str, Usage], total: Usage) -> Iterator[list[Any]]:
    for name, usage in usages.items():
        yield [text.printable(name), _cells(usage), _shares(usage, total)]


def _cells(usage: Usage) -> list[str]:
    return [*text.counts(usage), text.money(usage)]


def _shares(usage: Usage, total: Usage) -> list[float]:
    """Return the shares of tokens, cost and calls; an unknown cost sorts below 0."""
    cost = -1.0 if usage.cost is None else _share(usage.cost, total.cost or Decimal(0))
    return [_share(usage.total_tokens, total.total_tokens), cost, _share(usage.calls, total.calls)]


def _share(part: Any, whole: Any) -> float:
    return float(f"{text.share(part, whole):.9g}")
