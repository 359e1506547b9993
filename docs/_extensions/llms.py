"""Writes llms.txt, a map of the documentation for language models, in the form of llmstxt.org.

It holds the start page's title and first paragraphs, and a section of links for each index page, with the words that stand beside
the links there. Each page is copied as Markdown, beside its HTML, and linked as such. Pages made from code are linked as HTML.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

SECTIONS = {
    "tutorial": "Tutorial",
    "how-to/index": "How-to guides",
    "reference/index": "Reference",
    "explanation/index": "Optional",
}
MADE_FROM_CODE = "```{eval-rst}"


def write_llms(app: Sphinx, error: Exception | None) -> None:
    """Write llms.txt and the Markdown of each page into the site, if it is HTML and could be built."""
    if error is not None or app.builder.format != "html":
        return
    start = app.env.get_doctree("index").next_node(nodes.section)
    summary, *more = [_words(child) for child in start.children if isinstance(child, nodes.paragraph)]
    parts = [f"# {app.env.titles['index'].astext()}", f"> {summary}", *more]
    for page, name in SECTIONS.items():
        links = [f"- [{app.env.titles[to].astext()}]({_address(app, to)}): {why}" for to, why in _listed(app, page)]
        parts += [f"## {name}", "\n".join(links)]
    (app.outdir / "llms.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _listed(app: Sphinx, index: str) -> Iterator[tuple[str, str]]:
    """Yield each page that an index page lists, with what it says of it. The start page lists the tutorials."""
    source = index if index.endswith("index") else "index"
    tree = app.env.get_and_resolve_doctree(source, app.builder)
    for item in tree.findall(nodes.list_item):
        reference = item.next_node(nodes.reference)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), reference.get("refuri", "")))
        page = target.removesuffix(".html")
        if page in app.env.found_docs and (index == source or page.partition("-")[0] == index):
            yield page, _words(item.next_node(nodes.paragraph)).partition(": ")[2]


def _address(app: Sphinx, page: str) -> str:
    """Copy a page as Markdown, and return its address; of a page that is made from code, the address of its HTML."""
    source = Path(app.env.doc2path(page)).read_text(encoding="utf-8")
    made_from_code = MADE_FROM_CODE in source
    if not made_from_code:
        (app.outdir / f"{page}.md").write_text(source, encoding="utf-8")
    return f"{app.config.html_baseurl}{page}.{'html' if made_from_code else 'md'}"


def _words(node: nodes.Node) -> str:
    return " ".join(node.astext().split())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("build-finished", write_llms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
