"""Layout: imports follow the layers, public names are fixed and documented, docstring examples run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections import ChainMap, Counter
from pathlib import Path

import pytest

import tokenscope

PACKAGE = Path(tokenscope.__file__).parent
ROOT = Path(__file__).parents[1]
PUBLIC = [
    "Breakdown",
    "Budget",
    "BudgetExceeded",
    "CallSizes",
    "Change",
    "Diff",
    "Finding",
    "Forecast",
    "JSONLSink",
    "Node",
    "Price",
    "Record",
    "Report",
    "ReportFormatError",
    "Reread",
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
    "record_cost",
    "record_response",
    "record_stream",
    "record_tokens",
    "report",
    "reset",
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


def imports() -> dict[str, set[str]]:
    """Return the package's modules that each module imports, also in functions and under TYPE_CHECKING."""
    names = {module_name(file): file for file in FILES}
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: a relative import"
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {each if each in names else str(node.module) for each in inner} & set(names)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(names)
    return found


def test_imports_go_in_no_circle():
    """No module imports itself through other modules."""
    left = imports()
    while leaves := [name for name, targets in left.items() if not targets & (set(left) - {name})]:
        for name in leaves:
            del left[name]

    assert {} == left


def test_imports_keep_the_contract():
    """Imports follow the layers that pyproject.toml defines."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert "Contracts: 1 kept, 0 broken." in done.stdout, done.stdout + done.stderr


def test_the_top_level_is_small():
    """At most 6 files and 10 folders stand directly in the package."""
    files = [each for each in PACKAGE.iterdir() if each.suffix == ".py"]
    folders = [each for each in PACKAGE.iterdir() if each.is_dir() and each.name != "__pycache__"]

    assert len(files) <= 6
    assert len(folders) <= 10


def test_no_two_classes_have_one_name():
    """No two public classes of the package have the same name."""
    names = Counter(
        node.name
        for file in FILES
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert [] == [name for name, number in names.items() if number > 1]


def test_no_file_takes_a_private_name_of_another():
    """No file imports a private name of another file, or takes a module of tokenscope from `sys.modules`."""
    text = "".join(file.read_text("utf-8") for file in FILES)

    assert [] == re.findall(r"from tokenscope[\w.]* import [^\n]*\b_[a-z]\w*", text)
    assert [] == re.findall(r"sys\.modules[.\[(get]+[\"']tokenscope[^\n]*", text)


def test_the_page_of_how_it_works_shows_the_layout():
    """The tree in `how-it-works.md` names exactly the package's files, without the `__init__.py` of its folders."""
    page = (ROOT / "docs" / "explanation" / "how-it-works.md").read_text("utf-8")
    tree = page.partition("```text\ntokenscope/\n")[2].partition("```")[0]
    shown: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2 - 1
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            shown.add("".join(folders) + name)

    assert shown == {file.relative_to(PACKAGE).as_posix() for file in FILES if file.name != "__init__.py"} | {
        "__init__.py"
    }


def test_the_core_knows_no_others():
    """The core's files, except `prices.py`, do not import rich, wrapt, dspy, click, asyncio or prices."""
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
    """`tokenscope.__all__` equals the list in this file, and the package has every name in it."""
    assert sorted(PUBLIC) == tokenscope.__all__
    for name in PUBLIC:
        assert hasattr(tokenscope, name)


def test_dir_lists_the_public_names_only():
    """`dir(tokenscope)` lists every public name, also before it is loaded, and nothing else."""
    assert sorted(PUBLIC) == dir(tokenscope)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_public_names_are_documented(name):
    """Every public name has a docstring, and so do its public methods and properties."""
    thing = getattr(tokenscope, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        inherited = [vars(each) for each in thing.__mro__ if each.__module__.startswith("tokenscope")]
        for attribute, value in ChainMap(*inherited).items():
            if not attribute.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
                assert inspect.getdoc(getattr(thing, attribute) if callable(value) else value), f"{name}.{attribute}"


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_modules_are_documented(file):
    """Every module of the package has a docstring."""
    assert ast.get_docstring(ast.parse(file.read_text("utf-8")))


@pytest.mark.parametrize("file", [f for f in FILES if ">>>" in f.read_text("utf-8")], ids=module_name)
def test_examples_run(file):
    """Every example in a docstring prints the output that it shows."""
    module = importlib.import_module(module_name(file))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert result.attempted
    assert 0 == result.failed


def test_the_code_map_names_what_is_there():
    """Each line of `code-map.md` names files of the package that define its names, and a test file."""
    page = (ROOT / "docs" / "explanation" / "code-map.md").read_text("utf-8")
    lines = re.findall(r"^- .+?: (.+) in (.+); tests in `(.+)`$", page, re.MULTILINE)

    assert page.count("\n- ") == len(lines) > 30
    for names, files, test in lines:
        code = "".join((PACKAGE / each).read_text("utf-8") for each in re.findall("`(.+?)`", files))
        for name in re.findall("`(.+?)`", names):
            for part in name.split("."):
                assert re.search(rf"^ *((async )?def {part}\b|class {part}\b|{part}\b.* = )", code, re.MULTILINE), name
        assert (ROOT / "tests" / test).is_file(), test
