"""Docstrings and help texts for Sphinx: `code` that names something links to it; indented text is code.

All links show public names. A check warns of names in `tokenscope.__all__` that the reference lacks.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import click
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import tokenscope

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?")
_WITHOUT_PAGE = {"__version__"}
_link = PyXRefRole()


def name_role(_kind: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Link the name of a public object of tokenscope to its entry; leave other code as it is."""
    name = text.removesuffix("()")
    owner, _, attribute = name.partition(".")
    known = _NAME.fullmatch(text) and hasattr(tokenscope, owner)
    if known:
        # A field has no entry of its own: it is described among the arguments of its class.
        is_field = inspect.ismemberdescriptor(getattr(getattr(tokenscope, owner), attribute, None))
        target = f"tokenscope.{owner if is_field else name}"
        return _link("py:obj", raw, f"{text} <{target}>", line, inliner, options or {}, content)
    return [nodes.literal(raw, text)], []


def link_public_names(_app: Sphinx, doctree: nodes.document) -> None:
    """Let annotations link to the public name of a class, not to the module that defines it."""
    public = {f"{thing.__module__}.{name}": f"tokenscope.{name}" for name, thing in _public_classes()}
    for reference in doctree.findall(pending_xref):
        reference["reftarget"] = public.get(reference["reftarget"], reference["reftarget"])


def _public_classes() -> list[tuple[str, type]]:
    return [(name, thing) for name in tokenscope.__all__ if inspect.isclass(thing := getattr(tokenscope, name))]


def before_napoleon(_app: Sphinx, what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Turn the indented parts of a module docstring into code; keep napoleon from reading "This: that" as a type."""
    if what == "module":
        lines[:] = _indented_is_code(lines)
    elif what in ("property", "attribute"):
        lines[:0] = ["..", ""]  # an empty comment


def _indented_is_code(lines: list[str]) -> list[str]:
    found: list[str] = []
    code = False
    for line in lines:
        if line.strip() and line.startswith("    ") != code:
            code = not code
            found += ["::", ""] if code else []
        found.append(line)
    return found


def epilog_is_code(_app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Turn the examples in a command's epilog into code, each under a line with a colon."""
    lines.clear()
    for paragraph in inspect.cleandoc(context.command.epilog or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            head, *code = paragraph[2:].splitlines()
            lines += [f"{head}:", "", *(f"    {line}" for line in code), ""]
        else:
            lines += [*paragraph.splitlines(), ""]


def check_reference(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that the reference lacks. With `-W`, this fails the build."""
    documented = {entry[0] for entry in env.get_domain("py").get_objects()}
    for name in tokenscope.__all__:
        if name not in _WITHOUT_PAGE and f"tokenscope.{name}" not in documented:
            logging.getLogger(__name__).warning("the reference lacks tokenscope.%s: name it in reference/api.md", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this."""
    app.setup_extension("sphinx_click")
    app.add_role("name", name_role)
    app.connect("doctree-read", link_public_names)
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("sphinx-click-process-epilog", epilog_is_code)
    app.connect("env-check-consistency", check_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
