"""Phases of each optimizer: each phase has the bill of the model that it uses, for task and reflection."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from support.dspy_support import DSPY, tokens

import tokenscope
from tokenscope import Usage, current_scope, record_tokens, token_scope
from tokenscope.integrations.dspy.optimizers import adopt_optimizers
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenscope._report.tree import Node

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SCORES = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6]
TEACHES = {"max_bootstrapped_demos": 1, "max_labeled_demos": 1}


class Billing:
    """Two providers: one for the task model, and one for the model that proposes or reflects."""

    def __init__(self, task: LoopbackProvider, reflection: LoopbackProvider) -> None:
        self.task, self.reflection = task, reflection
        self.thinker = reflection.lm("openai/gpt-4o")
        self._asked = 0

    def score(self, example: Any, prediction: Any, *_: Any) -> float:
        self._asked += 1
        return SCORES[self._asked % len(SCORES)]

    def feedback(self, example: Any, prediction: Any, trace: Any = None, name: Any = None, named: Any = None) -> Any:
        return dspy.Prediction(score=0.5, feedback="Think harder.")


@pytest.fixture
def billing() -> Iterator[Billing]:
    with LoopbackProvider() as task, LoopbackProvider() as reflection, dspy.context(lm=task.lm(), num_threads=2):
        yield Billing(task, reflection)


def examples(number: int) -> list[Any]:
    return [dspy.Example(question=f"Question {n}?", answer="an answer").with_inputs("question") for n in range(number)]


def gepa(billing: Billing) -> Any:
    pytest.importorskip("gepa")
    optimizer = dspy.GEPA(
        metric=billing.feedback,
        max_metric_calls=30,
        reflection_minibatch_size=2,
        reflection_lm=billing.thinker,
        num_threads=2,
    )
    return optimizer.compile(dspy.ChainOfThought("question -> answer"), trainset=examples(4), valset=examples(3))


def mipro(billing: Billing) -> Any:
    pytest.importorskip("optuna")
    optimizer = dspy.MIPROv2(
        metric=billing.score,
        prompt_model=billing.thinker,
        task_model=dspy.settings.lm,
        auto=None,
        num_candidates=4,
        num_threads=2,
        **TEACHES,
    )
    return optimizer.compile(
        dspy.ChainOfThought("question -> answer"),
        trainset=examples(4),
        valset=examples(3),
        num_trials=2,
        minibatch=False,
        **({"requires_permission_to_run": False} if DSPY < (3, 1) else {}),
    )


def simba(billing: Billing) -> Any:
    if "prompt_model" not in dspy.SIMBA.__init__.__code__.co_varnames:
        pytest.skip("SIMBA has one model for everything")
    optimizer = dspy.SIMBA(
        metric=billing.score,
        bsize=4,
        num_candidates=2,
        max_steps=3,
        max_demos=0,
        prompt_model=billing.thinker,
        num_threads=2,
    )
    return optimizer.compile(dspy.ChainOfThought("question -> answer"), trainset=examples(4))


def copro(billing: Billing) -> Any:
    optimizer = dspy.COPRO(metric=billing.score, prompt_model=billing.thinker, breadth=2, depth=2)
    program = dspy.ChainOfThought("question -> answer")
    return optimizer.compile(program, trainset=examples(3), eval_kwargs={"num_threads": 2})


def infer_rules(billing: Billing) -> Any:
    optimizer = dspy.InferRules(
        metric=billing.score, num_candidates=1, num_rules=2, num_threads=2, teacher_settings={"lm": billing.thinker}
    )
    return optimizer.compile(dspy.ChainOfThought("question -> answer"), trainset=examples(6))


def random_search(billing: Billing) -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=billing.score,
        num_candidate_programs=1,
        num_threads=2,
        teacher_settings={"lm": billing.thinker},
        **TEACHES,
    )
    return optimizer.compile(dspy.ChainOfThought("question -> answer"), trainset=examples(3))


def few_shot(billing: Billing) -> Any:
    optimizer = dspy.BootstrapFewShot(metric=billing.score, teacher_settings={"lm": billing.thinker}, **TEACHES)
    return optimizer.compile(dspy.ChainOfThought("question -> answer"), trainset=examples(3))


PHASES: dict[str, tuple[Callable[[Billing], Any], set[str], set[str]]] = {
    "GEPA": (gepa, {"GEPA/sample/Evaluate", "GEPA/evaluate/Evaluate"}, {"GEPA/reflect"}),
    "MIPROv2": (
        mipro,
        {"MIPROv2/bootstrap/BootstrapFewShot/bootstrap", "MIPROv2/search/Evaluate"},
        {"MIPROv2/propose"},
    ),
    "SIMBA": (simba, {"SIMBA/evaluate"}, {"SIMBA/propose"}),
    "COPRO": (copro, {"COPRO/Evaluate"}, {"COPRO/propose"}),
    "InferRules": (
        infer_rules,
        {"InferRules/Evaluate"},
        {"InferRules/propose", "InferRules/BootstrapFewShot/bootstrap"},
    ),
    "BootstrapFewShotWithRandomSearch": (
        random_search,
        {"BootstrapFewShotWithRandomSearch/Evaluate"},
        {"BootstrapFewShotWithRandomSearch/BootstrapFewShot/bootstrap"},
    ),
    "BootstrapFewShot": (few_shot, set(), {"BootstrapFewShot/bootstrap"}),
}
"""For each optimizer: a function that runs it, the paths of the task model, and the paths of the other model."""


def steps(node: Node) -> set[str]:
    """Return the paths of the innermost phases and evaluations of an optimizer."""
    found: set[str] = set()
    stack = [("", node)]
    while stack:
        above, here = stack.pop()
        path = f"{above}/{here.name}".lstrip("/")
        below = [child for child in here.children if child.kind in ("compile", "phase", "evaluate")]
        stack.extend((path, child) for child in below)
        if not below:
            found.add(path)
    return found


@pytest.mark.parametrize("name", PHASES)
def test_the_bill_of_an_optimisation(billing, name):
    """The usage of each model's phases equals the bill of that model's provider."""
    optimize, working, thinking = PHASES[name]
    with token_scope("run") as run:
        program = optimize(billing)
        with token_scope("use"):
            program(question="Why?")
    report = run.report()
    use = report.find("run/use").usage

    def spent(paths: set[str]) -> Usage:
        return sum((report.find(f"run/{path}").usage for path in paths), Usage())

    assert steps(report.find(f"run/{name}")) == working | thinking
    assert tokens(billing.task.total) == tokens(spent(working) + use)
    assert tokens(billing.reflection.total) == tokens(spent(thinking))
    assert billing.reflection.total.calls >= spent(thinking).calls > 0  # one call may ask for several answers
    assert tokens(billing.task.total + billing.reflection.total) == tokens(run.usage)
    for path in thinking:
        assert ["openai/gpt-4o"] == list(report.find(f"run/{path}").by_model)
    for path in working:
        assert ["openai/gpt-4o-mini"] == list(report.find(f"run/{path}").by_model)


def test_the_program_is_below(billing):
    """The modules of the program are below the phase that calls them, with their own names."""

    class Answer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.draft = dspy.Predict("question -> draft")
            self.review = dspy.ChainOfThought("draft -> answer")

        def forward(self, question: str) -> Any:
            return self.review(draft=self.draft(question=question).draft)

    optimizer = dspy.BootstrapFewShot(metric=billing.score, **TEACHES)
    with token_scope("run") as run:
        optimizer.compile(Answer(), trainset=examples(2))
    report = run.report()

    assert "phase" == report.find("run/BootstrapFewShot/bootstrap").kind
    assert report.find("run/BootstrapFewShot/bootstrap").usage == report.total
    assert {"draft", "review"} == {node.name for node in report.find("run/BootstrapFewShot/bootstrap/Answer").children}
    assert {"Answer.draft", "Answer.review"} == set(report.predictors())
    assert {"Answer.draft", "Answer.review"} == set(report.by_module())


def test_an_optimizer_of_ones_own(billing):
    """In a user's optimizer, only methods that DSPy's optimizers have are phases. Other calls have no phase."""

    class Own(dspy.teleprompt.MIPROv2):
        def _propose_instructions(self, program: Any) -> Any:
            return program(question="What else?")

        def compile(self, student: Any, *, trainset: Any) -> Any:
            self._propose_instructions(student)
            student(question="Why?")
            dspy.settings.lm("Why?")
            return student

    with token_scope("run") as run:
        Own(metric=billing.score, auto=None, num_candidates=1).compile(
            dspy.ChainOfThought("question -> answer"), trainset=[]
        )
    own = run.report().find("run/Own")

    assert {("propose", "phase", 1), ("ChainOfThought", "dspy", 1)} == {
        (node.name, node.kind, node.usage.calls) for node in own.children
    }
    assert 1 == own.own.calls
    assert tokens(billing.task.total) == tokens(run.usage)


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_phase_that_is_no_plain_method(billing, kind):
    """A static or class method is a phase, too; `uninstrument` restores it as what it was."""

    def propose(*arguments: Any) -> Any:
        return arguments[-1](question="What else?")

    class Own(dspy.teleprompt.Teleprompter):
        _propose_instructions = kind(propose)

        def compile(self, student: Any, *, trainset: Any) -> Any:
            self._propose_instructions(student)
            return student

    def run() -> Usage:
        with token_scope("run") as scope:
            Own().compile(dspy.Predict("question -> answer"), trainset=[])
        return scope.report().find("run/Own/propose").usage

    class Heir(Own):
        _propose_instructions = vars(Own)["_propose_instructions"]

    with token_scope("run") as scope:
        Heir._propose_instructions(dspy.Predict("question -> answer"))
    assert ["Predict(question -> answer)"] == [node.name for node in scope.report().find("run/propose").children]
    before = billing.task.total

    first = run()
    assert tokens(billing.task.total) == tokens(before + first)
    for _ in range(2):
        tokenscope.uninstrument()
        method = vars(Own)["_propose_instructions"]
        assert (kind, propose) == (type(method), method.__func__)
        tokenscope.instrument()
        assert first == run()


def test_phases_that_are_no_plain_functions(billing):
    """A phase of a program's own may be a coroutine or a generator, and stays one."""

    class Own(dspy.teleprompt.Teleprompter):
        async def _propose_instructions(self, student: Any) -> Any:
            return await student.acall(question="What else?")

        def _bootstrap(self, student: Any) -> Any:
            for n in range(2):
                yield student(question=f"Number {n}?")

        def compile(self, student: Any, *, trainset: Any) -> Any:
            asyncio.run(self._propose_instructions(student))
            for _ in self._bootstrap(student):
                student(question="Between?")
            return student

    with token_scope("run") as run:
        Own().compile(dspy.ChainOfThought("question -> answer"), trainset=[])
    own = run.report().find("run/Own")

    assert inspect.iscoroutinefunction(Own._propose_instructions)
    assert inspect.isgeneratorfunction(Own._bootstrap)
    assert {"propose": 1, "bootstrap": 2, "ChainOfThought": 2} == {node.name: node.usage.calls for node in own.children}
    assert tokens(billing.task.total) == tokens(run.usage)


@pytest.mark.skipif(not hasattr(BaseCallback, "on_compile_start"), reason="callbacks of DSPy 3.3")
def test_callbacks_of_an_optimizer_of_ones_own(billing):
    """What DSPy itself does to each optimizer is done, too: its callbacks are called as ever."""

    class Noting(BaseCallback):
        def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            begun.append(type(instance).__name__)

    class Own(dspy.teleprompt.Teleprompter):
        def compile(self, student: Any, *, trainset: Any) -> Any:
            return student(question="Why?")

    begun: list[str] = []
    with dspy.context(callbacks=[Noting()]), token_scope("run") as run:
        Own().compile(dspy.Predict("question -> answer"), trainset=[])
    assert ["Own"] == begun
    assert 1 == run.report().find("run/Own").usage.calls


def test_optimizers_of_another_base():
    """Optimizers of a base that does nothing itself to its subclasses, as DSPy's before 3.3, are scopes, too."""
    made = []

    class Root:
        def __init_subclass__(cls, *, mark: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            made.append((cls.__name__, mark))

    class Base(Root):
        pass

    class First(Base):
        def compile(self) -> None:
            record_tokens("m", "o", "model", "provider", 1, 0)

    own = First.compile
    release = adopt_optimizers(SimpleNamespace(Teleprompter=Base))

    class Second(First, mark="second"):
        def compile(self) -> None:
            super().compile()

    class Third(First):
        compile = First.compile
        _bootstrap = functools.partial(First.compile)
        _propose_instructions = None

    with token_scope("run") as run:
        Second().compile()
        Third().compile()
        Third._bootstrap(Third())
    report = run.report()
    assert {"Second": 1, "First": 2} == {node.name: node.usage.calls for node in report.tree().children}
    assert ["First"] == [node.name for node in report.find("run/Second").children]
    assert ["m"] == [node.name for node in report.find("run/First").children]
    assert Third._propose_instructions is None
    assert [("Base", ""), ("First", ""), ("Second", "second"), ("Third", "")] == made

    release()
    assert "__init_subclass__" not in vars(Base)
    assert own is First.compile
    with token_scope("run") as run:
        Second().compile()
    assert ["m"] == [node.name for node in run.report().tree().children]


@pytest.mark.skipif(not hasattr(BaseCallback, "on_compile_start"), reason="callbacks of DSPy 3.3")
def test_optimizers_that_are_made_without_us(billing):
    """A class that is made after `uninstrument` is what DSPy makes it, and is a scope once patches are applied again."""
    begun: list[str] = []

    class Noting(BaseCallback):
        def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            begun.append(type(instance).__name__)

    tokenscope.uninstrument()
    try:

        class Own(dspy.teleprompt.Teleprompter):
            def compile(self, student: Any, *, trainset: Any) -> Any:
                return student(question="Why?")

    finally:
        tokenscope.instrument()
    with dspy.context(callbacks=[Noting()]), token_scope("run") as run:
        Own().compile(dspy.Predict("question -> answer"), trainset=[])
    assert ["Own"] == begun
    assert 1 == run.report().find("run/Own").usage.calls


def test_nothing_stays(billing):
    """`uninstrument` restores the methods of the optimizers."""
    from tokenscope import instrument, uninstrument

    bootstrap, propose = dspy.BootstrapFewShot._bootstrap, dspy.MIPROv2._propose_instructions
    uninstrument()
    try:
        assert bootstrap.__wrapped__ is dspy.BootstrapFewShot._bootstrap
        assert propose.__wrapped__ is dspy.MIPROv2._propose_instructions
    finally:
        instrument()
    assert bootstrap.__code__ is dspy.BootstrapFewShot._bootstrap.__code__


def test_a_judge_is_no_reflection(billing):
    """While GEPA gathers feedback, a judge that the metric calls counts in `feedback`, not in `reflect`."""
    pytest.importorskip("gepa")
    judge = dspy.Predict("question, answer -> verdict")

    def feedback(example: Any, prediction: Any, trace: Any = None, name: Any = None, named: Any = None) -> Any:
        with dspy.context(lm=judging.lm("openai/gpt-4.1")):
            judge(question=example.question, answer=prediction.answer)
        return dspy.Prediction(score=0.5, feedback="Think harder.")

    with LoopbackProvider() as judging, token_scope("run") as run:
        billing.feedback = feedback
        gepa(billing)
        report = run.report()
        judged = sum(
            (node.usage for _, node in report.tree().walk() if "Predict(question, answer -> verdict)" == node.name),
            Usage(),
        )

        assert tokens(judging.total) == tokens(judged)
    assert ["openai/gpt-4o"] == list(report.find("run/GEPA/reflect").by_model)
    assert tokens(billing.reflection.total) == tokens(report.find("run/GEPA/reflect").usage)
    assert ["openai/gpt-4.1"] == list(report.find("run/GEPA/feedback").by_model)
    assert "phase" == report.find("run/GEPA/feedback").kind


@pytest.mark.parametrize(
    ("args", "kwargs", "phase"),
    [
        ((), {}, "evaluate"),
        ((False,), {}, "evaluate"),
        ((True,), {}, "sample"),
        ((), {"capture_traces": True}, "sample"),
        ((), {"capture_traces": False}, "evaluate"),
    ],
    ids=str,
)
def test_an_adapter_of_gepa_that_a_program_calls(billing, args, kwargs, phase):
    """Whether a candidate is run to learn from it, or to be scored, is known however the adapter is called."""
    pytest.importorskip("gepa")
    from dspy.teleprompt.gepa.gepa_utils import DspyAdapter

    program = dspy.Predict("question -> answer")
    adapter = DspyAdapter(program, billing.feedback, {}, num_threads=1, rng=random.Random(0))
    with token_scope("run") as run:
        adapter.evaluate(examples(2), {"self": "Answer."}, *args, **kwargs)
    [found] = run.report().tree().children

    assert (phase, "phase", 2) == (found.name, found.kind, found.usage.calls)
    assert tokens(billing.task.total) == tokens(found.usage)


def test_a_phase_ends_with_its_call(billing):
    """An instruction proposer's direct LM call is in `reflect`. The rest of the proposer is in GEPA's own scope."""
    pytest.importorskip("gepa")
    if "instruction_proposer" not in inspect.signature(dspy.GEPA.__init__).parameters:
        pytest.skip("this DSPy's GEPA takes no instruction proposer")
    places = []

    def propose(candidate: dict[str, str], reflective_dataset: Any, components_to_update: list[str]) -> dict[str, str]:
        dspy.settings.lm("What went wrong?")
        scope = current_scope()
        places.append((scope.kind, scope.name))
        with token_scope("critique"):
            judge(question="Is that so?")
        return {name: candidate[name] + " Think harder." for name in components_to_update}

    judge = dspy.Predict("question -> verdict")
    optimizer = dspy.GEPA(
        metric=billing.feedback,
        max_metric_calls=16,
        reflection_minibatch_size=2,
        reflection_lm=billing.thinker,
        instruction_proposer=propose,
    )
    with token_scope("run") as run:
        optimizer.compile(dspy.Predict("question -> answer"), trainset=examples(4), valset=examples(3))
    gepa = run.report().find("run/GEPA")

    assert {("compile", "GEPA")} == set(places)
    assert {"reflect", "critique"} <= {node.name for node in gepa.children}
    reflect, critique = (run.report().find(f"run/GEPA/{name}").usage for name in ("reflect", "critique"))
    assert len(places) == reflect.calls == critique.calls
    assert tokens(billing.reflection.total) == tokens(reflect + critique)


def test_an_optimizer_of_agents(billing, monkeypatch):
    """AvatarOptimizer runs its agent in `evaluate`, and its questions about good and bad runs in `propose`."""
    from dspy.teleprompt.avatar_optimizer import AvatarOptimizer

    # This optimizer needs a module that DSPy 3 has removed.
    monkeypatch.setattr(dspy, "TypedPredictor", dspy.Predict, raising=False)

    class Agent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tools: list[Any] = []
            self.actor = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            return dspy.Prediction(answer=self.actor(question=question).answer, actions=[])

    def metric(example: Any, prediction: Any) -> int:
        return int(example.question.endswith("0?"))

    agent = Agent()
    agent.set_lm(dspy.settings.lm)  # it runs in threads in which `dspy.context` has no effect
    with token_scope("run") as run:
        AvatarOptimizer(metric=metric, max_iters=2).compile(agent, trainset=examples(4))
    found = {node.name: node.usage.calls for node in run.report().find("run/AvatarOptimizer").children}

    assert {"evaluate": 2 * 4, "propose": 2 * 2} == found
    assert tokens(billing.task.total) == tokens(run.usage)
