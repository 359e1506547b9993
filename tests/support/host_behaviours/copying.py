"""Programs that pickle, copy, save and load."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
from dspy.teleprompt import BootstrapFewShot
from dspy.utils import DummyLM

from support.host_behaviours.subjects import (
    Rag,
    Steps,
    asked,
    bound_methods,
    described,
    model,
    of_methods,
)
from support.host_behaviours.table import program


@program
def pickle_bound_methods() -> Any:
    return {name: described(pickle.loads(pickle.dumps(bound))) for name, bound in bound_methods().items()}


@program
def pickles_of_bound_methods_are_the_same_bytes() -> Any:
    kept = {name: bound for name, bound in bound_methods().items() if name != "tool"}
    return {name: len(pickle.dumps(bound)) for name, bound in kept.items()}


@program
def cloudpickle_bound_methods() -> Any:
    return {name: described(pickle.loads(cloudpickle.dumps(bound))) for name, bound in bound_methods().items()}


@program
def unpickled_bound_methods_run() -> Any:
    with model():
        kept = {name: pickle.loads(pickle.dumps(bound)) for name, bound in bound_methods().items()}
        return (
            kept["call"](question="Why?").answer,
            asyncio.run(kept["acall"](question="Why?")).answer,
            kept["lm"]("Why?"),
            asyncio.run(kept["tool"].acall(question="Why?")).answer,
        )


@program
def copy_bound_methods() -> Any:
    found = {}
    for name, bound in bound_methods().items():
        twin = copy.copy(bound)
        same = twin.func is bound.func if name == "tool" else twin.__self__ is bound.__self__
        found[name] = (described(twin), twin == bound, same)
    return found


@program
def deepcopy_bound_methods() -> Any:
    found = {}
    for name, bound in bound_methods().items():
        twin = copy.deepcopy(bound)
        same = twin.func.__self__ is bound.func.__self__ if name == "tool" else twin.__self__ is bound.__self__
        found[name] = (described(twin), twin == bound, same)
    return found


@program
def pickle_functions_of_classes() -> Any:
    def is_kept(method: Any) -> Any:
        return pickle.loads(pickle.dumps(method)) is method, cloudpickle.loads(cloudpickle.dumps(method)) is method

    return of_methods(is_kept)


@program
def save_and_load_a_program_that_holds_a_bound_method() -> Any:
    with tempfile.TemporaryDirectory() as folder, model():
        Steps().save(f"{folder}/saved", save_program=True)
        options = {"allow_pickle": True} if "allow_pickle" in inspect.signature(dspy.load).parameters else {}
        loaded = dspy.load(f"{folder}/saved", **options)
        return loaded.steps[0].__self__ is loaded.rag, asked(loaded), sorted(os.listdir(f"{folder}/saved"))


@program
def save_and_load_the_state_of_a_program() -> Any:
    with tempfile.TemporaryDirectory() as folder, model():
        rag = Rag()
        rag.answer.demos = [dspy.Example(question="a", answer="b")]
        rag.save(f"{folder}/rag.json")
        loaded = Rag()
        loaded.load(f"{folder}/rag.json")
        return Path(f"{folder}/rag.json").read_text(), asked(loaded)


@program
def deepcopy_of_modules() -> Any:
    steps = Steps()
    twins = [steps.deepcopy(), copy.deepcopy(steps), steps.reset_copy()]
    return [(twin.steps[0].__self__ is twin.rag, twin.rag is steps.rag) for twin in twins]


@program
def bootstrapped_program_runs_its_own_steps() -> Any:
    student = Steps()
    trainset = [dspy.Example(question=f"Why {n}?", answer="yes").with_inputs("question") for n in range(2)]
    with dspy.context(lm=DummyLM([{"answer": "yes"}] * 10), adapter=dspy.ChatAdapter()):
        compiled = BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=0).compile(student, trainset=trainset)
        asked(compiled)
    demos = [dict(demo) for demo in compiled.steps[0].__self__.answer.demos]
    return compiled.steps[0].__self__ is compiled.rag, demos, len(student.rag.answer.demos), len(compiled.history)


@program
def pickle_modules_and_models() -> Any:
    with model() as lm:
        rag = Rag()
        asked(rag)
        found = [pickle.loads(dumps(each)) for dumps in (pickle.dumps, cloudpickle.dumps) for each in (rag, lm)]
        return [(type(each).__name__, sorted(vars(each)), len(each.history)) for each in found], asked(found[2])


@program
def pickle_a_class_by_value() -> Any:
    names: dict[str, Any] = {"__name__": "__main__", "dspy": dspy}
    exec(
        "class Mine(dspy.Module):\n    def forward(self, x):\n        return x + 1\n    def acall(self, x):\n        return 7",
        names,
    )
    exec(
        "class Optimizer(dspy.teleprompt.Teleprompter):\n    def compile(self, student):\n        return student", names
    )
    mine, optimizer = pickle.loads(cloudpickle.dumps((names["Mine"](), names["Optimizer"]())))
    return mine(x=1), mine.acall(1), optimizer.compile(2), sorted(vars(type(mine))), sorted(vars(type(optimizer)))


@program
def pickle_predictions_and_examples() -> Any:
    with model(), dspy.context(track_usage=True):
        prediction = Rag()(question="Why?")
    example = dspy.Example(question="Why?", answer="yes").with_inputs("question")
    found = [twin(each) for each in (prediction, example) for twin in (roundtrip, copy.copy, copy.deepcopy)]
    return [(type(each).__name__, each.toDict(), sorted(vars(each))) for each in found], found[0].get_lm_usage()


def roundtrip(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@program
def copies_of_models() -> Any:
    with model() as lm:
        lm("Why?")
        copies = [lm.copy(), lm.copy(temperature=0.5), copy.copy(lm), copy.deepcopy(lm)]
        return [(each.kwargs, len(each.history), each("Why?"), len(each.history)) for each in copies]
