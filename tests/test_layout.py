"""Layout: imports point one way, public names are pinned and documented, examples in docstrings run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import tokenscope

PACKAGE = Path(tokenscope.__file__).parent
PUBLIC = [
    "Breakdown",
    "Budget",
    "BudgetExceeded",
    "Change",
    "Diff",
    "JSONLSink",
    "Node",
    "Record",
    "Report",
    "ReportFormatError",
    "Scope",
    "Shipment",
    "TokenScopeError",
    "TokenTracker",
    "Usage",
    "Waste",
    "__version__",
    "carry",
    "current_scope",
    "get_tracker",
    "instrument",
    "receive",
    "record_response",
    "record_stream",
    "record_tokens",
    "report",
    "set_price",
    "ship",
    "token_scope",
    "track_tokens",
    "uninstrument",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_the_core_knows_no_others():
    """The core's files import neither rich, wrapt, dspy nor prices."""
    core = [PACKAGE / "errors.py", *(PACKAGE / "_scopes").rglob("*.py"), *(PACKAGE / "_usage").rglob("*.py")]
    for file in set(core) - {PACKAGE / "_usage" / "prices.py"}:
        tree = ast.parse(file.read_text("utf-8"))
        roots = {
            (alias.name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not roots & {"rich", "wrapt", "dspy", "litellm", "click", "genai_prices", "asyncio"}


def test_public_names_are_pinned():
    """What is public is what is said here, and is there."""
    assert sorted(PUBLIC) == tokenscope.__all__
    for name in PUBLIC:
        assert hasattr(tokenscope, name)


def test_dir_lists_the_public_names_only():
    """`dir(tokenscope)` lists every public name, also before it is loaded, and nothing else."""
    assert sorted(PUBLIC) == dir(tokenscope)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_public_names_are_documented(name):
    """Each has a docstring, and so have its public methods and properties."""
    thing = getattr(tokenscope, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
                assert inspect.getdoc(getattr(thing, attribute) if callable(value) else value), f"{name}.{attribute}"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_modules_are_documented(file):
    """The first lines of a file say which idea it is."""
    assert ast.get_docstring(ast.parse(file.read_text("utf-8")))


@pytest.mark.parametrize("file", [f for f in FILES if ">>>" in f.read_text("utf-8")], ids=module_name)
def test_examples_run(file):
    """Every example in a docstring does what it shows."""
    module = importlib.import_module(module_name(file))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert result.attempted
    assert 0 == result.failed
