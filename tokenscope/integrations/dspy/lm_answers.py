"""What becomes known of an answer of an LM: what it spent, and whether it could be parsed."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import Any, Final

from tokenscope._scopes.event_log import append
from tokenscope._scopes.lm_calls import current_lm_call
from tokenscope.integrations.dspy.lm_calls import UnparsedAnswer, answered_call


def keep_answer(wrapped: Any, switch: list[bool]) -> Any:
    """`BaseLM._process_lm_response` and what it calls: keep what the LM has returned until its call ends."""

    def process(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if (call := current_lm_call.get()) is not None and not call.ended and args and switch:
            call.answer = args[0]
        return wrapped(self, *args, **kwargs)

    return process


def parse_answer(wrapped: Any, switch: list[bool]) -> Any:
    """`Adapter._call_postprocess`: if the adapter cannot parse an LM's answer, the call was wasted."""

    def call_postprocess(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if (call := answered_call.get()) is None or call.is_parsed or not switch:
            return wrapped(self, *args, **kwargs)
        call.is_parsed = True
        try:
            return wrapped(self, *args, **kwargs)
        except Exception:
            append(UnparsedAnswer(call))
            raise

    return call_postprocess


_first_step: Final[ContextVar[list[Any] | None]] = ContextVar("tokenscope_first_step", default=None)
"""Where the answer is noted of which a second step, in progress here, extracts the fields."""


def note_first_step(wrapped: Any, switch: list[bool]) -> Any:
    """`TwoStepAdapter._create_extractor_signature`: what the LM has answered last is about to be parsed by another LM."""

    def create_extractor_signature(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if (answers := _first_step.get()) is not None and switch:
            answers.append(answered_call.get())
        return wrapped(self, *args, **kwargs)

    return create_extractor_signature


def parse_in_two_steps(wrapped: Any, switch: list[bool]) -> Any:
    """`TwoStepAdapter.acall`, which parses by itself: if the second step fails, both LM calls were wasted."""

    async def acall(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        answers: list[Any] = []
        token = _first_step.set(answers)
        try:
            return await wrapped(self, *args, **kwargs)
        except Exception:
            for call in answers if switch else ():
                if call is not None and not call.is_parsed:
                    call.is_parsed = True
                    append(UnparsedAnswer(call))
            raise
        finally:
            with contextlib.suppress(ValueError):  # finalised in another Context
                _first_step.reset(token)

    return acall
