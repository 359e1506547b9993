"""What becomes known of an answer of an LM: what it spent, and whether it could be parsed."""

from __future__ import annotations

import functools
from typing import Any

from tokenscope._scopes.event_log import append
from tokenscope._scopes.lm_calls import current_lm_call
from tokenscope.integrations.dspy.lm_calls import UnparsedAnswer, answered_call, read_response


def process_response(wrapped: Any, switch: list[bool]) -> Any:
    """`BaseLM._process_lm_response`: read the usage of a user's own LM, which DSPy 3.0 does not track."""

    @functools.wraps(wrapped)
    def process_lm_response(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = wrapped(self, *args, **kwargs)
        call = current_lm_call.get()
        if call is not None and not call.entries and args and switch:
            read_response(args[0])
        return result

    return process_lm_response


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
