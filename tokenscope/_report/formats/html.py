"""The `html` format: one page that stands alone, with a folding tree, bars, sorting and a filter; see page.js and page.css.

    <script type="application/json" id="report">{"title": "pipeline", "nodes": [[-1, "scope", "pipeline", ...], ...]}</script>

Names from user code are in that JSON, with all characters escaped that have a meaning in HTML, and are shown as text. The page's
policy allows its own script and style, by their hashes, and nothing else: the page makes no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Any, Final

from tokenscope._report.formats.order import self_line
from tokenscope._report.formats.text import (
    NOTHING_YET,
    counts,
    details,
    dollars,
    duration,
    money,
    printable,
    share,
    unpriced,
)
from tokenscope._report.snapshot import Snapshot
from tokenscope._report.tree import Node, rooted
from tokenscope._usage.usage import Usage
from tokenscope._version import __version__

_PAGE: Final = Template(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="tokenscope $version">
<title>tokenscope</title>
<style>$style</style>
</head>
<body>
<header><p class="brand">tokenscope</p><h1 id="title"></h1><dl id="facts"></dl><p id="more-facts"></p></header>
<main>
<section aria-labelledby="tree-title">
<h2 id="tree-title">Where it was spent</h2>
<div class="tools">
<label class="find"><span>Filter</span><input id="filter" type="search" placeholder="Filter by name"
 autocomplete="off" spellcheck="false" aria-keyshortcuts="/" aria-controls="tree"></label>
<label class="sort"><span>Sort by</span><select id="sort" aria-controls="tree"></select></label>
<button id="unfold" type="button">Unfold all</button><button id="fold" type="button">Fold all</button>
</div>
<p id="status" role="status"></p>
<div class="scroll"><div id="tree" role="treegrid" aria-labelledby="tree-title" aria-describedby="keys"></div></div>
<button id="more" type="button" hidden></button>
<p id="keys">Keys: <kbd>↑</kbd> <kbd>↓</kbd> move, <kbd>→</kbd> <kbd>←</kbd> unfold and fold, <kbd>*</kbd> unfolds all
 that stand beside, <kbd>/</kbd> filters, <kbd>Esc</kbd> ends it.</p>
</section>
<div class="pair">
<section aria-labelledby="modules-title"><h2 id="modules-title">By module</h2><div id="modules"></div></section>
<section aria-labelledby="models-title"><h2 id="models-title">By model</h2><div id="models"></div></section>
</div>
</main>
<footer><p id="notes"></p><p>Made by tokenscope $version. This page is one file and asks nobody for anything.</p></footer>
<noscript><p>This page folds, sorts and filters its tree with a script of its own, which is switched off here.</p></noscript>
<script type="application/json" id="report">$report</script>
<script>$script</script>
</body>
</html>
"""
)
_ESCAPES: Final = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def render(snapshot: Snapshot) -> str:
    """Return the page."""
    style, script = (
        files("tokenscope._report.formats").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    content = json.dumps(_content(snapshot), separators=(",", ":")).translate(_ESCAPES)
    return _PAGE.substitute(policy=policy, style=style, script=script, report=content, version=__version__)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _content(snapshot: Snapshot) -> dict[str, Any]:
    tree = snapshot.tree()
    usage = tree.usage
    by_model = snapshot.by_model()
    notes = [unpriced(by_model)]
    if notes[0] and usage.known_cost is not None:
        notes.append("A cost with ≥ is what the priced calls cost: a lower bound.")
    saved = [f"{dollars(usage.saved_cost)} saved by DSPy's cache"] if usage.saved_cost else []
    return {
        "title": printable(tree.name) if tree.kind != "root" else "All scopes",
        "empty": "" if snapshot else NOTHING_YET.capitalize() + ".",
        "facts": list(_facts(tree)),
        "more": [*details(usage), *saved],
        "nodes": list(_nodes(tree)),
        "modules": list(_breakdown(snapshot.by_module(), usage)),
        "models": list(_breakdown(by_model, usage)),
        "notes": " ".join(filter(None, notes)),
    }


def _facts(tree: Node) -> Iterator[tuple[str, str]]:
    """Yield the numbers at the head of the page, each with its name."""
    usage = tree.usage
    yield "tokens", f"{usage.total_tokens:,}"
    yield "cost", money(usage)
    yield "calls", f"{usage.calls:,}"
    yield "input", f"{usage.input_tokens:,}"
    yield "output", f"{usage.output_tokens:,}"
    if tree.seconds:
        yield "time", duration(tree.seconds)


def _nodes(tree: Node) -> Iterator[list[Any]]:
    """Yield rows, parents first and siblings by tokens: parent, kind, name, entries, cells, and shares to sort by."""
    index = 0
    stack = [(-1, node) for node in reversed(rooted(tree).children)]
    while stack:
        parent, node = stack.pop()
        yield [
            parent,
            node.kind,
            printable(node.name),
            f"{node.entries:,}" if node.entries > 1 else "",
            [*_cells(node.usage), duration(node.seconds)],
            [*_shares(node.usage, tree.usage), _short(share(node.seconds, tree.seconds))],
        ]
        below = sorted([*node.children, *self_line(node)], key=lambda child: -child.usage.total_tokens)
        stack.extend((index, child) for child in reversed(below))
        index += 1


def _breakdown(usages: Mapping[str, Usage], total: Usage) -> Iterator[list[Any]]:
    for name, usage in usages.items():
        yield [printable(name), _cells(usage), _shares(usage, total)]


def _cells(usage: Usage) -> list[str]:
    return [*counts(usage), money(usage)]


def _shares(usage: Usage, total: Usage) -> list[float]:
    """Return the shares of tokens, cost and calls; an unknown cost sorts below 0."""
    cost = -1.0 if usage.known_cost is None else _short(share(usage.cost, total.cost))
    return [_short(share(usage.total_tokens, total.total_tokens)), cost, _short(share(usage.calls, total.calls))]


def _short(value: float) -> float:
    return float(f"{value:.9g}")
