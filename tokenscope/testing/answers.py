"""Made-up answers to prompts of DSPy, which its adapters can parse."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from tokenscope._usage.usage import Usage

Answer = Callable[[str, str], Any]
"""Given a field's name and the whole prompt, returns the field's value, or None for a made-up one."""


def reply(prompt: str, last: str, answer: Answer) -> str:
    """Return an answer that DSPy's adapters can parse."""
    request = last[last.rfind("Respond with") :] if "Respond with" in last else ""
    if "Respond with a JSON object" in request:
        fields = re.findall(r"`(\w+)`", request)
        return json.dumps({field: _value(field, prompt, answer) for field in fields})
    if fields := [field for field in re.findall(r"\[\[ ## (\w+) ## \]\]", request) if field != "completed"]:
        values = ((field, _value(field, prompt, answer)) for field in fields)
        texts = ((field, value if isinstance(value, str) else json.dumps(value)) for field, value in values)
        return "\n".join([*(f"[[ ## {field} ## ]]\n{text}\n" for field, text in texts), "[[ ## completed ## ]]"])
    whole = answer("", prompt)
    return whole if whole is not None else "```\nAnswer the question carefully, step by step.\n```"


def _value(field: str, prompt: str, answer: Answer) -> Any:
    """Return the value of a field: from `answer`, or else a made-up one of the type that the prompt names."""
    if (given := answer(field, prompt)) is not None:
        return given
    if field == "next_tool_args":
        return _tool_arguments(prompt, _value("next_tool_name", prompt, answer))
    if field == "next_tool_name":  # the first tool, and `finish` after its first observation
        tools = re.findall(r"^\s*\(\d+\) (\w+)", prompt, re.MULTILINE)
        observed = re.search(r"\[\[ ## observation_\d+ ## \]\]", prompt)
        return "finish" if observed or not tools else tools[0]
    kind = re.search(rf"{{?{field}}}?[^\n]*?# note: the value you produce ([^\n]*)", prompt)
    note = kind[1] if kind else ""
    if choices := re.search(r"must exactly match \(no extra characters\) one of: ([^\n`]+)", note):
        return choices[1].split(";")[0].strip()
    if "JSON schema" in note:
        return [] if '"array"' in note else {}
    if "True or False" in note:
        return "True"
    if "int" in note or "float" in note:
        return "1"
    return f"a {field.replace('_', ' ')} of some length"


def _tool_arguments(prompt: str, tool: str) -> dict[str, Any]:
    match = re.search(rf"^\s*\(\d+\) {re.escape(tool)}\b.*?takes arguments (\{{.*?\}})(?:\.|$)", prompt, re.MULTILINE)
    if tool == "finish" or match is None:
        return {}
    try:
        arguments = ast.literal_eval(match[1])
    except (ValueError, SyntaxError):
        return {}
    tag = instruction(r"bill ([^<>]*)", prompt)
    return dict.fromkeys(arguments, f"look it up for {'me' if tag is None else tag}")


def instruction(pattern: str, prompt: str) -> str | None:
    """Return what the group in a pattern matches in the last such instruction of a prompt; None if there is none."""
    found = re.findall(f"<<{pattern}>>", prompt)
    return found[-1] if found else None


def prompt_of(body: dict[str, Any]) -> tuple[str, str]:
    """Return the text of all messages of a request, and its last message."""
    whole = body.get("input", body.get("state"))
    if "messages" not in body and isinstance(whole, str):
        return whole, whole
    messages = body.get("messages") or body.get("input") or []
    if body.get("instructions"):
        messages = [{"content": body["instructions"]}, *messages]
    texts = [_text(message) for message in messages]
    return "\n".join(texts), texts[-1] if texts else ""


def _text(message: Any) -> str:
    content = message if isinstance(message, str) else message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or "" for part in content if isinstance(part, dict))


def usage_of(prompt: str, text: str, number: int, count: Callable[[str], int]) -> Usage:
    """Return the usage to report for an answer, of which there are `number` choices."""
    reasoning_tokens = int(instruction(r"reasoning (\d+)", prompt) or 0)
    return Usage(
        calls=1,
        input_tokens=count(prompt),
        output_tokens=number * count(text) + reasoning_tokens,
        cache_read_tokens=int(instruction(r"cached (\d+)", prompt) or 0),
        reasoning_tokens=reasoning_tokens,
    )


def tokens_of(text: str) -> int:
    """Return the approximate number of tokens in a text."""
    return max(1, len(text.encode()) // 4)  # roughly as tokenizers count English
