"""Input by part of the prompt in text: the line of shares, and what is said of the estimate."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from support.formats import HOSTILE, PRICED
from support.prompts import MEASURED, call, measured_row

from tokenscope import Report, Usage
from tokenscope._report.formats.part_shares import estimate, kind_of, shares_line
from tokenscope._report.snapshot import cut
from tokenscope._usage.calls import Frame


def line(width=200, **tokens):
    return shares_line({name: Usage(input_tokens=number) for name, number in tokens.items()}, width)


def test_the_largest_come_first():
    """Parts stand in the order of their tokens. Several that are below 1% are added up."""
    assert "demos 63% · format 25% · fields 12%" == line(fields=12, format=25, demos=63)
    assert "demos 100% · other <1%" == line(demos=990, other=2) == line(demos=990, other=2, fields=0)
    assert "demos 99% · 3 more 1%" == line(demos=990, other=3, fields=4, format=3)
    assert "demos 100%" == line(demos=1)
    assert "" == line() == line(demos=0)


@pytest.mark.parametrize("width", range(1, 120))
def test_a_line_fits(width):
    """A line keeps to its width, unless not even one part fits. Its shares are those of all parts."""
    found = line(width, instructions=12, demos=40, input_context=20, format=15, other=13)

    assert cell_len(found) <= max(width, len("demos 40% · 4 more 60%"))
    assert sum(int(part.split()[-1][:-1]) for part in found.split(" · ")) == 100


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_of_parts_are_harmless(name):
    """A name of a part is printable in each format of a terminal, and breaks no line."""
    row = measured_row(-1, Frame("dspy", "it"), 1, 1.0, [call(**{f"input_{name}": 50, "format": 40})])
    report = Report.from_rows([row], scoped=True)

    for text in (report.render(parts=True), report.render(by="part"), report.diff(report + report).render()):
        assert all(line.isprintable() for line in text.splitlines())
    assert 5 == len(report.render(parts=True).splitlines())


def test_what_has_measured_them():
    """The note names the tokenizers, and says whether bytes were counted. Without any measured prompt, it says how to ask."""
    assert "Parts of input are estimates; they add up to what was billed." == estimate([])
    assert "estimates, measured with a, b and by bytes; they" in estimate(["a", "b", "bytes"])
    assert "estimates, measured by bytes; they" in estimate(["bytes"])
    for options in ({"parts": True}, {"by": "part"}):
        assert PRICED.render(**options).splitlines()[-1].startswith("No prompt was measured: tokenscope run --parts, ")
        assert MEASURED.render(**options).endswith(
            "measured with o200k_base and by bytes; they add up to what was billed."
        )


@pytest.mark.parametrize("form", ["tree", "markdown"])
@pytest.mark.parametrize("by", ["model", "module", "part"])
def test_a_breakdown_tells_what_has_measured_them(form, by):
    """The rows of a breakdown do not keep it, but the report that it was made of does."""
    options = {} if by == "part" else {"parts": True}
    assert "estimates, measured with o200k_base and by bytes; they" in MEASURED.render(form, by=by, **options)


def test_markdown_by_part():
    """Parts are input and have no times, so Markdown has no columns for these."""
    lines = MEASURED.render("markdown", by="part").splitlines()
    assert {"| Scope | Calls | Input | Share | Cost |", "| `demos` | 20 | 36,800 | 20% | $0.0082 |"} <= set(lines)


def test_kinds():
    """Each part is of a known kind: inputs, or what a call without an adapter of DSPy has."""
    assert ["demos", "inputs", "messages"] == [kind_of(name) for name in ("demos", "input:context", "user")]


def test_a_cut_tree_keeps_the_parts():
    """The last level that is shown has the parts of all that is below it."""
    text = cut(MEASURED, 2).render(parts=True)

    assert "input:trajectory 24% · demos 20% · instructions 16%" in text


def test_the_total_by_part():
    """The breakdown by part has no number of calls and no output, in each format for people."""
    assert MEASURED.render(by="part").startswith(
        "187,280 input tokens; ≥ $0.042\nscope             calls   input  share "
    )
    assert "**187,280 input tokens; ≥ $0.042**" in (markdown := MEASURED.render("markdown", by="part"))
    assert "By model" not in markdown
    assert MEASURED.render("table", by="part").splitlines()[0].split() == ["Part", "|", "Input"]
    assert MEASURED.total.input_tokens == sum(
        int(row.split(",")[7]) for row in MEASURED.render("csv", by="part").splitlines()[1:]
    )
