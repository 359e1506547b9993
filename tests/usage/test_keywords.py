"""Wrong keywords: the error names the argument that was meant, and points at the user's line."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from tokenscope import Budget, track_tokens

WRONG = {
    "max_tokens": "Budget() has no argument 'max_tokens'; did you mean tokens=?",
    "limit": "Budget() has no argument 'limit'; did you mean tokens=?",
    "max_cost": "Budget() has no argument 'max_cost'; did you mean cost=?",
    "token": "Budget() has no argument 'token'; did you mean tokens=?",
    "on_exceeded": "Budget() has no argument 'on_exceeded'; did you mean on_exceed=?",
    "seconds": "Budget() has no argument 'seconds'; it has tokens, cost, calls, on_exceed",
}


@pytest.mark.parametrize("keyword", WRONG)
def test_a_wrong_limit(keyword):
    """A Budget names the limit that was meant, for words of other libraries and for misspelt ones; otherwise all it has."""
    with pytest.raises(TypeError) as error:
        Budget(**{keyword: 5})

    assert WRONG[keyword] == str(error.value)


def test_a_wrong_name():
    """`track_tokens` names the argument that was meant."""
    with pytest.raises(TypeError, match=r"^track_tokens\(\) has no argument 'name'; did you mean operation=\?$"):
        track_tokens(name="ocr")
    with pytest.raises(TypeError, match=r"'modul'; did you mean module=\?"):
        track_tokens(modul="ocr")


def test_the_line_is_the_users():
    """One frame of ours is below the user's line, which the traceback shows."""
    with pytest.raises(TypeError) as error:
        Budget(max_tokens=5)

    assert [__file__, "keywords.py"] == [str(error.traceback[-2].path), error.traceback[-1].path.name]


def test_the_signatures_stay():
    """Signatures, copies and pickles are as they would be without."""
    budget = Budget(tokens=5, on_exceed="stop")

    assert ["tokens", "cost", "calls", "on_exceed"] == list(inspect.signature(Budget).parameters)
    assert ["module", "operation", "budget"] == list(inspect.signature(track_tokens).parameters)
    assert budget == copy.copy(budget) == pickle.loads(pickle.dumps(budget))
    assert pickle.loads(pickle.dumps(track_tokens)) is track_tokens
