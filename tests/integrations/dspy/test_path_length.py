"""How many functions of tokenscope run for each `dspy.Predict`. Noise in timing does not change these numbers."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from support.dspy_support import DSPY

import tokenscope
from tokenscope import token_scope
from tokenscope._scopes.event_log import drain
from tokenscope.integrations import usage_watchers

dspy = pytest.importorskip("dspy")
HOME = str(Path(tokenscope.__file__).parent)


@pytest.fixture
def predict(monkeypatch):
    """A Predict whose LM answers at once, without a request and without a watcher that an earlier test has left."""
    monkeypatch.setattr(usage_watchers, "watchers", [])
    lm15 = pytest.importorskip("dspy.lm15")

    class Engine:
        def complete(self, request):
            text = lm15.TextPart("[[ ## answer ## ]]\nx\n\n[[ ## completed ## ]]")
            usage = lm15.Usage(input_tokens=100, output_tokens=20, total_tokens=120)
            message = lm15.Message.assistant([text])
            return lm15.Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

        def close(self):
            pass

    with dspy.context(lm=dspy.LM("openai/gpt-4o-mini", engine=Engine(), cache=False)):
        yield dspy.Predict("question -> answer")


def functions_of_ours(run) -> Counter:
    """Count the calls of tokenscope's functions, by name."""
    seen: Counter = Counter()

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(HOME):
            seen[frame.f_code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.skipif(DSPY < (3, 4), reason="the engine of DSPy 3.4")
@pytest.mark.parametrize(("each", "at_most"), [(100, 24), (1, 36)], ids=["in a scope", "with a scope each"])
def test_functions_a_call(predict, each, at_most):
    """A Predict makes at most 24 calls of tokenscope's functions, or 36 with a scope for each Predict."""

    def run():
        for _ in range(300 // each):
            with token_scope("s"):
                for _ in range(each):
                    predict(question="q")
        drain()

    run()
    seen = functions_of_ours(run)
    assert sum(seen.values()) / 300 <= at_most, {name: number / 300 for name, number in seen.most_common()}
    assert 600 == tokenscope.report().total.calls
