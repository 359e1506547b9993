"""Waste: answers that no adapter could parse, calls that failed, discarded attempts, stragglers."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from dspy.utils.parallelizer import ParallelExecutor
from support.dspy_support import DSPY, ENGINES, HoldingProvider, tokens
from support.programs import program, run

from tokenscope import Budget, Report, Usage, current_scope, receive, ship, token_scope
from tokenscope import report as process_report
from tokenscope._report.waste import Waste
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations.dspy import parallel
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(params=ENGINES)
def provider(request: pytest.FixtureRequest) -> Iterator[HoldingProvider]:
    with HoldingProvider() as provider, dspy.context(lm=model(provider, request.param), num_threads=4):
        yield provider
        provider.go.set()


def model(provider: LoopbackProvider, engine: str, **settings: Any) -> Any:
    if engine == "litellm" and DSPY >= (3, 4):
        settings["engine"] = "litellm"
    return provider.lm(**settings)


class Pair(dspy.Module):
    """Two modules, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.answer = dspy.ChainOfThought("question -> answer")

    def forward(self, question: str) -> Any:
        self.draft(question=question.replace("<<garble", "<<"))
        return self.answer(question=question)

    async def aforward(self, question: str) -> Any:
        await self.draft.acall(question=question.replace("<<garble", "<<"))
        return await self.answer.acall(question=question)


def paid(usage: Usage) -> tuple[int, int, int]:
    return usage.calls, usage.input_tokens, usage.output_tokens


def test_nothing_is_wasted(provider):
    """A program in which nothing fails has no waste."""
    with token_scope("run") as run:
        Pair()(question="Why?")

    assert {} == run.report().waste()
    assert not run.report().waste().total.total
    assert tokens(provider.total) == tokens(run.usage)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_an_answer_that_cannot_be_read(provider, how):
    """If an answer cannot be parsed and the adapter asks again, only the first answer is wasted."""
    pair = Pair()
    with token_scope("run") as run:
        if how == "sync":
            pair(question="Why? <<bill a>> <<garble once>>")
        else:
            asyncio.run(pair.acall(question="Why? <<bill a>> <<garble once>>"))
    waste = run.report().waste()

    assert ["Pair.answer"] == list(waste)
    assert paid(provider.garbled["a"]) == paid(waste["Pair.answer"].failed_parses)
    assert waste["Pair.answer"].failed_parses == waste["Pair.answer"].total == waste.total.total
    assert ["failed_parses"] == [name for name, _ in waste["Pair.answer"].reasons()]
    assert 3 == run.usage.calls
    assert tokens(provider.total) == tokens(run.usage)


def test_a_module_in_several_scopes(provider):
    """The waste of a module in several scopes is added up."""
    predict = dspy.Predict("question -> answer")
    with token_scope("run") as run:
        for scope in ("first", "second"):
            with token_scope(scope):
                predict(question=f"Why? <<bill {scope}>> <<garble once>>")
    waste = run.report().waste()

    assert ["Predict(question -> answer)"] == list(waste)
    assert 2 == waste.total.failed_parses.calls
    assert paid(sum(provider.garbled.values(), Usage())) == paid(waste.total.total)


def test_no_answer_can_be_read(provider):
    """If no answer can be parsed, all that the module has spent is wasted, and DSPy's exception is raised."""
    with token_scope("run") as run, pytest.raises(dspy.utils.exceptions.AdapterParseError):
        dspy.Predict("question -> answer")(question="Why? <<bill a>> <<garble>>")
    waste = run.report().waste()["Predict(question -> answer)"]

    assert paid(provider.bill["a"]) == paid(waste.failed_parses) == paid(waste.total)
    assert 2 <= waste.failed_parses.calls


def test_a_cached_answer_costs_nothing():
    """An answer from DSPy's cache that cannot be parsed is not waste."""
    new = uuid.uuid4()  # no cache of DSPy has an answer for it, not even the one on disk
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm(cache=True)):
        for _ in range(2):
            with token_scope("run") as run, pytest.raises(dspy.utils.exceptions.AdapterParseError):
                dspy.Predict("question -> answer")(question=f"Why? <<garble>> {new}")

    assert 2 <= run.usage.calls == run.usage.cached_calls == provider.total.calls
    assert {} == run.report().waste()


def test_what_a_scope_says_of_itself(provider):
    """The tokens in a scope's `repr` include wasted tokens once."""
    with token_scope("run") as run:
        dspy.Predict("question -> answer")(question="Why? <<bill a>> <<garble once>>")

    assert 1 == run.report().waste().total.failed_parses.calls
    assert f"<Scope 'run', closed, {provider.total.total_tokens:,} tokens>" == repr(run)


def test_answers_in_many_threads(provider):
    """Each module has exactly its own waste, however many modules run at once."""
    questions = [f"Why? <<bill {n}>>{' <<garble once>>' if n % 3 == 0 else ''}" for n in range(30)]
    with token_scope("run") as run:
        dspy.Parallel(num_threads=8, disable_progress_bar=True)([(Pair(), {"question": each}) for each in questions])
    waste = run.report().waste()

    assert ["Pair.answer"] == list(waste)
    assert paid(sum(provider.garbled.values(), Usage())) == paid(waste.total.failed_parses)
    assert 10 == waste.total.total.calls
    assert tokens(provider.total) == tokens(run.usage)


def test_the_provider_fails(provider):
    """A call that fails is waste, with the reason `provider_errors`."""
    with token_scope("run") as run:
        for status in (500, 429, 401):
            with pytest.raises(Exception, match="failing with"):
                dspy.Predict("question -> answer")(question=f"Why? <<fail {status}>>")
    waste = run.report().waste()["Predict(question -> answer)"]

    assert run.usage.failed_calls == waste.provider_errors.calls == waste.provider_errors.failed_calls
    assert 3 <= waste.provider_errors.calls
    assert waste.provider_errors == waste.total


def test_modules_that_wasted_as_much(provider):
    """Modules with equal waste are sorted by name, not by the order in which they ran."""
    with token_scope("run") as run:
        for scope, signature in (("first", "zebra -> stripes"), ("second", "ant -> hill")):
            (name,) = dspy.Predict(signature).signature.input_fields
            with token_scope(scope), pytest.raises(Exception, match="failing with"):
                dspy.Predict(signature)(**{name: "<<fail 401>>"})

    assert ["Predict(ant -> hill)", "Predict(zebra -> stripes)"] == list(run.report().waste())


def test_a_cancelled_call_is_no_error(provider):
    """A cancelled call counts as failed, but it is not waste."""

    async def main() -> None:
        task = asyncio.create_task(dspy.Predict("question -> answer").acall(question="Why? <<hold>>"))
        await asyncio.to_thread(provider.asked.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with token_scope("run") as run:
        asyncio.run(main())

    assert 1 == run.usage.failed_calls
    assert {} == run.report().waste()


@pytest.mark.parametrize("how", ["sync", "async"])
def test_requests_that_are_repeated(provider, how):
    """A request that DSPy repeats after an error is part of one call, and is not waste."""
    lm = model(provider, "litellm" if dspy.settings.lm.kwargs.get("engine") else "native", num_retries=3)
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=lm), token_scope("run") as run:
        if how == "sync":
            predict(question="Why? <<bill a>> <<fail 500 once>>")
        else:
            asyncio.run(predict.acall(question="Why? <<bill a>> <<fail 500 once>>"))

    assert {} == run.report().waste()
    assert (1, 0) == (run.usage.calls, run.usage.failed_calls)
    assert tokens(provider.total) == tokens(run.usage)


def reward(sequence: list[float]) -> Any:
    given = iter(sequence)
    return lambda inputs, prediction: next(given)


@pytest.mark.parametrize("trying", [dspy.BestOfN, dspy.Refine])
@pytest.mark.parametrize(
    ("rewards", "kept"), [([1.0], 0), ([0.1, 1.0], 1), ([0.4, 0.1, 0.2], 0), ([0.1, 0.3, 0.2], 1)], ids=str
)
def test_attempts_that_are_thrown_away(provider, trying, rewards, kept):
    """Every attempt except the returned one is wasted, and so is the advice for the next attempt."""
    module = Pair()
    best = trying(module=module, N=3, reward_fn=reward(rewards), threshold=0.9)
    with token_scope("run") as run:
        best(question="Why? <<bill a>>")
    report = run.report()
    attempts = len(rewards)
    advice = attempts - 1 if trying is dspy.Refine else 0
    waste = report.waste().total

    assert attempts * 2 + advice == report.total.calls
    assert (attempts - 1) * 2 + advice == waste.retries.calls
    assert waste.retries == waste.total
    assert tokens(provider.total) == tokens(report.total)
    if trying is dspy.BestOfN:  # its attempts all ask the same question
        assert waste.total.input_tokens * attempts == report.total.input_tokens * (attempts - 1)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_two_of_three_attempts_are_thrown_away(provider, kept):
    """Of three attempts, exactly the two that are not returned are wasted."""

    class Wordy(dspy.Module):
        """A module that asks a longer question at each attempt."""

        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            made.append(f"attempt {len(made)}")
            return self.answer(question=f"{question * len(made)} <<bill {made[-1]}>>")

    made: list[str] = []
    rewards = [0.5 if number == kept else 0.1 for number in range(3)]
    with token_scope("run") as run:
        dspy.BestOfN(module=Wordy(), N=3, reward_fn=reward(rewards), threshold=1.0)(question="Why? ")
    report = run.report()

    assert ["attempt 0", "attempt 1", "attempt 2"] == made
    assert paid(report.waste().total.retries + provider.bill[f"attempt {kept}"]) == paid(report.total)
    assert tokens(provider.total) == tokens(report.total)


def test_who_judges_attempts_wastes_nothing(provider):
    """The calls of a judge are not waste, even if the judge and the judged module have the same class."""
    judge = dspy.Predict("question, answer -> verdict")
    given = iter([0.1, 0.2, 1.0])

    def judged(inputs: Any, prediction: Any) -> float:
        judge(question=inputs["question"], answer=prediction.answer)
        return next(given)

    with token_scope("run") as run:
        dspy.BestOfN(dspy.Predict("question -> answer"), N=3, reward_fn=judged, threshold=1.0)(question="Why?")
    report = run.report()

    assert 6 == report.total.calls
    assert ["BestOfN.Predict(question -> answer)"] == list(report.waste())
    assert 2 == report.waste().total.retries.calls


def test_an_advice_that_is_stopped(provider):
    """If a budget stops `Refine` while it asks for advice, the attempt that it has is not thrown away."""
    refine = dspy.Refine(dspy.Predict("question -> answer"), N=3, reward_fn=lambda *_: 0.1, threshold=1.0)
    with token_scope("run", budget=Budget(calls=1, on_exceed="stop")) as run:
        refine(question="Why?")

    assert run.budget_exceeded
    assert 1 == provider.total.calls == run.usage.calls
    assert {} == run.report().waste()


@pytest.mark.parametrize("how", ["sync", "async"])
def test_two_steps_of_an_adapter_that_begins_the_second_one_twice(how: str) -> None:
    """An answer is wasted once, also if the adapter looks at it twice before the second step fails."""

    class Twice(dspy.TwoStepAdapter):
        def _create_extractor_signature(self, *arguments: Any, **keywords: Any) -> Any:
            super()._create_extractor_signature(*arguments, **keywords)
            return super()._create_extractor_signature(*arguments, **keywords)

    with LoopbackProvider(lambda field, prompt: "<<garble>> forty-two") as first, LoopbackProvider() as second:
        with dspy.context(lm=first.lm(), adapter=Twice(second.lm())), token_scope("run") as run:
            predict = dspy.Predict("question -> answer: int")
            with pytest.raises(Exception, match=r"."):
                predict(question="Why?") if how == "sync" else asyncio.run(predict.acall(question="Why?"))

    wasted = run.report().waste().total.failed_parses
    assert (run.usage.calls, run.usage.input_tokens) == (wasted.calls, wasted.input_tokens)


def test_an_executor_that_is_called_wrongly():
    """DSPy's own error is raised if its executor gets no function."""
    with pytest.raises(TypeError, match="function"):
        ParallelExecutor(num_threads=1).execute(data=[])


def test_attempts_that_fail(provider):
    """In a failed attempt, answers that cannot be parsed are `failed_parses`, and all other calls are `retries`."""
    given = iter([1.0])
    failing = iter(["<<garble>>", ""])

    class Flaky(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.draft = dspy.Predict("question -> draft")
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            self.draft(question=question + " <<bill draft>>")
            return self.answer(question=question + f" <<bill answer>> {next(failing)}")

    with token_scope("run") as run:
        dspy.BestOfN(Flaky(), N=2, reward_fn=lambda *_: next(given), threshold=1.0)(question="Why?")
    report = run.report()
    waste = report.waste()

    assert paid(provider.garbled["answer"]) == paid(waste["BestOfN.Flaky.answer"].failed_parses)
    assert Usage() == waste["BestOfN.Flaky.answer"].retries
    assert 1 == waste["BestOfN.Flaky.draft"].retries.calls
    assert 2 * waste["BestOfN.Flaky.draft"].retries.input_tokens == provider.bill["draft"].input_tokens
    assert tokens(provider.total) == tokens(report.total)


class Interpreter:
    """An interpreter that rejects the code of its first two runs and accepts the third."""

    tools: dict[str, Any] = {}

    def __init__(self) -> None:
        self.runs = 0

    def execute(self, code: str, variables: Any = None) -> str:
        self.runs += 1
        if self.runs < 3:
            raise SyntaxError("no such name")
        return "42"

    def start(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


def test_code_that_does_not_run():
    """If `ProgramOfThought` writes code that does not run, the call that wrote the code is wasted."""
    interpreter = Interpreter()
    takes_factory = "interpreter_factory" in dspy.ProgramOfThought.__init__.__code__.co_varnames
    given: Any = {"interpreter_factory": lambda: interpreter} if takes_factory else {"interpreter": interpreter}
    program = dspy.ProgramOfThought("question -> answer", **given)

    def answer(field: str, prompt: str) -> str | None:
        return "```python\nx = 42\n```" if field == "generated_code" else None

    with LoopbackProvider(answer) as coder, dspy.context(lm=coder.lm()), token_scope("run") as run:
        program(question="Why?")
    report = run.report()
    names = {"ProgramOfThought.code_generate": 1, "ProgramOfThought.code_regenerate": 1}

    assert 3 == interpreter.runs
    assert 4 == report.total.calls
    assert names == {name: each.retries.calls for name, each in report.waste().items()}
    assert tokens(coder.total) == tokens(report.total)


EXECUTIONS = {
    "both by position": lambda executor, work, items: executor.execute(work, items),
    "one by position": lambda executor, work, items: executor.execute(work, data=items),
    "none by position": lambda executor, work, items: executor.execute(function=work, data=items),
}


def straggle(loser, how, is_done):
    """Run items, one of which DSPy runs twice because the first run seems stuck, until something is done."""
    winner = "second" if loser == "first" else "first"
    runs = iter(["first", "second"])
    begun, won = threading.Event(), threading.Event()
    predict = dspy.Predict("question -> answer")

    def work(item: dict[str, str]) -> Any:
        if item["name"] == "idle":
            return "idle"
        if item["name"] == "other":
            return predict(question="Why? <<bill other>>")
        run = next(runs)
        if run == "second":
            begun.set()
        begun.wait(60)
        if run == winner:
            answer = predict(question=f"Why? <<bill {run}>>")
            won.set()
            return answer
        won.wait(60)
        return predict(question=f"Why? <<bill {run}>> <<wait 1>>")  # by then DSPy has the other result

    executor = ParallelExecutor(num_threads=4, timeout=1, straggler_limit=3, disable_progress_bar=True)
    predict(question="Why? <<bill before>>")  # the first call of an engine can take longer than the timeout
    results = EXECUTIONS[how](executor, work, [{"name": "stuck"}, {"name": "other"}, {"name": "idle"}])
    deadline = time.monotonic() + 20
    while not is_done() and time.monotonic() < deadline:  # DSPy does not wait for it
        time.sleep(0.05)
    assert all(results)
    assert next(runs, None) is None


@pytest.mark.parametrize(("loser", "how"), list(zip(["first", "second", "first"], EXECUTIONS, strict=True)))
def test_stragglers(provider, loser, how):
    """If DSPy runs an item twice because the first run seems stuck, the run that ends second is wasted."""
    with token_scope("run") as run:
        straggle(loser, how, lambda: run.report().waste())
    waste = run.report().waste()

    assert paid(provider.bill[loser]) == paid(waste.total.stragglers)
    assert waste.total.stragglers == waste.total.total
    assert tokens(provider.total) == tokens(run.report().total)


def test_a_fault_while_a_straggler_is_marked(provider, monkeypatch):
    """A fault is a warning that names where it was; all is counted, and results are what they were."""
    forget_warnings()
    monkeypatch.setattr(parallel, "mark_all_wasted", lambda *arguments: 1 / 0)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning, match="its work in reading what a straggler has spent;") as caught:
        with token_scope("run") as run:
            straggle("first", "both by position", lambda: any(each.category is TokenScopeWarning for each in caught))
    assert {} == run.report().waste()
    assert tokens(provider.total) == tokens(run.usage)


def test_the_same_item_several_times(provider):
    """If the same object is passed as several items, each of them runs, and none is waste."""
    item = dspy.Example(question="Why?").with_inputs("question")
    with token_scope("run") as run:
        dspy.Parallel(num_threads=3, disable_progress_bar=True)([(dspy.Predict("question -> answer"), item)] * 6)

    assert 6 == run.usage.calls
    assert {} == run.report().waste()


def test_waste_is_told_apart_once(provider):
    """An answer that could not be parsed, in a discarded attempt, is counted as waste once."""
    given = iter([0.1, 1.0])
    with token_scope("run") as run:
        dspy.BestOfN(Pair(), N=2, reward_fn=lambda *_: next(given), threshold=1.0)(
            question="Why? <<bill a>> <<garble once>>"
        )
    report = run.report()
    waste = report.waste().total

    assert 5 == report.total.calls  # two attempts of two calls, and one call that was repeated
    assert 1 == waste.failed_parses.calls
    assert 2 == waste.retries.calls
    assert 3 == waste.total.calls
    assert tokens(provider.total) == tokens(report.total)


def test_it_travels(provider, tmp_path):
    """Waste is saved, loaded, added up and repriced with its report."""
    with token_scope("run") as run:
        Pair()(question="Why? <<bill a>> <<garble once>>")
    report = run.report()
    waste = report.waste()["Pair.answer"].failed_parses
    report.save(tmp_path / "run.json")
    loaded = Report.load(tmp_path / "run.json")

    assert report == loaded
    assert report.waste() == loaded.waste()
    assert waste + waste == (loaded + report).waste()["Pair.answer"].failed_parses
    assert waste.cost
    dearer = report.reprice("openai/gpt-4o").waste()["Pair.answer"].failed_parses
    assert waste.cost < dearer.cost < report.reprice("openai/gpt-4o").total.cost
    assert report.total == process_report().find("run").usage


def test_it_comes_home_with_a_shipment(provider):
    """The waste of a shipped function is counted once, in the scope that receives the shipment."""
    with token_scope("run") as run:
        receive(ship(Pair())(question="Why? <<bill a>> <<garble once>>"))

    assert paid(provider.garbled["a"]) == paid(run.report().waste()["Pair.answer"].total)
    assert tokens(provider.total) == tokens(run.usage)


def test_no_such_module():
    """A module name that is not in the waste raises a KeyError."""
    with pytest.raises(KeyError, match="no 'planner'; there is nothing"):
        Report().waste()["planner"]


PROGRAM = """
import atexit, dspy
from tokenscope._report.waste import Waste
from tokenscope.testing import LoopbackProvider

provider = LoopbackProvider().__enter__()
dspy.configure(lm=provider.lm())

class Agent(dspy.Module):
    def __init__(self):
        super().__init__()
        self.planner = dspy.Predict("question -> plan")
        self.writer = dspy.Predict("plan -> answer")

    def forward(self, question):
        return self.writer(plan=self.planner(question=question + " <<bill a>> GARBLE").plan + "ONCE")

try:
    Agent()(question="Why?")
except Exception:
    pass
print(sum(usage.total_tokens for usage in provider.garbled.values()), provider.total.total_tokens)
"""


@pytest.mark.parametrize(
    ("garbled", "failing", "said"),
    [
        ("", "", None),
        (
            "<<garble once>>",
            "",
            r"wasted: {} tokens \({}%\), \$0\.0\d+: failed parses 1 call with {} tokens, in Agent.planner",
        ),
        (
            "<<garble once>>",
            " <<fail 500 once>> <<bill b>>",
            r"wasted: {} tokens \({}%\), \$0\.0\d+: failed parses 1 call with {} tokens; provider errors 1 call, .*planner",
        ),
        (
            "",
            " <<fail 500 once>> <<bill b>>",
            r"wasted: 0 tokens \(0\.0%\), \$0\.00: provider errors 1 call, in Agent.writer",
        ),
    ],
    ids=["nothing", "a failed parse", "and an error", "an error"],
)
def test_a_line_of_run(tmp_path, garbled, failing, said):
    """`tokenscope run` prints one line about waste, if there is any."""
    source = PROGRAM.replace("GARBLE", garbled).replace("ONCE", failing)
    done = run(program(tmp_path, source))
    wasted, total = map(int, done.stdout.split())
    lines = [line for line in done.told.splitlines() if line.startswith("wasted: ")]

    assert 0 == done.status
    if said is None:
        assert [] == lines
    else:
        (line,) = lines
        assert re.fullmatch(said.format(f"{wasted:,}", f"{100 * wasted / total:.1f}", f"{wasted:,}"), line)


def test_workers_are_in_the_scope_that_called(provider):
    """In a worker of ParallelExecutor, the current scope is the scope that called the executor, or None."""
    found: list[Any] = []

    def work(item: str) -> None:
        scope = current_scope()
        found.append(scope)
        with token_scope("inside") as inside:
            assert scope is inside.parent

    executor = ParallelExecutor(num_threads=2, disable_progress_bar=True)
    with token_scope("run") as run:
        executor.execute(work, ["a", "b"])
    executor.execute(work, ["c"])

    assert [run, run, None] == found


def test_it_says_what_it_is():
    """The repr of a Waste lists the reasons with their tokens."""
    waste = Waste(failed_parses=Usage(calls=2, input_tokens=1_000), retries=Usage(calls=1))

    assert "<Waste failed_parses: 1,000 tokens; retries: 0 tokens>" == repr(waste)
    assert "<Waste of nothing>" == repr(Waste())


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("fails", [True, False])
def test_two_steps(how: str, fails: bool) -> None:
    """If a `TwoStepAdapter` cannot extract the fields, the answer and the extraction are wasted, in both its twins."""
    said = "<<garble>> forty-two" if fails else "forty-two"
    with LoopbackProvider(lambda field, prompt: said) as first, LoopbackProvider() as second:
        adapter = dspy.TwoStepAdapter(extraction_model=second.lm())
        with dspy.context(lm=first.lm(), adapter=adapter), token_scope("run") as run:
            predict = dspy.Predict("question -> answer: int" if fails else "question -> answer")
            try:
                predict(question="Why?") if how == "sync" else asyncio.run(predict.acall(question="Why?"))
            except Exception:
                assert fails
            else:
                assert not fails

    wasted = run.report().waste().total.failed_parses
    assert first.total.calls >= 1 <= second.total.calls
    assert first.total.calls + second.total.calls == run.usage.calls
    assert (run.usage.calls if fails else 0) == wasted.calls
    assert (run.usage.input_tokens if fails else 0) == wasted.input_tokens
