"""Ending an optimisation by GEPA in good order: a stopper that GEPA asks between two of its iterations."""

from __future__ import annotations

from tokenscope._scopes.budget import Budget, check_budget
from tokenscope._scopes.context import active
from tokenscope._scopes.enforcement import account_of
from tokenscope._scopes.process import STATE, Counted
from tokenscope._scopes.scope import Scope


class GepaStopper:
    """Tells GEPA to stop once its run has spent a budget; made by `gepa_stopper`."""

    __slots__ = ("budget",)

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def __call__(self, gepa_state: object) -> bool:
        """Return whether the run that asks has spent the budget."""
        run = _run()
        name = run.name if isinstance(run, Scope) else "the program"
        return account_of(run, self.budget, name).spent_limit() is not None

    def __repr__(self) -> str:
        return f"gepa_stopper({self.budget!r})"


def _run() -> Counted:
    """Return the optimizer's run that is active here, or where there is none, the current scope."""
    here = active()
    scope: Counted | None = here
    while isinstance(scope, Scope):
        if scope.kind == "compile":
            return scope
        scope = scope.above
    return here or STATE.root


def gepa_stopper(budget: Budget) -> GepaStopper:
    """Return a stopper that ends an optimisation by GEPA once it has spent a budget, and lets it keep its best program.

    A budget on a scope ends whatever runs in it, and an optimisation that is ended so returns no program. A stopper is asked by
    GEPA itself, before each iteration, and GEPA then returns the best program that it has found until then. So what is spent may
    exceed the limit by what one iteration spends; a budget on a scope around it, beside, sets a hard limit.

    All that is spent in the run of `compile` counts: the program's calls, the metric's, and the reflection model's. Each run has
    the whole budget, also where several use the same stopper. Where `gepa.optimize` runs without an optimizer of DSPy's, what the
    current scope has spent counts.

    Needs dspy 3.0.4 or later, whose GEPA takes `gepa_kwargs`.

    Args:
        budget: The tokens, dollars or calls after which to stop. Its `on_exceed` is without meaning here.

    Raises:
        TypeError: the budget is no `Budget`.

    Example:
        >>> from tokenscope import Budget
        >>> from tokenscope.integrations.dspy import gepa_stopper
        >>> stopper = gepa_stopper(Budget(tokens=200_000, cost=1.50))
        >>> stopper.budget.tokens
        200000

        It goes into `dspy.GEPA(..., auto="light", gepa_kwargs={"stop_callbacks": [stopper]})`.
    """
    return GepaStopper(check_budget("gepa_stopper", budget))
