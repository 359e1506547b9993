"""Over real HTTP: DSPy's agents, modules that run code, and adapters are counted and limited as the provider bills them."""

from __future__ import annotations

import asyncio
import inspect
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import DSPY, ENGINES, assert_billed, tokens
from support.interpreters import HostInterpreter, interpreting

from tokenscope import Budget, BudgetExceeded, Usage, token_scope
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore")

Made = tuple["Callable[[], Any]", "dict[str, tuple[str, ...]]"]
"""A program, and for each tag on the bill the paths in `report.predictors()` that it is for."""
PROGRAMS: dict[str, Callable[[Any], Made]] = {}


def program(name: str, *needs: str) -> Any:
    """Register what makes a program, which needs these names of DSPy's."""

    def enter(make: Any) -> Any:
        PROGRAMS[name] = make if all(hasattr(dspy, each) for each in needs) else None
        return make

    return enter


# Code that models write. The tags are put together there, so that a prompt with the code in it is not billed by them.
TAG = 'tag = lambda name: "<" + f"<bill {name}>" + ">"\n'
QUERIES = TAG + 'look(query="x")\nllm_query(tag("query"))\nllm_query_batched([tag("query")] * 3)\n'
SOURCE = """
class Steps(dspy.Module):
    def __init__(self):
        super().__init__()
        self.draft = dspy.Predict("question -> answer")
        self.judge = dspy.Predict("question -> answer")
        self.deep = dspy.RLM(dspy.Signature("question -> answer", tag("deep")), tools=[look])

    def forward(self, **inputs):
        answer = self.draft(question=tag("draft")).answer
        self.judge(question=tag("judge"))
        self.judge(question=tag("judge"))
        self.deep(question="Why?")
        look(query="x")
        dspy.Predict("question -> answer")(question=tag("unnamed"))
        return dspy.Prediction(answer=answer)
"""
FLEX = SOURCE.replace("        super()", "        " + TAG.strip() + "\n        super()", 1).replace(
    "        answer = self.draft", "        " + TAG.strip() + "\n        answer = self.draft", 1
)


def write(field: str, prompt: str) -> Any:
    """Answer as a model that knows what to do."""
    if field == "code":
        step = int(re.findall(r"\[\[ ## iteration ## \]\]\n(\d+)/", prompt)[-1])
        if "<<bill deep>>" in prompt:
            return TAG + 'llm_query(tag("deep query"))\nlook(query="x")\nSUBMIT(answer="because")'
        if step == 1:
            return (TAG + SOURCE + "Steps()()") if "<<with sub-agents>>" in prompt else QUERIES
        return 'SUBMIT(answer="because")'
    if field == "generated_code":
        return "```python\nprint(1)\n```"
    if field == "tool_calls":
        name, args = ("submit", {"answer": "because"}) if "a page" in prompt else ("look", {"query": "x"})
        return [{"name": name, "args": args}]
    if field == "revised_source":
        return FLEX
    if field == "" and "XML tags" in prompt:
        return "<reasoning>so</reasoning><answer>because</answer>"
    if field == "" and "<<bill a>>" in prompt:
        return "Because. <<bill a>>"  # of which a second step takes the fields
    return None


def look(query: str) -> str:
    """Look something up. <<bill action>>"""
    dspy.Predict("text -> summary")(text="<<bill tool>>")
    return "a page"


# -- code in a sandbox --------------------------------------------------------------------------------------------------


def rlm(lm: Any, interpreter: Any = HostInterpreter, task: str = "", **kwargs: Any) -> Any:
    answer = dspy.OutputField(desc="<<bill extract>>")
    signature = dspy.Signature({"question": (str, dspy.InputField()), "answer": (str, answer)}, task or "Answer.")
    most = next(name for name in inspect.signature(dspy.RLM.__init__).parameters if name.startswith("max_iter"))
    kwargs = {most: kwargs.pop("turns", 3), **interpreting(dspy.RLM, interpreter)}
    return dspy.RLM(signature, tools=[look], sub_lm=lm, **kwargs)


RLM = {
    "action": ("RLM.generate_action",),
    "query": ("RLM.llm_query",),
    "tool": ("RLM.Predict(text -> summary)",),
}


@program("RLM", "RLM")
def rlm_that_submits(lm: Any) -> Made:
    return partial(rlm(lm), question="Why?"), RLM


@program("RLM that has to extract", "RLM")
def rlm_that_extracts(lm: Any) -> Made:
    return partial(rlm(lm, turns=1), question="Why?"), {**RLM, "extract": ("RLM.extract",)}


@program("RLM.acall", "RLM")
def rlm_async(lm: Any) -> Made:
    module = rlm(lm, turns=1)
    return lambda: asyncio.run(module.acall(question="Why?")), {**RLM, "extract": ("RLM.extract",)}


@program("RLM in DSPy's sandbox", "RLM")
def rlm_in_a_sandbox(lm: Any) -> Made:
    try:
        with dspy.PythonInterpreter() as interpreter:
            interpreter.execute("print(1)")
    except Exception:
        pytest.skip("DSPy's sandbox is not here: it needs deno, and a file from the network")
    return partial(rlm(lm, dspy.PythonInterpreter), question="Why?"), RLM


@program("RLM in a process of its own", "RLM", "LocalInterpreter")
def rlm_in_a_process(lm: Any) -> Made:
    return partial(rlm(lm, dspy.LocalInterpreter), question="Why?"), RLM


def steps(outer: str, *more: str) -> dict[str, tuple[str, ...]]:
    """Return what the sub-agents of a module spend."""
    return {
        "draft": (f"{outer}.draft",),
        "judge": (f"{outer}.judge",),
        "unnamed": (f"{outer}.Predict(question -> answer)",),
        "deep query": (f"{outer}.deep.llm_query",),
        "tool": (f"{outer}.Predict(text -> summary)", f"{outer}.deep.Predict(text -> summary)"),
        "action": (*more, f"{outer}.deep.generate_action"),
    }


def with_sub_agents(lm: Any, interpreter: Any) -> Made:
    module = rlm(lm, interpreter, "<<with sub-agents>>")
    return partial(module, question="Why?"), steps("RLM", "RLM.generate_action")


@program("RLM with sub-agents", "Flex")
def rlm_with_sub_agents(lm: Any) -> Made:
    return with_sub_agents(lm, HostInterpreter)


@program("RLM with sub-agents in a process of its own", "Flex", "LocalInterpreter")
def rlm_with_sub_agents_in_a_process(lm: Any) -> Made:
    return with_sub_agents(lm, dspy.LocalInterpreter)


@program("Flex", "Flex")
def flex(lm: Any) -> Made:
    module = dspy.Flex("question -> answer", tools=[look], interpreter_factory=dspy.LocalInterpreter)
    module.load_state({"module_src": FLEX})
    return partial(module, question="Why?"), steps("Flex")


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@program("CodeAct")
def code_act(lm: Any) -> Made:
    module = dspy.CodeAct("question -> answer", tools=[double], **interpreting(dspy.CodeAct))
    return partial(module, question="<<bill a>>"), {"a": ("CodeAct", "CodeAct.extractor")}


@program("ProgramOfThought")
def program_of_thought(lm: Any) -> Made:
    module = dspy.ProgramOfThought("question -> answer", **interpreting(dspy.ProgramOfThought))
    last = "generate_output" if hasattr(module, "generate_output") else "generate_answer"  # before DSPy 3.1
    paths = ("ProgramOfThought.code_generate", f"ProgramOfThought.{last}")
    return partial(module, question="<<bill a>>"), {"a": paths}


# -- agents and modules -------------------------------------------------------------------------------------------------


def react_v2(*, native: bool, asynchronous: bool = False) -> Made:
    module = dspy.ReActV2("question -> answer", tools=[dspy.Tool(look, desc="Look something up.")])

    def run() -> Any:
        with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=native)):
            if asynchronous:
                return asyncio.run(module.acall(question="<<bill agent>>"))
            return module(question="<<bill agent>>")

    return run, {"agent": ("ReActV2",), "tool": ("ReActV2.Predict(text -> summary)",)}


@program("ReActV2 in text", "ReActV2")
def react_in_text(lm: Any) -> Made:
    return react_v2(native=False)


@program("ReActV2 with native tools", "ReActV2")
def react_native(lm: Any) -> Made:
    return react_v2(native=True)


@program("ReActV2.acall", "ReActV2")
def react_async(lm: Any) -> Made:
    return react_v2(native=True, asynchronous=True)


@program("MultiChainComparison")
def multi_chain_comparison(lm: Any) -> Made:
    compare = dspy.MultiChainComparison("question -> answer", M=2)
    think = dspy.Predict("question -> rationale, answer")

    def run() -> Any:
        return compare([think(question="<<bill chains>>") for _ in range(2)], question="<<bill a>>")

    return run, {"chains": ("Predict(question -> rationale, answer)",), "a": ("MultiChainComparison",)}


@program("History")
def history(lm: Any) -> Made:
    class Chat(dspy.Signature):
        """Answer."""

        history: dspy.History = dspy.InputField()
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    chat = dspy.Predict(Chat)

    def run() -> Any:
        messages: list[Any] = []
        for _ in range(3):
            past = dspy.History(messages=messages)
            answer = chat(question="<<bill a>>", history=past).answer
            messages.append({"question": "Why?", "answer": answer})
        return messages

    return run, {"a": ("Predict(Chat)",)}


@program("native tools", "Tool", "ToolCalls")
def native_tools(lm: Any) -> Made:
    class Act(dspy.Signature):
        """Choose a tool."""

        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        tool_calls: dspy.ToolCalls = dspy.OutputField()

    act = dspy.Predict(Act)

    def run() -> Any:
        with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
            calls = act(question="<<bill a>>", tools=[dspy.Tool(look)]).tool_calls.tool_calls
        assert ["look"] == [call.name for call in calls]
        return calls

    return run, {"a": ("Predict(Act)",)}


# -- adapters -----------------------------------------------------------------------------------------------------------


def adapted(adapter: Any, *, asynchronous: bool) -> Made:
    think = dspy.ChainOfThought("question -> answer")

    def run() -> Any:
        with dspy.context(adapter=adapter):
            answer = asyncio.run(think.acall(question="<<bill a>>")) if asynchronous else think(question="<<bill a>>")
        assert answer.answer
        return answer

    return run, {"a": ("ChainOfThought",)}


ADAPTERS: dict[str, Callable[[Any], Any]] = {
    "XML": lambda lm: dspy.XMLAdapter(),
    "BAML": lambda lm: pytest.importorskip("dspy.adapters.baml_adapter").BAMLAdapter(),
    "JSON": lambda lm: dspy.JSONAdapter(),
    "two steps": dspy.TwoStepAdapter,
}
for adapter, make in ADAPTERS.items():
    for asynchronous in (False, True):
        name = f"{adapter}, {'async' if asynchronous else 'sync'}"
        PROGRAMS[name] = lambda lm, make=make, asynchronous=asynchronous: adapted(make(lm), asynchronous=asynchronous)


# -- the law ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider(write) as provider:
        yield provider


@pytest.fixture(params=ENGINES)
def lm(request: pytest.FixtureRequest, provider: LoopbackProvider) -> Iterator[Any]:
    lm = provider.lm(**({"engine": "litellm"} if DSPY >= (3, 4) and request.param == "litellm" else {}))
    with dspy.context(lm=lm, track_usage=False):
        yield lm


def made(name: str, lm: Any) -> Made:
    if PROGRAMS[name] is None:
        pytest.skip("this DSPy does not have it")
    return PROGRAMS[name](lm)


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", PROGRAMS)
def test_billed(name: str, lm: Any, provider: LoopbackProvider) -> None:
    """Each scope has exactly what the provider has billed for it, and there are no other scopes."""
    run, paths = made(name, lm)
    with token_scope("run") as scope:
        run()
    predictors = scope.report().predictors()
    assert {each for several in paths.values() for each in several} == set(predictors)
    assert_billed(
        provider, {tag: sum((predictors[path] for path in several), Usage()) for tag, several in paths.items()}
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize("limit", [1, 4])
@pytest.mark.parametrize("name", PROGRAMS)
def test_limited(name: str, limit: int, lm: Any, provider: LoopbackProvider) -> None:
    """A budget of calls lets exactly as many through, also from threads and from code that models write."""
    run, _ = made(name, lm)
    with pytest.raises(BudgetExceeded), token_scope("run", budget=Budget(calls=limit)) as scope:
        for _ in range(limit + 1):
            run()
    assert limit == provider.total.calls == scope.usage.calls
    assert tokens(provider.total) == tokens(scope.usage)


def test_tools_of_an_rlm(lm: Any, provider: LoopbackProvider) -> None:
    """An RLM's tools have a scope by their names, and the interpreter gets functions with the signatures of the tools."""
    run, _ = made("RLM", lm)
    with token_scope("run") as scope:
        run()
    tool = scope.report().find("run/RLM/look")
    assert ("tool", provider.bill["tool"].calls) == (tool.kind, tool.usage.calls)
    tools = rlm(lm)._prepare_execution_tools()
    assert inspect.signature(look) == inspect.signature(tools["look"])
    assert ["prompt"] == list(inspect.signature(tools["llm_query"]).parameters)


def test_an_async_tool_of_an_rlm(lm: Any, provider: LoopbackProvider) -> None:
    """A coroutine function stays one, and what it asks counts under its name."""
    if not hasattr(dspy, "RLM"):
        pytest.skip("this DSPy does not have it")

    async def find(query: str) -> str:
        """Find something."""
        return str((await dspy.Predict("text -> summary").acall(text="<<bill tool>>")).summary)

    module = dspy.RLM("question -> answer", tools=[find], **interpreting(dspy.RLM))
    function = module._prepare_execution_tools()["find"]
    assert inspect.iscoroutinefunction(function)
    with token_scope("run") as scope:
        asyncio.run(function(query="x"))
    assert_billed(provider, {"tool": scope.report().find("run/find").usage})


def test_knn_few_shot(lm: Any, provider: LoopbackProvider) -> None:
    """KNNFewShot's embeddings, demonstrations and answers are counted as billed."""
    embedder = dspy.Embedder("openai/text-embedding-3-small", api_base=provider.url, api_key="none", caching=False)
    trainset = [dspy.Example(question=f"{n}?", answer="an answer").with_inputs("question") for n in range(4)]
    with token_scope("run") as scope:
        optimizer = dspy.KNNFewShot(2, trainset, embedder, metric=lambda *_: True, max_bootstrapped_demos=2)
        compiled = optimizer.compile(dspy.ChainOfThought("question -> answer"))
        compiled(question="Why?")
    assert tokens(provider.total) == tokens(scope.usage)
    assert provider.total.calls == scope.usage.calls > 4
    assert scope.report().find("run/ChainOfThought/BootstrapFewShot").usage.calls > 0


@pytest.mark.unmeasured
@pytest.mark.skipif(not hasattr(dspy, "Flex"), reason="this DSPy does not have it")
def test_gepa_of_a_flex(lm: Any, provider: LoopbackProvider) -> None:
    """GEPA that rewrites a Flex is counted as billed, and the predictors of the new source have their names."""
    pytest.importorskip("gepa")
    student = dspy.Flex("question -> answer", tools=[look], interpreter_factory=dspy.LocalInterpreter)
    examples = [dspy.Example(question=f"{n}?", answer="x").with_inputs("question") for n in range(3)]

    def feedback(example: Any, prediction: Any, trace: Any = None, name: Any = None, named_trace: Any = None) -> Any:
        return dspy.Prediction(score=0.1 * len(provider.bill), feedback="Think harder.")

    with token_scope("run") as scope:
        optimizer = dspy.GEPA(metric=feedback, max_metric_calls=12, reflection_minibatch_size=2, reflection_lm=lm)
        optimizer.compile(student, trainset=examples, valset=examples)
    report = scope.report()
    assert tokens(provider.total) == tokens(report.find("run/GEPA").usage)
    assert provider.total.calls == scope.usage.calls > 10
    assert {"rlm.generate_action", "draft", "judge"} <= {path.partition("Flex.")[2] for path in report.predictors()}
