"""Functions that all formats share: printable names, dollars, durations, and formats by suffix."""

from __future__ import annotations

from decimal import Decimal

import pytest
from support.formats import PRICED, deep, empty_and_free, hostile, huge, undated, usage
from support.reports import build, made

from tokenscope import Usage
from tokenscope._report import formats as render
from tokenscope._report.formats import text as _text
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.model_usage import ModelUsage


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name", "plain name"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\ud800", r"\ud800"),
        ("\x85\u2028", r"\x85\u2028"),
        ("研究 🙂", "研究 🙂"),
    ],
    ids=ascii,
)
def test_names_are_printable(name, shown):
    """Control characters in names are escaped, so that they have no effect on a terminal."""
    assert shown == _text.printable(name)


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("0", "$0.00"),
        ("0E-7", "$0.00"),
        ("1234.567", "$1,234.57"),
        ("1.005", "$1.01"),
        ("0.126", "$0.13"),
        ("0.996", "$1.00"),
        ("0.0123", "$0.012"),
        ("0.009999", "$0.010"),
        ("0.000012345", "$0.000012"),
        ("1E-12", "$1.0e-12"),
        ("1E+999", "$1.0e+999"),
    ],
)
def test_dollars(cost, shown):
    """Dollars have cents, and amounts below a dollar have two significant digits."""
    assert shown == _text.money(usage(1, 1, 1, cost))


def test_an_unknown_cost():
    """An unknown cost is a dash. A partly known cost is a lower bound, rounded down."""
    assert "\N{EN DASH}" == _text.money(Usage(calls=1, input_tokens=5, unpriced_calls=1))
    assert "≥ $0.12" == _text.money(Usage(calls=2, input_tokens=5, cost=Decimal("0.129"), unpriced_calls=1))
    assert "≥ $0.0019" == _text.money(Usage(calls=2, input_tokens=5, cost=Decimal("0.00199"), unpriced_calls=1))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0E-9", "0"),
        ("1.50", "1.5"),
        ("120", "120"),
        ("0.0000001", "0.0000001"),
        ("1E+3", "1000"),
        ("1E-400", "1E-400"),
    ],
)
def test_exact_numbers(amount, text):
    """`number` writes amounts exactly, and with an exponent only if the digits would fill a page."""
    assert text == _text.number(Decimal(amount))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, ""), (0.0004, "0ms"), (0.5, "500ms"), (0.9996, "1.0s"), (59.94, "59.9s"), (60, "1m00s"), (3_700, "1h01m")],
)
def test_durations(seconds, shown):
    """Durations are shown in milliseconds, seconds, minutes or hours."""
    assert shown == _text.duration(seconds)


def test_shares():
    """The share of a zero total is 0, and integers that are too large for a float have a share."""
    assert 0.0 == _text.share(0, 0)
    assert 0.5 == _text.share(10**400, 2 * 10**400)
    assert 0.25 == _text.share(Decimal(1), Decimal(4))


def test_models_without_a_price_are_named():
    """The sentence names at most ten models, and is empty if every price is known."""
    models = {f"m{n}\n": usage(1, 1, 0, None) for n in range(12)}

    assert "No price is known for 9 calls of local/rerank, local/embed." == _text.unpriced(PRICED.by_model())
    assert "No price is known for 1 call of a." == _text.unpriced({"a": usage(1, 1, 0, None)})
    assert _text.unpriced(models).startswith("No price is known for 12 calls of m0\\n, m1\\n,")
    assert _text.unpriced(models).endswith(", m9\\n and 2 more.")
    assert "" == _text.unpriced({"a": usage(1, 1, 0, "1")})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.txt", "tree"),
        ("a.MD", "markdown"),
        ("a.html", "html"),
        ("a.json", "json"),
        ("a.speedscope.json", "speedscope"),
        ("speedscope.json", "json"),
        ("a.csv", "csv"),
        ("a.folded", "folded"),
    ],
)
def test_formats_by_suffix(file, name):
    """The longest known suffix selects the format."""
    assert name == render.format_of(file)


def test_the_table_has_no_suffix():
    """A file name without a known suffix raises a ValueError."""
    with pytest.raises(ValueError, match="the suffix says the format"):
        render.format_of("table")


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", render.FORMATS)
@pytest.mark.parametrize(
    "make",
    [hostile, huge, deep, lambda: deep("dspy"), lambda: PRICED],
    ids=["hostile", "huge", "deep", "deep modules", "priced"],
)
def test_every_format_is_saved(tmp_path, name, make):
    """Every format writes any report as UTF-8 of bounded size, without control characters."""
    text = make().render(name)

    assert len(text.encode()) < 6_000_000
    assert {"\n"} >= {c for c in text if not c.isprintable()}
    if suffix := render.FORMATS[name]:
        make().save(tmp_path / f"report{suffix}")
        saved = (tmp_path / f"report{suffix}").read_text("utf-8")
        assert undated(text) == undated(saved)  # a page says the minute in which it was made


@pytest.mark.parametrize("name", render.FORMATS)
def test_every_format_of_nothing(name):
    """Every format renders reports in which nothing was spent."""
    for report in empty_and_free():
        assert {"\n"} >= {c for c in report.render(name) if not c.isprintable()}


@pytest.mark.parametrize("name", ["tree", "markdown"])
@pytest.mark.parametrize(("own", "below", "rows"), [(10, 5, 1), (10, 0, 0), (0, 5, 0), (0, 0, 0)])
def test_what_a_scope_spent_itself(name, own, below, rows):
    """A scope has a `[self]` row only if tokens were spent both in it and below it."""
    report = made((-1, "scope", "top", 1, 1, own), (0, "scope", "inner", 1, 1, below))

    assert rows == report.render(name).count("[self]")


def test_the_notes_of_every_format_for_people():
    """Tree, table and Markdown say below their numbers what failed, what was wasted and saved, and what has no price."""
    told = UsageKey("p/x", 0, "provider")
    report = build(
        [
            (
                -1,
                Frame("module", "a|b"),
                1,
                0,
                [
                    ModelUsage(told, Usage(calls=3, failed_calls=1, input_tokens=30, cost=Decimal("0.3"))),
                    ModelUsage(
                        told._replace(wasted="provider_errors"), Usage(calls=1, input_tokens=10, cost=Decimal("0.1"))
                    ),
                    ModelUsage(
                        UsageKey("p/x", 0, "cache"),
                        Usage(calls=1, cached_calls=1, input_tokens=7, cost=Decimal("0.07")),
                    ),
                    ModelUsage(UsageKey("p/y"), Usage(calls=1, input_tokens=10, unpriced_calls=1)),
                ],
            ),
        ],
        scoped=True,
    )
    notes = [
        "1 call answered by DSPy's cache; 1 call failed; 7 tokens saved by DSPy's cache, worth $0.070",
        "wasted: 10 tokens (25.0%), $0.10: provider errors 1 call with 10 tokens, in a|b",
        "No price is known for 1 call of p/y.",
    ]

    assert notes == _text.notes(report)
    for form in ("tree", "table"):
        assert notes == report.render(form).splitlines()[-3:]
    markdown = report.render("markdown").split("\n\n")
    assert notes[0] in markdown
    assert notes[1].replace("a|b", "<code>a&#124;b</code>") in markdown
    assert "No price is known for 1 call of `p/y`." in markdown[-1]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("0.001443", "0.001476", ("$0.001443", "$0.001476")),
        ("12.3456789", "12.3456111", ("$12.345679", "$12.345611")),
        ("1.23", "1.30", ("$1.23", "$1.30")),
        ("0", "0.0001", ("$0.00", "$0.00010")),
        ("0.5", "0.5", ("$0.50", "$0.50")),
        ("1", "1.0000000000000000000000001", ("$1.00", "$1.00")),
        (None, "0.001", (_text.UNKNOWN, "$0.0010")),
    ],
)
def test_costs_that_are_compared(before, after, expected):
    """Two costs show the digits in which they differ, if rounding would hide these."""
    first, second = (
        Usage(calls=1, input_tokens=1, cost=None if cost is None else Decimal(cost), unpriced_calls=int(cost is None))
        for cost in (before, after)
    )
    assert expected == _text.compared(first, second)
