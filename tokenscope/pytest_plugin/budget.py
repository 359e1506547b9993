"""The marker `token_budget`: the budget of one test."""

from __future__ import annotations

import inspect
from decimal import Decimal

import pytest

from tokenscope import Budget, Usage
from tokenscope._report.formats.text import AT_LEAST
from tokenscope._scopes.budget import amount


# `pytest --markers` shows this signature and the first paragraph of this docstring.
def token_budget(*, tokens: int | None = None, calls: int | None = None, cost: Decimal | float | None = None) -> Budget:
    """Fail the test if it and its fixtures' setup spend more tokens, model calls or dollars than this.

    Raises:
        TypeError: there is no limit, or a limit is not a number.
        ValueError: a limit is negative or NaN, or a number of tokens or calls is fractional.
    """
    return Budget(tokens=tokens, calls=calls, cost=cost)


def budget_of(item: pytest.Item) -> Budget | None:
    """Return the budget of the closest marker: on the function, else on the class, else on the module."""
    if (mark := item.get_closest_marker(token_budget.__name__)) is None:
        return None
    try:
        return token_budget(*mark.args, **mark.kwargs)
    except (TypeError, ValueError) as error:
        raise pytest.fail.Exception(
            f"{item.nodeid}: wrong use of @pytest.mark.token_budget: {error}. It takes at least one of tokens=, calls= "
            "and cost= (in dollars)",
            pytrace=False,
        ) from None


def excess(budget: Budget, spent: Usage) -> str:
    """Return which limits are exceeded and by how much, or an empty string."""
    found: list[str] = []
    for name, value in (("tokens", spent.total_tokens), ("calls", spent.calls), ("cost", spent.cost or 0)):
        if (limit := getattr(budget, name)) is not None and value > limit:
            bound = AT_LEAST if name == "cost" and spent.unpriced_calls else ""
            found.append(f"{bound}{amount(name, value)} (limit {amount(name, limit).partition(' ')[0]})")
    return " and ".join(found)


def marker_line() -> str:
    """Return the marker as pytest registers it: its name, its arguments and its help."""
    signature = inspect.signature(token_budget, eval_str=True).replace(return_annotation=inspect.Signature.empty)
    paragraph = (inspect.getdoc(token_budget) or "").partition("\n\n")[0]
    return f"{token_budget.__name__}{signature}: {' '.join(paragraph.split())}"
