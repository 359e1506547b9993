"""Budgets: how much a scope may spend, and the exception that tells that it has spent it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, get_args, overload

from tokenscope._usage.keywords import teaches
from tokenscope._usage.usage import Usage, check_count
from tokenscope._usage.warnings import TokenScopeError

OnExceed = Literal["raise", "stop", "warn"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from tokenscope._report.report import Report

    # for type checkers: a "stop" swallows exceptions
    E_co = TypeVar("E_co", bound=OnExceed, covariant=True, default=OnExceed)
else:
    from typing import TypeVar

    E_co = TypeVar("E_co", covariant=True)


@teaches(
    max_tokens="tokens",
    token_limit="tokens",  # noqa: S106 - no password
    limit="tokens",
    max_cost="cost",
    dollars="cost",
    usd="cost",
    max_calls="calls",
    max_requests="calls",
    action="on_exceed",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Generic[E_co]):
    """How much may be spent in each entry of a scope: `token_scope("run", budget=Budget(tokens=50_000))`.

    Every enclosing budget is checked before each LM call, and when a scope is entered. If one is spent, the run ends before
    it spends another token, up to the scope that has the budget. No `except Exception` in between catches this. A limit on
    calls is exact, however many run at once. Tokens and cost can exceed theirs by what the calls in flight spend.

    Args:
        tokens: Input and output tokens together.
        cost: Dollars. Calls of a model without a known price count as free here, and a warning names the model.
        calls: LM calls, cached and failed ones included.
        on_exceed: `raise` raises `BudgetExceeded` out of the scope; `stop` leaves the scope quietly, and
            `scope.budget_exceeded` is true; `warn` warns once, and the run goes on.

    Raises:
        TypeError: a limit is not a number, or there is no limit.
        ValueError: a limit is negative, fractional, infinite or NaN, or `on_exceed` has another value.

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

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: Budget[Literal["stop"]],
            *,
            tokens: int | None = None,
            cost: Decimal | float | None = None,
            calls: int | None = None,
            on_exceed: Literal["stop"],
        ) -> None: ...
        @overload
        def __init__(
            self: Budget[OnExceed],
            *,
            tokens: int | None = None,
            cost: Decimal | float | None = None,
            calls: int | None = None,
            on_exceed: OnExceed = "raise",
        ) -> None: ...
        def __init__(self, **limits: Any) -> None: ...

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
    """Return a budget, or raise for anything else."""
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


class BudgetExceeded(TokenScopeError):  # noqa: N818 - the name says what happened
    """A scope has spent its budget, and the run was ended there.

    Args:
        message: What was spent, and of what.
        scope: The scope's name; module and operation, joined by `/`, of a decorated function.
        limit: Its budget.
        spent: What the scope has spent so far. Calls that are in flight in other threads or tasks count when they end.
        report: The report of the scope so far.

    Example:
        >>> from tokenscope import Budget, BudgetExceeded, record_tokens, token_scope
        >>> try:
        ...     with token_scope("run", budget=Budget(tokens=1_000)):
        ...         record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=1_200, output_tokens=0)
        ...         with token_scope("next"):
        ...             pass
        ... except BudgetExceeded as error:
        ...     print(error)
        ...     print(error.scope, error.limit.tokens, error.spent.total_tokens)
        the budget of 'run', 1,000 tokens, is spent: 1,200 tokens, 200 tokens more than that
        run 1000 1200
    """

    def __init__(self, message: str, scope: str, limit: Budget, spent: Usage, report: Report) -> None:
        super().__init__(message, scope, limit, spent, report)
        self.scope = scope
        self.limit = limit
        self.spent = spent
        self.report = report

    def __str__(self) -> str:
        return str(self.args[0])


BudgetExceeded.__module__ = "tokenscope.errors"  # where users find it
