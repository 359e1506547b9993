"""Messages read, options measured, and prompts of calls that are recorded by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.counting_server import count
from support.measuring import measuring_prompts

import tokenscope
from tokenscope import record_response, token_scope
from tokenscope._providers.prompts import meter
from tokenscope._providers.prompts.messages import read_messages
from tokenscope._providers.prompts.options import measure_options
from tokenscope._scopes.process import STATE
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning

TEXT = "What do the documents say about rivers?"


@pytest.fixture(autouse=True)
def parts():
    """Split prompts in each test, and know nothing of earlier ones."""
    with measuring_prompts():
        yield


def response(tokens):
    """Return what OpenAI's SDK might have returned."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 5, "total_tokens": tokens + 5}
    return {"model": "gpt-4o-mini", "object": "chat.completion", "usage": usage}


def split(sent, tokens=1_000):
    """Return the tokens of each part of a call that was recorded with what was sent."""
    with token_scope("call") as scope:
        record_response(response(tokens), messages=sent)
    return {name: usage.input_tokens for name, usage in scope.report().by_part().items()}


def test_messages_are_split_by_role():
    """Each message is of its role's part; the parts add up to the input."""
    found = split(
        [
            {"role": "developer", "content": TEXT},
            {"role": "user", "content": [{"type": "text", "text": TEXT}, {"type": "text", "text": TEXT}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": TEXT},
            {"role": "critic", "content": TEXT},
        ],
        tokens=6 * count(TEXT),
    )

    assert {"system", "user", "assistant", "tool", "other"} == set(found)
    assert 6 * count(TEXT) == sum(found.values())
    assert found["user"] == pytest.approx(2 * found["system"], abs=2)


def test_a_text_and_all_arguments_can_be_told():
    """A text is `user`; a dict of the call's arguments may hold a system prompt and tools."""
    assert {"user": count(TEXT)} == split(TEXT, count(TEXT))
    tool = {
        "name": "search",
        "description": "Search the web.",
        "input_schema": {"properties": {"query": {"type": "string"}}},
    }
    found = split({"messages": [{"role": "user", "content": TEXT}], "system": TEXT, "tools": [tool]})

    assert {"tools", "system", "user"} <= set(found)
    assert set(split({"input": TEXT, "instructions": TEXT})) >= {"system", "user"}
    assert set(split({"contents": [{"role": "user", "parts": [{"text": TEXT}]}]})) >= {"user"}


def test_images_are_media():
    """What is billed beyond the text of a prompt with an image is `media`."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000}}
    found = split([{"role": "user", "content": [{"type": "text", "text": TEXT}, image]}], tokens=900)

    assert {"user": count(TEXT), "media": 900 - count(TEXT)} == found


def test_what_was_sent_makes_no_difference_if_prompts_are_not_split():
    """Without `prompt_parts`, messages are accepted, and nothing is measured."""
    tokenscope.instrument(prompt_parts=False)
    with token_scope("call") as scope:
        record_response(response(100), messages=[{"role": "user", "content": TEXT}])

    assert 100 == scope.usage.input_tokens
    assert [None] == [call.prompt for call in STATE.records]
    assert {"(not measured)": 100} == {n: u.input_tokens for n, u in scope.report().by_part().items()}


@pytest.mark.parametrize("sent", [7, object(), {1, 2}])
def test_what_was_sent_is_checked(sent):
    """Anything but a text, messages or arguments is a TypeError."""
    with pytest.raises(TypeError, match="messages must be what was sent"):
        record_response(response(100), messages=sent)


class Unreadable(list):
    """Messages that cannot be read."""

    def __iter__(self):
        raise RuntimeError("not now")


def test_what_was_sent_and_cannot_be_read_loses_no_token(monkeypatch):
    """A response is counted even if what was sent cannot be measured."""
    forget_warnings()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.warns(TokenScopeWarning, match="measuring what was sent"):
        assert {"(not measured)": 1_000} == split(Unreadable([1]))


def test_nothing_that_was_sent_is_as_if_nothing_was_told():
    """An empty list tells nothing."""
    assert {"(not measured)": 1_000} == split([])


def test_messages_of_other_shapes_are_read():
    """Objects with parts, results of tools, thoughts, documents and data, as DSPy's and Anthropic's SDK have them."""

    def part(kind, **values):
        return SimpleNamespace(type=kind, **values)

    found = read_messages(
        [
            SimpleNamespace(role="user", parts=(part("text", text="Hello "), part("image", url="x", data=None))),
            SimpleNamespace(role="assistant", parts=(part("tool_call", id="7", name="find", input={"a": 1}),)),
            SimpleNamespace(
                role="tool", parts=(part("tool_result", id="7", name=None, content=(part("text", text="3"),)),)
            ),
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "7", "content": "four"}]},
            {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "A page"}}, "and"]},
            {"role": "user", "content": [{"type": "data", "value": [1, 2]}, {"type": "input_file", "file_id": b"x"}]},
            {"content": None},
        ]
    )

    assert ["Hello ", 'find{"a": 1}', "3", "four", "A pageand", "[1, 2]", ""] == [each.text for each in found]
    assert [1, 0, 0, 0, 0, 1, 0] == [len(each.media) for each in found]
    assert ["", "", "find", "find", "", "", ""] == [each.tool for each in found]
    assert ["user", "assistant", "tool", "user", "user", "user", ""] == [each.role for each in found]


def test_tools_and_schemas_are_measured_once():
    """Those that come again are not measured again, and code of the program's own is not called for its schema."""
    import pydantic

    class Answer(pydantic.BaseModel):
        text: str
        sure: bool

    class Own(Answer):
        @classmethod
        def model_json_schema(cls, *args, **kwargs):
            pytest.fail("code of the program's own was called")

    measured = meter.meter_for("openai/gpt-4o-mini")
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "Do it.", "parameters": {"properties": {"x": {}}}},
    }
    other = SimpleNamespace(name="g", description="Do another thing.", parameters={})
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "Answer", "schema": {"properties": {"x": {"type": "integer"}}}},
    }
    for given in (Answer, schema):
        first = measure_options([tool, other], given, measured, measured.allow("place"))
        again = measure_options([tool, other], given, measured, measured.allow("place"))

        assert ["format", "tools"] == [each.part for each in first]
        assert first == again
        assert all(each.tokens > 10 and not each.guessed for each in first)
    for given in (Own, {"type": "json_object"}, "auto"):
        assert [] == measure_options(None, given, measured, measured.allow("place"))
