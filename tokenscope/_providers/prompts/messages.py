"""Messages as LMs are given them: whose they are, their text, and what is no text. No code of the program's own is called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tokenscope._providers.prompts.assembly import Stretch
from tokenscope._providers.prompts.meter import Allowance, Key, Meter, key_of
from tokenscope._usage.prompts import MEDIA, OTHER_INPUT

ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""The part that a message of each role is."""
_ENDS: Final = 64  # characters of an image's data that tell it from others, at each end


class Message(NamedTuple):
    """A message."""

    role: str
    text: str
    media: tuple[Key, ...] = ()  # images, audio, files
    tool: str = ""  # which tool's result it is


def read_messages(messages: Iterable[Any]) -> list[Message]:
    """Read messages in OpenAI's format, or of DSPy's own classes."""
    names: dict[Any, str] = {}  # of the tools, by the ids of their calls
    return [read_message(message, names) for message in messages]


def read_message(message: Any, names: dict[Any, str]) -> Message:
    """Read a message; `names` holds the names of tools by the ids of their calls so far."""
    if type(message) is dict or isinstance(message, Mapping):
        content, calls = message.get("content", message.get("parts")), message.get("tool_calls")
        role = str(message.get("role", ""))
        if type(content) is str and not calls and role != "tool":
            return Message(role, content)
        tool = str(message.get("name") or names.get(message.get("tool_call_id"), "")) if role == "tool" else ""
    else:
        content, calls = _get(message, "parts") or _get(message, "content"), _get(message, "tool_calls")
        role, tool = str(_get(message, "role") or ""), ""
    texts: list[str] = []
    media: list[Key] = []
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, Sequence):
        for part in content:
            tool = _read_part(part, texts, media, names) or tool
    for call in calls or ():
        _read_call(call, texts, names)
    return Message(role, "".join(texts), tuple(media), tool)


def _read_part(part: Any, texts: list[str], media: list[Key], names: dict[Any, str]) -> str:
    """Add what a part of a message holds; return the name of the tool whose result it is."""
    if isinstance(part, str):
        texts.append(part)
        return ""
    kind, text = _get(part, "type"), _get(part, "text")
    if isinstance(text, str):
        texts.append(text)
    elif kind in ("tool_call", "tool_use", "function_call"):
        _read_call(part, texts, names)
    elif kind in ("tool_result", "function_call_output"):
        content = _get(part, "content")
        content = _get(part, "output") if content is None else content
        for each in [content] if isinstance(content, str) else content or ():
            _read_part(each, texts, media, names)
        ids = (_get(part, name) for name in ("id", "tool_use_id", "call_id"))
        return str(_get(part, "name") or next((names[each] for each in ids if each in names), ""))
    elif isinstance(data := _get(_get(part, "source"), "data"), str) and _get(_get(part, "source"), "type") == "text":
        texts.append(data)  # a document that is text
    elif kind == "data":
        texts.append(as_json(_get(part, "value")))
    else:
        media.append(_media_key(part))
    return ""


def _read_call(call: Any, texts: list[str], names: dict[Any, str]) -> None:
    function = _get(call, "function") or call
    name, given = _get(function, "name"), _get(function, "arguments")
    given = _get(function, "input") if given is None else given
    for each in ("id", "call_id"):
        if (identity := _get(call, each)) is not None:
            names[identity] = str(name)
    texts.append(f"{name}{given if isinstance(given, str) else as_json(given)}")


def _media_key(part: Any) -> Key:
    """Return what tells an image from others, without reading all of it."""
    values = (
        part.values()
        if isinstance(part, Mapping)
        else (_get(part, name) for name in ("url", "data", "file_id", "path"))
    )
    size, ends = 0, []
    for value in values:
        for each in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(each, (str, bytes)):
                size += len(each)
                ends.append((each[:_ENDS], each[-_ENDS:]))
    return hash(tuple(ends)), size


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def as_json(value: Any) -> str:
    """Return a value as providers are sent it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def by_role(messages: Sequence[Message], meter: Meter, allowance: Allowance) -> list[Stretch]:
    """Return the stretches of messages that no adapter has made: one for each message, its part by its role."""
    found: list[Stretch] = []
    for message in messages:
        part = ROLES.get(message.role, OTHER_INPUT)
        key = key_of(message.text)
        tokens, guessed = meter.measure(message.text, key, allowance, part)
        found.append(Stretch(part, key, tokens, message.tool, 1, 1, guessed))
        found.extend(Stretch(MEDIA, each, 0.0) for each in message.media)
    return found
