"""Report and Diff: what users read, print and save. A report is a snapshot, and a diff a comparison, that can be drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tokenscope._report.changes import Comparison, changes_between
from tokenscope._report.snapshot import Snapshot

if TYPE_CHECKING:
    from tokenscope._report.advice import Finding
    from tokenscope._report.forecast import Forecast
    from tokenscope._report.formats import Options
    from tokenscope._report.formats.terminal import Drawing
    from tokenscope._report.record import Record


class Report(Snapshot):
    """What was spent, by scope and model: frozen, and a commutative monoid under `+` (so `sum(reports)` works).

    Made by `tokenscope.report()`, `scope.report()` and `Report.load(file)`. `Report()` is empty.

    Example:
        >>> from tokenscope import record_tokens, token_scope
        >>> with token_scope("ingest") as scope:
        ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        >>> report = scope.report() + scope.report()
        >>> report.total.total_tokens, list(report.by_model())
        (2400, ['mistral/mistral-ocr'])
    """

    __slots__ = ()

    def diff(self, newer: Report) -> Diff:
        """Return what changed from this report to a newer one. Print it, or read its `changes` and `growth`.

        Raises:
            TypeError: `newer` is no report.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=0)
            >>> scope.report().diff(scope.report() + scope.report()).growth.tokens
            100.0
        """
        if not isinstance(newer, Report):
            raise TypeError(f"a report is compared with a Report, not with {type(newer).__name__} {newer!r}")
        return Diff(self, newer, changes_between(self, newer))

    def records(self, path: str = "") -> tuple[Record, ...]:
        """Return the latest calls that were made at a path and below, the oldest first.

        They are those that the tracker of this process keeps now (see `TokenTracker.max_records`). A report that was loaded,
        added up or sent from another process has none.

        Args:
            path: The names joined by `/`, or the last of them, as `find` takes them. Empty for all calls of the report.

        Raises:
            KeyError: nothing was counted there, or several paths have these last names. The message shows which.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
            >>> scope.report().records("ocr")[-1].total_tokens
            1200
        """
        from tokenscope._report.record import Record

        node = self.find(path) if path else self.tree()
        if self._calls is None:
            return ()
        latest, above = self._calls
        names = (*above, *node.path)
        return tuple(Record(call) for call in latest() if call.path.names[: len(names)] == names)

    def scale(self, *, samples: int, to: int, records: Iterable[Mapping[str, Any]] = ()) -> Forecast:
        """Return what a run of more samples, or fewer, is expected to spend, and in which range.

        A scope that was entered once, such as one for set-up, is taken to be entered once in the larger run. All others grow with
        the samples. The range holds in 95 of 100 runs: it is the prediction interval of Student's t for the sum of new samples.
        There is one if the samples can be told apart: by numbers in the names of their scopes (`token_scope(f"sample {n}")`), by
        their attribute `sample` (`token_scope("ask", sample=n)`), or by the records of samples that ran one after the other.

        Args:
            samples: How many samples this run made.
            to: How many samples the other run makes.
            records: The records of this run's calls, such as `get_tracker().records`.

        Raises:
            TypeError: a number of samples is no whole number.
            ValueError: a number of samples is less than 1.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("run") as scope:
            ...     for n, tokens in enumerate([900, 1_000, 1_100]):
            ...         with token_scope(f"sample {n}"):
            ...             record_tokens("ocr", "page", "gpt-4o-mini", "openai", input_tokens=tokens, output_tokens=100)
            >>> forecast = scope.report().scale(samples=3, to=1_000)
            >>> forecast.expected.total_tokens, forecast.tokens
            (1100000, (851213, 1348787))
        """
        from tokenscope._report.forecast import forecast
        from tokenscope._report.formats.json import line

        return forecast(self, samples, to, (line(dict(record)) for record in records))

    def findings(self) -> tuple[Finding, ...]:
        """Return what makes the run cost more than it needs to, and what to do about it: at most ten, ranked by money.

        Each is a sentence with its numbers: demos, instructions, tools, a field, the format, the history or media that are most
        of a predictor's input; results of tools that are read again and again, and conversations that grow; a context window
        that is nearly full; a provider's cache that is not used; and waste. All but waste need measured prompts (see `by_part`).

        A finding rests on at least five calls, and would save at least 3% of the run's cost, or of its tokens if no price is
        known. What it would save is an estimate: the tokens that the advice leaves out, at their price in this run. It does not
        say whether the answers stay as good.

        Example:
            >>> from tokenscope import token_scope
            >>> with token_scope("pipeline") as scope:
            ...     pass  # run a DSPy program here
            >>> for finding in scope.report().findings():
            ...     print(finding)
        """
        from tokenscope._report.advice import advice

        return advice(self)

    def render(self, format: str = "tree", **options: Unpack[Options]) -> str:  # noqa: A002 - the usual word
        """Return the report as plain text.

        Args:
            format: `tree`, `table`, `markdown`, `html`, `json`, `csv`, `speedscope` or `folded`.
            **options: What is shown, and how. For every format: `by="model"` (or `module`, `predictor`, `operation`, `part`, or
                the name of an attribute) for a flat list instead of the tree, and `depth=2` for so many levels. For some formats:
                `sort="cost"` (or `tokens`, `calls`, `time`, `name`), `top=20` rows at most (`tree` has 60; None for all),
                `min_share=0.01` of the total at least, the tree's `width`, in cells, and `parts=True` for the parts of prompts
                by predictor, if they were measured.

        Raises:
            ValueError: there is no such format, or an option has a wrong value.
            TypeError: the format does not have such an option.

        Example:
            >>> from tokenscope import record_tokens, token_scope
            >>> with token_scope("ingest") as scope:
            ...     record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
            >>> print(scope.report().render("table", by="model"))
            Model               | Input | Output | Total
            --------------------------------------------
            mistral/mistral-ocr |   900 |    300 | 1,200
            <BLANKLINE>
            No price is known for 1 call of mistral/mistral-ocr.
        """
        from tokenscope._report.formats import arranged

        draw, shown, chosen = arranged(self, format, **options)
        return draw(shown, **chosen)

    def save(self, path: str | Path, format: str | None = None, **options: Unpack[Options]) -> None:  # noqa: A002
        """Write the report to a file, in the format of its suffix: `.json` to load it again, `.txt` for the tree.

        Other suffixes are `.md`, `.html`, `.csv`, `.speedscope.json` and `.folded`. The file is written whole or not at all, into
        a folder that is made if it does not exist.

        Args:
            path: The file.
            format: The format, if the suffix does not say it.
            **options: As `render` takes them.

        Raises:
            ValueError: no format has that suffix or that name, or an option has a wrong value.
            TypeError: the format does not have such an option.
            OSError: the file cannot be written.
        """
        from tokenscope._report.files import write_whole
        from tokenscope._report.formats import format_of

        write_whole(Path(path), self.render(format or format_of(path), **options))

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report that was saved as JSON, or add up the records in a `JSONLSink`'s file.

        Raises:
            ReportFormatError: the file is damaged, is no report, or has another format. The message says what and where.
            OSError: the file cannot be read.
        """
        from tokenscope._report.reading import read_file

        snapshot = read_file(Path(path))
        return cls(snapshot.rows, snapshot.scoped, snapshot.prices(), attributes=snapshot.attributes)

    def __str__(self) -> str:
        """Draw the tree for standard output: in its width, and in colour if it is a terminal that shows colours."""
        return self.__rich__().on(sys.stdout)

    def __format__(self, spec: str) -> str:
        """Draw the tree as plain text."""
        return format(self.render(), spec)

    def __rich__(self) -> Drawing:
        """Let rich print the tree."""
        from tokenscope._report.formats.tree import drawing

        return drawing(self)

    def _repr_html_(self) -> str:
        """Show the tree in a notebook."""
        from tokenscope._report.formats.notebook import render

        return render(self)


@dataclass(frozen=True, slots=True)
class Diff(Comparison):
    """What changed from one report to another: `old.diff(new)`.

    Args:
        before: The older report.
        after: The newer one.
        changes: The paths where anything changed at or below them, parents before children, of siblings the largest change first.
            Each has what was spent there and below.
    """

    before: Report
    after: Report

    def render(self, format: str = "text", **options: Any) -> str:  # noqa: A002 - the usual word
        """Return the diff as plain text.

        Args:
            format: `text`, `markdown`, `html` or `json`.
            **options: Options of the format. `text` takes `width`, in cells.

        Raises:
            ValueError: there is no such format.
        """
        from tokenscope._report.formats.diff import renderer

        return renderer(format)(self, **options)

    def __str__(self) -> str:
        """Draw it for standard output: in its width, and in colour if it is a terminal that shows colours."""
        return self.__rich__().on(sys.stdout)

    def __format__(self, spec: str) -> str:
        """Draw it as plain text."""
        return format(self.render(), spec)

    def __rich__(self) -> Drawing:
        """Let rich print it."""
        from tokenscope._report.formats.diff import drawing

        return drawing(self)

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        from tokenscope._report.formats.diff import notebook

        return notebook(self)

    def __repr__(self) -> str:
        return f"<Diff of {len(self.changes):,} changes, {self.total.tokens:+,} tokens>"
