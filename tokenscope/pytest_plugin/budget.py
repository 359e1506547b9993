"""The marker `token_budget`: what one test may spend."""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import NamedTuple

import pytest

from tokenscope._usage.usage import Usage, check_count, check_money
from tokenscope.pytest_plugin.summary import dollars


class Limits(NamedTuple):
    """What one test may spend."""

    tokens: int | None
    calls: int | None
    cost: Decimal | None

    def exceeded_by(self, spent: Usage) -> list[str]:
        """Say which limits are exceeded, and by what."""
        found: list[str] = []
        if self.tokens is not None and spent.total_tokens > self.tokens:
            found.append(f"{spent.total_tokens:,} tokens (limit {self.tokens:,})")
        if self.calls is not None and spent.calls > self.calls:
            found.append(f"{spent.calls:,} calls (limit {self.calls:,})")
        if self.cost is not None and spent.cost > self.cost:
            found.append(f"{dollars(spent)} (limit ${self.cost:f})")
        return found


# The signature and the first paragraph of this docstring are what `pytest --markers` shows.
def token_budget(*, tokens: int | None = None, calls: int | None = None, cost: Decimal | float | None = None) -> Limits:
    """Fail the test when it and its fixtures' setup spend more tokens, model calls or dollars than this.

    Raises:
        TypeError: no limit is given, or one is no number.
        ValueError: a limit is negative, fractional tokens or calls, or NaN.
    """
    if tokens is None and calls is None and cost is None:
        raise TypeError("token_budget() needs a limit")
    if isinstance(cost, float):
        cost = Decimal(str(cost))
    return Limits(
        None if tokens is None else check_count("tokens", tokens),
        None if calls is None else check_count("calls", calls),
        None if cost is None else check_money("cost", cost),
    )


def limits_of(item: pytest.Item) -> Limits | None:
    """Return the limits of the closest marker: the function's, else the class's, else the module's."""
    mark = item.get_closest_marker(token_budget.__name__)
    if mark is None:
        return None
    try:
        return token_budget(*mark.args, **mark.kwargs)
    except (TypeError, ValueError) as error:
        raise pytest.fail.Exception(
            f"{item.nodeid}: wrong use of @pytest.mark.token_budget: {error}; it takes tokens=, calls= and cost= "
            "(dollars), one of them at least",
            pytrace=False,
        ) from None


def marker_line() -> str:
    """Return the marker as pytest registers it: its name, its arguments and its help."""
    signature = inspect.signature(token_budget, eval_str=True).replace(return_annotation=inspect.Signature.empty)
    paragraph = (inspect.getdoc(token_budget) or "").partition("\n\n")[0]
    return f"{token_budget.__name__}{signature}: {' '.join(paragraph.split())}"
