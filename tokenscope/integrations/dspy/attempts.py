"""Modules that try again: which of their attempts was kept, and what the others have spent."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dspy.predict.best_of_n import BestOfN
from dspy.predict.program_of_thought import ProgramOfThought
from dspy.predict.refine import OfferFeedback, Refine

from tokenscope._scopes.scope import Scope
from tokenscope._scopes.wasted import mark_all_wasted

TRYING: Final = frozenset({BestOfN, Refine, ProgramOfThought})  # the modules that make attempts


class _Run(NamedTuple):
    """A module that has run on the way to a result."""

    scope: Scope
    result: Any
    is_advice: bool


class Attempts:
    """The attempts of one call of a module."""

    def __init__(self, trying: Any, inputs: dict[str, Any]) -> None:
        self._trying = trying
        self._inputs = inputs
        self._runs: list[_Run] = []

    def wants(self, module: Any, kwargs: dict[str, Any]) -> bool:
        """Whether a module that is called is an attempt, or advises on the next one."""
        trying = self._trying
        if is_advice(module):
            return True
        if isinstance(trying, ProgramOfThought):
            return any(module is getattr(trying, name, None) for name in ("code_generate", "code_regenerate"))
        # It is a copy of the module that is to be tried, with the same inputs: what judges its result has other inputs.
        return (
            type(module) is type(getattr(trying, "module", None))
            and kwargs.keys() == self._inputs.keys()
            and all(value is self._inputs[name] for name, value in kwargs.items())
        )

    def note(self, scope: Scope, result: Any, *, is_advice: bool) -> None:
        """Note that such a module has run in a scope."""
        self._runs.append(_Run(scope, result, is_advice))

    def conclude(self, result: Any) -> None:
        """Mark as wasted what was spent for another result than this one."""
        kept = self._kept(result)
        for run in self._runs:
            if run is not kept:
                mark_all_wasted(run.scope, "retries")
        self._trying, self._runs, self._inputs = None, [], {}

    def _kept(self, result: Any) -> _Run | None:
        """Return the attempt whose result is the module's own; else, if that was changed or there is none, the last one."""
        attempts = [run for run in self._runs if not run.is_advice]
        returned = [run for run in attempts if run.result is result and result is not None]
        return next(reversed(returned or attempts), None)


def is_advice(module: Any) -> bool:
    """Whether a module is the one that tells `Refine` what to do better next time."""
    return getattr(module, "signature", None) is OfferFeedback
