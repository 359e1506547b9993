"""The pytest plugin: tokens by test for every way of running tests, budgets, and the baseline."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest

from tokenscope import Budget
from tokenscope._scopes.process import STATE
from tokenscope._usage import warnings as token_warnings
from tokenscope._usage.custom_prices import forget_prices
from tokenscope.pytest_plugin.baseline import Baseline
from tokenscope.pytest_plugin.budget import marker_line, token_budget

pytest_plugins = ["pytester"]

INSTALLED = any(each.name == "tokenscope" for each in importlib.metadata.entry_points(group="pytest11"))
REWRITTEN = "ignore::pytest.PytestAssertRewriteWarning"  # in this process the plugin is loaded already
QUICK = [
    f"-pno:{name}" for name in ("cacheprovider", "benchmark", "hypothesispytest", "cov", "timeout")
]  # a run takes half the time without them
ARGUMENTS = (*QUICK, "-W", REWRITTEN, *(() if INSTALLED else ("-p", "tokenscope.pytest_plugin")))
SPEND = """
import pytest
from tokenscope import current_scope, record_tokens, token_scope

def spend(tokens, module="m"):
    record_tokens(module, "o", "model", "provider", input_tokens=tokens, output_tokens=0)
"""
PRICED = """
from decimal import Decimal

def pay(model="priced", *, cost=None, calls=1):
    record_tokens("m", "o", model, None, 10, 0, cost=cost)
    for _ in range(calls - 1):
        record_tokens("m", "o", model, None, 0, 0, cost=0)
"""


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    """Restore the set of warnings that have been shown."""
    monkeypatch.setattr(token_warnings, "_warned", set(token_warnings._warned))


@pytest.fixture
def run(pytester):
    """Run pytest on a file of tests, in this process or in another."""

    def run(code: str, *arguments: str, subprocess: bool = False):
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        pytester.makepyfile(test_it=SPEND + code)
        start = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
        return start(*ARGUMENTS, *arguments)

    return run


def table(result, section: str = "tokens by test") -> dict[str, int]:
    """Return the tokens by test from the first table of the summary."""
    lines = "\n".join(result.outlines).partition(f" {section} ")[2].splitlines()[1:]
    found: dict[str, int] = {}
    for line in lines:
        row = re.match(r" *([\d,]+)(?: +[\d,]+){3} .*?(total|[^ ]+::.*|[^ ]+)(?: of .*)?$", line)
        if row:
            found.setdefault(row[2].removeprefix("test_it.py::"), int(row[1].replace(",", "")))
    return found


# -- measuring ----------------------------------------------------------------------------------------------------------


def test_tokens_by_test(run):
    """Each test that spends has a row, including fixtures and failures, and the total is their sum."""
    result = run(
        """
        import unittest

        @pytest.fixture
        def paid():
            spend(100)
            yield
            spend(1000)

        def test_fixture(paid): spend(1)
        @pytest.mark.parametrize("n", [2, 3])
        def test_parameter(n): spend(n)
        def test_failing(): spend(4); assert False
        def test_skipping(): spend(5); pytest.skip()
        @pytest.fixture
        def broken():
            spend(6)
            raise OSError
        def test_error(broken): pass
        @pytest.mark.skip
        def test_never(): spend(7)
        @pytest.mark.xfail
        def test_xfail(): spend(8); assert False
        class TestCase(unittest.TestCase):
            def setUp(self): spend(10)
            def test_method(self): spend(20)
            def tearDown(self): spend(30)
        class TestPlain:
            def test_method(self): spend(40)
        """.replace("\n        ", "\n"),
        "--tokens",
    )

    expected = {
        "test_fixture": 1101,
        "test_parameter[2]": 2,
        "test_parameter[3]": 3,
        "test_failing": 4,
        "test_skipping": 5,
        "test_error": 6,
        "test_xfail": 8,
        "TestCase::test_method": 60,
        "TestPlain::test_method": 40,
    }
    assert {**expected, "total": sum(expected.values())} == table(result)
    result.stdout.fnmatch_lines(["*total of 10 tests, 1 of them without a call"])


PROMPTS = """
import dspy
from tokenscope.testing import LoopbackProvider

@pytest.mark.parametrize("n", [1, 2])
def test_it(n):
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        for _ in range(n):
            dspy.Predict("question -> answer")(question="Why do leaves turn red?")
def test_idle(): pass
"""


@pytest.mark.unmeasured
@pytest.mark.parametrize("workers", [0, 2])
def test_parts_of_prompts(run, workers):
    """`--tokens-parts` measures prompts and adds up their parts, with pytest-xdist, too, until the session ends."""
    result = run(PROMPTS, "--tokens-parts", *(["-n", str(workers)] if workers else []), subprocess=True)
    text = result.stdout.str()
    rows = re.findall(r"^ *([\d,]+) +(?:\d+|<1)%  [\w:]+$", text, re.MULTILINE)
    (total,) = re.findall(r"^ *[\d,]+ +([\d,]+) .* total of 3 tests", text, re.MULTILINE)

    result.assert_outcomes(passed=3)
    assert int(total.replace(",", "")) == sum(int(tokens.replace(",", "")) for tokens in rows) > 0
    result.stdout.fnmatch_lines(
        ["*input by part of the prompt*", "tokens  share  part", "* instructions", "Parts of input*"]
    )


def test_parts_of_no_prompt(run):
    """Without any measured prompt, a line says so. When the session ends, prompts are no longer measured."""
    recorded = run("def test_it(): spend(7)\n", "--tokens-parts").stdout.str()

    assert STATE.read_prompt is None
    assert "No prompt was measured" in recorded
    assert "input by part" not in run("def test_it(): spend(7)\n", "--tokens").stdout.str()
    assert "no prompt was sent" in run("def test_it(): pass\n", "--tokens-parts").stdout.str()


def test_a_test_that_pays(run):
    """A test that made no call but paid an amount is in the table."""
    result = run(
        "from tokenscope import record_cost\ndef test_it(): record_cost('search', 'web', 0.25)\ndef test_idle(): pass\n",
        "--tokens",
    )

    assert {"test_it": 0, "total": 0} == table(result)
    result.stdout.fnmatch_lines([" *$0.25 *::test_it", "*total of 2 tests, 1 of them without a call"])


def test_the_ten_costliest(run):
    """If more than ten tests spend tokens, all are listed by name, and the ten costliest again."""
    result = run(
        "@pytest.mark.parametrize('n', range(1, 13))\ndef test(n): spend(n)\n",
        "--tokens",
    )

    text = result.stdout.str()
    costliest = text.partition("the 10 costliest:")[2].partition("total of")[0]
    assert [12, 11, 10, 9, 8, 7, 6, 5, 4, 3] == [int(each) for each in re.findall(r"::test\[(\d+)\]", costliest)]
    assert sum(range(1, 13)) == table(result)["total"]
    assert set(range(1, 13)) == {int(each) for each in re.findall(r"::test\[(\d+)\]", text)}


ASYNC = """
import asyncio, unittest
import pytest_asyncio

@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def shared():
    spend(1000)
    yield
    spend(10_000)

@pytest_asyncio.fixture(loop_scope="session")
async def own():
    spend(100)
    yield
    spend(200)

@pytest.mark.asyncio(loop_scope="session")
async def test_first(shared): spend(1)
@pytest.mark.asyncio(loop_scope="session")
async def test_second(shared, own): await asyncio.create_task(later(2))
@pytest.mark.asyncio
async def test_own_loop(): spend(3)
def test_plain(): spend(4)
class TestCase(unittest.IsolatedAsyncioTestCase):
    def setUp(self): spend(10)
    async def asyncSetUp(self): spend(20)
    async def test_method(self): spend(30)
    async def asyncTearDown(self): spend(40)

@pytest.mark.asyncio(loop_scope="session")
async def test_last(shared, own): spend(5)

async def later(tokens): spend(tokens)
"""
ASYNC_TOKENS = {
    "test_first": 1001,
    "test_second": 302,
    "test_own_loop": 3,
    "test_plain": 4,
    "TestCase::test_method": 100,
    "test_last": 10_305,
    "total": 11_715,
}


def test_async_tests(run):
    """Async tests and fixtures count for their test on any loop. Shared fixtures count for the first and last test."""
    assert ASYNC_TOKENS == table(run(ASYNC, "--tokens"))


ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module")
def anyio_backend(): return "BACKEND"

@pytest.fixture(scope="module")
async def shared():
    spend(1000)
    yield
    spend(10_000)

@pytest.fixture
async def own():
    spend(100)
    yield
    spend(200)

@pytest.fixture
async def value(): spend(10)

async def test_first(shared): spend(1)
async def test_second(shared, own, value): spend(2)
async def test_last(shared, own):
    assert current_scope().name.endswith("test_last")
    spend(3)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(run, backend):
    """Under anyio, where the tests of a module share one task and Context, each test still has its own tokens."""
    pytest.importorskip("anyio")
    pytest.importorskip(backend)

    result = run(ANYIO.replace("BACKEND", backend), "--tokens")

    names = {"test_first": 1001, "test_second": 312, "test_last": 10_303}
    found = {name.partition("[")[0]: tokens for name, tokens in table(result).items()}
    assert {**names, "total": sum(names.values())} == found


OPENING = """
import pytest_asyncio
pytestmark = pytest.mark.MARK

@pytest.fixture
def anyio_backend(): return "BACKEND"

@{"asyncio": pytest_asyncio.fixture, "anyio": pytest.fixture}["MARK"]
async def around():
    with token_scope("around") as scope:
        yield scope
    assert scope.usage.total_tokens == 5

async def test_it(around):
    assert current_scope() is around
    spend(5)
    with token_scope("inner") as inner:
        assert inner.parent is around
"""


@pytest.mark.parametrize("arguments", [[], ["--tokens"]], ids=["alone", "measured"])
@pytest.mark.parametrize(
    ("mark", "backend"),
    [("asyncio", ""), ("anyio", "asyncio"), ("anyio", "trio")],
    ids=["pytest-asyncio", "anyio", "anyio on trio"],
)
def test_a_scope_that_an_async_fixture_opens(run, mark, backend, arguments):
    """A scope that an async fixture opens is active in the test, although the fixture is suspended meanwhile."""
    if mark == "anyio":
        pytest.importorskip("anyio")
        pytest.importorskip(backend)

    result = run(OPENING.replace("MARK", mark).replace("BACKEND", backend), *arguments)

    result.assert_outcomes(passed=1)


def test_nothing_is_left_around_fixtures_and_tests(run):
    """Wrappers around async fixtures and hypothesis's tests do not pile up from test to test."""
    result = run(
        "import sys\n"
        "import pytest_asyncio\n"
        "from hypothesis import given, settings, strategies as st\n"
        "depths = {}\n"
        "def depth(name):\n"
        "    frame, found = sys._getframe(), 0\n"
        "    while frame is not None: frame, found = frame.f_back, found + 1\n"
        "    depths.setdefault(name, []).append(found)\n"
        "@pytest_asyncio.fixture\n"
        "async def value(): depth('fixture')\n"
        "@pytest_asyncio.fixture\n"
        "async def generator():\n"
        "    depth('generator')\n"
        "    yield\n"
        "@pytest.mark.asyncio\n"
        "@pytest.mark.parametrize('number', range(10))\n"
        "async def test_it(value, generator, number): depth('test')\n"
        "@pytest.mark.asyncio\n"
        "@pytest.mark.parametrize('number', range(10))\n"
        "@settings(max_examples=1, database=None)\n"
        "@given(n=st.integers())\n"
        "async def test_examples(number, n): depth('example')\n"
        "def test_depths():\n"
        "    assert {'fixture', 'generator', 'test', 'example'} == set(depths)\n"
        "    assert all(len(found) >= 10 and len(set(found)) == 1 for found in depths.values()), depths\n",
        "--tokens",
    )

    result.assert_outcomes(passed=21)


OPENS = """
import functools, pytest_asyncio

@pytest.fixture(scope="module")
def anyio_backend(): return "asyncio"

@FIXTURE(scope="module")
async def shared(): yield  # all tests and fixtures run in its Context

@FIXTURE()
async def around(shared):
    with token_scope("around"):
        yield
        spend(100)

@pytest.mark.MARK
async def test_first(shared): spend(1)

@pytest.mark.MARK
async def test_inside(around, token_report):
    spend(10)
    assert [current_scope().name, current_scope().parent.name] == ["around", "test_it.py::test_inside"]
    assert token_report().find("test_it.py::test_inside/around").usage.total_tokens == 10

@pytest.mark.MARK
async def test_last(shared):
    spend(2)
    assert current_scope().name == "test_it.py::test_last"
"""


@pytest.mark.parametrize(
    ("mark", "fixture"),
    [
        ("asyncio(loop_scope='module')", "functools.partial(pytest_asyncio.fixture, loop_scope='module')"),
        ("anyio", "pytest.fixture"),
    ],
    ids=["asyncio", "anyio"],
)
def test_a_scope_that_a_fixture_opens_in_an_older_context(run, mark, fixture):
    """A fixture's scope is active inside the scope of its test, but not in the next test of the same Context."""
    result = run(OPENS.replace("MARK", mark).replace("FIXTURE", fixture), "--tokens")

    result.assert_outcomes(passed=3)
    assert {"test_first": 1, "test_inside": 110, "test_last": 2, "total": 113} == table(result)


def test_hypothesis(run):
    """Every example of an async test that hypothesis drives counts."""
    result = run(
        "from hypothesis import given, settings, strategies as st\n"
        "@pytest.mark.asyncio\n"
        "@settings(max_examples=5, database=None)\n"
        "@given(st.integers())\n"
        "async def test_it(n): spend(10)\n",
        "--tokens",
    )

    assert 0 == result.ret
    assert 0 < table(result)["test_it"] == table(result)["total"]
    assert 0 == table(result)["total"] % 10


def test_threads_and_scopes_inside(run):
    """Threads and scopes inside a test count for it, and so does a scope that a fixture opens around it."""
    result = run(
        "import threading\n"
        "@pytest.fixture\n"
        "def around():\n"
        "    with token_scope('around'): yield\n"
        "def test_it(around, token_report):\n"
        "    with token_scope('inner'):\n"
        "        thread = threading.Thread(target=spend, args=(5,))\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "    name = current_scope().parent.name\n"
        "    assert token_report().find(f'{name}/around/inner/m/o').usage.total_tokens == 5\n"
        "    assert name == 'test_it.py::test_it'\n",
        "--tokens",
    )

    result.assert_outcomes(passed=1)
    assert {"test_it": 5, "total": 5} == table(result)


@pytest.mark.unmeasured
@pytest.mark.parametrize("distribution", ["load", "loadfile"])
def test_xdist(run, distribution):
    """Totals and rows are the same under pytest-xdist."""
    code = (
        "@pytest.mark.parametrize('n', range(1, 9))\n"
        "def test(n): spend(n)\n"
        "@pytest.mark.asyncio\n"
        "async def test_async(): spend(100)\n"
    )

    alone = table(run(code, "--tokens"))
    spread = table(run(code, "--tokens", "-n", "2", "--dist", distribution, subprocess=True))

    assert 136 == alone["total"]
    assert alone == spread


@pytest.mark.unmeasured
def test_a_crashed_worker_loses_only_its_own(run):
    """If a worker crashes in a test, only the tokens of that test's call are lost."""
    result = run(
        "import os\n"
        "@pytest.fixture\n"
        "def paid(): spend(100)\n"
        "@pytest.mark.parametrize('n', range(1, 7))\n"
        "def test(n, paid):\n"
        "    spend(n)\n"
        "    if n == 3: os._exit(1)\n",
        "--tokens",
        "-n",
        "1",
        subprocess=True,
    )

    assert {f"test[{n}]": 100 + n for n in (1, 2, 4, 5, 6)} | {"test[3]": 100, "total": 618} == table(result)


@pytest.mark.unmeasured
def test_every_worker_runs_each_test(run):
    """With `--dist each`, a test has a row for each worker."""
    result = run("def test_it(): spend(5)\n", "--tokens", "--dist", "each", "--tx", "2*popen", subprocess=True)

    assert {"test_it [gw0]": 5, "test_it [gw1]": 5, "total": 10} == table(result)


RERUN = """
import pytest
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in (1, 2, 3):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = any(report.failed for report in reports)
        for report in reports:
            if failed and attempt < 3 and report.failed:
                report.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=report)
                break
            item.ihook.pytest_runtest_logreport(report=report)
        if not failed:
            break
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


def test_reruns(run, pytester):
    """The summary holds all runs of a test, a budget is for one run, and the baseline holds the last."""
    pytester.makeconftest(RERUN)
    result = run(
        "runs = []\n"
        "@pytest.fixture\n"
        "def paid():\n"
        "    yield\n"
        "    spend(1)\n"
        "@pytest.mark.token_budget(tokens=15)\n"
        "def test_flaky(paid):\n"
        "    runs.append(1)\n"
        "    spend(10)\n"
        "    assert len(runs) == 3\n"
        "def test_next(): spend(5)\n",
        "--tokens",
        "--tokens-baseline=base.json",
        "--tokens-update",
    )

    assert 0 == result.ret
    assert {"test_flaky": 33, "test_next": 5, "total": 38} == table(result)
    baseline = Baseline.read(pytester.path / "base.json")
    assert {"test_it.py::test_flaky": 11, "test_it.py::test_next": 5} == baseline.tokens


def test_many_tests(run, monkeypatch):
    """More tests than the limit of names on one level cause no warning, and each has its own row."""
    monkeypatch.setattr("tokenscope._usage.table.MAX_NAMES", 3)
    result = run(
        "@pytest.mark.parametrize('n', range(1, 7))\ndef test(n): spend(n)\n",
        "--tokens",
        "-W",
        "error::tokenscope.errors.TokenScopeWarning",
    )

    assert {f"test[{n}]": n for n in range(1, 7)} | {"total": 21} == table(result)
    result.assert_outcomes(passed=6)


def test_an_interrupted_session(run):
    """Ctrl-C in a test keeps the numbers of the tests before it."""
    result = run("def test_a(): spend(5)\ndef test_b(): raise KeyboardInterrupt\n", "--tokens", subprocess=True)

    assert 2 == result.ret
    assert 5 == table(result)["total"]


@pytest.mark.unmeasured
def test_real_calls(run):
    """The tokens of a test with a DSPy program equal the provider's bill."""
    result = run(
        "import dspy\n"
        "from tokenscope.testing import LoopbackProvider\n"
        "@pytest.mark.token_budget(calls=2)\n"
        "def test_it(token_report):\n"
        "    with LoopbackProvider() as provider:\n"
        "        with dspy.context(lm=provider.lm()):\n"
        "            dspy.ChainOfThought('question -> answer')(question='Why?')\n"
        "            dspy.Predict('question -> answer')(question='Why?')\n"
        "    assert token_report().total.total_tokens == provider.total.total_tokens > 0\n"
        "    print('billed', provider.total.total_tokens)\n",
        "--tokens",
        "-rP",
        subprocess=True,
    )

    result.assert_outcomes(passed=1)
    billed = re.search(r"billed (\d+)", result.stdout.str())
    assert billed
    assert int(billed[1]) == table(result)["total"]


# -- silent and free ----------------------------------------------------------------------------------------------------


def test_silent_and_free(run, pytester):
    """Without options, the plugin prints nothing, opens no scope, and loads no hooks and no heavy modules."""
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure(config):\n"
        "    names = [name for name, _ in config.pluginmanager.list_name_plugin()]\n"
        "    print('hooks:', [name for name in names if name.startswith('tokenscope-')])\n"
        "    print('heavy:', [name for name in ('dspy', 'rich', 'litellm', 'genai_prices', 'click') if name in sys.modules])\n"
    )
    result = run(
        "import sys\n"
        "@pytest.mark.asyncio\n"
        "async def test_async():\n"
        "    assert current_scope() is None\n"
        "    frame = sys._getframe()\n"
        "    while frame := frame.f_back: assert 'tokenscope' not in frame.f_code.co_filename\n"
        "def test_sync():\n"
        "    assert current_scope() is None\n",
        "-p",
        "no:benchmark",
        subprocess=True,
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["hooks: []", "heavy: []"])
    assert not re.search(r"\btokens\b", result.stdout.str())


def test_only_those_that_ask(run):
    """Without options, only tests with a budget or the fixture are measured, and nothing is printed."""
    result = run(
        "@pytest.mark.token_budget(tokens=5)\n"
        "def test_budget(): assert current_scope() is not None\n"
        "def test_fixture(token_report): assert current_scope() is not None\n"
        "def test_neither(): assert current_scope() is None\n"
        "@pytest.mark.asyncio(loop_scope='session')\n"
        "@pytest.mark.token_budget(tokens=5)\n"
        "async def test_async_budget(): assert current_scope() is not None\n"
        "@pytest.mark.asyncio(loop_scope='session')\n"
        "async def test_async_neither(): assert current_scope() is None\n"
    )

    result.assert_outcomes(passed=5)
    assert not re.search(r"\btokens\b", result.stdout.str())


def test_collecting_only(run, pytester):
    """With --collect-only, nothing is printed or written."""
    result = run(
        "def test_it(): spend(5)\n", "--tokens", "--collect-only", "--tokens-baseline=b.json", "--tokens-update"
    )

    assert "tokens by test" not in result.stdout.str()
    assert not (pytester.path / "b.json").exists()


def test_disabled(run, monkeypatch):
    """If tokenscope is disabled, --tokens is a usage error."""
    monkeypatch.setenv("TOKENSCOPE_DISABLED", "1")
    result = run("def test_it(): spend(5)\n", "--tokens", subprocess=True)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["ERROR: --tokens: TOKENSCOPE_DISABLED is set*"])


# -- budgets ------------------------------------------------------------------------------------------------------------


def test_a_budget_that_is_exceeded(run):
    """A test over its budget fails with numbers, limits and the tree, and without a traceback of the plugin."""
    result = run(
        "@pytest.fixture\n"
        "def paid(): spend(900)\n"
        "@pytest.mark.token_budget(tokens=1_000, calls=1)\n"
        "def test_it(paid):\n"
        "    with token_scope('inner'): spend(334)\n"
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_it exceeded its token budget: 1,234 tokens (limit 1,000) and 2 calls (limit 1)",
            "scope*calls*",
            "test_it.py::test_it * 2 * 1,234 *",
            "*inner * 1 * 334 *",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "meter.py" not in result.stdout.str()


@pytest.mark.parametrize("limit", ["tokens=10", "calls=2", "cost=0.5", "cost=Decimal('0.5')", "tokens=10, calls=2"])
def test_a_budget_that_is_kept(run, limit):
    """Spending exactly the limit passes, and teardown is not counted."""
    result = run(
        PRICED + "@pytest.fixture\n"
        "def paid():\n"
        "    yield\n"
        "    spend(1000)\n"
        f"@pytest.mark.token_budget({limit})\n"
        "def test_it(paid):\n"
        "    pay(calls=2, cost=Decimal('0.5'))\n"
    )

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("kind", ["async", "unittest", "method", "class", "module"])
def test_budgets_of_every_kind_of_test(run, kind):
    """A budget works for async tests, unittest tests and methods, and on a class or a module."""
    budget = "@pytest.mark.token_budget(tokens=5)\n"
    code = {
        "async": f"{budget}@pytest.mark.asyncio\nasync def test_it(): spend(6)\n",
        "unittest": f"import unittest\nclass TestIt(unittest.TestCase):\n    {budget}    def test_it(self): spend(6)\n",
        "method": f"class TestIt:\n    {budget}    def test_it(self): spend(6)\n",
        "class": f"{budget}class TestIt:\n    def test_it(self): spend(6)\n",
        "module": "pytestmark = pytest.mark.token_budget(tokens=5)\ndef test_it(): spend(6)\n",
    }[kind]
    result = run(code)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_it exceeded its token budget: 6 tokens (limit 5)"])


def test_a_failure_of_its_own_comes_first(run):
    """A test with another failure shows that failure first, and the budget in a section below."""
    result = run("@pytest.mark.token_budget(tokens=5)\ndef test_it():\n    spend(6)\n    assert 1 == 2\n")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*assert 1 == 2", "*- token budget -*", "*exceeded its token budget: 6 tokens*"])


def test_xfail_and_skip(run):
    """A test that is expected to fail may overspend, and one that skips itself stays skipped."""
    result = run(
        "@pytest.mark.xfail(strict=True)\n"
        "@pytest.mark.token_budget(tokens=5)\n"
        "def test_xfail(): spend(6)\n"
        "@pytest.mark.token_budget(tokens=5)\n"
        "def test_skip():\n"
        "    spend(6)\n"
        "    pytest.skip()\n"
    )

    result.assert_outcomes(xfailed=1, skipped=1)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("token=5", "unexpected keyword argument 'token'"),
        ("5", "takes 0 positional arguments"),
        ("", "needs a limit"),
        ("tokens='many'", "tokens must be a whole number, not str 'many'"),
        ("tokens=-1", "tokens must not be negative"),
        ("calls=1.5", "calls must be a whole number"),
        ("cost=float('nan')", "cost must be dollars"),
        ("cost=True", "cost must be"),
        ("cost='1'", "cost must be"),
    ],
)
def test_wrong_arguments(run, arguments, problem):
    """A marker with wrong arguments is an error of its test, which does not run. Other tests run."""
    result = run(
        f"@pytest.mark.token_budget({arguments})\n"
        "def test_wrong(): print('it ran')\n"
        "@pytest.mark.token_budget(tokens=5)\n"
        "def test_right(): spend(5)\n"
    )

    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines([f"test_it.py::test_wrong: wrong use of @pytest.mark.token_budget: *{problem}*"])
    assert "it ran" not in result.stdout.str()
    assert "meter.py" not in result.stdout.str()


def test_a_budget_in_dollars(run):
    """A test that costs more than its budget fails, and the message has its cost."""
    result = run(
        PRICED + "@pytest.mark.token_budget(cost=0.05)\ndef test_it():\n    pay(cost=Decimal('0.06'))\n    pay('odd')\n"
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*exceeded its token budget: ≥ $0.06 (limit $0.05)"])


def test_a_price_that_is_not_known(run):
    """Under a budget in dollars, an unknown price is a warning, or a failure if warnings are errors."""
    code = (
        PRICED + "@pytest.mark.token_budget(cost=0.05)\ndef test_it():\n"
        "    pay(cost=Decimal('0.01'))\n    pay('local/odd')\n"
    )

    loose = run(code, "-W", "always::tokenscope.errors.TokenScopeWarning")
    strict = run(code, "-W", "error::tokenscope.errors.TokenScopeWarning")

    loose.assert_outcomes(passed=1, warnings=1)
    message = "test_it.py::test_it: its budget of $0.05 could not be checked: *1 of its 2 calls * (local/odd)*"
    loose.stdout.fnmatch_lines([f"*TokenScopeWarning: {message}"])
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines([message])
    assert "meter.py" not in strict.stdout.str()


def test_a_budget_under_xdist(run):
    """Exceeded budgets and wrong arguments are reported from workers of pytest-xdist, too."""
    result = run(
        "@pytest.mark.token_budget(tokens=5)\n"
        "def test_over(): spend(6)\n"
        "@pytest.mark.token_budget(token=5)\n"
        "def test_wrong(): pass\n",
        "-n",
        "1",
        subprocess=True,
    )

    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_over exceeded its token budget: 6 tokens (limit 5)", "scope*calls*"])


def test_the_marker_is_registered(run):
    """`pytest --markers` explains the marker, and --strict-markers accepts it."""
    shown = run("", "--markers")
    strict = run("@pytest.mark.token_budget(tokens=5)\ndef test_it(): pass\n", "--strict-markers")

    shown.stdout.fnmatch_lines(["@pytest.mark.token_budget(*tokens: int | None = None, calls:*): Fail the test if*"])
    assert marker_line() in shown.stdout.str()
    strict.assert_outcomes(passed=1)


# -- the fixture --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--tokens"]])
def test_token_report(run, arguments):
    """The fixture returns a report of the test so far, with and without --tokens."""
    result = run(
        "@pytest.fixture\n"
        "def paid(): spend(100)\n"
        "def test_sync(paid, token_report):\n"
        "    assert token_report().total.total_tokens == 100\n"
        "    spend(10)\n"
        "    assert token_report().total.total_tokens == 110\n"
        "    assert token_report().tree().name == 'test_it.py::test_sync'\n"
        "@pytest.fixture\n"
        "def cheap(token_report):\n"
        "    yield\n"
        "    assert token_report().total.total_tokens == 7\n"
        "@pytest.mark.asyncio\n"
        "async def test_async(cheap): spend(7)\n",
        *arguments,
    )

    result.assert_outcomes(passed=2)


def test_token_report_too_late(run):
    """If the test was not measured, token_report is an error that says what to do."""
    result = run("def test_it(request):\n    request.getfixturevalue('token_report')\n")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["token_report has to be an argument of the test*"])


# -- the baseline -------------------------------------------------------------------------------------------------------

COSTS = "@pytest.mark.parametrize('name', list(COSTS))\ndef test(name): spend(COSTS[name])\n"


@pytest.fixture
def spending(run):
    """Run tests that spend the given numbers of tokens."""
    return lambda costs, *arguments, **how: run(
        f"COSTS = {costs!r}\n{COSTS}", "--tokens-baseline=base.json", *arguments, **how
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_growth_fails_the_session(spending, workers):
    """A session of passing tests fails if some grew by more than the limit, and names them."""
    spending({"a": 1000, "b": 100, "c": 100, "zero": 0}, "--tokens-update")
    result = spending(
        {"a": 1500, "b": 110, "c": 111, "zero": 1}, "--tokens-fail-on-increase=10", *workers, subprocess=bool(workers)
    )

    result.assert_outcomes(passed=4)
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.stdout.fnmatch_lines(
        [
            "3 tests grew by more than 10%:",
            "  1,000 -> 1,500     +50.0%  test_it.py::test[[]a]",
            "    100 ->   111     +11.0%  test_it.py::test[[]c]",
            "      0 ->     1  from none  test_it.py::test[[]zero]",
            "4 tests compared: 1,200 -> 1,722 tokens",
            "FAILED: tokens grew by more than 10%",
        ]
    )


def test_no_growth_passes(spending):
    """Growth by exactly the limit passes. New and vanished tests are mentioned."""
    spending({"a": 100, "b": 100, "gone": 5}, "--tokens-update")
    result = spending({"a": 110, "b": 50, "new": 70}, "--tokens-fail-on-increase=10%")

    assert 0 == result.ret
    result.stdout.fnmatch_lines(
        [
            "1 new test, not in the baseline: test_it.py::test[[]new] (70)",
            "1 test of the baseline did not run to the end: test_it.py::test[[]gone]",
            "2 tests compared: 200 -> 160 tokens",
        ]
    )
    assert "FAILED" not in result.stdout.str()
    assert "tokens by test" not in result.stdout.str()


def test_growth_without_a_limit_is_shown(spending):
    """Without a limit, growth is shown and does not fail the session."""
    spending({"a": 100}, "--tokens-update")
    result = spending({"a": 300})

    assert 0 == result.ret
    result.stdout.fnmatch_lines(["1 test grew:", "*100 -> 300  +200.0%*"])


def test_updating_keeps_what_did_not_run(run, spending, pytester):
    """An update accepts growth, and keeps the entries of tests that failed or were not selected."""
    spending({"a": 100, "b": 200}, "--tokens-update")
    result = run(
        "@pytest.mark.parametrize('name', ['a'])\n"
        "def test(name): spend(150)\n"
        "@pytest.mark.parametrize('name', ['b'])\n"
        "def test_failing(name): spend(1); assert False\n",
        "--tokens-baseline=base.json",
        "--tokens-update",
        "--tokens-fail-on-increase=10",
        "-k",
        "test[a] or failing",
    )

    assert pytest.ExitCode.TESTS_FAILED == result.ret  # because of test_failing
    content = json.loads((pytester.path / "base.json").read_text("utf-8"))
    assert {"format": 1, "tokens_by_test": {"test_it.py::test[a]": 150, "test_it.py::test[b]": 200}} == content
    assert [pytester.path / "base.json"] == [each for each in pytester.path.iterdir() if "base.json" in each.name]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file; write it with --tokens-update"),
        ("", "the file is damaged: *"),
        ('{"format": 1, "tokens_by_', "the file is damaged: *"),
        ("[" * 100_000, "the file is damaged: *"),
        ("\xff\xfe", "the file is damaged: *"),
        ("[]", "the file is not a token baseline*"),
        ('{"format": 1, "rows": []}', "the file is not a token baseline*"),
        ('{"format": 2, "tokens_by_test": {}}', "the file has format 2, and this version reads 1"),
        ('{"format": 1, "tokens_by_test": [1]}', "the file is damaged: *"),
        ('{"format": 1, "tokens_by_test": {"a": "\\u001b[31m1"}}', "the file is damaged: the tokens of 'a'*"),
        ('{"format": 1, "tokens_by_test": {"a": -1}}', "the file is damaged: the tokens of 'a'*"),
        ('{"format": 1, "tokens_by_test": {"a": true}}', "the file is damaged: the tokens of 'a'*"),
    ],
)
def test_bad_baseline_files(spending, pytester, content, problem):
    """A missing, damaged or foreign baseline is a usage error of one line before any test runs."""
    if content is not None:
        (pytester.path / "base.json").write_bytes(content.encode("latin-1"))
    result = spending({"a": 1}, *(["--tokens-update"] if content is not None else []))

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([f"ERROR: --tokens-baseline base.json: {problem}"])
    assert 1 == len([line for line in result.errlines if line])
    if content is not None:
        assert content.encode("latin-1") == (pytester.path / "base.json").read_bytes()


def test_bad_baseline_paths(run, pytester):
    """A baseline in a missing folder, or a folder as the baseline, is a usage error."""
    (pytester.path / "folder").mkdir()
    missing = run("def test(): pass\n", "--tokens-baseline=nowhere/base.json", "--tokens-update")
    folder = run("def test(): pass\n", "--tokens-baseline=folder", "--tokens-update")

    missing.stderr.fnmatch_lines(["ERROR: --tokens-baseline nowhere/base.json: there is no folder *"])
    folder.stderr.fnmatch_lines(["ERROR: --tokens-baseline folder: cannot be read: *"])
    assert pytest.ExitCode.USAGE_ERROR == missing.ret == folder.ret


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--tokens-update"], "--tokens-update needs --tokens-baseline FILE"),
        (["--tokens-fail-on-increase=0"], "--tokens-fail-on-increase needs --tokens-baseline FILE"),
        (["--tokens-fail-on-increase=lots"], "must be a percentage, 0 or more, not 'lots'"),
        (["--tokens-fail-on-increase=-5"], "must be a percentage, 0 or more, not '-5'"),
        (["--tokens-fail-on-increase=nan"], "must be a percentage, 0 or more, not 'nan'"),
    ],
)
def test_options_that_make_no_sense(run, arguments, problem):
    """An option without the option it needs, or with a wrong value, is a usage error."""
    result = run("def test(): pass\n", *arguments)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines([f"*{problem}*"])


def test_a_baseline_that_cannot_be_written(spending, pytester):
    """A baseline that cannot be written fails the session, and one line says so."""
    pytester.makeconftest(
        "import shutil\ndef pytest_runtest_logfinish():\n    shutil.rmtree('down'); open('down', 'w').close()\n"
    )
    (pytester.path / "down").mkdir()
    result = spending({"a": 1}, "--tokens-baseline=down/base.json", "--tokens-update")

    assert pytest.ExitCode.TESTS_FAILED == result.ret
    result.stdout.fnmatch_lines(["FAILED: *base.json could not be written: Not a directory"])


# -- parts --------------------------------------------------------------------------------------------------------------


def test_costs_in_the_table(run):
    """If prices are known, the table has a column of costs, also with workers."""
    code = PRICED + "def test_a(): pay(cost=Decimal('0.25'))\ndef test_b(): pay()\n"
    for result in (run(code, "--tokens"), run(code, "--tokens", "-n", "1", subprocess=True)):
        result.stdout.fnmatch_lines(
            [
                "tokens  input  output  calls * cost  test",
                "*10 *10 *0 *1 *$0.25  test_it.py::test_a",
                "*10 *10 *0 *1 *\N{EN DASH}  test_it.py::test_b",
                "*20 *20 *0 *2 *≥ $0.25  total of 2 tests",
            ]
        )


def test_limits_take_what_is_a_number():
    """A budget in dollars may be an int, a float or a Decimal, and keeps exactly the written digits."""
    assert Decimal("0.1") == token_budget(cost=0.1).cost
    assert Decimal(2) == token_budget(cost=2).cost
    assert Decimal("0.30") == token_budget(cost=Decimal("0.30")).cost
    assert Budget(tokens=0, calls=0) == token_budget(tokens=0, calls=0)


# -- settings of a project ----------------------------------------------------------------------------------------------

PAYS = (
    PRICED
    + """
def test_a(): spend(110)

@pytest.mark.token_budget(cost=0.005)
def test_b():
    record_tokens("m", "o", "my-llama", "ollama", 10, 0)
"""
)


@pytest.fixture
def project(pytester, monkeypatch):
    """Write the settings of a project above the folder of the tests, with a baseline in which `test_a` spent 100 tokens."""
    forget_prices()
    monkeypatch.delenv("TOKENSCOPE_PRICES", raising=False)
    baseline = {"format": 1, "tokens_by_test": {"test_it.py::test_a": 100}}
    pytester.path.joinpath("old.json").write_text(json.dumps(baseline), "utf-8")
    settings = pytester.path / "pyproject.toml"

    def write(text: str) -> None:
        settings.write_text(f"[tool.tokenscope]\n{text}", "utf-8")

    yield write
    forget_prices()


def test_a_project_names_the_baseline_and_the_limit(run, project, pytester):
    """`--tokens` compares with the project's baseline, and fails above its limit. Options take precedence."""
    project('fail_above = 5\nbaselines.tests = "old.json"')
    result = run("def test_a(): spend(110)", "--tokens")
    assert 1 == result.ret
    result.stdout.fnmatch_lines(["*100 -> 110  +10.0%*", "FAILED: tokens grew by more than 5%"])
    assert 0 == run("def test_a(): spend(110)", "--tokens", "--tokens-fail-on-increase", "10").ret
    assert 0 == run("def test_a(): spend(110)", "--tokens-baseline", "new.json", "--tokens-update").ret
    assert pytester.path.joinpath("new.json").exists()
    assert 1 == run("def test_a(): spend(110)", "--tokens-fail-on-increase", "1").ret
    run("def test_a(): spend(110)").stdout.no_fnmatch_line("*tokens against*")


def test_a_limit_without_a_baseline(run, project):
    """Without a baseline, the project's limit is for `tokenscope diff` only."""
    project("fail_above = 5")

    assert 0 == run("def test_a(): spend(110)", "--tokens").ret
    result = run("def test_a(): spend(110)", "--tokens-update")
    assert 4 == result.ret
    result.stderr.fnmatch_lines(
        ["*needs --tokens-baseline FILE, or [[]tool.tokenscope.baselines] tests in pyproject.toml*"]
    )


@pytest.mark.parametrize("arguments", [(), ("--tokens",)], ids=["a marker", "an option"])
def test_a_projects_prices(run, project, arguments, monkeypatch):
    """Budgets in dollars use the project's prices, if the environment names none, and leave no trace in it."""
    project('[tool.tokenscope.prices."ollama/my-llama"]\ninput = 1000\noutput = 0')
    result = run(PAYS, *arguments)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*test_b exceeded its token budget: $0.01 (limit $0.005)*"])
    assert "TOKENSCOPE_PRICES" not in os.environ

    cheap = Path("cheap.toml")
    cheap.write_text("[my-llama]\ninput = 1\noutput = 0", "utf-8")
    monkeypatch.setenv("TOKENSCOPE_PRICES", str(cheap.absolute()))
    run(PAYS, *arguments).assert_outcomes(passed=2)


@pytest.mark.parametrize("code", ["def test_a(token_report): pass", "def test_a(): pass"])
def test_wrong_settings_of_a_project(run, project, code):
    """A wrong setting ends the session with one error, if the plugin is asked for anything, and else is not read."""
    project("colour = 1")
    result = run(code)

    assert (4 if "token_report" in code else 0) == result.ret
    assert ("unknown key 'colour'" in result.stderr.str()) is bool(result.ret)
    assert 4 == run(code, "--tokens").ret
