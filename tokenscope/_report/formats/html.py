"""The `html` format: one page that stands alone, with a folding tree, bars, sorting and a filter; see page.js and page.css.

    <script type="application/json" id="report">{"title": "pipeline", "nodes": [[-1, "scope", "pipeline", ...], ...]}</script>

Whatever comes from user code is in that JSON, with every character escaped that means anything in HTML, and is shown as text.
The page's policy allows its own script and style, by their hashes, and nothing else: no request leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Any, Final

from tokenscope._report.formats.text import NOTHING_YET, dollars, duration, money, printable, share, unpriced
from tokenscope._report.report import Report
from tokenscope._report.tree import Node
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


def render(report: Report) -> str:
    """Return the page."""
    style, script = (
        files("tokenscope._report.formats").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    content = json.dumps(_content(report), separators=(",", ":")).translate(_ESCAPES)
    return _PAGE.substitute(policy=policy, style=style, script=script, report=content, version=__version__)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _content(report: Report) -> dict[str, Any]:
    root = report.tree()
    by_model = report.by_model()
    notes = [unpriced(by_model)]
    if notes[0] and root.usage.known_cost is not None:
        notes.append("A cost with ≥ is what the priced calls cost: a lower bound.")
    return {
        "title": printable(root.name) if root.kind != "root" else "All scopes",
        "empty": "" if report else NOTHING_YET.capitalize() + ".",
        "facts": list(_facts(root)),
        "more": list(_more_facts(root.usage)),
        "nodes": list(_nodes(root)),
        "modules": list(_breakdown(report.by_module(), root.usage)),
        "models": list(_breakdown(by_model, root.usage)),
        "notes": " ".join(filter(None, notes)),
    }


def _facts(root: Node) -> Iterator[tuple[str, str]]:
    """Yield what the head of the page says, large."""
    usage = root.usage
    yield "tokens", f"{usage.total_tokens:,}"
    yield "cost", money(usage)
    yield "calls", f"{usage.calls:,}"
    yield "input", f"{usage.input_tokens:,}"
    yield "output", f"{usage.output_tokens:,}"
    if root.seconds:
        yield "time", duration(root.seconds)


def _more_facts(usage: Usage) -> Iterator[str]:
    """Yield what it says below that, where there is any."""
    for what, count in (
        ("calls answered by DSPy's cache", usage.cached_calls),
        ("calls failed", usage.failed_calls),
        ("input tokens read from the provider's cache", usage.cache_read_tokens),
        ("input tokens written to the provider's cache", usage.cache_write_tokens),
        ("output tokens spent on reasoning", usage.reasoning_tokens),
        ("tokens saved by DSPy's cache", usage.saved_tokens),
    ):
        if count:
            yield f"{count:,} {what}" if count > 1 else f"1 {what.replace('s ', ' ', 1)}"
    if usage.saved_cost:
        yield f"{dollars(usage.saved_cost)} saved by DSPy's cache"


def _nodes(root: Node) -> Iterator[list[Any]]:
    """Yield rows, parents first and siblings by tokens: parent, kind, name, entries, cells, and shares to sort by."""
    index = 0
    stack = [(-1, node) for node in reversed(root.children if root.kind == "root" else (root,))]
    while stack:
        parent, node = stack.pop()
        yield [
            parent,
            node.kind,
            printable(node.name),
            f"{node.entries:,}" if node.entries > 1 else "",
            [*_cells(node.usage), duration(node.seconds)],
            [*_shares(node.usage, root.usage), _short(share(node.seconds, root.seconds))],
        ]
        below = list(node.children)
        if node.own.calls and any(child.usage.calls for child in below):
            below.append(Node("[self]", "self", node.own, node.own, {}, 0, 0.0, ()))
            below.sort(key=lambda child: -child.usage.total_tokens)
        stack.extend((index, child) for child in reversed(below))
        index += 1


def _breakdown(usages: Mapping[str, Usage], total: Usage) -> Iterator[list[Any]]:
    for name, usage in usages.items():
        yield [printable(name), _cells(usage), _shares(usage, total)]


def _cells(usage: Usage) -> list[str]:
    counts = (usage.calls, usage.input_tokens, usage.output_tokens, usage.total_tokens)
    return [*(f"{count:,}" for count in counts), money(usage)]


def _shares(usage: Usage, total: Usage) -> list[float]:
    """Return the shares of tokens, cost and calls; a cost that nobody knows sorts below one of 0."""
    cost = -1.0 if usage.known_cost is None else _short(share(usage.cost, total.cost))
    return [_short(share(usage.total_tokens, total.total_tokens)), cost, _short(share(usage.calls, total.calls))]


def _short(value: float) -> float:
    return float(f"{value:.9g}")
