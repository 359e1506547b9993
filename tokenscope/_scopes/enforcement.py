"""What is spent of budgets, and how a run ends that has spent one.

An exception alone would not end a run: DSPy's evaluations, optimizers and adapters catch every `Exception` and go on buying. So
what is raised in place of an LM call is a `Stop`, a BaseException, which passes through all of them, also out of threads and
tasks, up to the scope that owns the budget. That scope turns it into a `BudgetExceeded`, or into nothing. (trio's `fail_after`
and `move_on_after` work like this.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Protocol

from tokenscope._scopes import scope as _scope
from tokenscope._scopes.budget import LIMITS, Budget, amount
from tokenscope._scopes.event_log import lock, read_now, warn_later
from tokenscope._scopes.ledger import PROCESS, Ledger
from tokenscope._scopes.scope import Scope
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import Key, is_saved
from tokenscope._usage.usage import Counts
from tokenscope.errors import BudgetExceeded, TokenScopeWarning, _host_level

if TYPE_CHECKING:
    from types import FrameType


class Stop(BaseException):
    """What ends a run whose budget is spent: on its way to the scope that owns it. Not to be caught."""

    def __init__(self, purse: Purse) -> None:
        super().__init__(purse.sentence())
        self.purse = purse


def stop_in(error: BaseException | None) -> Stop | None:
    """Return the stop that an exception is, be it in a group of nothing but stops, as task groups make one."""
    while isinstance(error, BaseExceptionGroup) and error.split(Stop)[1] is None:
        error = error.exceptions[0]
    return error if isinstance(error, Stop) else None


class Purse:
    """A budget of one entry of a scope, and what is spent of it."""

    __slots__ = ("budget", "calls", "cost", "ledger", "name", "stopped", "tokens", "warned")

    def __init__(self, budget: Budget, ledger: Ledger, name: str) -> None:
        self.budget = budget
        self.ledger = ledger
        self.name = name
        self.tokens = 0
        self.cost = Decimal(0)
        self.calls = 0
        self.stopped = False  # whether something was kept from being done
        self.warned = False

    def spend(self, key: Key, values: Counts, *, reserved: bool) -> None:
        """Take a call out of it; `reserved` where it was taken out as a call before it began."""
        if not reserved:
            self.calls += values[0]
        if is_saved(key[1]):
            return
        self.tokens += values[3] + values[4]
        if self.budget.cost is not None:
            from tokenscope._usage.prices import priced

            usage = priced(*key, values)
            self.cost += usage.cost
            if usage.unpriced_calls:
                warn_later(
                    f"price:{key[0]}",
                    f"no price is known of {key[0]!r}, so its calls cost the budget of {self.name!r} nothing; "
                    f"set_price({key[0]!r}, input=..., output=...) tells one",
                )

    def spent_limit(self, *, over: bool = False) -> str | None:
        """Return the name of a limit that is reached, or exceeded; None where there is none."""
        budget = self.budget
        for name in ("tokens", "cost") if over else LIMITS:
            limit, spent = getattr(budget, name), getattr(self, name)
            if limit is not None and (spent > limit if over else spent >= limit):
                return name
        return None

    @property
    def exceeded(self) -> bool:
        """Whether it has kept something from being done, or more is spent than it holds."""
        return self.stopped or any(
            (limit := getattr(self.budget, name)) is not None and getattr(self, name) > limit for name in LIMITS
        )

    def sentence(self) -> str:
        """Say what is spent of what, and by how much the limit is exceeded."""
        name = self.spent_limit() or "calls"
        limit, spent = getattr(self.budget, name), getattr(self, name)
        over = f", {amount(name, spent - limit)} more than that" if spent > limit else ""
        return f"the budget of {self.name!r}, {amount(name, limit)}, is spent: {amount(name, spent)}{over}"

    def balance(self) -> str:
        """Say what is spent of each limit, and whether that has kept something from being done."""
        read_now()
        parts = [
            f"{'$' if name == 'cost' else ''}{getattr(self, name):,} of {amount(name, limit)}"
            for name in LIMITS
            if (limit := getattr(self.budget, name)) is not None
        ]
        return "; ".join(parts) + (": spent, and the run was ended" if self.stopped else "")

    def stop(self) -> None:
        """Keep from being done what was about to be; or warn, and let it be done.

        Raises:
            Stop: unless the budget only warns.
        """
        if self.budget.on_exceed != "warn":
            self.stopped = True
            raise Stop(self)
        with lock:
            again, self.warned = self.warned, True
        if not again:
            message = f"{self.sentence()}; on_exceed='warn' lets the run go on"
            warnings.warn(message, TokenScopeWarning, stacklevel=_host_level())

    def error(self) -> BudgetExceeded:
        """Return the exception for those outside."""
        from tokenscope._report.report import Report

        above = self.ledger.above
        report = Report.from_rows(
            self.ledger.view(), above.path if above is not None else self.ledger.path, scoped=above is not None
        )
        return BudgetExceeded(self.sentence(), self.name, self.budget, report.total, report)


class BudgetedScope(Scope):
    """A scope with a budget of its own."""

    __slots__ = ("_purse",)

    def __init__(
        self, frames: tuple[Frame, ...], budget: Budget, opener: object = None, frame: FrameType | None = None
    ) -> None:
        _scope.guard = GUARD
        self._purse = Purse(budget, self, "/".join(frame.name for frame in frames))  # before anybody can spend
        super().__init__(frames, opener, frame)

    @property
    def purse(self) -> Purse:
        """What is spent of the budget."""
        return self._purse

    @property
    def budget_exceeded(self) -> bool:
        """Whether the budget has ended the block, or more is spent than it holds."""
        read_now()
        return self._purse.exceeded


class _Guard:
    """What the core asks where a scope is entered, before a call, and when one was counted, once there is any budget."""

    __slots__ = ("process",)

    def __init__(self) -> None:
        self.process: Purse | None = None

    def enter(self, above: Ledger) -> None:
        """Stop where more is spent than a budget holds."""
        purses = list(self._purses(above))
        if purses:
            read_now()
            _stop_at([purse for purse in purses if purse.spent_limit(over=True)])

    def admit(self, ledger: Ledger, lender: Lender | None) -> bool:
        """Reserve a call of every enclosing budget, or stop where one is spent; return whether there is any."""
        purses = list(self._purses(ledger))
        if not purses:
            return False
        read_now()
        with lock:
            lent = list(self._purses(lender.scope or PROCESS)) if lender is not None and lender.reserved else []
            for purse in lent:
                purse.calls -= 1
            spent = [purse for purse in purses if purse.spent_limit()]
            refused = any(purse.budget.on_exceed != "warn" for purse in spent)
            for purse in lent if refused else purses:
                purse.calls += 1
            if lender is not None and lent and not refused:
                lender.reserved = False
        _stop_at(spent)
        return True

    def release(self, ledger: Ledger) -> None:
        """Give back a call that was reserved and is not to be counted."""
        with lock:
            for purse in self._purses(ledger):
                purse.calls -= 1

    def spend(self, ledger: Ledger, key: Key, values: Counts, *, reserved: bool) -> None:
        """Take a counted call out of every enclosing budget."""
        with lock:
            for purse in self._purses(ledger):
                purse.spend(key, values, reserved=reserved)

    def _purses(self, ledger: Ledger | None) -> Iterator[Purse]:
        while ledger is not None:
            if isinstance(ledger, BudgetedScope):
                yield ledger.purse
            ledger = ledger.above
        if self.process is not None:
            yield self.process


def _stop_at(spent: list[Purse]) -> None:
    """Stop at the outermost of budgets that are spent, for what is inside of it ends with it; or let those warn that only do."""
    binding = [purse for purse in spent if purse.budget.on_exceed != "warn"]
    for purse in binding[-1:] or spent:
        purse.stop()


GUARD: Final = _Guard()


class Lender(Protocol):
    """An LM call on its way that may ask another LM, and hands on to it what was reserved: mostly it buys nothing itself."""

    scope: Ledger | None
    reserved: bool


def admit(lender: Lender | None = None) -> bool:
    """Ask every enclosing budget for one LM call, which is then reserved; return whether there is any.

    Raises:
        Stop: where one is spent.
    """
    return _scope.guard is not None and GUARD.admit(_scope.active() or PROCESS, lender)


def admit_again(lender: Lender) -> None:
    """Ask for an LM call that has handed on what it had reserved, and is about to buy something itself.

    Raises:
        Stop: where a budget is spent.
    """
    if _scope.guard is not None and not lender.reserved:
        lender.reserved = GUARD.admit(lender.scope or PROCESS, None)


def release(ledger: Ledger | None) -> None:
    """Give back a call that `admit` has reserved in a scope, and that is not to be counted."""
    GUARD.release(ledger or PROCESS)


def limit_process(budget: Budget) -> Purse:
    """Put a budget on everything that this process spends from now on."""
    _scope.guard = GUARD
    GUARD.process = Purse(budget, PROCESS, "the program")
    return GUARD.process


def settle(purse: Purse, error: BaseException | None) -> bool:
    """End a scope with a budget: return whether what was raised in it ends here, quietly.

    Raises:
        BudgetExceeded: where the budget has kept something from being done, and does not end runs quietly.
        BaseException: what was raised beside, in a group, where the budget does.
    """
    read_now()
    if not purse.stopped:
        if purse.budget.on_exceed == "warn" and purse.exceeded:
            purse.stop()
        return False
    rest = error
    if isinstance(error, Stop) and error.purse is purse:
        rest = None
    elif isinstance(error, BaseExceptionGroup):
        rest = error.split(lambda each: isinstance(each, Stop) and each.purse is purse)[1]
    if rest is not None and not isinstance(rest, Exception):
        return False  # the program is to end, or an outer budget is spent, too
    if purse.budget.on_exceed == "raise":
        raise purse.error() from rest
    if rest is not None and rest is not error:
        raise rest
    return rest is None
