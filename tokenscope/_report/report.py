"""Report: a frozen snapshot of a ledger, and every way of reading it.

A report is a flat tuple of rows in one canonical order (parents before children, siblings by name), so that equal reports are
equal tuples, reports add up like numbers, and a tree of any depth is walked without recursion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from tokenscope._report.attribution import attributions
from tokenscope._report.rows import Row, RowBuilder, RowInput, drafted
from tokenscope._report.tree import Breakdown, Node, costliest_first, find, tree_of
from tokenscope._usage.calls import Frame, ScopePath
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.prices import check_priced, priced, repriced
from tokenscope._usage.table import UsageTable
from tokenscope._usage.usage import ZERO, Counts, Usage

if TYPE_CHECKING:
    from tokenscope._report.diff import Diff
    from tokenscope._report.waste import Wastes


@dataclass(frozen=True, slots=True)
class Report:
    """What was spent, by scope and model: frozen, and a commutative monoid under `+` (so `sum(reports)` works).

    Made by `tokenscope.report()`, `scope.report()` and `Report.load(file)`. `Report()` is the empty one.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("ingest") as scope:
        ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        >>> report = scope.report() + scope.report()
        >>> report.total.total_tokens, list(report.by_model())
        (2400, ['mistral/mistral-ocr'])
    """

    rows: tuple[Row, ...] = ()
    scoped: bool = field(default=True)
    """Whether it begins at one scope, or at the top level of a process."""

    @classmethod
    def from_table(cls, table: UsageTable, above: ScopePath, *, scoped: bool) -> Report:
        """Build a report of counts that lie below the path `above`."""
        top = RowBuilder()
        drafts = {above: top}
        for path, row in table.rows.items():
            missing: list[ScopePath] = []
            here = path
            while here not in drafts:
                missing.append(here)
                assert here.parent is not None
                here = here.parent
            draft = drafts[here]
            for step in reversed(missing):
                draft = drafts[step] = draft.below(step.frame)
            draft.entries += row.entries
            draft.nanoseconds += row.nanoseconds
            for key, counts in row.counts.items():
                draft.add(key, priced(key, Counts(*counts)))
        top.prune()
        frozen = top.freeze()
        return cls(frozen, scoped or not frozen)

    # -- totals ---------------------------------------------------------------------------------------------------------

    @property
    def total(self) -> Usage:
        """Everything that was spent."""
        return sum((usage for row in self.rows for _, usage in row.models), ZERO)

    def by_module(self) -> Breakdown:
        """Partition the total by module.

        A call's module is the nearest enclosing one of `track_tokens` or `record_tokens`; else the path of its DSPy
        module; else the name of its scope; else `(no scope)`.
        """
        return self._partition(lambda place: place.whose)

    def by_operation(self) -> Breakdown:
        """Partition the total by `module.operation`; calls outside of any operation stand under their module."""
        return self._partition(lambda place: place.operation or place.whose)

    def by_model(self) -> Breakdown:
        """Partition the total by `provider/model`, as the caller named it."""
        found = Breakdown()
        for row in self.rows:
            for model, usage in row.models:
                found[model] = found.get(model, ZERO) + usage
        return costliest_first(found)

    def predictors(self) -> Breakdown:
        """Partition what DSPy modules spent by their flat path (`ResearchAgent.searcher.extract`), own tokens only."""
        return self._partition(lambda place: place.predictor)

    def _partition(self, name_of: Any) -> Breakdown:
        found = Breakdown()
        for row, place in attributions(self.rows):
            if row.models and (name := name_of(place)) is not None:
                found[name] = sum((usage for _, usage in row.models), found.get(name, ZERO))
        return costliest_first(found)

    def waste(self) -> Wastes:
        """Return what bought nothing, by module and by the reason; it is part of the total.

        Example:
            >>> from tokenscope import token_scope
            >>> with token_scope("pipeline") as scope:
            ...     pass  # run a DSPy program here
            >>> for module, waste in scope.report().waste().items():
            ...     print(module, waste.failed_parses.total_tokens, waste.total.cost)
        """
        from tokenscope._report.waste import waste_by_module

        return waste_by_module(self.rows)

    def statistics(self) -> dict[str, Any]:
        """Return the totals as plain numbers: `summary`, `by_module` and `by_model`."""
        from tokenscope._report.statistics import statistics

        return statistics(self)

    # -- the tree -------------------------------------------------------------------------------------------------------

    def tree(self) -> Node:
        """Return the tree: for a scope's report its own node, else a nameless node above the top-level ones."""
        return tree_of(self.rows, scoped=self.scoped)

    def find(self, path: str) -> Node:
        """Return the node at a path of names joined by `/`, from the top level down.

        Raises:
            KeyError: there is no such node; the message shows the nearest names.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
            >>> scope.report().find("ingest/ocr").usage.total_tokens
            1200
        """
        return find(self.tree(), path)

    # -- algebra --------------------------------------------------------------------------------------------------------

    def __add__(self, other: Report) -> Report:
        """Add up, path by path and model by model."""
        if not isinstance(other, Report):
            return NotImplemented
        first, second = ([RowInput(*row[:4], row.tallies) for row in report.rows] for report in (self, other))
        return Report(drafted(second, drafted(first)).freeze(), self.scoped and other.scoped)

    def __radd__(self, other: object) -> Report:
        """Let `sum(reports)` start from 0."""
        return self if other == 0 and not isinstance(other, bool) else NotImplemented

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.rows)

    def diff(self, newer: Report) -> Diff:
        """Return what changed from this report to a newer one, path by path: print it, or read its `changes` and `growth`.

        Raises:
            TypeError: `newer` is no report.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=0)
            >>> scope.report().diff(scope.report() + scope.report()).growth.tokens
            100.0
        """
        from tokenscope._report.diff import compare

        if not isinstance(newer, Report):
            raise TypeError(f"a report is compared with a Report, not with {type(newer).__name__} {newer!r}")
        return compare(self, newer)

    def reprice(self, model: str) -> Report:
        """Return the report of the same calls as though another model had answered them all, at that model's price.

        Each call is priced by itself, so tiers for long prompts hold. What a provider said that a call cost is left out. Tokens
        stay as they were counted: another model's tokenizer would have counted somewhat otherwise, and its answers differ.

        Args:
            model: The other model, `provider/model`, as `dspy.LM` names it.

        Raises:
            ValueError: nobody knows a price of that model.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "gpt-4o", "openai", input_tokens=1_000_000, output_tokens=0)
            >>> scope.report().total.cost, scope.report().reprice("openai/gpt-4o-mini").total.cost
            (Decimal('2.5'), Decimal('0.15'))
        """
        check_priced(model)
        lines = (
            RowInput(row.parent, row.frame, row.entries, row.nanoseconds, [_on(model, tally) for tally in row.tallies])
            for row in self.rows
        )
        return build(lines, scoped=self.scoped)

    # -- output ---------------------------------------------------------------------------------------------------------

    def render(self, format: str = "tree", **options: Any) -> str:  # noqa: A002 - the usual word
        """Return the report as text: always plain, for files and pipes.

        Args:
            format: `tree`, `table`, `markdown`, `html`, `json`, `csv`, `speedscope` or `folded`.
            **options: What the format takes; for `tree`, `width` in cells.

        Raises:
            ValueError: there is no such format.
        """
        from tokenscope._report import formats as render

        return render.renderer(format)(self, **options)

    def save(self, path: str | FilePath) -> None:
        """Write the report to a file, in the format of its suffix: `.json` to load again, `.txt` for the tree.

        The others are `.md`, `.html`, `.csv`, `.speedscope.json` and `.folded`. The file is written whole or not at all.

        Raises:
            ValueError: no format has that suffix.
            OSError: the file cannot be written.
        """
        from tokenscope._report import formats as render

        render.save(self, path)

    @classmethod
    def load(cls, path: str | FilePath) -> Report:
        """Read a report that was saved as JSON, or add up the records of a `JSONLSink`'s file.

        Raises:
            ReportFormatError: the file is damaged, is no report, or has another format; says which and where.
            OSError: the file cannot be read.
        """
        from tokenscope._report.reading import read_report

        return read_report(FilePath(path))

    def __str__(self) -> str:
        """Draw the tree for standard output: in its width, in colour where it is a terminal that shows any."""
        from tokenscope._report.formats import tree

        return tree.for_stdout(self)

    def __format__(self, spec: str) -> str:
        """Draw the tree in plain text."""
        return format(self.render("tree"), spec)

    def __rich__(self) -> object:
        """Let rich print the tree."""
        from tokenscope._report.formats import tree

        return tree.Rich(self)

    def _repr_html_(self) -> str:
        """Show the tree in a notebook."""
        from tokenscope._report.formats import notebook as _notebook

        return _notebook.render(self)

    def __repr__(self) -> str:
        return f"<Report of {len(self.rows):,} scopes, {self.total.total_tokens:,} tokens>"


def build(lines: Iterable[RowInput | tuple[int, Frame, int, int, Mapping[str, Usage]]], *, scoped: bool) -> Report:
    """Build a report of lines, those above before those below, siblings in any order."""
    return Report(drafted(lines).freeze(), scoped)


def _on(model: str, tally: ModelUsage) -> ModelUsage:
    """Return a tally as though another model had been called."""
    key = tally.key._replace(model=model)
    if key.source == "provider":
        key = key._replace(source="table")
    return ModelUsage(key, repriced(model, tally.key, tally.usage))
