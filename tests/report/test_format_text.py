"""What all formats share: visible names, dollars that are never made up, the registry."""

from __future__ import annotations

from decimal import Decimal

import pytest
from support.formats import PRICED, deep, empty_and_free, hostile, huge, usage
from support.reports import made

from tokenscope import Usage
from tokenscope._report import formats as render
from tokenscope._report.formats import text as _text


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
    """Nothing in a name reaches a terminal as a command."""
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
    """Cents, or two digits of what is less than a dollar; never a page of zeros."""
    assert shown == _text.money(usage(1, 1, 1, cost))


def test_an_unknown_cost():
    """What nobody knows is a dash, never 0; what is known in part is a lower bound, rounded down."""
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
    """For programs an amount is written out and exact, unless that would fill the page."""
    assert text == _text.number(Decimal(amount))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, ""), (0.0004, "0ms"), (0.5, "500ms"), (0.9996, "1.0s"), (59.94, "59.9s"), (60, "1m00s"), (3_700, "1h01m")],
)
def test_durations(seconds, shown):
    """Milliseconds, seconds, minutes, hours."""
    assert shown == _text.duration(seconds)


def test_shares():
    """A part of nothing is nothing; integers beyond any float still have a share."""
    assert 0.0 == _text.share(0, 0)
    assert 0.5 == _text.share(10**400, 2 * 10**400)
    assert 0.25 == _text.share(Decimal(1), Decimal(4))


def test_models_without_a_price_are_named():
    """The sentence names ten models at most, and nothing where every price is known."""
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
    """The longest suffix says the format."""
    assert name == render.format_of(file)


def test_the_table_has_no_suffix():
    """A file without a known suffix has no format."""
    with pytest.raises(ValueError, match="the suffix says the format"):
        render.format_of("table")


@pytest.mark.parametrize("name", render.FORMATS)
@pytest.mark.parametrize(
    "make",
    [hostile, huge, deep, lambda: deep("dspy"), lambda: PRICED],
    ids=["hostile", "huge", "deep", "deep modules", "priced"],
)
def test_every_format_is_saved(tmp_path, name, make):
    """Whatever a report holds, each format writes it as UTF-8 in bounded space and with no control character."""
    text = make().render(name)

    assert len(text.encode()) < 6_000_000
    assert {"\n"} >= {c for c in text if not c.isprintable()}
    if suffix := render.FORMATS[name]:
        make().save(tmp_path / f"report{suffix}")
        assert text == (tmp_path / f"report{suffix}").read_text("utf-8")


@pytest.mark.parametrize("name", render.FORMATS)
def test_every_format_of_nothing(name):
    """A report of nothing is one in every format."""
    for report in empty_and_free():
        assert {"\n"} >= {c for c in report.render(name) if not c.isprintable()}


@pytest.mark.parametrize("name", ["tree", "markdown"])
@pytest.mark.parametrize(("own", "below", "rows"), [(10, 5, 1), (10, 0, 0), (0, 5, 0), (0, 0, 0)])
def test_what_a_scope_spent_itself(name, own, below, rows):
    """It has a row of its own only where something was spent below that scope, too."""
    report = made((-1, "scope", "top", 1, 1, own), (0, "scope", "inner", 1, 1, below))

    assert rows == report.render(name).count("[self]")
