"""Budget: how much a scope may spend. What is spent of it, and how a run ends that has spent it, is in `_purse`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Final, Literal, get_args

from tokenscope._usage.usage import check_count

OnExceed = Literal["raise", "stop", "warn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be spent in each entry of a scope: `token_scope("run", budget=Budget(tokens=50_000))`.

    Before each LM call, and where a scope is entered, every enclosing budget is looked at. Where one is spent the run ends before
    another token is bought, up to the scope that has the budget, through whatever catches exceptions in between. A limit on calls
    is exact, however many are made at once; tokens and cost can exceed theirs by what the calls on their way spend.

    Args:
        tokens: Input and output tokens together.
        cost: Dollars. Calls of a model without a known price cost nothing here, and a warning names it.
        calls: LM calls, cached and failed ones included.
        on_exceed: `raise` a `BudgetExceeded` out of the scope; `stop`: leave it quietly, `scope.budget_exceeded` is true then;
            or `warn` once, and go on.

    Raises:
        TypeError: a limit is no number, or there is none.
        ValueError: a limit is negative, fractional, infinite or NaN, or `on_exceed` is none of these.

    Example:
        >>> from tokenscope import Budget, record_tokens, token_scope
        >>> with token_scope("run", budget=Budget(tokens=1_000, on_exceed="stop")) as scope:
        ...     for page in range(10):
        ...         with token_scope("page"):
        ...             record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=400, output_tokens=0)
        >>> scope.usage.total_tokens, scope.budget_exceeded
        (1200, True)
    """

    tokens: int | None = None
    cost: Decimal | float | None = None
    calls: int | None = None
    on_exceed: OnExceed = "raise"

    def __post_init__(self) -> None:
        """Check the limits."""
        if self.tokens is None and self.cost is None and self.calls is None:
            raise TypeError("a Budget needs a limit: tokens=, cost= or calls=")
        for name in ("tokens", "calls"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_count(name, value))
        if self.cost is not None:
            object.__setattr__(self, "cost", _dollars(self.cost))
        if self.on_exceed not in get_args(OnExceed):
            raise ValueError(
                f"on_exceed must be one of {', '.join(map(repr, get_args(OnExceed)))}, not {self.on_exceed!r}"
            )

    def __str__(self) -> str:
        """Name the limits."""
        return " and ".join(amount(name, getattr(self, name)) for name in LIMITS if getattr(self, name) is not None)


def check_budget(what: str, budget: object) -> Budget:
    """Return a budget, or raise for what is none."""
    if not isinstance(budget, Budget):
        raise TypeError(f"the budget of {what} must be a Budget, not {type(budget).__name__} {budget!r}")
    return budget


LIMITS: Final = ("tokens", "cost", "calls")


def _dollars(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError(f"cost must be dollars, a number, not {type(value).__name__} {value!r}")
    dollars = Decimal(str(value))
    if not dollars.is_finite() or dollars < 0:
        raise ValueError(f"cost must be dollars, 0 or more, but is {value!r}")
    return dollars


def amount(name: str, value: Any) -> str:
    """Say how much of a limit: `1 call`, `50,000 tokens`, `$0.50`."""
    return f"${value:,}" if name == "cost" else f"{value:,} {name if value != 1 else name[:-1]}"
