"""Prices that are set: for all models of a name, and for a team by a file."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tokenscope import Budget, Usage, record_tokens, report, set_price, token_scope
from tokenscope._usage.custom_prices import (
    custom_names,
    custom_price,
    forget_prices,
    load_prices,
    nearest,
    unused_names,
)
from tokenscope._usage.prices import price
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MILLION = Usage(calls=1, input_tokens=1_000_000)


@pytest.fixture(autouse=True)
def no_prices_by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TOKENSCOPE_PRICES", raising=False)
    forget_prices()
    forget_warnings()
    yield
    forget_prices()
    forget_warnings()


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes a file of prices, which the environment names."""

    def write(text: str) -> Path:
        file = tmp_path / "prices.toml"
        file.write_text(text, "utf-8")
        monkeypatch.setenv("TOKENSCOPE_PRICES", str(file))
        return file

    return write


def dollars(model: str) -> Decimal | None:
    """Return what a million input tokens cost."""
    return price(model, MILLION, 0)


# -- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        "my-llama",
        "ollama/my-llama",
        "openai/my-llama",
        "bedrock/my-llama",
        "bedrock/converse/my-llama",
        "bedrock_converse/my-llama",
    ],
)
def test_a_name_without_a_provider(model: str) -> None:
    """A price for a name without a provider holds for every provider's model of that name."""
    set_price("my-llama", input=3, output=0)

    assert Decimal(3) == dollars(model)


@pytest.mark.parametrize(
    "model", ["ollama/my-llama2", "my-llama/7b", "openrouter/meta/my-llama", "ollama/my-llama:7b", "ollama/", "/", ""]
)
def test_other_names_have_no_price(model: str) -> None:
    """A price for a name without a provider holds for no other name."""
    set_price("my-llama", input=3, output=0)

    assert dollars(model) is None


def test_a_name_with_a_provider() -> None:
    """A price for a name with a provider holds for that provider only, and not where a router puts its own name before it."""
    set_price("meta/my-llama", input=3, output=0)

    assert Decimal(3) == dollars("meta/my-llama")
    assert dollars("my-llama") is None
    assert dollars("ollama/my-llama") is None
    assert dollars("openrouter/meta/my-llama") is None


def test_an_exact_name_wins() -> None:
    """A price with the provider wins over one without, in either order, and both win over the list of prices."""
    set_price("azure/gpt-4o-mini", input=7, output=7)
    set_price("gpt-4o-mini", input=5, output=5)
    set_price("openai/gpt-4o-mini", input=6, output=6)

    assert Decimal(6) == dollars("openai/gpt-4o-mini")
    assert Decimal(7) == dollars("azure/gpt-4o-mini")
    assert Decimal(5) == dollars("gpt-4o-mini")
    assert Decimal(5) == dollars("groq/gpt-4o-mini")


def test_a_free_model_has_a_price() -> None:
    """A price of 0 for a name is a price."""
    set_price("my-llama", input=0, output=0)

    assert Decimal(0) == dollars("ollama/my-llama")


def test_a_report_says_where_the_price_comes_from() -> None:
    """`report.prices()` has the price of the model that was called, from `set_price`."""
    set_price("my-llama", input=1, output=2)
    record_tokens("m", "o", "my-llama", "ollama", 10, 10)
    (found,) = report().prices()

    assert ("ollama/my-llama", "set_price") == (found.model, found.source)
    assert {"input_tokens": Decimal(1), "output_tokens": Decimal(2)} == found.rates


@pytest.mark.parametrize(
    ("names", "models", "unused"),
    [
        (["a", "p/b"], ["p/a", "p/b"], ()),
        (["a", "p/b", "b"], ["p/a"], ("p/b", "b")),
        (["p/a"], ["q/p/a", "a"], ("p/a",)),
        (["a", "a"], [], ("a",)),
        ([], ["p/a"], ()),
    ],
)
def test_unused_names(names: list[str], models: list[str], unused: tuple[str, ...]) -> None:
    """A name is unused if its price holds for none of the models."""
    assert unused == unused_names(names, models)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("my-lama", ["ollama/my-llama"]),
        ("olama/my-llama", ["ollama/my-llama"]),
        ("My-LLama", ["ollama/my-llama"]),
        ("openai/gpt-4o", ["openrouter/openai/gpt-4o"]),
        ("mistral-ocr", []),
        ("gpt-4o-mini-x", []),
    ],
)
def test_nearest(name: str, found: list[str]) -> None:
    """The nearest models have a similar name, whatever their provider is."""
    assert found == nearest(name, ["ollama/my-llama", "openrouter/openai/gpt-4o", "x/y"])


def test_at_most_three_are_near() -> None:
    """At most three models are near to a name."""
    assert 3 == len(nearest("m", [f"p{n}/m" for n in range(9)]))


# -- a team's file ------------------------------------------------------------------------------------------------------

TEAM = """
["ollama/my-llama"]
input = 0.10
output = 0.40
cache_read = 0.01

[house-model]   # any provider
input = 2
output = 8
cache_write = 2.5
"""


def test_a_file(team: Callable[[str], Path]) -> None:
    """TOKENSCOPE_PRICES names a file of prices, which are exact."""
    team(TEAM)

    assert ["ollama/my-llama", "house-model"] == custom_names()
    assert Decimal("0.1") == dollars("ollama/my-llama")
    assert Decimal(2) == dollars("vllm/house-model")
    assert {"input": Decimal("0.10"), "output": Decimal("0.40"), "cache_read": Decimal("0.01")} == custom_price(
        "ollama/my-llama"
    )
    record_tokens("m", "o", "my-llama", "ollama", 1_000, 200)
    assert Decimal("0.00018") == report().total.cost
    assert "set_price" == report().prices()[0].source


def test_a_program_wins_over_the_file(team: Callable[[str], Path]) -> None:
    """`set_price` wins over the file, also without a provider, before and after the file is read."""
    set_price("house-model", input=1, output=1)
    team(TEAM)
    assert Decimal(1) == dollars("vllm/house-model")
    assert Decimal("0.1") == dollars("ollama/my-llama")
    set_price("my-llama", input=9, output=9)

    assert Decimal(9) == dollars("ollama/my-llama")


def test_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty TOKENSCOPE_PRICES names no file."""
    monkeypatch.setenv("TOKENSCOPE_PRICES", "")

    assert dollars("ollama/my-llama") is None
    assert [] == custom_names()


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", "\ufeff[m]\r\ninput = 0\r\noutput = 0\r\n", "[m]\ninput = 9e100\noutput = 1"]
)
def test_sound_files(text: str, team: Callable[[str], Path]) -> None:
    """A file may be empty, and an editor on Windows may have written it."""
    file = team("")
    file.write_bytes(text.encode())

    assert str(file) == load_prices(str(file))
    assert (["m"] if "[m]" in text else []) == custom_names()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[ollama/my-llama]\ninput = 1", "this is no TOML: .*line 1, column 8"),
        ("[m]\ninput = ", "this is no TOML: "),
        ("x = " + "[" * 100_000, "this is no TOML: "),
        ("m = 3", "'m': a table with input and output is needed, not int 3"),
        ("[m]\ninput = 1", "'m': it lacks output"),
        ("[m]\noutput = 1", "'m': it lacks input"),
        ("[m]", "'m': it lacks input"),
        (
            "[m]\ninput = 1\noutput = 1\ncached = 1",
            "'m': unknown key 'cached'; known are input, output, cache_read, cache_write$",
        ),
        (
            "[gpt-4.1-mini]\ninput = 1",
            "'gpt-4': unknown key '1-mini'; known are [a-z_, ]*; a name with a dot needs quotes$",
        ),
        ("[m]\ninput = -0.1\noutput = 1", "'m': input must be dollars per million tokens, 0 or more, but is -0.1"),
        ("[m]\ninput = 1\noutput = nan", "'m': output must be dollars per million tokens, 0 or more, but is NaN"),
        ("[m]\ninput = inf\noutput = 1", "'m': input must be .* but is Infinity"),
        ("[m]\ninput = 1e999\noutput = 1", "'m': input must be .* 1E\\+999 is out of all proportion"),
        ('[m]\ninput = "1"\noutput = 1', "'m': input must be dollars per million tokens, a number, not str '1'"),
        ("[m]\ninput = true\noutput = 1", "'m': input must be .* not bool True"),
        ("[m]\ninput = 1\noutput = 1\ncache_read = []", "'m': cache_read must be .* not list"),
        ('[""]\ninput = 1\noutput = 1', "'': model must not be empty"),
    ],
)
def test_wrong_files(text: str, problem: str, tmp_path: Path) -> None:
    """One error names the file, the model and what is wrong."""
    file = tmp_path / "prices.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=f"prices.toml: {problem}"):
        load_prices(str(file))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    """A file that is no text, a folder and a missing file are errors that name them."""
    file = tmp_path / "prices.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"prices\.toml: this is no TOML: "):
        load_prices(str(file))
    with pytest.raises(OSError, match=f"{tmp_path.name}: "):
        load_prices(str(tmp_path))
    with pytest.raises(OSError, match=r"missing.toml: No such file or directory"):
        load_prices("missing.toml")


def test_a_wrong_file_disturbs_no_program(team: Callable[[str], Path]) -> None:
    """A wrong file that the environment names is one warning. None of its prices is used, and the list of prices is."""
    file = team("[m]\ninput = 1\noutput = 1\n[n]\ninput = 1")
    with pytest.warns(TokenScopeWarning) as caught:
        assert dollars("m") is None
        assert Decimal("0.15") == dollars("openai/gpt-4o-mini")
        set_price("n", input=2, output=2)
        assert Decimal(2) == dollars("n")

    assert [f"TOKENSCOPE_PRICES: {file}: 'n': it lacks output. No price of this file is used"] == [
        str(each.message) for each in caught
    ]
    assert __file__ == caught[0].filename


def test_each_wrong_file_is_a_warning(
    team: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the environment names another file that is wrong, too, there is a warning of that one."""
    team("[m]\ninput = 1")
    with pytest.warns(TokenScopeWarning, match="prices.toml"):
        assert dollars("m") is None
    monkeypatch.setenv("TOKENSCOPE_PRICES", str(tmp_path / "other.toml"))
    with pytest.warns(TokenScopeWarning, match="other.toml"):
        assert dollars("m") is None


def test_prices_in_a_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file named `pyproject.toml`, prices are the tables below `[tool.tokenscope.prices]`; without these it is wrong."""
    file = tmp_path / "pyproject.toml"
    monkeypatch.setenv("TOKENSCOPE_PRICES", str(file))
    file.write_text('[project]\nname = "x"\n[tool.tokenscope.prices."ollama/my-llama"]\ninput = 3\noutput = 4')
    assert Decimal(3) == dollars("ollama/my-llama")
    assert ["ollama/my-llama"] == custom_names()
    for text in ("[project]", "[tool.tokenscope]\nfail_above = 3", "tool = 3"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"pyproject.toml: it has no \[tool.tokenscope.prices\]$"):
            load_prices(str(file))


def test_a_missing_file_disturbs_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing file that the environment names is one warning."""
    monkeypatch.setenv("TOKENSCOPE_PRICES", str(tmp_path / "gone.toml"))
    record_tokens("m", "o", "my-llama", "ollama", 1_000, 200)
    with pytest.warns(TokenScopeWarning, match=r"gone\.toml: No such file or directory\. No price"):
        assert 1 == report().total.unpriced_calls
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report()


def test_a_budget_reads_the_file_when_its_scope_opens(team: Callable[[str], Path]) -> None:
    """A budget in dollars uses the file's prices, and reads them before any call is charged."""
    team("[m]\ninput = 1")
    with pytest.warns(TokenScopeWarning, match="'m': it lacks output"), token_scope("s", budget=Budget(cost=1)):
        pass
    team("[house-model]\ninput = 2\noutput = 8")
    forget_prices()
    with token_scope("s", budget=Budget(cost=3, on_exceed="stop")) as scope:
        record_tokens("m", "o", "house-model", "vllm", 1_000_000, 0)
        assert not scope.budget_exceeded
        record_tokens("m", "o", "house-model", "vllm", 1_000_000, 0)
        assert scope.budget_exceeded


PROGRAM = """
import os, sys
loaded = "tomllib" in sys.modules  # by what measures coverage
import tokenscope
assert loaded == ("tomllib" in sys.modules)
os.chdir(sys.argv[1])
tokenscope.record_tokens("m", "o", "my-llama", "ollama", 1_000_000, 0)
print(tokenscope.report().total.cost)
"""


def test_a_program_that_changes_its_folder(tmp_path: Path) -> None:
    """A relative path is one in the folder in which the program has started. The file is read when a price is looked up."""
    (tmp_path / "prices.toml").write_text(TEAM, "utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(elsewhere)],
        cwd=tmp_path,
        env={**os.environ, "TOKENSCOPE_PRICES": "prices.toml"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ("0.1\n", "") == (done.stdout, done.stderr)
