"""Modules that try again: which of their attempts was kept, and what those have spent that were not."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dspy.predict.best_of_n import BestOfN
from dspy.predict.program_of_thought import ProgramOfThought
from dspy.predict.refine import OfferFeedback, Refine

from tokenscope._scopes.scope import Scope
from tokenscope._scopes.wasted import discard_all
from tokenscope._usage.calls import Frame
from tokenscope.errors import internal_error
from tokenscope.integrations.dspy.lm_calls import Kwargs

TRYING: Final = (BestOfN, Refine, ProgramOfThought)
"""The modules that make attempts."""


class Attempts(Scope):
    """The scope of a module that makes attempts."""

    __slots__ = ("inputs", "made")

    def __init__(self, frames: tuple[Frame, ...], opener: Any, inputs: Kwargs) -> None:
        super().__init__(frames, opener)
        self.inputs = inputs
        self.made: list[_Made] = []


class _Made(NamedTuple):
    """What was run on the way to a result."""

    scope: Scope
    result: Any
    is_attempt: bool  # or only helps to make the next one


def note_attempt(scope: Scope, result: Any, kwargs: Kwargs) -> None:
    """Note what has ended in the scope of a module that makes attempts; and where that module itself has, what was in vain."""
    try:
        if isinstance(scope, Attempts):
            kept = _kept(scope, result)
            for made in scope.made:
                if made is not kept:
                    discard_all(made.scope, "retries")
            scope.made, scope.inputs = [], {}
        above = scope.above
        if isinstance(above, Attempts):
            is_attempt = _is_attempt(scope.opener, above, kwargs)
            if is_attempt or _is_advice(scope.opener):
                above.made.append(_Made(scope, result, is_attempt))
    except Exception:  # noqa: BLE001
        internal_error("reading what attempts have spent")


def _kept(scope: Attempts, result: Any) -> _Made | None:
    """Return the attempt whose result is the module's own; the last one, where the module has made another of it, or failed."""
    attempts = [made for made in scope.made if made.is_attempt]
    returned = [made for made in attempts if made.result is result and result is not None]
    return next(reversed(returned or attempts), None)


def _is_attempt(module: Any, above: Attempts, kwargs: Kwargs) -> bool:
    trying: Any = above.opener
    if isinstance(trying, ProgramOfThought):
        return any(module is getattr(trying, name, None) for name in ("code_generate", "code_regenerate"))
    # It is a copy of the module that is to be tried, called as that was: what judges its result is called otherwise.
    return (
        type(module) is type(getattr(trying, "module", None))
        and kwargs.keys() == above.inputs.keys()
        and all(value is above.inputs[name] for name, value in kwargs.items())
    )


def _is_advice(module: Any) -> bool:
    """Whether a module is the one that tells `Refine` what to do better next time."""
    return getattr(module, "signature", None) is OfferFeedback
