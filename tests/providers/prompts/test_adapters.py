"""What adapters were given, found in their messages; and prompts put together."""

from __future__ import annotations

import weakref

import dspy
import pytest

from tokenscope._providers.prompts.adapters import Plan, Span, fill, is_own, plan_of, split_steps
from tokenscope._providers.prompts.assembly import Stretch, assemble
from tokenscope._providers.prompts.meter import Meter, key_of
from tokenscope._providers.prompts.turns import Turn, Value, next_turn, value_keys

BYTES = Meter(None, is_exact=False)


def parts(spans, text):
    """Return the texts of each part."""
    assert "".join(text[start:end] for _, start, end in spans) == text
    found = {}
    for part, start, end in spans:
        found[part] = found.get(part, "") + text[start:end]
    return found


class Task(dspy.Signature):
    """Answer the question.

    Mind the details:
        - be brief
    """

    context: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def test_a_system_message_is_split():
    """Its instructions keep their lines; the fields end where the structure begins."""
    adapter = dspy.ChatAdapter()
    text = adapter.format_system_message(Task)
    found = parts(Plan(adapter, Task).split_system(text), text)

    assert ["Answer the question.", "Mind the details:", "- be brief"] == [
        line.strip() for line in found["instructions"].splitlines() if line.strip()
    ]
    assert found["fields"].startswith("Your input fields are:")
    assert found["format"].lstrip().startswith("All interactions")
    assert "your objective is:" in found["format"]


def test_instructions_that_differ_are_found_by_what_stands_before_them():
    """If an adapter has put others in their place, they begin after the objective."""
    adapter = dspy.ChatAdapter()
    text = adapter.format_system_message(Task.with_instructions("Do something else."))
    found = parts(Plan(adapter, Task).split_system(text), text)

    assert "Do something else." == found["instructions"].strip()
    assert {"format": "Nothing known."} == parts(Plan(adapter, Task).split_system("Nothing known."), "Nothing known.")


def test_the_tools_of_an_agent_are_no_instructions():
    """The lines in which `dspy.ReAct` lists its tools are `tools`, even if the rest was rewritten."""

    def find(query: str, limit: int = 3) -> str:
        """Find documents."""

    agent = dspy.ReAct("question -> answer", tools=[find])
    signature = agent.react.signature
    adapter = dspy.ChatAdapter()
    text = adapter.format_system_message(signature)
    found = parts(Plan(adapter, signature).split_system(text), text)

    assert ["(1) find,", "(2) finish,"] == [" ".join(line.split()[:2]) for line in found["tools"].strip().splitlines()]
    assert "You are an Agent" in found["instructions"]
    assert "When providing" in found["instructions"]


def test_values_are_found_wherever_they_end():
    """Values that are no text end at the next mark; those that are not there are skipped."""
    plan = Plan(dspy.ChatAdapter(), Task)
    text = "[[ ## context ## ]]\n[1, 2]\n\n[[ ## question ## ]]\nWhy?\n\nRespond with the corresponding output fields"

    def found(text, **inputs):
        return {name: text[start:end] for name, start, end in plan.find_inputs(text, inputs)}

    assert {"context": "[1, 2]", "question": "Why?"} == found(text, context=[1, 2], question="Why?")
    assert {"context": "[1, 2]", "question": "Why?"} == found(text, context=[1, 2], question=None)
    assert {} == found(text, question="Why?")
    assert {} == found("Something else", context="x")
    assert {"context": "a"} == found("[[ ## context ## ]]\na", context="a ")


def test_methods_that_format_tell_an_adapter_of_ones_own():
    """An adapter that overrides one of them is searched; one that overrides others is read as DSPy's."""

    class Parses(dspy.ChatAdapter):
        def parse(self, signature, completion):
            return {}

    class Formats(dspy.ChatAdapter):
        def format_task_description(self, signature):
            return "Do it."

    patched = dspy.ChatAdapter()
    patched.format = lambda *_args, **_kwargs: []

    assert [True, True, False, False] == list(map(is_own, [dspy.ChatAdapter(), Parses(), Formats(), patched]))


def test_a_search_guesses_nothing():
    """Short texts that are there twice are not taken; overlapping ones are found once."""
    plan = Plan(dspy.ChatAdapter(), Task)
    text = "yes, Answer it. The question: yes or no? A somewhat longer value. A somewhat longer value."

    longer = "A somewhat longer value."
    found = parts(plan.search(text, [{"answer": longer}], {"question": "yes", "context": longer}), text)
    assert {"other", "input:context", "demos"} == set(found)
    assert "A somewhat longer value." == found["demos"]
    assert [Span("a", 0, 2), Span("rest", 2, 4)] == fill("abcd", [Span("a", 0, 2), Span("b", 1, 3)], "rest")


@pytest.mark.parametrize("form", ["[[ ## {} ## ]]\n{}", "<{}>\n{}\n</{}>", "{}: {}"], ids=["marks", "tags", "names"])
def test_trajectories_are_split_into_steps(form):
    """In each adapter's form; a paragraph inside a step belongs to it."""
    values = {"thought_0": "a\n\nb", "tool_name_0": "find", "observation_0": "x: y"}
    text = "\n\n".join(form.format(name, value, name) for name, value in values.items())

    assert list(values) == [name for name, _, _ in split_steps(text)]
    assert text == "\n\n".join(text[start:end] for _, start, end in split_steps(text))
    assert split_steps("No trajectory: at all") is None
    assert split_steps("<b>bold</b>") is None


def test_a_plan_dies_with_its_signature():
    """Plans hold instructions, and are held no longer than the signature is."""
    signature, adapter = dspy.Signature("a -> b", "Do what must be done."), dspy.ChatAdapter()
    plan = plan_of(adapter, signature)

    assert plan is plan_of(adapter, signature)
    held = weakref.ref(plan)
    del plan, signature
    import gc

    gc.collect()
    assert held() is None


def stretch(part, text, tokens, **other):
    return Stretch(part, key_of(text), tokens, **other)


def test_neighbours_become_one_piece():
    """What stands together and is of one part is one piece, or one for each tool."""
    prompt = assemble(
        [
            stretch("demos", "a", 1.0, messages=2, items=1),
            stretch("demos", "b", 2.0, messages=2, items=1),
            stretch("input:x", "c", 3.0),
            stretch("input:x", "d", 4.0, tool="find", guessed=1.0),
            stretch("input:x", "e", 5.0),
            stretch("demos", "f", 6.0),
        ],
        BYTES,
        turn=3,
        held={key_of("a"), key_of("d")},
    )

    assert [("demos", 3.0, 1.0), ("input:x", 8.0, 0.0), ("input:x", 4.0, 4.0), ("demos", 6.0, 0.0)] == [
        (piece.part, piece.tokens, piece.carried) for piece in prompt.pieces
    ]
    assert (4, 2, "find", 1.0) == (*prompt.pieces[0][4:6], prompt.pieces[2].tool, prompt.pieces[2].guessed)
    assert (3, "bytes", False, -1) == (prompt.turn, prompt.measured_by, prompt.is_exact, prompt.changed)


def test_a_piece_ends_where_a_prompt_differs_from_the_one_before():
    """What differs begins a piece, so that what is before it is no part of that."""
    first = [stretch("history", "a", 1.0), stretch("history", "b", 2.0), stretch("format", "c", 3.0)]
    second = [first[0], stretch("history", "x", 5.0), first[2]]
    prompt = assemble(second, BYTES, before=first)

    assert (["history", "history", "format"], 1) == ([piece.part for piece in prompt.pieces], prompt.changed)
    assert -1 == assemble(first, BYTES, before=first).changed
    assert -1 == assemble(first[:2], BYTES, before=first).changed
    assert 1 == assemble(first, BYTES, before=first[:2]).changed


class Entry:
    """Stands for a scope."""


def test_turns_are_counted_by_entry_and_predictor():
    """Each predictor counts from 1 in each entry; a second question of one call is no turn; nothing is counted outside."""
    entry, call = Entry(), Entry()

    assert [1, 2, 2, 3] == [next_turn(entry, "a", each).number for each in (None, call, call, Entry())]
    assert [1, 1, 1, 1] == [next_turn(each, "b").number for each in (entry, Entry(), None, None)]
    assert [2, 3] == [next_turn(entry, "b").number for _ in range(2)]


def test_turns_hold_the_one_before_and_no_other():
    """A turn's own predecessor is let go."""
    entry = Entry()
    first, second, third = (next_turn(entry, "a") for _ in range(3))

    assert (None, None, second) == (first.before, second.before, third.before)


def test_a_list_that_grows_begins_with_the_one_before():
    """So does a text; but not one that has changed, nor the same."""
    for before, now, is_begun in [
        ("one", "one two", True),
        ("[1]", "[1, 2]", True),
        ('{"a": 1}', '{"a": 1, "b": 2}', True),
        ("one", "one", False),
        ("one", "on", False),
        ("", "one", False),
        ("one", "two three", False),
    ]:
        assert is_begun == Value(value_keys(before, key_of(before)), ()).is_begun_by(now)
    assert set() == Turn().held
