"""A stopper that ends an optimization by GEPA in good order, once it has spent a budget."""

from __future__ import annotations

from tokenscope._scopes.budget import Budget, check_budget
from tokenscope._scopes.context import active
from tokenscope._scopes.enforcement import account_of
from tokenscope._scopes.process import STATE, Counted
from tokenscope._scopes.scope import Scope


class GepaStopper:
    """Tells GEPA to stop once its run has spent a budget; made by `gepa_stopper`."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def __call__(self, gepa_state: object) -> bool:
        """Return whether the optimizer's run that asks has spent the budget; without one, whether the current scope has."""
        here: Counted = active() or STATE.root
        run: Counted | None = here
        while isinstance(run, Scope) and run.kind != "compile":
            run = run.above
        spender = run if isinstance(run, Scope) else here
        name = spender.name if isinstance(spender, Scope) else "the program"
        return account_of(spender, self.budget, name).spent_limit() is not None

    def __repr__(self) -> str:
        return f"gepa_stopper({self.budget!r})"


def gepa_stopper(budget: Budget) -> GepaStopper:
    """Return a stopper that ends an optimization by GEPA once it has spent a budget, and keeps its best program.

    A budget on a scope ends whatever runs in it, and an optimization that is ended in this way returns no program. GEPA asks a
    stopper before each iteration. When the stopper says so, GEPA returns the best program that it has found. What is spent can
    exceed the limit by one iteration. For a hard limit, add a budget on a scope around it.

    Everything spent in the run of `compile` counts: calls of the program, of the metric, and of the reflection model. Each run
    has the whole budget, also if several runs use one stopper. Outside of a DSPy optimizer, what the current scope spent counts.

    Needs dspy 3.0.4 or later, whose GEPA takes `gepa_kwargs`.

    Args:
        budget: The tokens, dollars or calls after which to stop. Its `on_exceed` has no effect here.

    Raises:
        TypeError: the budget is not a `Budget`.

    Example:
        >>> from tokenscope import Budget
        >>> from tokenscope.integrations.dspy import gepa_stopper
        >>> stopper = gepa_stopper(Budget(tokens=200_000, cost=1.50))
        >>> stopper.budget.tokens
        200000

        It goes into `dspy.GEPA(..., auto="light", gepa_kwargs={"stop_callbacks": [stopper]})`.
    """
    return GepaStopper(check_budget("gepa_stopper", budget))
