"""What code in a sandbox calls has scopes by its names, also if the code is called in another way, or a hook fails."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import assert_billed
from support.interpreters import HostInterpreter, interpreting

from tokenscope import token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations.dspy import sandboxes
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.skipif(not hasattr(dspy, "RLM"), reason="this DSPy has no code in sandboxes"),
]
needs_sub_agents = pytest.mark.skipif(not hasattr(dspy, "LocalInterpreter"), reason="this DSPy has no sub-agents")
_PREPARES = inspect.signature(dspy.RLM._prepare_execution_tools).parameters if hasattr(dspy, "RLM") else {}
SUBMITTING = 'print(look(query="x"))\nllm_query("<<bill" + " query>>")\nSUBMIT(answer="because")'
FLEX = """
class Steps(dspy.Module):
    def __init__(self):
        super().__init__()
        self.draft = dspy.Predict("question -> answer")

    def forward(self, **inputs):
        look(query="x")
        return dspy.Prediction(answer=self.draft(question="<<bill" + " draft>>").answer)
"""


def look(query: str) -> str:
    """Look something up."""
    return str(dspy.Predict("text -> summary")(text="<<bill tool>>").summary)


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider(lambda field, _prompt: SUBMITTING if field == "code" else None) as provider:
        with dspy.context(lm=provider.lm()):
            yield provider


def rlm(kind: Any = None) -> Any:
    return (kind or dspy.RLM)("question -> answer", tools=[look], sub_lm=dspy.settings.lm, **interpreting(dspy.RLM))


def run_rlm() -> Any:
    return rlm()(question="Why?").answer


def run_flex() -> Any:
    module = dspy.Flex("question -> answer", tools=[look], interpreter_factory=dspy.LocalInterpreter)
    module.load_state({"module_src": FLEX})
    return module(question="Why?").answer


def test_an_rlm_whose_tools_are_bare_functions(provider: LoopbackProvider) -> None:
    """A tool that the interpreter gets as a bare function, as some versions of DSPy hand it out, has a scope by its name."""

    class Bare(dspy.RLM):
        def _make_interpreter_tool(self, tool: Any) -> Any:
            return tool.func

    with token_scope("run") as run:
        rlm(Bare)(question="Why?")
    report = run.report()

    assert ("tool", provider.bill["tool"].total_tokens) == (
        report.find("run/Bare/look").kind,
        report.find("run/Bare/look").usage.total_tokens,
    )
    assert provider.bill["query"].total_tokens == report.find("run/Bare/llm_query").usage.total_tokens
    assert provider.total.calls == run.usage.calls


@pytest.mark.skipif("budget" not in _PREPARES, reason="this DSPy's RLM takes no budget there")
def test_a_budget_of_sub_queries(provider: LoopbackProvider) -> None:
    """DSPy's own limit of sub-queries is heeded, however it is given."""
    from dspy.predict.rlm import _LLMCallBudget

    for arguments, keywords in (((_LLMCallBudget(2),), {}), ((), {"budget": _LLMCallBudget(2)})):
        tools = rlm()._prepare_execution_tools(*arguments, **keywords)
        tools["llm_query"]("Why?")
        tools["llm_query"]("How?")
        with pytest.raises(Exception, match="limit"):
            tools["llm_query"]("When?")
    assert 4 == provider.total.calls


@needs_sub_agents
def test_a_flex(provider: LoopbackProvider) -> None:
    """The tools and sub-agents of a Flex have scopes by their names."""
    with token_scope("run") as run:
        run_flex()
    report = run.report()

    assert {"draft": "dspy", "look": "tool"} == {node.name: node.kind for node in report.find("run/Flex").children}
    assert_billed(provider, {"draft": report.find("run/Flex/draft").usage, "tool": report.find("run/Flex/look").usage})


@needs_sub_agents
@pytest.mark.parametrize("by_keyword", [True, False])
def test_how_a_sub_agent_is_called(provider: LoopbackProvider, by_keyword: bool) -> None:
    """A sub-agent is known by its handle, by whatever argument that is given; one without a name has its class's."""
    from dspy.primitives.facade import FacadeInvocation

    invocation = FacadeInvocation({}, HostInterpreter, None, lm=provider.lm())
    for name in ("draft", "_dspy_anon_1"):
        invocation.construct("Predict", "question -> answer", name)
    inputs = {"question": "<<bill a>>"}
    with token_scope("run") as run:
        for name in ("draft", "_dspy_anon_1"):
            if by_keyword:
                invocation.call(handle=name, inputs=inputs)
            else:
                invocation.call(name, inputs)
        with pytest.raises(Exception, match="Unknown predictor handle: 'another'"):
            invocation.call("another", inputs)

    assert {"draft", "Predict(question -> answer)"} == {node.name for node in run.report().tree().children}
    assert provider.total.calls == run.usage.calls == 2


FAULTS = {
    "preparing the tools of an RLM": ("wrap", run_rlm),
    "preparing the tools of a Flex": ("wrap", run_flex),
    "naming a sub-agent": ("CalledAs", run_flex),
}


@needs_sub_agents
@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_is_one_warning(place: str, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a hook is a warning that names where it was. The program gets its answer, and is billed for it."""
    name, program = FAULTS[place]
    forget_warnings()
    monkeypatch.setattr(sandboxes, name, lambda *arguments, **keywords: 1 / 0)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning) as caught, token_scope("run") as run:
        assert program()

    said = [str(each.message) for each in caught if each.category is TokenScopeWarning]
    assert [f"tokenscope could not do its work in {place};"] == [each.partition(" your program")[0] for each in said]
    assert provider.total.calls == run.usage.calls


def test_the_interpreter_gets_functions_like_the_tools(provider: LoopbackProvider) -> None:
    """What stands in for a tool or a sub-query has its signature and its documentation."""
    module = rlm()
    tools = module._prepare_execution_tools()
    assert inspect.signature(look) == inspect.signature(tools["look"])
    assert look.__doc__ == tools["look"].__doc__
    with token_scope("run") as run:
        tools["llm_query"]("Why?")
        tools["llm_query_batched"](["Why?", "How?"])
    assert {("llm_query", "dspy", 3)} == {
        (node.name, node.kind, node.usage.calls) for node in run.report().tree().children
    }
