"""Enforcing budgets: what is spent of each, and how a run ends that has spent one.

An exception alone would not end a run: DSPy's evaluations, optimizers and adapters catch every `Exception` and go on. So a
`BudgetStop` is raised in place of an LM call, a `BaseException`, which passes through all of them, also out of threads and
tasks, up to the scope that owns the budget. That scope turns it into `BudgetExceeded`, or into nothing. (trio's `fail_after`
and `move_on_after` work like this.)

The budgets that hold in a scope are `scope.budgets`, its own first, the program's last. It takes them over from the scope above.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from tokenscope._scopes.budget import LIMITS, Budget, BudgetExceeded, amount
from tokenscope._scopes.event_log import collect, counted_in, drain, records, warn_later
from tokenscope._scopes.process import STATE, Counted
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.prices import load_table, priced
from tokenscope._usage.usage import NO_DOLLARS, Counts
from tokenscope._usage.warnings import TokenScopeWarning, host_level

if TYPE_CHECKING:
    from tokenscope._report.report import Report


class BudgetStop(BaseException):
    """Ends a run whose budget is spent, on its way to the scope that owns the budget. Not to be caught."""

    def __init__(self, account: BudgetAccount) -> None:
        super().__init__(account.sentence())
        self.account = account


def stop_in(error: BaseException | None) -> BudgetStop | None:
    """Return the stop that an exception is, also if it is a group of stops alone, as task groups raise."""
    while isinstance(error, BaseExceptionGroup) and error.split(BudgetStop)[1] is None:
        error = error.exceptions[0]
    return error if isinstance(error, BudgetStop) else None


class BudgetAccount:
    """What one entry of a scope has spent of its budget."""

    __slots__ = ("budget", "name", "reserved", "scope", "spent", "stopped", "warned")

    def __init__(self, budget: Budget, scope: Counted, name: str) -> None:
        self.budget = budget
        self.scope = scope
        self.name = name
        self.spent: dict[str, Any] = {"tokens": 0, "cost": NO_DOLLARS, "calls": 0}
        self.reserved = 0  # calls that were reserved before they began, in flight or ended; not among those spent
        self.stopped = False  # whether it has kept anything from being done
        self.warned = False
        if budget.cost is not None:
            STATE.loading(load_table)  # now, and not when the first call is charged, while the lock is taken

    @property
    def calls(self) -> int:
        """LM calls that have ended or are in flight."""
        return int(self.spent["calls"]) + self.reserved

    def charge(self, spent: dict[str, Any], key: UsageKey, counts: Counts, *, reserved: bool) -> None:
        """Add a call that has ended to what is spent; `reserved` says that it was taken as a call before it began."""
        if not reserved:
            spent["calls"] += counts.calls
        if key.source == "cache" or key.is_repeated:
            return
        spent["tokens"] += counts.tokens
        if self.budget.cost is not None:
            usage = priced(key, counts)
            spent["cost"] += usage.cost or 0
            if usage.unpriced_calls:
                warn_later(
                    f"price:{key.model}",
                    f"no price is known of {key.model!r}, so its calls cost the budget of {self.name!r} nothing; "
                    f"set_price({key.model!r}, input=..., output=...) tells one",
                )

    def spent_of(self, name: str) -> Any:
        """Return what is spent of a limit."""
        return self.calls if name == "calls" else self.spent[name]

    def spent_limit(self, *, over: bool = False) -> str | None:
        """Return the name of a limit that is reached (or exceeded, if `over`), or None."""
        for name in ("tokens", "cost") if over else LIMITS:
            limit, spent = getattr(self.budget, name), self.spent_of(name)
            if limit is not None and (spent > limit if over else spent >= limit):
                return name
        return None

    @property
    def exceeded(self) -> bool:
        """Whether it has kept anything from being done, or more is spent than it allows."""
        return self.stopped or any(
            (limit := getattr(self.budget, name)) is not None and self.spent_of(name) > limit for name in LIMITS
        )

    def sentence(self) -> str:
        """Say what is spent of what, and by how much the limit is exceeded."""
        name = self.spent_limit() or "calls"
        limit, spent = getattr(self.budget, name), self.spent_of(name)
        over = f", {amount(name, spent - limit)} more than that" if spent > limit else ""
        return f"the budget of {self.name!r}, {amount(name, limit)}, is spent: {amount(name, spent)}{over}"

    def balance(self) -> str:
        """Say what is spent of each limit, and whether the run was ended."""
        drain()
        parts = [
            f"{'$' if name == 'cost' else ''}{self.spent_of(name):,} of {amount(name, limit)}"
            for name in LIMITS
            if (limit := getattr(self.budget, name)) is not None
        ]
        return "; ".join(parts) + (": spent, and the run was ended" if self.stopped else "")

    def stop(self) -> None:
        """Raise in place of what was about to be done; or warn, and let it be done.

        Raises:
            BudgetStop: unless the budget only warns.
        """
        if self.budget.on_exceed != "warn":
            self.stopped = True
            raise BudgetStop(self)
        with STATE.lock: again, self.warned = self.warned, True  # fmt: skip
        if not again:
            message = f"{self.sentence()}; on_exceed='warn' lets the run go on"
            warnings.warn(message, TokenScopeWarning, stacklevel=host_level())

    def error(self) -> BudgetExceeded:
        """Return the exception for those outside of the scope."""
        report = report_of(self.scope)
        return BudgetExceeded(self.sentence(), self.name, self.budget, report.total, report)


def report_of(scope: Counted) -> Report:
    """Return a frozen report of a scope, its own name first; or of the process, at its top-level names."""
    return STATE.loading(_report_of, scope)


def _report_of(scope: Counted) -> Report:
    from tokenscope._report.report import Report

    above = scope.above
    path = scope.path if above is None else above.path
    report = Report.from_table(collect(scope), path, scoped=above is not None)
    return replace(report, _calls=(records, path.names))


# -- before something is spent ------------------------------------------------------------------------------------------


def check_entry(budgets: tuple[BudgetAccount, ...]) -> None:
    """Stop where a scope is entered and more is spent than an enclosing budget allows.

    Raises:
        BudgetStop: where a budget is exceeded.
    """
    drain()
    _stop_at([account for account in budgets if account.spent_limit(over=True)])


class Lender(Protocol):
    """An LM call in flight that may ask another LM, and hands on to it what was reserved: mostly it spends nothing itself."""

    scope: Any
    reserved: bool


def reserve(scope: Counted, lender: Lender | None = None) -> bool:
    """Reserve one LM call in every budget that holds in a scope; return whether there is any.

    Where there is no room, a lender hands on what was reserved for it.

    Raises:
        BudgetStop: where a budget is spent.
    """
    accounts: tuple[BudgetAccount, ...] = scope.budgets
    if not accounts:
        return False
    drain()
    with STATE.lock: spent = _reserve(accounts, lender)  # fmt: skip
    _stop_at(spent)
    return True


def _reserve(accounts: tuple[BudgetAccount, ...], lender: Lender | None) -> list[BudgetAccount]:
    spent, refused = _spent_of(accounts)
    if refused and lender is not None and lender.reserved:
        release(lender.scope)
        spent, refused = _spent_of(accounts)
        lender.reserved = refused
        for account in lender.scope.budgets if refused else ():
            account.reserved += 1
    for account in () if refused else accounts:
        account.reserved += 1
    return spent


def _spent_of(accounts: tuple[BudgetAccount, ...]) -> tuple[list[BudgetAccount], bool]:
    """Return the accounts that are spent, and whether one of them ends runs."""
    spent = [account for account in accounts if account.spent_limit()]
    return spent, any(account.budget.on_exceed != "warn" for account in spent)


def reserve_again(lender: Lender) -> None:
    """Reserve an LM call that has handed on what it had reserved, and is about to spend something itself.

    Raises:
        BudgetStop: where a budget is spent.
    """
    if not lender.reserved:
        lender.reserved = reserve(lender.scope)


def release(scope: Counted) -> None:
    """Give back a call that was reserved, and that will not be counted."""
    for account in scope.budgets:
        with STATE.lock: account.reserved -= 1  # fmt: skip


def _stop_at(spent: list[BudgetAccount]) -> None:
    """Stop at the outermost of the spent budgets, for what is inside of it ends with it; or let those warn that only do."""
    binding = [account for account in spent if account.budget.on_exceed != "warn"]
    for account in binding[-1:] or spent:
        account.stop()


# -- when a scope ends --------------------------------------------------------------------------------------------------


def conclude(account: BudgetAccount, error: BaseException | None) -> bool:
    """End a scope with a budget: return whether what was raised in it ends here, quietly.

    Raises:
        BudgetExceeded: the budget has kept something from being done, and does not end runs quietly.
        BaseException: what was raised beside, in a group, where the budget does.
    """
    drain()
    if not account.stopped:
        if account.budget.on_exceed == "warn" and account.exceeded:
            account.stop()
        return False
    rest = error
    if isinstance(error, BudgetStop) and error.account is account:
        rest = None
    elif isinstance(error, BaseExceptionGroup):
        rest = error.split(lambda each: isinstance(each, BudgetStop) and each.account is account)[1]
    if rest is not None and not isinstance(rest, Exception):
        return False  # the program is to end, or an outer budget is spent, too
    if account.budget.on_exceed == "raise":
        raise account.error() from rest
    if rest is not None and rest is not error:
        raise rest
    return rest is None


# -- budgets that are no scope's own ------------------------------------------------------------------------------------


def limit_process(budget: Budget) -> BudgetAccount:
    """Put a budget on everything that this process spends from now on, in scopes that are not open yet."""
    account = BudgetAccount(budget, STATE.root, "the program")
    STATE.root.budgets = (account,)
    return account


def account_of(scope: Counted, budget: Budget, name: str) -> BudgetAccount:
    """Return what a scope has spent until now of a budget that it does not own."""
    account = BudgetAccount(budget, scope, name)
    for key, counts in counted_in(scope):
        account.charge(account.spent, key, counts, reserved=False)
    return account
