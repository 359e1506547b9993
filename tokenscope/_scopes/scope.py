"""Scopes: entering and leaving one, and reading what was spent in it."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter_ns
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tokenscope._scopes.budget import Budget
from tokenscope._scopes.context import AttachedScope, Detour, active, entered, innermost, standing
from tokenscope._scopes.enforcement import BudgetAccount, check_entry, report_of
from tokenscope._scopes.event_log import Batch, counted_in, drain, elapsed
from tokenscope._scopes.generators import forget
from tokenscope._scopes.process import STATE, Counted
from tokenscope._usage.calls import Frame, ScopePath
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import Usage

if TYPE_CHECKING:
    from tokenscope._report.report import Report

S = TypeVar("S", bound="Scope")
_top: Final = entered.get
_set_top: Final = entered.set
_log: Final = STATE.log
_root: Final = STATE.root
_generator_scopes: Final = STATE.generator_scopes
_LONGEST_VALUE: Final = 1_000  # characters


class Scope:
    """One entry of a `token_scope`, of a decorated function, or of a DSPy module; made by entering one of these.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("pipeline") as scope:
        ...     record_tokens("search", "rerank", "rerank-3", "cohere", input_tokens=90, output_tokens=0)
        >>> scope.usage.total_tokens
        90
    """

    __slots__ = (
        "__weakref__",
        "above",
        "all_attributes",
        "below",
        "budgets",
        "detour",
        "ended",
        "is_referenced",
        "opened_by",
        "path",
        "started",
        "table",
    )

    path: ScopePath
    above: Counted
    below: Any  # what was on top of this Context, to be there again
    detour: Detour | None
    opened_by: object
    budgets: tuple[BudgetAccount, ...]
    all_attributes: Mapping[str, Any]  # its own, and those of the scopes around it
    table: UsageTable | None
    ended: int | None  # after so many nanoseconds
    is_referenced: bool  # whether anybody may ask for its counts when it has ended
    started: int

    # -- for users ------------------------------------------------------------------------------------------------------

    @property
    def parent(self) -> Scope | None:
        """The scope that was active where this one was entered."""
        above = self.above
        return referenced(above) if isinstance(above, Scope) else None

    @property
    def name(self) -> str:
        """The innermost name of this scope's path."""
        return self.path.frame.name

    @property
    def kind(self) -> str:
        """What opened it: `scope`, `operation` (a decorated function), `dspy`, `tool`, `evaluate`, `compile` or `phase`."""
        return self.path.frame.kind

    @property
    def usage(self) -> Usage:
        """What was spent in this entry of the scope until now, everything inside it included."""
        return STATE.loading(_usage_of, self)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What `token_scope(name, **attributes)` was given."""
        return getattr(self.opened_by, "attributes", None) or {} if self.kind == "scope" else {}

    @property
    def budget_exceeded(self) -> bool:
        """Whether the scope has a budget that ended its block, or more is spent in it than its budget allows."""
        drain()
        account = self.account
        return account is not None and account.exceeded

    @property
    def seconds(self) -> float:
        """How long it has been open, or was, in seconds."""
        return elapsed(self) / 1e9

    def report(self) -> Report:
        """Return a frozen report of this entry of the scope, its own name first; at any moment, from any thread."""
        return report_of(self)

    def __str__(self) -> str:
        """Draw the tree of this scope: in colour where standard output is a terminal."""
        return str(self.report())

    def __rich__(self) -> object:
        """Let rich print the tree."""
        return self.report().__rich__()

    def _repr_html_(self) -> str:
        """Show the tree in a notebook."""
        return self.report()._repr_html_()  # pyright: ignore[reportPrivateUsage]

    def __repr__(self) -> str:
        state = "open" if self.ended is None else "closed"
        # Without a price: that would load the table of prices.
        spent = [counts for key, counts in counted_in(self) if key.source != "cache" and not key.is_repeated]
        tokens = sum(counts.tokens for counts in spent)
        return f"<Scope {'/'.join(self.path.names[-8:])!r}, {state}, {tokens:,} tokens>"

    # -- for whatever opens scopes --------------------------------------------------------------------------------------

    @property
    def account(self) -> BudgetAccount | None:
        """What is spent of the scope's own budget; None if it has none."""
        budgets = self.budgets
        return budgets[0] if budgets and budgets[0].scope is self else None

    def leave(self, error: BaseException | None = None, result: Any = None) -> None:  # noqa: ARG002 - as a patch's entry
        """End this entry. Never raises, in whatever order and Context scopes are left; if it was interrupted, call it again."""
        ended = self.ended
        if ended is None:
            taken = perf_counter_ns() - self.started
            # In one line, so that both are done or none; `ended` first, before the table is looked at, which another thread may
            # make. In most scopes nothing was counted yet: these need not be kept until the log is drained.
            self.ended = taken; _log.append((self.above, self.path, taken) if self.table is None else self)  # fmt: skip
        if _top() is self:
            _set_top(self.below)
        else:
            self._leave_elsewhere(ended is None)
        if len(_log) > STATE.most_events:
            drain()

    finish = leave
    """How a patch ends its entry: here, as there is nothing else to do."""

    found = ()  # as an event: there is nothing to find out

    def put(self, batch: Batch) -> None:
        """Add the end of this entry to a batch."""
        batch.ended.append(self)
        batch.add_entries(self.above, self.path, 1, self.ended or 0)

    begin = _set_top
    """`Scope.begin(scope)` makes a scope the active one; it is no method. To be called where an interrupt leaves it again."""

    def _leave_elsewhere(self, is_first: bool) -> None:
        """Leave a scope that is not on top here: a generator's, one under others, or one of another Context."""
        if self.detour is not None and self.detour.frame is not None:
            forget(self, self.detour.frame)
            self.detour.frame = None
            return
        here = top = entered.get()
        while here is not None and here.below is not self:
            here = here.below
        if here is None:
            if is_first:  # entered in another Context: look-ups there step over it from now on
                self.detour = Detour(self.below, left_elsewhere=True)
            return
        here.below = self.below
        while top is not None and top.ended is not None:  # its end was interrupted
            top = top.below
        entered.set(top)


def open_scope(
    kind: type[S],
    frames: tuple[Frame, ...],
    opened_by: object = None,
    budget: Budget | None = None,
    frame: FrameType | None = None,
) -> S:
    """Return a scope that is about to begin.

    Args:
        kind: The class of the scope.
        frames: Its levels, below those of the active scope.
        opened_by: The `token_scope` or specification that opens it, or a weak reference to the DSPy module: until the scope's
            end is counted, it must not keep what a program has forgotten.
        budget: How much may be spent in it.
        frame: The frame of the generator whose `with` statement opens it.

    Raises:
        BudgetStop: where a budget of an enclosing scope is exceeded.
    """
    below: Any = _top()
    if frame is not None or _generator_scopes or (below is not None and below.detour is not None):
        below, above, detour = _around(below, frame)
    else:
        above, detour = below or _root, None
    budgets: tuple[Any, ...] = above.budgets
    if budgets:
        check_entry(budgets)
    path: ScopePath = above.path
    for each in frames:
        path = path.children.get(each) or path.child(each)
    scope = kind()
    scope.path = path
    scope.above = above
    scope.below = below
    scope.detour = detour
    scope.budgets = budgets
    scope.opened_by = opened_by
    scope.all_attributes = above.all_attributes
    scope.table = scope.ended = None
    scope.is_referenced = False
    if budget is not None:
        scope.budgets = (BudgetAccount(budget, scope, "/".join(each.name for each in frames)), *budgets)
    scope.started = perf_counter_ns()
    return scope


def with_attributes(scope: S, attributes: Mapping[str, Any]) -> S:
    """Give a scope attributes of its own, and return it."""
    scope.all_attributes = {**scope.all_attributes, **dict(map(_plain_attribute, attributes.items()))}
    return scope


def _plain_attribute(attribute: tuple[str, Any]) -> tuple[str, Any]:
    """Return an attribute with a value that keeps nothing alive, and that can be written to a file."""
    name, value = attribute
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return name, value
    # Without a `__str__` of its own, an object would show its address, or all that it holds, such as the rows of a query.
    has_text = kind in (int, list, tuple) or getattr(kind, "__str__", None) is not object.__str__
    try:  # an int of thousands of digits has no text
        text = str(value)[:_LONGEST_VALUE] if has_text else f"<{kind.__name__}>"
    except Exception:  # noqa: BLE001 - the host program has asked for no text
        return name, f"<{kind.__name__}>"
    return name, value if kind is int else text


def _around(below: Any, frame: FrameType | None) -> tuple[Any, Counted, Detour | None]:
    """Return what is on top of this Context, and the active scope, where the two may differ."""
    below, upon = standing(below), innermost()
    active_scope = upon.scope if type(upon) is AttachedScope else upon
    return below, active_scope or _root, Detour(upon, frame) if frame is not None or upon is not below else None


def _usage_of(scope: Scope) -> Usage:
    from tokenscope._usage.model_usage import ModelUsage, total
    from tokenscope._usage.prices import priced

    return total(ModelUsage(key, priced(key, counts)) for key, counts in counted_in(scope))


def current_scope() -> Scope | None:
    """Return the innermost scope that is active here, or None.

    Example:
        >>> from tokenscope import current_scope, token_scope
        >>> with token_scope("outer"):
        ...     current_scope().name
        'outer'
    """
    scope = active()
    return None if scope is None else referenced(scope)


def referenced(scope: Scope) -> Scope | None:
    """Return a scope to somebody who may ask for its counts at any time; None for one that only stands for no scope."""
    refer_to(scope)
    while isinstance(scope.above, Scope) and scope.path is scope.above.path:  # one of several runs in that scope
        scope = scope.above
    if scope.path.parent is None:  # what a worker does for another process, in no scope of its own
        return None
    return scope


def refer_to(scope: Any) -> None:
    """Keep the counts of a scope, and of those above it, also when they have ended."""
    while not scope.is_referenced:
        scope.is_referenced = True
        scope = scope.above
