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
ORDER = [
    ["errors", "_version", "_usage"],
    ["_bracket", "_call", "_tally"],
    ["_rows"],
    ["_later"],
    ["_entry"],
    ["_changes"],
    ["_ledger"],
    ["_discard", "_by_hand"],
    ["_recent"],
    ["_pause"],
    ["_scope"],
    ["_budget"],
    ["_purse"],
    ["_visit"],
    ["_freight"],
    ["_wrap"],
    ["_recipes"],
    ["_record"],
    ["_files"],
    ["_pricing"],
    ["_extract"],
    ["_origin"],
    ["_responses"],
    ["_pieces"],
    ["_meter"],
    ["_streams"],
    ["_draft"],
    ["_place", "_tree"],
    ["_waste", "_statistics"],
    ["_report"],
    ["_shipping"],
    ["_shipped"],
    ["_diff", "_views"],
    ["_records"],
    ["render"],
    ["_gate", "_analysis"],
    ["_console"],
    ["_reading", "_sinks"],
    ["_tracker"],
    ["integrations"],
    ["_answers"],
    ["testing"],
    ["_demo"],
    ["_doctor_checks"],
    ["_doctor_models"],
    ["_doctor_wrappers"],
    ["_doctor_others"],
    ["_doctor"],
    ["_live"],
    ["_ending"],
    ["_run"],
    ["cli"],
    ["__main__"],
    ["pytest_plugin"],
]
PUBLIC = [
    "Budget",
    "BudgetExceeded",
    "JSONLSink",
    "Report",
    "ReportFormatError",
    "Scope",
    "Shipment",
    "TokenScopeError",
    "TokenTracker",
    "Usage",
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


def rank(part: str) -> int:
    """Return a module's place in the order."""
    return next(place for place, parts in enumerate(ORDER) if part in parts)


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(file: Path) -> set[str]:
    """Return the modules of ours that a file imports at module level, not for type checkers only."""
    found: set[str] = set()
    nodes = list(ast.parse(file.read_text("utf-8")).body)
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            nodes += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            nodes += [*node.body, *node.orelse, *node.finalbody, *(n for h in node.handlers for n in h.body)]
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
            if node.module in ("tokenscope", "tokenscope.integrations", "tokenscope.render"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: a relative import"
    return {name for name in found if name.startswith("tokenscope.")}


@pytest.mark.parametrize("file", [f for f in FILES if f != PACKAGE / "__init__.py"], ids=module_name)
def test_imports_point_upwards(file):
    """A file imports nothing of ours that comes after it."""
    own = module_name(file).split(".")[1]
    for name in imported(file):
        part = name.split(".")[1]
        if any(part in parts for parts in ORDER):
            assert rank(part) <= rank(own), f"{file} imports {name}"


def test_the_core_knows_no_others():
    """The core's files import neither rich, wrapt, dspy nor prices."""
    for name in ("errors", "_usage", "_call", "_rows", "_ledger", "_pause", "_scope", "_recipes", "_files", "_report"):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text("utf-8"))
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
