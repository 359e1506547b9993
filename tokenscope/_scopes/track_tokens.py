"""track_tokens: a scope of two levels, module and operation, around each call of a function."""

from __future__ import annotations

import functools
from typing import Any, overload

from tokenscope._scopes.budget import Budget, check_budget
from tokenscope._scopes.wrapping import Decorator, F, M, ScopeSpec, decorate
from tokenscope._usage.calls import Frame, check_name
from tokenscope._usage.keywords import teaches


@overload
def track_tokens(function: F, /) -> F: ...
@overload
def track_tokens(function: M, /) -> M: ...
@overload
def track_tokens(
    module: str | None = None, operation: str | None = None, *, budget: Budget | None = None
) -> Decorator: ...
@teaches(name="operation", scope="operation", function="operation", op="operation", component="module", limit="budget")
def track_tokens(module: Any = None, operation: str | None = None, *, budget: Budget | None = None) -> Any:
    """Count what a function spends under a module and an operation, two levels of the tree.

    Decorates functions, coroutine functions, generators, async generators, methods, class methods and static methods, and
    leaves their kind, signature, types and picklability as they are. A generator is in its scope while its body runs.

    Args:
        module: The upper level; the last part of the defining module's name where it is left out.
        operation: The lower level; the function's name where it is left out.
        budget: How much each call may spend. One that ends quietly ends in None.

    Raises:
        TypeError: a name is not a str, the budget no `Budget`, or what is decorated no function (a class, a property).
        ValueError: a name is empty.
        BudgetExceeded: out of a call, where its budget is spent.

    Example:
        >>> from tokenscope import record_tokens, report, track_tokens
        >>> @track_tokens("persona_formulation", "formulate_prompt")
        ... def formulate(persona):
        ...     record_tokens("persona_formulation", "draft", "gpt-5-mini", "openai", input_tokens=12, output_tokens=3)
        ...     return f"You are {persona}."
        >>> formulate("a baker")
        'You are a baker.'
    """
    function: Any = None
    if module is not None and not isinstance(module, str):
        if operation is not None or not (callable(module) or isinstance(module, classmethod | staticmethod | property)):
            check_name("the module of track_tokens", module)
        function, module = module, None
    if module is not None:
        check_name("the module of track_tokens", module)
    if operation is not None:
        check_name("the operation of track_tokens", operation)
    if budget is not None:
        check_budget("track_tokens", budget)

    def spec_for(function: Any) -> ScopeSpec:
        inner: Any = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        name: Any = operation or getattr(inner, "__name__", type(inner).__name__)
        home = module or (getattr(inner, "__module__", None) or "__main__").rpartition(".")[2]
        return ScopeSpec((Frame("module", home), Frame("operation", name)), budget=budget)

    def decorator(function: Any) -> Any:
        return decorate("track_tokens", function, spec_for)

    return decorator if function is None else decorator(function)
