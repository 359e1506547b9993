"""Findings on real DSPy programs: each has one cause, and calls a provider over HTTP."""

from __future__ import annotations

import datetime as dt

import dspy
import pytest

pytest.importorskip("tokenscope._providers.prompts", reason="nothing measures prompts")
from support.counting_server import count

import tokenscope
from tokenscope import token_scope
from tokenscope.testing import LoopbackProvider

UNPRICED = "openai/gpt-4o-of-our-own"
WORDS = "The quick brown fox jumps over the lazy dog while seven wizards brew a bright green potion in the attic. "


@pytest.fixture(autouse=True)
def measured():
    """Measure prompts."""
    tokenscope.instrument(prompt_parts=True)
    yield
    tokenscope.instrument(prompt_parts=False)


def words(tokens, begin=""):
    """Return a text of about so many tokens."""
    return begin + (WORDS * (tokens // 20 + 1))[: tokens * 5]


def run(program, inputs, answer=None, model="openai/gpt-4o-mini"):
    """Run a program for each input, and return the report."""
    with (
        LoopbackProvider(answer, count_tokens=count) as provider,
        dspy.context(lm=provider.lm(model)),
        token_scope("run") as scope,
    ):
        for each in inputs:
            program(**each)
        assert scope.report().total.total_tokens == provider.total.total_tokens
    return scope.report()


def found_in(*arguments):
    """Run a program for each input, and return the findings of all of it."""
    return run(*arguments).findings()


QUESTIONS = [{"question": words(30, f"{n}: ")} for n in range(8)]


def test_demos():
    """Eight demos of a writer."""
    program = dspy.Predict("question -> answer")
    program.demos = [dspy.Example(question=words(60, f"{n} "), answer=words(80)) for n in range(8)]
    first = found_in(program, QUESTIONS)[0]
    assert first.kind == "demos"
    assert "; two instead of eight would save about " in first.text


def test_demos_left_out_save_what_was_said():
    """With two demos instead of eight, equally long, the input falls by what the finding had said."""
    program = dspy.Predict("question -> answer")
    program.demos = [dspy.Example(question=words(60, f"{n} "), answer=words(80)) for n in range(8)]
    before = run(program, QUESTIONS)
    program.demos = program.demos[:2]
    after = run(program, QUESTIONS)
    saved = before.total.input_tokens - after.total.input_tokens
    assert before.findings()[0].saved_tokens == pytest.approx(saved, rel=0.03)


def test_instructions():
    """Instructions that are most of the prompt."""
    signature = dspy.Signature("question -> answer").with_instructions(words(900))
    assert found_in(dspy.Predict(signature), QUESTIONS)[0].kind == "instructions"


def test_an_input():
    """A field with a long text, that is new each time."""
    inputs = [{"context": words(2_000, f"{n}: "), "question": "Why?"} for n in range(8)]
    first = found_in(dspy.Predict("context, question -> answer"), inputs)[0]
    assert (first.kind, first.predictor) == ("input", "Predict(context, question -> answer)")
    assert first.text.startswith("Field context is ")


def test_format():
    """A judge with many output fields."""
    outputs = ", ".join(f"score_of_aspect_{n}: float, reason_for_aspect_{n}: list[str]" for n in range(12))
    assert (
        found_in(dspy.Predict(f"claim -> {outputs}"), [{"claim": f"{n} is odd"} for n in range(8)])[0].kind == "format"
    )


def agent(length):
    """Return an agent that searches eight times, and a function that answers it. Results have so many tokens."""

    def search(query: str) -> str:
        """Search."""
        return words(length, query)

    turns = iter(range(1_000))

    def answer(name, _prompt):
        if name == "next_tool_name":
            return "finish" if next(turns) % 9 == 8 else "search"
        return {"query": "fox"} if name == "next_tool_args" else None

    return dspy.ReAct("question -> answer", tools=[search], max_iters=10), answer


def test_results_that_are_read_again():
    """Results of an agent's tool. The model has no lower price for what its provider has in a cache."""
    program, answer = agent(300)
    first = found_in(program, QUESTIONS[:4], answer, UNPRICED)[0]
    assert first.kind == "reread"
    assert "the results of search" in first.text


def test_shorter_results_save_what_was_said():
    """With results half as long, the run's input falls by what the finding had said."""
    (program, answer), (shorter, same) = agent(400), agent(200)
    before, after = run(program, QUESTIONS[:4], answer, UNPRICED), run(shorter, QUESTIONS[:4], same, UNPRICED)
    first = before.findings()[0]
    saved = before.total.input_tokens - after.total.input_tokens
    assert first.saved_tokens == pytest.approx(saved, rel=0.03)


def test_history():
    """A chat that is given all of its history."""
    messages = [{"question": words(50, f"{n} "), "answer": words(50)} for n in range(12)]

    class Chat(dspy.Signature):
        history: dspy.History = dspy.InputField()
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    inputs = [{"history": dspy.History(messages=messages[n:]), **each} for n, each in enumerate(QUESTIONS[:6])]
    assert found_in(dspy.Predict(Chat), inputs)[0].kind == "history"


def test_a_prefix_that_changes_early():
    """The time in the instructions, before demos that stay the same."""
    program = dspy.Predict("question -> answer")
    program.demos = [dspy.Example(question=words(60, f"{n} "), answer=words(120)) for n in range(8)]
    signature = program.signature
    start = dt.datetime(2026, 1, 1)  # noqa: DTZ001

    class Dated(dspy.Module):
        def __init__(self):
            self.writer = program
            self.calls = 0

        def forward(self, question):
            self.calls += 1
            now = start + dt.timedelta(minutes=self.calls)
            self.writer.signature = signature.with_instructions(f"It is {now}. Answer the question.")
            return self.writer(question=question)

    found = {each.kind: each for each in found_in(Dated(), QUESTIONS * 2)}
    assert "the prefix changes at instructions, before the demos" in found["cache"].text


def test_failed_parses():
    """Answers that no adapter can read: of each question, the first one."""
    inputs = [{"question": f"{n}? <<bill {n}>> <<garble once>>"} for n in range(8)]
    first = found_in(dspy.Predict("question -> answer"), inputs)[0]
    assert first.kind == "waste"
    assert "wasted on failed parses: 8 of 16 calls" in first.text


def test_a_program_without_a_cause():
    """A short prompt of which no part is most."""
    signature = dspy.Signature("question, context -> answer").with_instructions(words(70))
    inputs = [{"question": words(60, f"{n}"), "context": words(90, f"{n}")} for n in range(8)]
    assert found_in(dspy.Predict(signature), inputs) == ()
