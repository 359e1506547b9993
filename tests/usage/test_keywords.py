"""Wrong keywords: the error names the argument that was meant, and points at the user's line."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from tokenscope import Budget, track_tokens
from tokenscope._usage.keywords import teaches

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


def test_any_function_and_any_class():
    """A function and a class name all arguments that they have, keyword-only ones, too, but not `self`."""

    @teaches(words="tokens")
    def count(tokens, *, model="m"):
        return tokens, model

    @teaches(words="tokens")
    class Counter:
        def __init__(self, tokens, *, model="m"):
            self.counted = tokens, model

    assert (3, "x") == count(3, model="x") == Counter(3, model="x").counted == Counter(tokens=3, model="x").counted
    assert ("count", True) == (count.__name__, isinstance(Counter, type))
    for each in (count, Counter):
        with pytest.raises(TypeError, match=rf"^{each.__name__}\(\) has no argument 'words'; did you mean tokens=\?$"):
            each(words=3)
        with pytest.raises(TypeError, match=rf"^{each.__name__}\(\) has no argument 'x'; it has tokens, model$"):
            each(x=3)
