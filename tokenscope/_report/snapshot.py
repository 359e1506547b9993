"""Snapshot: what was spent at one moment, as frozen rows. Everything that is read from a report is computed here.

A snapshot draws, saves and loads nothing: it knows no format. `Report` is the snapshot that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, Self, TypeVar

from tokenscope._report import parts
from tokenscope._report.attribution import Attribution, attributions
from tokenscope._report.breakdown import Breakdown, breakdown_of, spent_by_model
from tokenscope._report.parts import Reread
from tokenscope._report.rows import NO_ROWS, Row, RowBuilder, Rows, rows_since
from tokenscope._report.tree import Node, find, tree_of
from tokenscope._report.waste import Wastes, waste_by_module
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import ATTRIBUTES, Call, Frame, ScopePath
from tokenscope._usage.custom_prices import custom_names, custom_price, unused_names
from tokenscope._usage.keys import NO_MODEL, UsageKey
from tokenscope._usage.model_usage import ModelUsage, total
from tokenscope._usage.price_dates import moment_now
from tokenscope._usage.price_list import Price, merged, prices_of
from tokenscope._usage.prices import check_priced, priced, repriced, settle
from tokenscope._usage.table import UsageRow, UsageTable
from tokenscope._usage.usage import ZERO, Counts, Usage, subtract

S = TypeVar("S", bound="Snapshot")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was spent, by scope and model: frozen, and a commutative monoid under `+`."""

    rows: Rows = NO_ROWS
    scoped: bool = True  # whether it begins at one scope, or at the top level of a process
    _prices: tuple[Price, ...] = field(default=(), compare=False)  # what its costs were reckoned with
    unused_prices: tuple[str, ...] = field(default=(), compare=False)  # names that prices are set for, and no call has
    attributes: Rows = NO_ROWS  # what was spent by attribute (the upper rows) and value (the rows below)
    _calls: tuple[Callable[[], tuple[Call, ...]], tuple[str, ...]] | None = field(
        default=None, compare=False, repr=False
    )
    """How to get the latest calls of this process, and the names above those of the report."""

    @classmethod
    def from_rows(
        cls,
        inputs: Iterable[Row],
        *,
        scoped: bool,
        prices: tuple[Price, ...] = (),
        unused_prices: tuple[str, ...] = (),
        attributes: Iterable[Row] = (),
    ) -> Self:
        """Build a snapshot of rows in any order, each after its parent."""
        rows, of_attributes = (RowBuilder().add_rows(each).freeze() for each in (inputs, attributes))
        return cls(rows, scoped, prices, unused_prices, of_attributes)

    @classmethod
    def from_table(
        cls,
        table: UsageTable,
        above: ScopePath,
        *,
        scoped: bool,
        price: Callable[[UsageKey, Counts], Usage] | None = None,
    ) -> Self:
        """Build a snapshot of counts at paths below the path `above`, at their prices, or priced by a function."""
        builder, of_attributes = RowBuilder(), RowBuilder()
        _add_counts(builder, table.rows, above, price or priced)
        _add_counts(of_attributes, table.attribute_rows, ATTRIBUTES, price or priced)
        rows, attributes = builder.freeze(prune=True), of_attributes.freeze()
        scoped = scoped or not rows
        if price is not None:
            return cls(rows, scoped, attributes=attributes)
        unused = unused_names(custom_names(), {key.model for key in builder.keys})
        return cls(rows, scoped, prices_of(builder.keys), unused, attributes)

    @property
    def total(self) -> Usage:
        """Everything that was spent."""
        return total(self.rows.usages())

    def by_module(self) -> Breakdown:
        """Partition the total by module.

        A call's module is the nearest of `track_tokens` or `record_tokens`; else its DSPy path; else its scope, or `(no scope)`.
        """
        return self._partition("module")

    def by_operation(self) -> Breakdown:
        """Partition the total by `module.operation`. Calls outside of every operation are under their module."""
        return self._partition("operation")

    def by_model(self) -> Breakdown:
        """Partition the total by `provider/model`, as the caller named it; amounts of `record_cost` are under `(no model)`."""
        return spent_by_model(self.rows.usages())

    def by_attribute(self, name: str) -> Breakdown:
        """Partition the total by the value of an attribute, as text; `(none)` is what was spent where it had none.

        2,000 values of an attribute are told apart. What calls with further ones spent is under `(other)`.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("service") as scope:
            ...     with token_scope("request", user="alice"):
            ...         record_tokens(model="gpt-4o-mini", input_tokens=900, output_tokens=300)
            ...     record_tokens(model="gpt-4o-mini", input_tokens=50, output_tokens=10)
            >>> {user: usage.total_tokens for user, usage in scope.report().by_attribute("user").items()}
            {'alice': 1200, '(none)': 60}
        """
        return breakdown_of((value, each.spent) for value, usages in _by_value(self, name) for each in usages)

    def by_part(self) -> Breakdown:
        """Partition the input by part of the prompt, such as `instructions`, `demos` or `input:context`.

        Prompts are measured if a program asks for it: `instrument(prompt_parts=True)`. The input of other calls is under
        `(not measured)`. The parts of each call add up to the input that it was billed for. How that is split is an estimate.
        A part's `calls` are those whose prompts had it. Its cost is that of input, by the table of prices.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens(model="gpt-4o-mini", input_tokens=900, output_tokens=300)
            >>> scope.report().by_part()["(not measured)"].input_tokens
            900
        """
        return parts.by_part(self.rows.usages())

    def parts(self) -> dict[str, Breakdown]:
        """Return the input by part of the prompt for each predictor, as `by_part` does for all.

        Outside of DSPy, modules take the place of predictors.
        """
        return parts.by_predictor(self.rows)

    def by_turn(self) -> dict[str, dict[int, Breakdown]]:
        """Return what each predictor was given in its 1st, 2nd, ... call within one entry of the module around it, by part.

        The 32nd and all later calls are together.
        """
        return parts.by_turn(self.rows)

    def carried(self) -> dict[str, Breakdown]:
        """Return the input that prompts had in common with those of the turn before, by predictor and part.

        It is part of the input: a view on it, that nothing else counts.
        """
        return parts.carried(self.rows)

    def changed(self) -> dict[str, Breakdown]:
        """Return the parts at which prompts first differ from the predictor's prompt before, by predictor.

        Each has the number of such calls, and their input from there to the end, which no provider's cache can hold.
        """
        return parts.changed(self.rows)

    def rereads(self) -> dict[str, dict[str, Reread]]:
        """Return what tools added to prompts, and how much of it later prompts held again, by predictor and tool.

        What the predictors inside an agent are given of its tools counts with the agent.
        """
        return parts.rereads(self.rows)

    def call_sizes(self) -> dict[str, CallSizes]:
        """Return how many tokens and seconds calls took, by predictor: the median, the 95th percentile and the maximum.

        There is one for each predictor with a measured prompt (see `by_part`).
        """
        return parts.sizes(self.rows)

    def predictors(self) -> Breakdown:
        """Partition what DSPy modules spent by their path (`ResearchAgent.searcher.extract`), own tokens only."""
        return self._partition("predictor")

    def _partition(self, by: str) -> Breakdown:
        return breakdown_of((name, each.spent) for row, name in _named(self.rows, by) for each in row.usages)

    def prices(self) -> tuple[Price, ...]:
        """Return what the costs were reckoned with: each price, where it comes from, and its rates.

        Calls without a known price are not among them. A saved report keeps its prices; records (JSONL) keep only the costs.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "gpt-4o-mini", "openai", input_tokens=900, output_tokens=300)
            >>> price = scope.report().prices()[0]
            >>> price.model, price.source, price.rates["input_tokens"]
            ('openai/gpt-4o-mini', 'genai-prices', Decimal('0.15'))
        """
        return self._prices

    def waste(self) -> Wastes:
        """Return what was wasted, by module and by reason. It is part of the total.

        Example:
            >>> from tokenscope import token_scope
            >>> with token_scope("pipeline") as scope:
            ...     pass  # run a DSPy program here
            >>> for module, waste in scope.report().waste().items():
            ...     print(module, waste.failed_parses.total_tokens, waste.total.cost)
        """
        return waste_by_module(self.rows)

    def statistics(self) -> dict[str, Any]:
        """Return the totals as plain numbers: `summary`, `by_module` and `by_model`."""
        summary = {
            f"total_{name}" if name.endswith("tokens") and not name.startswith("total") else name: value
            for name, value in self.total.to_dict().items()
        }
        summary["total_calls"] = summary.pop("calls")
        summary["total_cost"] = summary.pop("cost")
        return {
            "summary": dict(sorted(summary.items(), key=lambda item: not item[0].startswith("total_"))),
            "by_module": {name: _numbers(usage) for name, usage in self.by_module().items()},
            "by_model": {name: _numbers(usage) for name, usage in self.by_model().items()},
        }

    def tree(self) -> Node:
        """Return the tree: a scope's own node, or a nameless root above the top-level names of a process."""
        return tree_of(self.rows, scoped=self.scoped)

    def find(self, path: str) -> Node:
        """Return the node at a path of names joined by `/`: the whole path from the top level down, or its last names.

        Raises:
            KeyError: there is no such node, or several have these last names. The message shows the nearest names, or all paths.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
            >>> scope.report().find("ingest/ocr").usage.total_tokens
            1200
            >>> scope.report().find("page").path
            ('ingest', 'ocr', 'page')
        """
        return find(self.tree(), path)

    def __add__(self, other: Snapshot) -> Self:
        """Add up, path by path and model by model."""
        if not isinstance(other, Snapshot):
            return NotImplemented
        rows = RowBuilder().add_rows(self.rows).add_rows(other.rows).freeze()
        if unused := self.unused_prices + other.unused_prices:
            unused = unused_names(unused, _models(rows))
        attributes = RowBuilder().add_rows(self.attributes).add_rows(other.attributes).freeze()
        prices = merged([*self._prices, *other._prices])
        return type(self)(rows, self.scoped and other.scoped, prices, unused, attributes)

    def __radd__(self, other: object) -> Self:
        """Let `sum(reports)` start from 0."""
        if other == 0 and not isinstance(other, bool):
            return self
        return NotImplemented

    def __sub__(self, older: Snapshot) -> Self:
        """Return what was spent since an older report of the same run: `newer - older`.

        Raises:
            ValueError: a path of the older one is gone or has shrunk. The message names it.
        """
        if not isinstance(older, Snapshot):
            return NotImplemented
        pairs = (self.rows, older.rows), (self.attributes, older.attributes)
        rows, attributes = (RowBuilder().add_rows(rows_since(*pair)).freeze() for pair in pairs)
        models = _models(rows)
        prices = tuple(price for price in self._prices if price.model in models)
        return type(self)(rows, self.scoped, prices, unused_names(self.unused_prices, models), attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rows, self.scoped, self._prices, self.unused_prices, self.attributes)

    def __bool__(self) -> bool:
        """Whether it has any rows."""
        return bool(self.rows)

    def reprice(self, model: str) -> Self:
        """Return what the same calls would cost today if one model, another or the same, answered all of them.

        A report's own costs are as of when its calls were made. Each call is priced by itself, so tiers for long prompts are
        kept. Costs that providers reported are left out; amounts of `record_cost` stay. Tokens stay as they were counted.
        Another model's tokenizer would count slightly differently, and its answers differ.

        Args:
            model: The other model, `provider/model`, as `dspy.LM` names it.

        Raises:
            ValueError: no price of that model is known.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "gpt-4o", "openai", input_tokens=1_000_000, output_tokens=0)
            >>> scope.report().total.cost, scope.report().reprice("openai/gpt-4o-mini").total.cost
            (Decimal('2.5'), Decimal('0.15'))
        """
        check_priced(model)
        rows, attributes = (
            RowBuilder()
            .add_rows(row._replace(usages=[_reprice(each, model) for each in row.usages]) for row in rows)
            .freeze()
            for rows in (self.rows, self.attributes)
        )
        return type(self)(rows, self.scoped, prices_of(set(rows.keys)), attributes=attributes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.rows):,} scopes, {self.total.total_tokens:,} tokens>"


def _add_counts(
    builder: RowBuilder,
    rows: Mapping[ScopePath, UsageRow],
    above: ScopePath,
    price: Callable[[UsageKey, Counts], Usage],
) -> None:
    """Add counts at paths below the path `above`."""
    numbers: dict[UsageKey, int] = {}
    indexes = {above: -1}
    for path, row in rows.items():
        missing: list[ScopePath] = []
        here = path
        while (index := indexes.get(here)) is None:
            missing.append(here)
            assert here.parent is not None
            here = here.parent
        if path is above:
            continue
        for step in reversed(missing):
            index = indexes[step] = builder.row(index, step.frame)
        builder.add_entries(index, row.entries, row.nanoseconds)
        builder.add_sizes(index, row.sizes)
        for key, spent in row.counts.items():
            if (number := numbers.get(key)) is None:
                number = numbers[key] = builder.number(settle(key))
            builder.add(index, number, price(key, spent))


def _numbers(usage: Usage) -> dict[str, Any]:
    counts = usage.to_dict()
    first = {name: counts.pop(name) for name in ("input_tokens", "output_tokens", "total_tokens")}
    return {**first, "call_count": counts.pop("calls"), **counts}


def _reprice(each: ModelUsage, model: str) -> ModelUsage:
    if each.key.model == NO_MODEL:
        return each
    source = "table" if each.key.source in ("provider", "call") else each.key.source
    key = each.key._replace(model=model, source=source, moment=moment_now(model), terms=())
    return ModelUsage(key, repriced(key, each.usage))


# -- views: snapshots made of a snapshot, which every format can draw ---------------------------------------------------------

_NAMES: Final[dict[str, Callable[[Attribution], str | None]]] = {
    "module": attrgetter("module"),
    "predictor": attrgetter("predictor"),
    "operation": attrgetter("qualified_operation"),
}
"""The breakdowns besides the one by model, and how each names what a row belongs to."""


def _named(rows: Rows, by: str) -> Iterator[tuple[Row, str]]:
    for row, attribution in attributions(rows):
        if row.usages and (name := _NAMES[by](attribution)) is not None:
            yield row, name


def _by_value(snapshot: Snapshot, name: str) -> Iterator[tuple[str, Sequence[ModelUsage]]]:
    """Yield the values of an attribute, each with what was spent, as finely as prices need it."""
    rest: dict[UsageKey, Usage] = {}
    for key, usage in snapshot.rows.usages():
        if key.part is not None:
            continue
        rest[key] = rest[key] + usage if key in rest else usage
    is_meant = False
    for row in snapshot.attributes:
        if row.parent < 0:
            is_meant = row.frame.name == name
        elif is_meant:
            yield row.frame.name, row.usages
            rest.update((key, subtract(rest.get(key, ZERO), usage)) for key, usage in row.usages)
    if others := [ModelUsage(key, usage) for key, usage in rest.items() if usage]:
        yield "(none)", others


def pivot(snapshot: S, by: str) -> S:
    """Return a breakdown as a flat snapshot, with one top-level row for each name; an unknown one raises a ValueError.

    It adds up to the same total; by `predictor`, to what DSPy's modules spent. Its rows have no times and entries, because scopes
    that are open at once share their time.
    """
    inputs: Iterable[Row]
    if by == "part":
        inputs = (
            Row(-1, Frame("part", name), 0, 0, [each._replace(key=each.key._replace(part=None))])
            for name, each in parts.parts_of_input(snapshot.rows.usages())
        )
    elif by == "model":
        inputs = (Row(-1, Frame("scope", each.key.model), 0, 0, [each]) for each in snapshot.rows.usages())
    elif by in _NAMES:
        kind = "dspy" if by == "predictor" else "module"
        inputs = (Row(-1, Frame(kind, name), 0, 0, row.usages, row.sizes) for row, name in _named(snapshot.rows, by))
    elif by in (names := [row.frame.name for row in snapshot.attributes if row.parent < 0]):
        inputs = (Row(-1, Frame("scope", value), 0, 0, usages) for value, usages in _by_value(snapshot, by))
    else:
        known = ", ".join(["model", *_NAMES, "part", *names])
        raise ValueError(f"there is no breakdown by {by!r}; there are {known}")
    return _view(snapshot, inputs)


def is_by_part(snapshot: Snapshot) -> bool:
    """Whether a snapshot is the breakdown by part of the prompt. Its rows are of the input only, and have calls in common."""
    return bool(snapshot.rows) and snapshot.rows.frames[0].kind == "part"


def view(snapshot: S, by: str | None, depth: int | None) -> S:
    """Return a breakdown of a snapshot, or its upper levels, or what it is if neither is asked for."""
    found = snapshot if by is None else pivot(snapshot, by)
    return found if depth is None else cut(found, depth)


def cut(snapshot: S, depth: int) -> S:
    """Return the upper levels of a snapshot, 1 or more. Deeper levels are added to the last one."""
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, but is {depth!r}")
    return _view(snapshot, _cut(snapshot.rows, depth), scoped=snapshot.scoped)


def _cut(rows: Rows, depth: int) -> Iterator[Row]:
    above: list[tuple[int, Row]] = []
    for index, row in enumerate(rows):
        while above and above[-1][0] != row.parent:
            above.pop()
        above.append((index, row))
        last = above[min(len(above), depth) - 1][1]
        yield row if last is row else Row(last.parent, last.frame, 0, 0, row.usages, row.sizes)


def with_missing_costs(snapshot: S) -> S:
    """Return a snapshot in which calls without a known cost have the prices that are set here. Other costs stay."""
    if not (names := custom_names()):
        return snapshot
    inputs, attributes = (
        (row._replace(usages=list(map(_with_cost, row.usages))) for row in rows)
        for rows in (snapshot.rows, snapshot.attributes)
    )
    keys = {each.key for each in snapshot.rows.usages() if _lacks_cost(each)}
    prices = merged([*snapshot.prices(), *prices_of(keys)])
    unused = unused_names(names, _models(snapshot.rows))
    return snapshot.from_rows(
        inputs, scoped=snapshot.scoped, prices=prices, unused_prices=unused, attributes=attributes
    )


def _models(rows: Rows) -> set[str]:
    return {key.model for key in rows.keys if not key.is_repeated}


def _lacks_cost(each: ModelUsage) -> bool:
    return each.usage.cost is None and custom_price(each.key.model) is not None


def _with_cost(each: ModelUsage) -> ModelUsage:
    return ModelUsage(each.key, repriced(each.key, each.usage)) if _lacks_cost(each) else each


def _view(snapshot: S, inputs: Iterable[Row], *, scoped: bool = False) -> S:
    rows = RowBuilder().add_rows(inputs).freeze()
    return type(snapshot)(rows, scoped or not rows, snapshot.prices(), snapshot.unused_prices, snapshot.attributes)
