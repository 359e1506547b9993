"""Importing: which modules `import tokenscope` loads, and hooks that run in every order of imports."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
from support.spending import python

from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations import import_hooks, patches

HEAVY = {"dspy", "litellm", "rich", "click", "genai_prices", "asyncio", "wrapt", "numpy", "json", "tempfile"}


def test_importing_tokenscope_loads_nothing_heavy():
    """Importing tokenscope and using scopes loads neither DSPy nor any other heavy module."""
    code = """if True:
        import sys
        from tokenscope import token_scope, track_tokens, record_tokens
        with token_scope("a"):
            track_tokens(record_tokens)("m", "o", "x", None, 1, 1)
        print(*sys.modules)
    """

    # Without coverage, because coverage tools load modules of their own.
    loaded = python(code, TOKENSCOPE_DISABLED="", COVERAGE_PROCESS_START="", COVERAGE_PROCESS_CONFIG="").split()

    assert set() == HEAVY & set(loaded)


ORDERS = {
    "tokenscope first": "import tokenscope; import concurrent.futures.thread, asyncio",
    "tokenscope last": "import concurrent.futures.thread, asyncio; import tokenscope",
    "inside a scope": "import tokenscope; tokenscope.token_scope('a').__enter__().leave(); "
    "import concurrent.futures; concurrent.futures.ThreadPoolExecutor; import asyncio",
}


@pytest.mark.parametrize("order", ORDERS)
def test_hooks_fire_in_any_order(order):
    """Pools and tasks carry the scope, whether tokenscope is imported before or after them."""
    code = (
        ORDERS[order]
        + """
import threading
from concurrent.futures import ThreadPoolExecutor
from tokenscope import current_scope, token_scope
from tokenscope.integrations import applied
assert {"Thread.start", "ThreadPoolExecutor.submit", "BaseEventLoop.create_task"} <= {patch.name for patch in applied()}
with token_scope("a"), ThreadPoolExecutor(1) as pool:
    print(pool.submit(lambda: current_scope().name).result())
def generator():
    with token_scope("paused"):
        yield
async def main():
    items = generator()
    next(items)
    async def task():
        return current_scope()
    print(await asyncio.create_task(task()))
asyncio.run(main())
"""
    )
    assert ["a", "None"] == python(code).split()


def test_modules_are_as_they_were():
    """A module with an import hook keeps its own loader, spec and source."""
    code = """if True:
        import importlib.machinery, inspect, tokenscope, concurrent.futures.thread as thread
        assert type(thread.__spec__.loader) is importlib.machinery.SourceFileLoader, thread.__spec__
        assert thread.__loader__ is thread.__spec__.loader
        assert "class ThreadPoolExecutor" in inspect.getsource(thread)
        import importlib
        spec = importlib.util.find_spec("asyncio.base_events")
        assert spec.loader.get_source("asyncio.base_events")
        assert tokenscope.integrations.applied()
    """
    python(code)


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """Return a function that makes a module with an import hook. The modules are removed afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    calls = []

    def make(name, source="X = 1"):
        (tmp_path / f"{name}.py").write_text(source)
        import_hooks.after_import(name, calls.append)
        return calls

    yield make
    for name in [path.stem for path in tmp_path.glob("*.py")]:
        sys.modules.pop(name, None)
        import_hooks._finder.hooks.pop(name, None)


def test_the_hook_gets_the_complete_module(waiting):
    """The hook is called with the module after the module's code has run, at each import."""
    calls = waiting("tokenscope_test_complete", "import sys\nX = 1\nSPEC = __spec__.loader\nLOADER = __loader__")
    module = __import__("tokenscope_test_complete")

    assert [module] == calls
    assert 1 == module.X
    assert module.SPEC is module.LOADER is module.__loader__
    assert type(module.SPEC).__module__ == "_frozen_importlib_external"
    del sys.modules["tokenscope_test_complete"]
    assert [module, __import__("tokenscope_test_complete")] == calls


def test_a_module_that_fails_to_import(waiting):
    """If a module fails to import, its own error is raised, and the hook is not called."""
    calls = waiting("tokenscope_test_failing", "raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        __import__("tokenscope_test_failing")

    assert [] == calls
    assert "tokenscope_test_failing" not in sys.modules


def test_a_module_that_is_not_there(waiting):
    """A missing module raises ModuleNotFoundError as usual, and its hook stays registered."""
    import_hooks.after_import("tokenscope_test_missing", print)
    try:
        with pytest.raises(ModuleNotFoundError):
            __import__("tokenscope_test_missing")
        assert "tokenscope_test_missing" in import_hooks._finder.hooks
    finally:
        del import_hooks._finder.hooks["tokenscope_test_missing"]


def test_namespace_packages_are_left_alone(tmp_path, monkeypatch):
    """A namespace package has no code to patch, and is imported as usual."""
    (tmp_path / "tokenscope_test_namespace").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    calls = []
    import_hooks.after_import("tokenscope_test_namespace", calls.append)
    try:
        module = __import__("tokenscope_test_namespace")
        assert module.__path__
    finally:
        del import_hooks._finder.hooks["tokenscope_test_namespace"]
        del sys.modules["tokenscope_test_namespace"]


def test_who_looks_for_a_module_sees_its_loader(waiting):
    """If a module is found but not loaded yet, its loader has the attributes of the real loader."""
    waiting("tokenscope_test_found", "X = 1")
    loader = find_spec("tokenscope_test_found").loader

    assert "X = 1" == loader.get_source("tokenscope_test_found")
    assert loader.is_package("tokenscope_test_found") is False
    with pytest.raises(AttributeError):
        loader.no_such_thing  # noqa: B018


def test_a_loader_used_by_hand(waiting):
    """If a loader runs on a module that was made by hand, the module's code runs, and the hook is called."""
    calls = waiting("tokenscope_test_by_hand", "X = 1")
    module = ModuleType("tokenscope_test_by_hand")
    find_spec(module.__name__).loader.exec_module(module)

    assert 1 == module.X
    assert [module] == calls


def test_names_of_the_package():
    """`Report` is an attribute of the package. A name that does not exist raises an AttributeError."""
    import tokenscope
    from tokenscope._report.report import Report

    assert Report is tokenscope.Report
    with pytest.raises(AttributeError, match="module 'tokenscope' has no attribute 'nothing'"):
        tokenscope.nothing  # noqa: B018


def test_a_missing_name_is_one_warning(monkeypatch, waiting):
    """If a package lacks a name that is to be patched, there is one warning. An optional name causes none."""
    forget_warnings()
    name = "tokenscope_test_lacking"
    waiting(name, "class Present:\n    pass")
    module = __import__(name)
    with pytest.warns(TokenScopeWarning, match=f"no {name}.Present.method") as caught:
        for _ in range(2):
            patches._apply(patches.Patch(name, "Present.method", "tokenscope:carry"), module)
            patches._apply(patches.Patch(name, "Absent.method", "tokenscope:carry", optional=True), module)

    assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
    assert not [patch for patch in patches.applied() if patch.module == name]


def test_inherited_methods_are_taken_away_again(waiting):
    """If a patched method was only inherited, the subclass inherits it again when the patch is undone."""
    name = "tokenscope_test_inherits"
    source = """
class Base:
    def method(self): return 1
class Derived(Base): pass
def hook(wrapped, instance, args, kwargs): return 10 * wrapped(*args, **kwargs)
"""
    waiting(name, source)
    module = __import__(name)
    patch = patches.Patch(name, "Derived.method", f"{name}:hook", "replace")
    patches._apply(patch, module)
    assert [1, 10] == [module.Base().method(), module.Derived().method()]
    patches._undo(patches._registry.applied.pop(patch))

    assert "method" not in vars(module.Derived)
    assert 1 == module.Derived().method()


def test_a_fault_while_patching_does_not_break_the_import(monkeypatch, waiting):
    """An error while patching is raised under pytest. Elsewhere it is one warning with the traceback."""
    name = "tokenscope_test_fault"
    waiting(name, "def function(): return 1")
    module = __import__(name)
    patch = patches.Patch(name, "function", "tokenscope:no_such_hook")
    monkeypatch.setattr(patches, "_PATCHES_OF", {patch.module: (patch,)})
    forget_warnings()
    with pytest.raises(AttributeError, match="no_such_hook"):
        patches._on_import(module)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning, match="(?s)could not do its work in patching.*no_such_hook"):
        patches._on_import(module)

    assert 1 == module.function()
