"""What becomes known of an answer of an LM: what it spent, and whether it could be parsed."""

from __future__ import annotations

import functools
from typing import Any

from tokenscope._scopes.event_log import append
from tokenscope._scopes.lm_calls import current_lm_call
from tokenscope.integrations.dspy.lm_calls import UnparsedAnswer, answered_call


def keep_answer(wrapped: Any, switch: list[bool]) -> Any:
    """`BaseLM._process_lm_response` and what it calls: keep what the LM has returned until its call ends."""

    @functools.wraps(wrapped)
    def process(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = current_lm_call.get()
        if call is not None and not call.ended and args and switch:
            call.answer = args[0]
        return wrapped(self, *args, **kwargs)

    return process


def parse_answer(wrapped: Any, switch: list[bool]) -> Any:
    """`Adapter._call_postprocess`: if the adapter cannot parse an LM's answer, the call was wasted."""

    @functools.wraps(wrapped)
    def call_postprocess(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        call = answered_call.get()
        if call is None or call.is_parsed or not switch:
            return wrapped(self, *args, **kwargs)
        call.is_parsed = True
        try:
            return wrapped(self, *args, **kwargs)
        except Exception:
            append(call.scope, UnparsedAnswer(call), 0, None)
            raise

    return call_postprocess
