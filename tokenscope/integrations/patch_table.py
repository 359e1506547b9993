"""Which functions of other packages are patched, with what, and in which way."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Patch(NamedTuple):
    """One function to patch: `module` and `name` say which, `hook` (`module:attribute`, loaded when needed) with what.

    The styles:

    - `around`: a method, sync or async. `hook(instance, args, kwargs)` is called before it and returns an entry, or None. The
      entry's `finish(error, result)` is called when it ends.
    - `replace`: a method. `hook(bound, instance, args, kwargs)` is called in its place.
    - `make`: a method. `hook(method, switch)` returns what stands in its place, which passes calls on while the switch is empty.
    - `proxy`: a function of a module, wrapped by wrapt. `hook(function, None, args, kwargs)` is called in its place.

    Methods are replaced by plain functions of the same kind, name and signature: a wrapt proxy is another object at each look.
    """

    module: str
    name: str
    hook: str
    style: Literal["around", "replace", "make", "proxy"] = "around"
    optional: bool = False  # not in every supported version
    inherited: bool = False  # usually: patched only if another package has put a wrapper of its own into the class


_OURS: Final = "tokenscope.integrations"
_TWO_STEP: Final = "dspy.adapters.two_step_adapter"
_THREADS: Final = f"{_OURS}.threads"
_DSPY: Final = f"{_OURS}.dspy"
_GEPA: Final = "dspy.teleprompt.gepa.gepa_utils"
_FLEX: Final = "dspy.predict.flex.bridge"
_BASE_LM: Final = "dspy.clients.base_lm"
_SANDBOXES: Final = f"{_DSPY}.sandboxes"
_KEEP_ANSWER: Final = f"{_DSPY}.lm_answers:keep_answer"

PATCHES: Final = (
    Patch("threading", "Thread.start", f"{_THREADS}:start_thread", "replace"),
    # OpenTelemetry's instrumentor wraps Thread's original in Timer, where a patch of Thread is passed by.
    Patch("threading", "Timer.start", f"{_THREADS}:start_thread", "replace", inherited=True),
    Patch("concurrent.futures.thread", "ThreadPoolExecutor.submit", f"{_THREADS}:submit", "replace"),
    Patch("concurrent.futures.process", "ProcessPoolExecutor.submit", f"{_OURS}.process_pool:submit", "replace"),
    Patch("asyncio.base_events", "BaseEventLoop.create_task", f"{_THREADS}:create_task", "replace"),
    Patch("uvloop", "Loop.create_task", f"{_THREADS}:create_task", "replace"),
    Patch("anyio.to_thread", "run_sync", f"{_THREADS}:run_sync", "proxy"),
    Patch(_BASE_LM, "BaseLM.__call__", f"{_DSPY}.lm_calls:call_lm"),
    Patch(_BASE_LM, "BaseLM.acall", f"{_DSPY}.lm_calls:call_lm"),
    # Instrumentors that came first have wrapped BaseLM's original in LM, where a patch of BaseLM is passed by.
    Patch("dspy.clients.lm", "LM.__call__", f"{_DSPY}.lm_calls:call_lm", inherited=True),
    Patch("dspy.clients.lm", "LM.acall", f"{_DSPY}.lm_calls:call_lm", inherited=True),
    Patch(_BASE_LM, "BaseLM._process_lm_response", _KEEP_ANSWER, "make"),
    Patch(_BASE_LM, "BaseLM._process_completion", _KEEP_ANSWER, "make", optional=True),
    Patch(_BASE_LM, "BaseLM._process_response", _KEEP_ANSWER, "make", optional=True),
    Patch("dspy.clients.execution", "usage_dict", f"{_DSPY}.service:note_service", "make", optional=True),
    Patch("dspy.clients.lm", "LM.forward", f"{_DSPY}.forward:forward"),
    Patch("dspy.clients.lm", "LM.aforward", f"{_DSPY}.forward:forward"),
    Patch("dspy.clients.typesafe", "TypeSafe.__call__", f"{_DSPY}.lm_calls:call_lm", optional=True),
    Patch("dspy.clients.typesafe", "TypeSafe.acall", f"{_DSPY}.lm_calls:call_lm", optional=True),
    Patch("dspy.clients.cache", "Cache.get", f"{_DSPY}.cache_hits:get_cached", "replace"),
    Patch("dspy.primitives.module", "Module.__call__", f"{_DSPY}.modules:call_module"),
    Patch("dspy.primitives.module", "Module.acall", f"{_DSPY}.modules:call_module"),
    Patch("dspy.adapters.types.tool", "Tool.__call__", f"{_DSPY}.modules:call_tool"),
    Patch("dspy.adapters.types.tool", "Tool.acall", f"{_DSPY}.modules:call_tool"),
    Patch("dspy.predict.rlm", "RLM._prepare_execution_tools", f"{_SANDBOXES}:prepare_tools", "replace", optional=True),
    Patch(_FLEX, "BridgeRuntime._tool_callables", f"{_SANDBOXES}:flex_tools", "replace", optional=True),
    Patch("dspy.primitives.facade", "FacadeInvocation.call", f"{_SANDBOXES}:call_sub_agent", optional=True),
    Patch("dspy.evaluate.evaluate", "Evaluate.__call__", f"{_DSPY}.modules:call_evaluate"),
    Patch("dspy.utils.parallelizer", "ParallelExecutor.execute", f"{_DSPY}.parallel:execute", "replace"),
    Patch("dspy.adapters.base", "Adapter._call_postprocess", f"{_DSPY}.lm_answers:parse_answer", "make"),
    Patch(_TWO_STEP, "TwoStepAdapter._create_extractor_signature", f"{_DSPY}.lm_answers:note_first_step", "make"),
    Patch(_TWO_STEP, "TwoStepAdapter.acall", f"{_DSPY}.lm_answers:parse_in_two_steps", "make"),
    Patch(_GEPA, "DspyAdapter.evaluate", f"{_DSPY}.optimizers:evaluate_candidate", optional=True),
    Patch(_GEPA, "DspyAdapter.make_reflective_dataset", f"{_DSPY}.optimizers:judge_candidate", optional=True),
    Patch("litellm", "embedding", f"{_OURS}.litellm:embed", "proxy"),
    Patch("litellm", "aembedding", f"{_OURS}.litellm:aembed", "proxy"),
)
PROMPT_PATCHES: Final = (
    Patch("dspy.adapters.base", "Adapter.__call__", f"{_DSPY}.prompts:keep_given", "make"),
    Patch("dspy.adapters.base", "Adapter.acall", f"{_DSPY}.prompts:keep_given", "make"),
    Patch(_TWO_STEP, "TwoStepAdapter.acall", f"{_DSPY}.prompts:keep_given", "make"),
    Patch(_BASE_LM, "BaseLM.__init__", f"{_DSPY}.prompts:make_lm"),
    # Before DSPy 3.3, it does not call the other one.
    Patch("dspy.clients.lm", "LM.__init__", f"{_DSPY}.prompts:make_lm"),
)
"""What is patched besides, in programs that ask for their prompts by parts."""
OPTIMIZERS: Final = "dspy.teleprompt.teleprompt"
"""Where the optimizers' base class is: `compile` is wrapped in each of its subclasses, also in those to come."""
OPTIMIZERS_HOOK: Final = f"{_DSPY}.optimizers"
PROMPTS_HOOK: Final = f"{_DSPY}.prompts"
