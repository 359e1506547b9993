"""`LM.forward`, which is part of a call, or, where somebody calls it directly, one by itself."""

from __future__ import annotations

from typing import Any

from tokenscope._scopes.enforcement import admit_again
from tokenscope._scopes.lm_calls import seen_by_us
from tokenscope.integrations.dspy.lm_calls import Args, Kwargs, acall_lm, call_here, call_lm, read_response


def forward(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`LM.forward`: part of a call, or, where somebody calls it directly, one by itself, whose usage is in the response."""
    if _goes_on_with_a_call():
        return wrapped(*args, **kwargs)

    def ask() -> Any:
        response = wrapped(*args, **kwargs)
        read_response(response)
        seen_by_us(response)
        return response

    return call_lm(ask, instance, (), {})


async def aforward(wrapped: Any, instance: Any, args: Args, kwargs: Kwargs) -> Any:
    """`LM.aforward`: the same for coroutines."""
    if _goes_on_with_a_call():
        return await wrapped(*args, **kwargs)

    async def ask() -> Any:
        response = await wrapped(*args, **kwargs)
        read_response(response)
        seen_by_us(response)
        return response

    return await acall_lm(ask, instance, (), {})


def _goes_on_with_a_call() -> bool:
    """Whether an LM call is on its way here, which then buys what is asked for now."""
    call = call_here()
    if call is None:
        return False
    admit_again(call)
    return True
