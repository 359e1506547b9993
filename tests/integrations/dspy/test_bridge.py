"""The DSPy bridge: module names, optimizers, patches, the order of imports, and unusual programs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import DSPY, ENGINES, tokens

import tokenscope
from tokenscope import current_scope, integrations, record_tokens, token_scope, track_tokens
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        yield provider


# -- names ------------------------------------------------------------------------------------------------------------


class Summary(dspy.Signature):
    """Sum a text up."""

    text: str = dspy.InputField()
    summary: str = dspy.OutputField()


class Leaf(dspy.Module):
    def forward(self) -> None:
        record_tokens("m", "o", "model", "provider", 1, 0)


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep = Leaf()

    def forward(self) -> None:
        self.deep()


class Holder(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = Leaf()
        self.steps = [Leaf(), (Leaf(), Leaf())]
        self.tools = {"search": Leaf(), 3: [Leaf()]}
        self.inner = Inner()
        self.mixed = [{"a": Inner()}]
        self.call: Any = None

    def forward(self, which: Any) -> None:
        which(self)()


NAMES = {
    "plain": lambda self: self.plain,
    "steps[0]": lambda self: self.steps[0],
    "steps[1][1]": lambda self: self.steps[1][1],
    "tools['search']": lambda self: self.tools["search"],
    "tools[3][0]": lambda self: self.tools[3][0],
    "inner.deep": lambda self: self.inner.deep,
    "mixed[0]['a'].deep": lambda self: self.mixed[0]["a"].deep,
    "Leaf": lambda self: Leaf(),
    "Holder": lambda self: lambda: Holder()(lambda other: other.plain),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    """A module is named by the attribute of the enclosing module that holds it, or by its class."""
    with token_scope("run") as run:
        Holder()(NAMES[name])
    assert [name] == [node.name for node in run.report().find("run/Holder").children]


def test_names_of_predictors(provider: LoopbackProvider) -> None:
    """A Predict is named with its signature. The Predict inside a ChainOfThought counts as the ChainOfThought."""
    with token_scope("run") as run:
        dspy.Predict("question -> answer")(question="Why?")
        dspy.Predict(Summary)(text="Long.")
        dspy.ChainOfThought(Summary)(text="Long.")
    assert {"Predict(question -> answer)", "Predict(Summary)", "ChainOfThought"} == set(run.report().predictors())
    assert () == run.report().find("run/ChainOfThought").children


def test_a_predictor_of_an_outer_module(provider: LoopbackProvider) -> None:
    """A module that is called deeper down, as by a tool, is named by the outer module that holds it."""

    class Agent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.summarizer = dspy.Predict("text -> summary")
            self.searcher = dspy.ReAct("question -> answer", tools=[self.search])

        def search(self, query: str) -> str:
            """Search the library."""
            return str(self.summarizer(text=query).summary)

        def forward(self, question: str) -> Any:
            return self.searcher(question=question)

    with token_scope("run") as run:
        Agent()(question="Why?")
    assert {"Agent.searcher", "Agent.searcher.extract", "Agent.searcher.summarizer"} == set(run.report().predictors())


def test_scopes_and_attributes() -> None:
    """In a module, the current scope is the module's, and does not take over the module's `attributes`."""

    class Odd(dspy.Module):
        attributes = {"mine": 1}

        def forward(self) -> Any:
            scope = current_scope()
            assert scope is not None
            return scope.name, scope.kind, dict(scope.attributes)

    with token_scope("run", id=7) as run:
        assert ("Odd", "dspy", {}) == Odd()()
    assert {"id": 7} == run.attributes


def test_async_tools(provider: LoopbackProvider) -> None:
    """Calls that an async tool makes count under the tool. A tool that spends nothing is not shown."""
    predict = dspy.Predict("text -> summary")

    async def look(query: str) -> str:
        """Look something up."""
        return str((await predict.acall(text=query)).summary)

    async def idle(query: str) -> str:
        """Do nothing."""
        return query

    async def main() -> None:
        await dspy.Tool(look).acall(query="leaves")
        await dspy.Tool(idle).acall(query="leaves")
        dspy.Tool(lambda query: query, name="lazy")(query="leaves")

    with token_scope("run") as run:
        asyncio.run(main())
    assert [(node.name, node.kind) for node in run.report().tree().children] == [("look", "tool")]


def test_calls_after_a_scope_was_left_elsewhere(provider: LoopbackProvider) -> None:
    """What is called after a scope was left in another Context counts in the scope around it."""
    with token_scope("around") as around:
        left = token_scope("left")
        left.__enter__()
        contextvars.Context().run(left.__exit__, None, None, None)
        dspy.settings.lm("Why?")
        dspy.Predict("question -> answer")(question="Why?")
    report = around.report()

    assert (2, 1) == (report.total.calls, report.tree().own.calls)
    assert ["Predict(question -> answer)"] == [node.name for node in report.tree().children if node.usage.calls]


def test_a_module_after_a_scope_was_left_elsewhere() -> None:
    """A module is still named by the attribute of the module around it."""

    class Leaving(Inner):
        def forward(self) -> None:
            left = token_scope("left")
            left.__enter__()
            contextvars.Context().run(left.__exit__, None, None, None)
            self.deep()

    with token_scope("run") as run:
        Leaving()()
    assert {"Leaving.deep"} == set(run.report().predictors())


def test_a_tool_without_a_name() -> None:
    """A tool that has lost its name is a scope, too."""
    tool = dspy.Tool(lambda: record_tokens("m", "o", "model", "provider", 1, 0), name="nameless")
    tool.name = None
    with token_scope("run") as run:
        tool()
    assert [("Tool", "tool")] == [(node.name, node.kind) for node in run.report().tree().children]


@pytest.mark.parametrize("takes_other_way", [True, False])
def test_calls_between_the_items_of_a_generator(provider: LoopbackProvider, takes_other_way: bool) -> None:
    """A paused generator's scope gets nothing of what its consumer calls meanwhile, and all of its own."""

    @track_tokens("m", "generator")
    def produce() -> Iterator[None]:
        for _ in range(2):
            ask()
            yield

    def ask() -> None:
        if takes_other_way:
            dspy.Predict("question -> answer")(question="Why?")
        else:
            dspy.settings.lm("Why?")

    with token_scope("consumer") as consumer:
        for _ in produce():
            ask()
    report = consumer.report()

    assert (4, 2) == (report.total.calls, report.find("consumer/m/generator").usage.calls)


# -- optimizers -------------------------------------------------------------------------------------------------------


def test_optimizers_of_the_users(provider: LoopbackProvider) -> None:
    """Users' optimizers are scopes, subclasses of subclasses included. `uninstrument` removes their patches."""

    class Mine(dspy.teleprompt.Teleprompter):
        def compile(self, student: Any, *, trainset: Any) -> Any:
            return student(question="Why?")

    class Child(Mine):
        def compile(self, student: Any, *, trainset: Any) -> Any:
            return super().compile(student, trainset=trainset)

    class Heir(Mine):
        pass

    student = dspy.Predict("question -> answer")
    with token_scope("run") as run:
        Mine().compile(student, trainset=[])
        Child().compile(student, trainset=[])
        Heir().compile(student, trainset=[])
    root = run.report().tree()
    assert {node.name: node.usage.calls for node in root.children} == {"Mine": 2, "Child": 1}
    assert {"compile"} == {node.kind for node in root.children}

    tokenscope.uninstrument()
    try:
        assert not hasattr(vars(Mine)["compile"], "__tokenscope_adopted__")
        with token_scope("off") as off:
            Mine().compile(student, trainset=[])
        assert 0 == off.usage.calls
    finally:
        tokenscope.instrument()
    with token_scope("on") as on:
        Mine().compile(student, trainset=[])
    assert [node.name for node in on.report().tree().children] == ["Mine"]


# -- patches ----------------------------------------------------------------------------------------------------------


def originals() -> list[Any]:
    from dspy.adapters.types.tool import Tool
    from dspy.clients.cache import Cache
    from dspy.utils.parallelizer import ParallelExecutor

    return [
        *(vars(dspy.BaseLM)[name] for name in ("__call__", "acall")),
        *(vars(dspy.Module)[name] for name in ("__call__", "acall")),
        *(vars(Tool)[name] for name in ("__call__", "acall")),
        vars(dspy.Evaluate)["__call__"],
        vars(Cache)["get"],
        vars(ParallelExecutor)["execute"],
        vars(dspy.BootstrapFewShot)["compile"],
    ]


def test_patches_are_undone_and_applied_again(provider: LoopbackProvider) -> None:
    """`uninstrument` restores DSPy's functions, and `instrument` patches them again. Both can be called twice."""
    before = set(integrations.applied())
    patched = originals()
    tokenscope.uninstrument()
    tokenscope.uninstrument()
    try:
        assert () == integrations.applied()
        clean = originals()
        assert all(a is not b for a, b in zip(clean, patched, strict=True))
        assert all("tokenscope" not in type(each).__module__ and "wrapt" not in type(each).__module__ for each in clean)
        with token_scope("off") as off:
            dspy.Predict("question -> answer")(question="Why?")
        assert (off.usage.calls, provider.total.calls) == (0, 1)
    finally:
        tokenscope.instrument()
        tokenscope.instrument()
    assert before == set(integrations.applied())
    assert all(a is b for a, b in zip(patched, originals(), strict=True))  # what has kept one of them, counts again
    with token_scope("on") as on:
        dspy.Predict("question -> answer")(question="Why?")
    assert (on.usage.calls, provider.total.calls) == (1, 2)


def test_patched_by_somebody_else_too(provider: LoopbackProvider) -> None:
    """If other code has wrapped a patch, `uninstrument` keeps the other wrapper, and the patch does nothing."""
    ours = vars(dspy.BaseLM)["__call__"]
    seen = []

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return ours.__get__(self)(*args, **kwargs)

    dspy.BaseLM.__call__ = theirs
    try:
        tokenscope.uninstrument()
        assert dspy.BaseLM.__call__ is theirs
        with token_scope("off") as off:
            dspy.settings.lm("Hello")
        assert (off.usage.calls, len(seen)) == (0, 1)
    finally:
        dspy.BaseLM.__call__ = ours.__wrapped__
        tokenscope.instrument()
    with token_scope("on") as on:
        dspy.settings.lm("Hello")
    assert (on.usage.calls, len(seen)) == (1, 1)


def test_a_name_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If DSPy lacks a name, that patch is left out with one warning, and the others are applied."""
    import dspy.utils.parallelizer as module

    forget_warnings()
    tokenscope.uninstrument()
    with monkeypatch.context() as patch:
        patch.delattr(module.ParallelExecutor, "execute")
        with pytest.warns(
            TokenScopeWarning, match=r"no dspy\.utils\.parallelizer\.ParallelExecutor\.execute"
        ) as caught:
            tokenscope.instrument()
    assert 1 == sum(warning.category is TokenScopeWarning for warning in caught)
    names = {f"{patch.module}.{patch.name}" for patch in integrations.applied()}
    assert "dspy.utils.parallelizer.ParallelExecutor.execute" not in names
    assert "dspy.clients.base_lm.BaseLM.__call__" in names
    tokenscope.instrument()
    assert "dspy.utils.parallelizer.ParallelExecutor.execute" in {
        f"{patch.module}.{patch.name}" for patch in integrations.applied()
    }


ORDERS = {
    "dspy first": "import dspy\nimport tokenscope",
    "tokenscope first": "import tokenscope\nimport dspy",
    "a part of dspy first": "from dspy.clients.base_lm import BaseLM\nimport tokenscope, dspy",
    "only a part, after tokenscope": "import tokenscope\nfrom dspy.primitives.module import Module\nimport dspy",
    "our own module for dspy first": "from tokenscope.integrations.dspy import gepa_stopper\nimport tokenscope, dspy",
    "inside an open scope": "import tokenscope\nopened = tokenscope.token_scope('run')\nopened.__enter__()\nimport dspy",
    "in a thread": (
        "import tokenscope, threading\n"
        "def load():\n    import dspy\n"
        "thread = threading.Thread(target=load)\nthread.start()\nthread.join()\nimport dspy"
    ),
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_import_order(order: str) -> None:
    """The patches are applied in every order of imports, also inside an open scope or in a thread."""
    program = f"""
{order}
from tokenscope.testing import LoopbackProvider
with LoopbackProvider() as provider:
    with dspy.context(lm=provider.lm()), tokenscope.token_scope("a") as scope:
        dspy.ChainOfThought("question -> answer")(question="Why?")
    assert (scope.usage.calls, scope.usage.total_tokens) == (1, provider.total.total_tokens)
    assert ["a/ChainOfThought"] == ["a/" + node.name for node in scope.report().tree().children]
    print("exact")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "exact\n"), done.stderr


def test_disabled() -> None:
    """With TOKENSCOPE_DISABLED set, programs run, and nothing is patched or counted."""
    program = """
import tokenscope, dspy, threading
from tokenscope import integrations
from tokenscope.testing import LoopbackProvider
assert () == integrations.applied()
assert "wrapt" not in type(vars(dspy.BaseLM)["__call__"]).__module__
@tokenscope.track_tokens("m", "o")
def work():
    return dspy.Predict("question -> answer")(question="Why?")
with LoopbackProvider() as provider, dspy.context(lm=provider.lm()), tokenscope.token_scope("a") as scope:
    work()
    tokenscope.record_tokens("m", "o", "model", "provider", 1, 1)
assert 1 == provider.total.calls
assert scope.usage.calls == 0 and not tokenscope.report()
print("inert")
"""
    import os

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "TOKENSCOPE_DISABLED": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "inert\n"), done.stderr


def test_our_own_faults_do_not_reach_the_program(provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """If tokenscope itself fails, the LM is still called, with one warning. Under pytest, the error is raised."""

    class Strange(dspy.LM):
        @property
        def model(self) -> str:
            if self.armed:
                self.armed = False
                raise RuntimeError("no name")
            return "openai/gpt-4o-mini"

        @model.setter
        def model(self, value: str) -> None:
            self.armed = False

    lm = Strange("openai/gpt-4o-mini", api_base=provider.url, api_key="none", cache=False)
    lm.armed = True
    with pytest.raises(RuntimeError, match="no name"):
        lm("Hello")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    forget_warnings()
    for call in (lambda: lm("Hello"), lambda: asyncio.run(lm.acall("Hello")), lambda: lm.forward("Hello").choices):
        lm.armed = True
        forget_warnings()
        with token_scope("a") as a, pytest.warns(TokenScopeWarning, match="preparing to count an LM call"):
            assert 1 == len(call())
        assert a.usage.calls <= 1
    with token_scope("b") as b:
        lm("Hello")
    assert 1 == b.usage.calls


# -- unusual programs --------------------------------------------------------------------------------------------------


def test_track_usage_inside_an_lm(provider: LoopbackProvider) -> None:
    """If an LM tracks the usage of another LM and reports it as its own, the usage is counted once."""
    from types import SimpleNamespace as Object

    inner = provider.lm()

    class Router(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            with dspy.track_usage() as tracker:
                text = inner(prompt=prompt, messages=messages)[0]
            usage = tracker.get_total_tokens()[inner.model]
            message = Object(content=text, tool_calls=None)
            return Object(choices=[Object(message=message, finish_reason="stop")], usage=usage, model="router")

    for around in (contextlib.nullcontext(), dspy.track_usage()):
        before = provider.total
        with around, token_scope("a") as scope:
            Router(model="router")("Hello")
        assert before.total_tokens + scope.usage.total_tokens == provider.total.total_tokens
        assert 1 == scope.usage.calls


def pooled(asks: list[Callable[[], Any]]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(ask) for ask in asks]:
            done.result()


def threaded(asks: list[Callable[[], Any]]) -> None:
    threads = [threading.Thread(target=ask) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def one_by_one(asks: list[Callable[[], Any]]) -> None:
    for ask in asks:
        ask()


def in_parallel(asks: list[Callable[[], Any]]) -> None:
    dspy.Parallel(num_threads=2, disable_progress_bar=True)([(ask, {}) for ask in asks])


@pytest.mark.parametrize("is_scoped", [True, False])
@pytest.mark.parametrize("run", [one_by_one, pooled, threaded, in_parallel])
def test_an_lm_that_adds_up_two_others(provider: LoopbackProvider, run: Any, is_scoped: bool) -> None:
    """If an LM asks two LMs, also in threads, and reports the sum of their usage, the sum is not counted again."""
    from types import SimpleNamespace as Object

    class Panel(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            run([functools.partial(lm, prompt=prompt, messages=messages) for lm in experts])
            told = [lm.history[-1]["usage"] for lm in experts]
            usage = {name: sum(each[name] for each in told) for name in ("prompt_tokens", "completion_tokens")}
            message = Object(content="Hello", tool_calls=None)
            return Object(choices=[Object(message=message, finish_reason="stop")], usage=usage, model="panel")

    experts = [provider.lm("openai/gpt-4o-mini"), provider.lm("openai/gpt-4o")]
    with token_scope("a") if is_scoped else contextlib.nullcontext():
        Panel(model="panel")("Hello")

    report = tokenscope.report()
    assert 2 == provider.total.calls == report.total.calls
    assert tokens(provider.total) == tokens(report.total)
    assert {"openai/gpt-4o-mini", "openai/gpt-4o"} == set(report.by_model())


def test_a_request_that_outlives_its_lm_call(provider: LoopbackProvider) -> None:
    """If an LM returns the faster of two answers, the slower one still counts in the same scope when it arrives."""
    pool = ThreadPoolExecutor(2)

    class Hedging(dspy.LM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            ask = super().forward
            asked = [[{"role": "user", "content": f"{text} {uuid.uuid4()}"}] for text in ("Hello", "<<wait 0.3>> Why?")]
            first, _ = [pool.submit(ask, messages=each) for each in asked]
            return first.result()

    lm = Hedging("openai/gpt-4o-mini", api_base=provider.url, api_key="none", num_retries=0)
    with token_scope("a") as scope:
        lm("Hello")
    pool.shutdown()

    assert 2 == provider.total.calls == scope.usage.calls
    assert tokens(provider.total) == tokens(scope.usage)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_one_of_two_requests_is_answered_by_the_cache(provider: LoopbackProvider, engine: str, how: str) -> None:
    """If DSPy's cache answers one of two requests in an LM call, only the other request's usage counts."""
    known = [{"role": "user", "content": f"Who are you? {uuid.uuid4()}"}]

    class Twice(dspy.LM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            super().forward(messages=known)
            return super().forward(prompt=prompt, messages=messages, **kwargs)

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            await super().aforward(messages=known)
            return await super().aforward(prompt=prompt, messages=messages, **kwargs)

    settings: dict[str, Any] = {"engine": engine} if DSPY >= (3, 4) and engine == "litellm" else {}
    lm = Twice("openai/gpt-4o-mini", api_base=provider.url, api_key="none", num_retries=0, **settings)

    def ask(messages: Any) -> None:
        lm(messages=messages) if how == "sync" else asyncio.run(lm.acall(messages=messages))

    ask(known)
    before = provider.total
    with token_scope("a") as scope:
        ask([{"role": "user", "content": f"Why? {uuid.uuid4()}"}])

    assert before.calls + 1 == provider.total.calls
    assert (1, 0) == (scope.usage.calls, scope.usage.cached_calls)
    assert before.total_tokens + scope.usage.total_tokens == provider.total.total_tokens


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["sync", "async", "threads"])
def test_two_requests_merged_into_one_response(provider: LoopbackProvider, engine: str, how: str) -> None:
    """If an LM adds the usage of one response to another response in place, each request counts once."""
    two = [
        [{"role": "user", "content": f"{text} {uuid.uuid4()}"}] for text in ("Who are you?", "Who am I? Tell me more.")
    ]

    def merged(first: Any, second: Any) -> Any:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            setattr(first.usage, name, getattr(first.usage, name) + getattr(second.usage, name))
        return first

    class Merging(dspy.LM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            if how == "threads":
                with ThreadPoolExecutor(2) as pool:
                    return merged(*pool.map(lambda each: dspy.LM.forward(self, messages=each), two))
            return merged(*[super(Merging, self).forward(messages=each) for each in two])

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return merged(*[await super(Merging, self).aforward(messages=each) for each in two])

    settings: dict[str, Any] = {"engine": engine} if DSPY >= (3, 4) and engine == "litellm" else {}
    lm = Merging("openai/gpt-4o-mini", api_base=provider.url, api_key="none", num_retries=0, **settings)
    with token_scope("a") as scope:
        asyncio.run(lm.acall("Why?")) if how == "async" else lm("Why?")

    assert 2 == provider.total.calls
    assert tokens(provider.total) == tokens(scope.usage)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_response_that_its_caller_changes(provider: LoopbackProvider, engine: str) -> None:
    """If the caller changes a response that `LM.forward` has returned, the counts stay the same."""
    settings: dict[str, Any] = {"engine": engine} if DSPY >= (3, 4) and engine == "litellm" else {}
    lm = dspy.LM("openai/gpt-4o-mini", api_base=provider.url, api_key="none", num_retries=0, **settings)
    with token_scope("a") as scope:
        first, second = (lm.forward(f"Why? {n} {uuid.uuid4()}") for n in range(2))
        bill = provider.total
        first.usage.prompt_tokens += second.usage.prompt_tokens

    assert 2 == bill.calls
    assert tokens(bill) == tokens(scope.usage)


def test_a_tracker_of_the_users_own(provider: LoopbackProvider) -> None:
    """Inside a call, a usage tracker of the user's own class keeps its methods."""
    notes = []

    class Mine(dspy.utils.usage_tracker.UsageTracker):
        def note(self, text: str) -> None:
            notes.append(text)

    class Noting(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            dspy.settings.usage_tracker.note("asked")
            raise KeyError("enough")

    with dspy.context(usage_tracker=Mine()), pytest.raises(Exception, match="enough"):
        Noting(model="noting")("Hello")
    assert ["asked"] == notes


def test_a_tracker_for_the_whole_program() -> None:
    """A tracker that is configured for all threads gets what it always got, and calls are counted besides."""
    tracker = dspy.utils.usage_tracker.UsageTracker()
    dspy.configure(usage_tracker=tracker)
    try:
        with LoopbackProvider() as provider, token_scope("run") as run:
            provider.lm()("Why?")
    finally:
        dspy.configure(usage_tracker=None)
    [told] = tracker.get_total_tokens().values()

    assert (provider.total.input_tokens, provider.total.output_tokens) == (
        told["prompt_tokens"],
        told["completion_tokens"],
    )
    assert tokens(provider.total) == tokens(run.usage)


def test_attributes_are_only_looked_at() -> None:
    """Naming a module runs no code of the user's keys, proxies or collections."""

    class Touchy:
        def __repr__(self) -> str:
            raise RuntimeError("touched")

        @property
        def __class__(self) -> Any:
            raise RuntimeError("touched")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("touched")

        __hash__ = object.__hash__

    class Items(dict[Any, Any]):
        def items(self) -> Any:
            raise RuntimeError("touched")

    class Odd(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.touchy = Touchy()
            self.keys = {Touchy(): 1, "large": list(range(100_000))}
            self.items = Items(leaf=Leaf())
            self.itself = self

        def forward(self) -> None:
            dict.__getitem__(self.items, "leaf")()
            Leaf()()

    with token_scope("run") as run:
        Odd()()
    assert {"items['leaf']", "Leaf"} == {node.name for node in run.report().find("run/Odd").children}


@pytest.mark.skipif(DSPY >= (3, 3), reason="DSPy 3.3 wraps compile itself, and takes it for a plain method")
def test_compile_as_a_static_method(provider: LoopbackProvider) -> None:
    """An optimizer's `compile` may be a static or class method, and `uninstrument` restores it as such."""

    class Static(dspy.teleprompt.Teleprompter):
        @staticmethod
        def compile(student: Any, trainset: Any = None) -> Any:
            return student(question="Why?")

    class OfClass(dspy.teleprompt.Teleprompter):
        @classmethod
        def compile(cls, student: Any, trainset: Any = None) -> Any:
            return student(question="Why?")

    student = dspy.Predict("question -> answer")
    with token_scope("run") as run:
        Static().compile(student, trainset=[])
        OfClass().compile(student, trainset=[])
    assert {"Static", "OfClass"} == {node.name for node in run.report().tree().children}
    tokenscope.uninstrument()
    kinds = [type(vars(each)["compile"]) for each in (Static, OfClass)]
    originals = [hasattr(vars(each)["compile"].__func__, "__wrapped__") for each in (Static, OfClass)]
    tokenscope.instrument()
    assert ([staticmethod, classmethod], [False, False]) == (kinds, originals)


@pytest.mark.parametrize("stub", ["None", "__import__('unittest.mock').mock.MagicMock()"])
@pytest.mark.parametrize("module", ["dspy", "litellm"])
def test_stubbed_modules(module: str, stub: str) -> None:
    """If `dspy` or `litellm` is declared absent or mocked, tokenscope can still be imported."""
    program = f"import sys\nsys.modules['{module}'] = {stub}\nimport tokenscope\nprint('imported')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (0, "imported\n", "") == (done.returncode, done.stdout, done.stderr)
