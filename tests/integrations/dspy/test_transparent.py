"""Programs run exactly as without tokenscope: nearly every test runs one with and without it, and compares."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cloudpickle
import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.parallelizer import ParallelExecutor
from support.dspy_support import DSPY
from support.spending import python

import tokenscope
from tokenscope import token_scope
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

ENGINES = ["native", "litellm"] if DSPY >= (3, 4) else ["litellm"]


@pytest.fixture(params=ENGINES)
def compare(request: pytest.FixtureRequest) -> Callable[[Callable[[Any], Any]], Any]:
    """Run a program without tokenscope's patches and with them, in a scope, and compare the results."""
    engine = {"engine": "litellm"} if DSPY >= (3, 4) and request.param == "litellm" else {}

    def run_both(program: Callable[[Any], Any]) -> Any:
        results = []
        for instrumented in (False, True):
            if not instrumented:
                tokenscope.uninstrument()
            try:
                with (
                    LoopbackProvider() as provider,
                    dspy.context(lm=provider.lm(**engine)),
                    token_scope("run") as scope,
                ):
                    results.append(program(provider))
                    assert instrumented == (scope.usage.calls > 0)
            finally:
                tokenscope.instrument()
        assert results[0] == results[1]
        return results[1]

    return run_both


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.ChainOfThought("question -> plan")
        self.answer = dspy.Predict("plan -> answer")

    def forward(self, question: str) -> Any:
        return self.answer(plan=self.plan(question=question).plan)

    async def aforward(self, question: str) -> Any:
        return await self.answer.acall(plan=(await self.plan.acall(question=question)).plan)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_get_lm_usage(compare: Any, track: bool, asynchronous: bool) -> None:
    """`prediction.get_lm_usage()` returns the same with and without tokenscope, with usage tracking on and off."""

    def program(provider: Any) -> Any:
        with dspy.context(track_usage=track):
            if asynchronous:
                return asyncio.run(Program().acall(question="Why?")).get_lm_usage()
            return Program()(question="Why?").get_lm_usage()

    result = compare(program)
    assert track == bool(result)


def test_track_usage(compare: Any) -> None:
    """Nested `dspy.track_usage()` blocks hold the same entries with and without tokenscope."""

    def program(provider: Any) -> Any:
        with dspy.track_usage() as outer:
            Program()(question="Why?")
            with dspy.track_usage() as inner:
                dspy.settings.lm("Hello")
                kept = dspy.settings.usage_tracker is inner
        return outer.get_total_tokens(), inner.get_total_tokens(), dict(outer.usage_data), kept

    totals = compare(program)
    assert totals[3]
    assert totals[0]


@pytest.mark.parametrize("inside", [True, False])
def test_track_usage_around_an_lm_that_asks_another(compare: Any, inside: bool) -> None:
    """A block around an LM, or inside of it, holds the same entries of the LM that this asks."""

    def program(provider: Any) -> Any:
        told = []

        class Asking(dspy.BaseLM):
            def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
                with dspy.track_usage() if inside else contextlib.nullcontext() as tracker:
                    text = asked("Why?")[0]
                told.append(tracker.get_total_tokens() if inside else None)
                message = SimpleNamespace(content=text, tool_calls=None)
                choices = [SimpleNamespace(message=message, finish_reason="stop")]
                usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
                return SimpleNamespace(choices=choices, usage=usage, model="asking")

        asked = dspy.settings.lm
        with dspy.track_usage() as tracker:
            Asking("openai/asking")("How?")
        return tracker.get_total_tokens(), told

    around, _ = compare(program)
    expected = {"openai/asking"} if DSPY >= (3, 3) else set()  # an LM of a program's own is tracked from then on
    assert expected | (set() if inside else {"openai/gpt-4o-mini"}) <= set(around)


@pytest.mark.skipif(DSPY < (3, 3), reason="an LM of a program's own is tracked from then on")
def test_usage_of_workers_inside_an_lm(compare: Any) -> None:
    """Workers that an LM starts have copies of the tracker around it, as ever."""

    def program(provider: Any) -> Any:
        told: list[Any] = []
        asked = dspy.settings.lm

        def work(question: str) -> Any:
            asked(question)
            return dspy.settings.usage_tracker.get_total_tokens()

        class Working(dspy.BaseLM):
            def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
                asked("Why?")
                told.extend(ParallelExecutor(num_threads=2, disable_progress_bar=True).execute(work, ["How?"]))
                message = SimpleNamespace(content="yes", tool_calls=None)
                choices = [SimpleNamespace(message=message, finish_reason="stop")]
                return SimpleNamespace(choices=choices, usage={"prompt_tokens": 3}, model="working")

        with dspy.track_usage() as tracker:
            Working("openai/working")("Why?")
        return tracker.get_total_tokens(), told

    around, told = compare(program)
    assert "openai/gpt-4o-mini" in around
    assert ["openai/gpt-4o-mini"] == [name for each in told for name in each]


def test_usage_of_failing_calls(compare: Any) -> None:
    """`dspy.track_usage()` holds the same usage if the program's answers cannot be parsed."""

    def program(provider: Any) -> Any:
        with dspy.track_usage() as tracker, pytest.raises(Exception, match="parse"):
            Program()(question="Why? <<garble>>")
        return tracker.get_total_tokens()

    assert compare(program)


def test_configure_inside_a_scope() -> None:
    """`dspy.configure` inside a scope takes effect at once, and stays in effect after the scope."""
    before = dspy.settings.lm
    try:
        with LoopbackProvider() as provider:
            with token_scope("run") as run:
                dspy.configure(lm=provider.lm("openai/gpt-4o"))
                dspy.Predict("question -> answer")(question="Why?")
                dspy.configure(lm=provider.lm("openai/gpt-4o-mini"), max_history_size=9_999)
                dspy.Predict("question -> answer")(question="Why?")
            assert ["openai/gpt-4o", "openai/gpt-4o-mini"] == sorted(run.report().by_model())
            assert (dspy.settings.lm.model, dspy.settings.max_history_size) == ("openai/gpt-4o-mini", 9_999)
    finally:
        dspy.configure(lm=before, max_history_size=10_000)


def test_configure_inside_a_call(compare: Any) -> None:
    """If a callback calls `dspy.configure` during an LM call, the new settings are visible at once."""

    class Configuring(BaseCallback):
        seen: Any = None

        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            dspy.configure(max_errors=dspy.settings.max_errors + 1)

        def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            self.seen = dspy.settings.max_errors

    def program(provider: Any) -> Any:
        from dspy.dsp.utils.settings import thread_local_overrides

        callback = Configuring()
        lm = provider.lm(callbacks=[callback])
        token = thread_local_overrides.set(type(thread_local_overrides.get())())
        before = dspy.settings.max_errors
        try:
            lm("Hello")
            return callback.seen - before
        finally:
            dspy.configure(max_errors=before)
            thread_local_overrides.reset(token)

    assert 1 == compare(program)


class Recorder(BaseCallback):
    """A callback that records every event, without the ids."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def handler(
            call_id: str = "", instance: Any = None, inputs: Any = None, outputs: Any = None, **rest: Any
        ) -> None:
            outcome = re.sub(r"0x[0-9a-f]+|call_\w+", "", repr(outputs))
            self.events.append((name, type(instance).__name__, sorted(inputs or ()), outcome, sorted(rest)))

        return handler


@pytest.mark.parametrize("asynchronous", [True, False])
def test_callbacks(compare: Any, asynchronous: bool) -> None:
    """The user's callbacks get the same events in the same order, also for failing calls."""

    def program(provider: Any) -> Any:
        recorder = Recorder()
        with dspy.context(callbacks=[recorder]):
            if asynchronous:
                asyncio.run(Program().acall(question="Why?"))
            else:
                Program()(question="Why?")
            with pytest.raises(Exception, match="500"):
                dspy.settings.lm("<<fail 500>>")
        return recorder.events

    events = compare(program)
    assert {"on_lm_start", "on_lm_end", "on_module_start", "on_adapter_parse_end"} <= {event[0] for event in events}


def test_usage_tracker_inside_a_call(compare: Any) -> None:
    """A callback that reads the usage tracker's totals sees the same totals at each event."""

    class Reader(BaseCallback):
        def __init__(self) -> None:
            self.totals: list[Any] = []

        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            self.totals.append(dspy.settings.usage_tracker.get_total_tokens())

        on_lm_end = on_module_start = on_module_end = lambda self, *args, **kwargs: self.totals.append(
            dspy.settings.usage_tracker and dspy.settings.usage_tracker.get_total_tokens()
        )

    def program(provider: Any) -> Any:
        reader = Reader()
        with dspy.context(callbacks=[reader], track_usage=True), dspy.track_usage():
            Program()(question="Why?")
        return reader.totals

    totals = compare(program)
    assert totals[-1]


def test_history(compare: Any) -> None:
    """The histories of the LM and of the modules have the same entries."""

    def program(provider: Any) -> Any:
        program = Program()
        program(question="Why?")
        return [
            [(entry["model"], entry["usage"], entry["outputs"], entry["cost"]) for entry in owner.history]
            for owner in (dspy.settings.lm, program, program.plan, program.answer)
        ]

    assert [len(entries) for entries in compare(program)] == [2, 2, 1, 1]


def test_exceptions(compare: Any) -> None:
    """The caller gets an exception of the same type, with a cause of the same type."""

    def program(provider: Any) -> Any:
        try:
            Program()(question="Why? <<fail 500>>")
        except Exception as error:
            return type(error), type(error.__cause__)
        return None

    # The call is counted as failed: it spent nothing, but it was made.
    assert compare(program)


def test_kinds_and_signatures(compare: Any) -> None:
    """Patched methods keep their kind, signature, name and documentation."""

    def program(provider: Any) -> Any:
        dspy.settings.lm("Hello")
        return [
            (
                str(inspect.signature(method)),
                inspect.iscoroutinefunction(method),
                inspect.isfunction(method),
                method.__name__,
                method.__qualname__,
                method.__doc__,
            )
            for method in (
                dspy.BaseLM.__call__,
                dspy.BaseLM.acall,
                dspy.Module.__call__,
                dspy.Module.acall,
                dspy.Evaluate.__call__,
                dspy.Tool.__call__,
                dspy.Tool.acall,
                dspy.BootstrapFewShot.compile,
            )
        ]

    compare(program)


def test_programs_pickle(compare: Any) -> None:
    """A program and an optimizer that are defined in a script can be pickled by value, and then work."""

    def program(provider: Any) -> Any:
        namespace: dict[str, Any] = {"__name__": "__main__", "dspy": dspy}
        exec(
            "class Mine(dspy.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.p = dspy.Predict('question -> answer')\n"
            "    def forward(self, question):\n        return self.p(question=question)\n"
            "class Optimizer(dspy.teleprompt.Teleprompter):\n"
            "    def compile(self, student, *, trainset):\n        return student\n",
            namespace,
        )
        mine = cloudpickle.loads(cloudpickle.dumps(namespace["Mine"]()))
        optimizer = cloudpickle.loads(cloudpickle.dumps(namespace["Optimizer"]()))
        return type(optimizer.compile(mine, trainset=[])(question="Why?")).__name__

    assert "Prediction" == compare(program)


PICKLING = """
import sys, cloudpickle, dspy, tokenscope

class Base(dspy.teleprompt.Teleprompter):
    def compile(self, student, *, trainset):
        return "base", student

class Optimizer(Base):
    def compile(self, student, *, trainset):
        return self.helped(super().compile(student, trainset=trainset))

    @classmethod
    def _bootstrap(cls):
        return cls.__name__

    def helped(self, found):
        return self._bootstrap(), found

assert ("Optimizer", ("base", 1)) == Optimizer().compile(1, trainset=[])
assert __name__ == Optimizer.compile.__module__ and "Optimizer.compile" == Optimizer.compile.__qualname__
open(sys.argv[1], "wb").write(cloudpickle.dumps((Optimizer, Optimizer())))
"""
LOADING = """
import sys
if sys.argv[2] == "without":
    sys.modules["tokenscope"] = None
import cloudpickle
kind, optimizer = cloudpickle.loads(open(sys.argv[1], "rb").read())
if sys.argv[2] == "with":
    import tokenscope
for each in (kind(), optimizer):
    assert ("Optimizer", ("base", 1)) == each.compile(1, trainset=[])
print(sorted(name for name in sys.modules if name.startswith("tokenscope.")) != [])
"""


@pytest.mark.parametrize("how", ["with", "without"])
def test_an_optimizer_of_a_script_loads_without_tokenscope(how: str, tmp_path: Any) -> None:
    """An optimizer's class that is pickled by value loads and works where tokenscope is not installed."""
    file = str(tmp_path / "optimizer.pickle")
    python(PICKLING, file)
    assert f"{how == 'with'}\n" == python(LOADING, file, how)


def test_save_and_load(compare: Any, tmp_path: Any) -> None:
    """A program can be saved and loaded, and the saved file is the same."""

    def program(provider: Any) -> Any:
        path = tmp_path / "program.json"
        Program()(question="Why?")
        Program().save(path)
        loaded = Program()
        loaded.load(path)
        return path.read_text()

    compare(program)


def test_direct_forward_warning_is_not_provoked(compare: Any, capfd: Any) -> None:
    """tokenscope does not cause DSPy's warning about direct calls of `forward`."""

    def program(provider: Any) -> Any:
        Program()(question="Why?")
        return "forward" in capfd.readouterr().err

    assert not compare(program)


def test_settings_of_a_module_inside_an_lm_that_is_asked_directly() -> None:
    """Without settings of its own, a module that an LM calls sees those of the program, and no tracker."""

    class Looking(dspy.Module):
        def forward(self) -> None:
            seen.append((dspy.settings.usage_tracker, dspy.settings.track_usage))

    class Thinking(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            Looking()()
            message = SimpleNamespace(content="yes", tool_calls=None)
            choices = [SimpleNamespace(message=message, finish_reason="stop")]
            return SimpleNamespace(choices=choices, usage={"prompt_tokens": 3}, model="thinking")

    seen: list[Any] = []
    with token_scope("run") as run:
        Thinking("thinking")("Why?")
    assert [(None, False)] == seen
    assert (1, 3) == (run.usage.calls, run.usage.input_tokens)


@pytest.mark.parametrize("track", [True, False])
def test_a_module_inside_an_lm(compare: Any, track: bool) -> None:
    """A module that runs inside an LM returns the same `get_lm_usage()`, with usage tracking on and off."""

    def program(provider: Any) -> Any:
        inner_lm = dspy.settings.lm
        seen: list[Any] = []

        class Thinking(dspy.BaseLM):
            def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
                with dspy.context(lm=inner_lm):
                    seen.append(Program()(question="Why?").get_lm_usage())
                raise KeyError("enough")

        with dspy.context(track_usage=track), pytest.raises(Exception, match="enough"):
            Thinking(model="thinking")("Hello")
        return seen

    (usage,) = compare(program)
    assert track == bool(usage)


@pytest.mark.parametrize("track", [False, True])
def test_track_usage_in_the_settings_of_an_lm(compare: Any, track: bool) -> None:
    """The code of an LM finds `track_usage` as it is without tokenscope."""

    class Looking(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            seen.append(dspy.settings.track_usage)
            raise KeyError("enough")

    def program(provider: Any) -> Any:
        seen.clear()
        with dspy.context(track_usage=track), pytest.raises(Exception, match="enough"):
            Looking(model="looking")("Why?")
        return list(seen)

    seen: list[bool] = []
    assert [track] == compare(program)
