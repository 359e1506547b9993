"""The directive `pytest-plugin` documents the options, the marker and the fixture of a pytest plugin, from its code."""

from __future__ import annotations

import argparse
import importlib
import inspect
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.parsing import nested_parse_to_nodes


class _Options(argparse.ArgumentParser):
    """The part of pytest's parser that `pytest_addoption` uses."""

    def getgroup(self, *_: str) -> Any:
        return self

    addoption = argparse.ArgumentParser.add_argument


class PytestPlugin(SphinxDirective):
    """Documents a plugin's module; the options `marker` and `fixture` name its marker and its fixture."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"marker": str, "fixture": str}

    def run(self) -> list[nodes.Node]:
        """Write the reference as reStructuredText, and parse it."""
        plugin = importlib.import_module(self.arguments[0])
        options = _Options(add_help=False)
        plugin.pytest_addoption(options)
        lines = [line for action in options._actions for line in _option(action)]
        where, _, name = self.options["marker"].partition(":")
        marker = getattr(importlib.import_module(where), name)
        lines += _described(f".. py:decorator:: pytest.mark.{name}{_signature(marker)}", marker)
        fixture = getattr(plugin, self.options["fixture"])
        function = inspect.unwrap(getattr(fixture, "__wrapped__", fixture))
        lines += _described(f".. py:function:: {self.options['fixture']}() -> Report", function, "Fixture. ")
        return nested_parse_to_nodes(self.state, "\n".join(lines), source=self.get_source_info()[0])


def _option(action: argparse.Action) -> list[str]:
    name = " ".join(filter(None, [action.option_strings[0], action.metavar]))
    return [f".. option:: {name}", "", f"   {action.help}", ""]


def _signature(function: Any) -> str:
    return str(inspect.signature(function, eval_str=True).replace(return_annotation=inspect.Signature.empty))


def _described(head: str, function: Any, before: str = "") -> list[str]:
    body = (before + str(GoogleDocstring(inspect.getdoc(function) or ""))).splitlines()
    return [head, "", *(f"   {line}" for line in body), ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("pytest-plugin", PytestPlugin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
