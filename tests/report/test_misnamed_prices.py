"""What a report says of prices that are set for a name that none of its calls has."""

from __future__ import annotations

import pickle

import pytest
from support.formats import usage

from tokenscope import Report, record_tokens, report, set_price, token_scope
from tokenscope._report.formats.notebook import render as notebook
from tokenscope._report.formats.text import misnamed
from tokenscope._report.snapshot import cut, pivot, with_missing_costs
from tokenscope._usage.custom_prices import forget_prices

PLAIN = "A price is set for 'my-lama', but no call here has that name; did you mean 'ollama/my-llama'?"
CODE = "A price is set for `my-lama`, but no call here has that name; did you mean `ollama/my-llama`?"


@pytest.fixture(autouse=True)
def no_prices_by_hand():
    forget_prices()
    yield
    forget_prices()


def called(*models: str) -> Report:
    """Return the report of a scope in which models were called."""
    with token_scope("s") as scope:
        for model in models:
            record_tokens("m", "o", model, None, 1_000, 200)
    return scope.report()


def test_every_format_that_names_models_without_a_price():
    """The tree, Markdown, the page and the notebook tell of a name that no call has, next to the models without a price."""
    set_price("my-lama", input=1, output=1)
    found = called("ollama/my-llama")

    assert PLAIN == found.render("tree").splitlines()[-1]
    assert found.render("tree") == str(found)
    assert CODE == found.render("markdown").splitlines()[-1]
    assert f"No price is known for 1 call of ollama/my-llama. {PLAIN}" in found.render("html")
    assert "A price is set for my-lama, but no call here has that name; did you mean ollama/my-llama?" in notebook(
        found
    )
    assert PLAIN == report().render("tree").splitlines()[-1]


def test_a_name_in_use():
    """Nothing is told of a name that a call has, with or without a provider, if all calls have a price, or no name is near."""
    set_price("my-llama", input=1, output=1)
    set_price("azure/my-deployment", input=1, output=1)

    assert "" == misnamed(called("ollama/my-llama").unused_prices, called("ollama/my-llama").by_model())
    for models in (["ollama/my-llama", "ollama/my-lama"], ["openai/gpt-4o-mini"], ["x/y"], []):
        assert "A price is set" not in called(*models).render("markdown")


def test_another_provider():
    """A price for one provider's model is told of where another provider's model of that name has none."""
    set_price("ollama/my-llama", input=1, output=1)

    assert "did you mean 'openai/my-llama'?" in called("openai/my-llama").render("tree")


def test_prices_that_are_set_afterwards():
    """A report says what was set when it was taken; the next one has the price."""
    set_price("my-lama", input=1, output=1)
    before = called("ollama/my-llama")
    set_price("my-llama", input=1, output=1)
    forget_prices()

    assert PLAIN in str(before)
    set_price("my-llama", input=1, output=1)
    assert "A price is set" not in str(called("ollama/my-llama"))


def test_saved_reports_tell_nothing(tmp_path):
    """A saved report that is loaded tells nothing of the prices of its program, or of those that are set where it is loaded."""
    set_price("my-lama", input=1, output=1)
    found = called("ollama/my-llama")
    found.save(tmp_path / "report.json")

    assert "my-lama" not in (tmp_path / "report.json").read_text("utf-8")
    assert "my-lama" not in str(Report.load(tmp_path / "report.json"))
    assert found == Report.load(tmp_path / "report.json")
    assert PLAIN in str(pickle.loads(pickle.dumps(found)))


def test_sums_and_views():
    """A sum tells of the names that none of its calls has. Views of a report tell what it tells."""
    set_price("my-lama", input=1, output=1)
    found = called("ollama/my-llama")

    assert PLAIN in str(found + Report())
    assert PLAIN in str(sum([found, found]))
    assert PLAIN in str(cut(found, 1))
    assert PLAIN in str(pivot(found, "model"))
    assert "A price is set" not in str(found + called("vllm/my-lama"))


def test_at_most_three_names():
    """At most three names are told of, in the order in which they were set, and names are made printable."""
    models = {"p/model-x": usage(1, 1, 0, None)}
    text = misnamed([f"model-{n}" for n in range(5)], models)

    assert ["'model-0'", "'model-1'", "'model-2'"] == [
        word.strip(",") for word in text.split() if word.startswith("'model-")
    ]
    assert r"'model-1\n'" in misnamed(["model-1\n"], models)
    assert "" == misnamed(["model-1"], {"p/model-x": usage(1, 1, 0, "1")})


# -- costs that a loaded report lacks -----------------------------------------------------------------------------------


def test_missing_costs():
    """Calls without a known cost get the prices that are set. Other costs stay, whatever is set."""
    saved = called("ollama/my-llama", "openai/gpt-4o-mini", "x/y")
    set_price("my-llama", input=1_000, output=0)
    set_price("gpt-4o-mini", input=1_000, output=0)
    found = with_missing_costs(saved)

    assert ["1", "0.00027", None] == [
        None if found.by_model()[model].cost is None else str(found.by_model()[model].cost)
        for model in ("ollama/my-llama", "openai/gpt-4o-mini", "x/y")
    ]
    assert (2, 1) == (saved.total.unpriced_calls, found.total.unpriced_calls)
    assert ["ollama/my-llama", "openai/gpt-4o-mini"] == [price.model for price in found.prices()]
    assert ["set_price", "genai-prices"] == [price.source for price in found.prices()]
    assert found == with_missing_costs(found)
    assert found.total == with_missing_costs(cut(saved, 1)).total


def test_no_prices_are_set():
    """Without prices that are set, the report itself is returned."""
    saved = called("ollama/my-llama")

    assert saved is with_missing_costs(saved)
