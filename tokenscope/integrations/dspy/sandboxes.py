"""What code in a sandbox calls: the tools and sub-queries of `dspy.RLM`, and the sub-agents of RLM and `dspy.Flex`."""

from __future__ import annotations

from typing import Any, Final
from weakref import ref

from tokenscope._scopes.scope import Scope, open_scope
from tokenscope._scopes.wrapping import ScopeSpec, wrap
from tokenscope._usage.calls import Frame
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.lm_calls import Args, Kwargs
from tokenscope.integrations.dspy.module_names import CalledAs

_SUB_QUERY: Final = Frame("dspy", "llm_query")
_SUB_QUERIES: Final = ("llm_query", "llm_query_batched")
_UNNAMED: Final = "_dspy_anon_"  # how DSPy names sub-agents that the code has put into no attribute


def prepare_tools(wrapped: Any, rlm: Any, args: Args, kwargs: Kwargs) -> Any:
    """`RLM._prepare_execution_tools`: a scope for the sub-queries, and one for each tool that DSPy calls by its bare function."""
    tools: dict[str, Any] = wrapped(*args, **kwargs)
    try:
        functions = {name: tool.func for name, tool in rlm.tools.items()}
        for name, function in list(tools.items()):
            if name in _SUB_QUERIES:
                tools[name] = wrap(function, ScopeSpec((_SUB_QUERY,)))
            elif functions.get(name) is function:  # newer versions of DSPy call the tool itself, which has a scope
                tools[name] = wrap(function, ScopeSpec((Frame("tool", name),)))
    except Exception:  # noqa: BLE001
        internal_error("preparing the tools of an RLM")
    return tools


def flex_tools(wrapped: Any, bridge: Any, args: Args, kwargs: Kwargs) -> Any:
    """`BridgeRuntime._tool_callables` of a Flex: a scope for each tool that is a bare function; a `dspy.Tool` has one."""
    tools: dict[str, Any] = wrapped(*args, **kwargs)
    try:
        given = bridge._flex._flex_ctx.tools  # noqa: SLF001 - they are held nowhere else
        for name, function in list(tools.items()):
            if any(function is each for each in given):
                tools[name] = wrap(function, ScopeSpec((Frame("tool", name),)))
    except Exception:  # noqa: BLE001
        internal_error("preparing the tools of a Flex")
    return tools


def call_sub_agent(invocation: Any, args: Args, kwargs: Kwargs) -> Scope | None:
    """`FacadeInvocation.call`: the sub-agent is named by the attribute that holds it in the sandbox."""
    try:
        name = kwargs["handle"] if "handle" in kwargs else args[0]
        agent = invocation._predictors.get(name)  # noqa: SLF001 - they are held nowhere else
        called_as = None if agent is None or name.startswith(_UNNAMED) else CalledAs(ref(agent), name)
    except Exception:  # noqa: BLE001
        internal_error("naming a sub-agent")
        return None
    return None if called_as is None else open_scope(Scope, (), called_as)
