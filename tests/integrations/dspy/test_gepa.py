"""The GEPA stopper: an optimisation that has spent its budget ends normally, and returns its best program."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.dspy_support import tokens
from support.spending import python

import tokenscope
from tokenscope import Budget, BudgetExceeded, current_scope, record_tokens, token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations.dspy import gepa_stopper
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

TAKES_STOPPERS = "gepa_kwargs" in dspy.GEPA.__init__.__code__.co_varnames
needs_stoppers = pytest.mark.skipif(not TAKES_STOPPERS, reason="dspy.GEPA takes gepa_kwargs from 3.0.4 on")
VALSET = 3


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm(), num_threads=2):
        yield provider
    forget_warnings()


def feedback(example: Any, prediction: Any, trace: Any = None, name: Any = None, named_trace: Any = None) -> Any:
    return dspy.Prediction(score=0.5, feedback="Think harder.")


def examples(number: int) -> list[Any]:
    return [dspy.Example(question=f"Question {n}?", answer="an answer").with_inputs("question") for n in range(number)]


def optimize(provider: LoopbackProvider, *stoppers: Any, reflection: str = "openai/gpt-4o") -> Any:
    pytest.importorskip("gepa")
    optimizer = dspy.GEPA(
        metric=feedback,
        max_metric_calls=60,
        reflection_minibatch_size=2,
        reflection_lm=provider.lm(reflection),
        num_threads=2,
        gepa_kwargs={"stop_callbacks": list(stoppers)},
    )
    return optimizer.compile(dspy.ChainOfThought("question -> answer"), trainset=examples(4), valset=examples(VALSET))


@needs_stoppers
@pytest.mark.parametrize(
    "budget",
    [Budget(calls=15), Budget(tokens=5_000), Budget(cost=0.008), Budget(calls=15, on_exceed="warn")],
    ids=str,
)
def test_an_optimisation_ends_in_good_order(provider: LoopbackProvider, budget: Budget) -> None:
    """The optimisation ends soon after its budget is spent, and returns a program that runs."""
    with token_scope("run") as run:
        program = optimize(provider, gepa_stopper(budget))
    usage = run.report().find("run/GEPA").usage

    assert tokens(provider.total) == tokens(usage)
    for name, spent in (("calls", usage.calls), ("tokens", usage.total_tokens), ("cost", usage.cost)):
        limit = getattr(budget, name)
        assert limit is None or limit <= spent < 2 * limit
    assert not run.budget_exceeded
    assert program(question="Why?").answer
    assert current_scope() is None


@needs_stoppers
def test_without_one_it_goes_on(provider: LoopbackProvider) -> None:
    """If the budget is not spent, GEPA ends after its own number of metric calls."""
    optimize(provider)
    without = provider.total
    optimize(provider, gepa_stopper(Budget(calls=10_000)))

    assert without.calls > 60
    assert 2 * without.calls == provider.total.calls


@needs_stoppers
def test_a_budget_that_is_spent_at_once(provider: LoopbackProvider) -> None:
    """If the budget is spent at once, GEPA evaluates the original program and returns it."""
    program = optimize(provider, gepa_stopper(Budget(calls=1)))

    assert VALSET == provider.total.calls
    assert "Given the fields `question`, produce the fields `answer`." == program.predict.signature.instructions


@needs_stoppers
def test_each_run_has_the_whole_budget(provider: LoopbackProvider) -> None:
    """Each run has the whole budget. Earlier calls, and other runs with the same stopper, are not charged to it."""
    stopper = gepa_stopper(Budget(calls=15))
    with token_scope("run") as run:
        for n in range(30):
            dspy.Predict("question -> answer")(question=f"Before {n}?")
        for _ in range(2):
            optimize(provider, stopper)
    spent = run.report().find("run/GEPA").usage.calls

    assert 30 <= spent < 60


@needs_stoppers
def test_beside_a_hard_limit(provider: LoopbackProvider) -> None:
    """If the scope's own budget is smaller, it ends the optimisation at once, and no program is returned."""
    with pytest.raises(BudgetExceeded) as raised, token_scope("run", budget=Budget(calls=10)):
        optimize(provider, gepa_stopper(Budget(calls=15)))

    assert 10 == provider.total.calls == raised.value.spent.calls


@needs_stoppers
def test_a_model_without_a_price(provider: LoopbackProvider) -> None:
    """If a model has no known price, a warning names the model and the budget."""
    with pytest.warns(TokenScopeWarning, match="no price is known of 'openai/nobody-knows'.*the budget of 'GEPA'"):
        optimize(provider, gepa_stopper(Budget(cost=0.002)), reflection="openai/nobody-knows")


def test_outside_of_an_optimizer() -> None:
    """Outside of an optimizer, the stopper checks the current scope, or the whole program if there is no scope."""
    stopper = gepa_stopper(Budget(tokens=10, cost=Decimal(1)))
    record_tokens("m", "o", "x", None, 9, 0, cost=0)
    assert stopper(object()) is False
    with token_scope("a"):
        record_tokens("m", "o", "x", None, 9, 0, cost=0)
        assert stopper(object()) is False
        record_tokens("m", "o", "x", None, 1, 0, cost=0)
        assert stopper(object()) is True
    assert stopper(object()) is True


def test_in_a_scope_inside_of_an_optimizer(provider: LoopbackProvider) -> None:
    """Wherever it is asked inside of a run of an optimizer, all that the run has spent counts, and nothing else."""
    stopper = gepa_stopper(Budget(calls=2))
    told = []

    class Own(dspy.teleprompt.Teleprompter):
        def compile(self, student: Any, *, trainset: Any) -> Any:
            for _ in range(2):
                student(question="Why?")
                with token_scope("inside"), token_scope("deeper"):
                    told.append(stopper(object()))
            return student

    with token_scope("run"):
        for _ in range(5):
            dspy.Predict("question -> answer")(question="Before?")
        for _ in range(2):
            Own().compile(dspy.Predict("question -> answer"), trainset=[])
    assert [False, True, False, True] == told


def test_a_model_without_a_price_outside_of_an_optimizer() -> None:
    """The warning about a model without a price names the scope, or the program."""
    for name in ("inside", "the program"):
        forget_warnings()
        with token_scope("inside") if name == "inside" else contextlib.nullcontext():
            record_tokens("m", "x", "nobody-knows", "o", 9, 0)
            with pytest.warns(
                TokenScopeWarning, match=f"no price is known of 'o/nobody-knows'.*the budget of '{name}'"
            ):
                assert not gepa_stopper(Budget(cost=1))(object())
                tokenscope.report()


def test_wrong_use() -> None:
    """A budget of another type than Budget raises a TypeError when the stopper is made."""
    for wrong in (None, 1_000, {"tokens": 5}):
        with pytest.raises(TypeError, match="the budget of gepa_stopper must be a Budget, not"):
            gepa_stopper(wrong)  # type: ignore[arg-type]
    assert "gepa_stopper(Budget(tokens=1, cost=None, calls=None, on_exceed='raise'))" == repr(
        gepa_stopper(Budget(tokens=1))
    )


def test_is_what_gepa_wants() -> None:
    """The stopper is an instance of GEPA's own protocol."""
    gepa = pytest.importorskip("gepa")
    if not hasattr(gepa, "StopperProtocol"):
        pytest.skip("this gepa has no stoppers")
    assert isinstance(gepa_stopper(Budget(tokens=1)), gepa.StopperProtocol)


def test_importing_it_first() -> None:
    """Importing the stopper does not import DSPy. DSPy is patched when the program imports it."""
    code = """if True:
        from tokenscope.integrations.dspy import gepa_stopper
        import sys
        print("dspy" in sys.modules)
        import dspy
        from tokenscope.integrations import applied
        print("Module.__call__" in {patch.name for patch in applied()})
    """
    assert ["False", "True"] == python(code).split()
