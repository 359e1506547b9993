"""What a stream tells, piece by piece: of all that passes, only what its usage takes is kept."""

from __future__ import annotations

from typing import Any, Final

from tokenscope._providers.extractors import plain
from tokenscope._providers.openai_usage import getter

_USAGE: Final = ("usage_metadata", "usageMetadata", "usage")
_INSIDE: Final = (
    "response",  # OpenAI's Responses
    "message",  # Anthropic's first event, and the last one of its helper
    "chunk",  # OpenAI's helper
    "data",  # Mistral, OpenAI's assistants
    "metadata",  # Bedrock's Converse
    "delta",  # Cohere
    "x_groq",
)
"""What the usage may stand in, where it does not stand in the piece itself."""

_FIRST: Final = {"prompt_filter_results": "azure", "messageStart": "bedrock"}


class StreamUsage:
    """The usage of a stream until now, in what the provider has sent it in, and who it was."""

    __slots__ = ("_begun", "_changes", "_names", "_told", "sender")

    def __init__(self) -> None:
        self._begun = False
        self._told: Any = None
        self._names: Any = None  # a piece that names its model, for streams that end without a usage
        self._changes: Any = None
        self.sender: str | None = None
        """Who sends it, where the first piece says so, and not the one with the usage."""

    def add(self, piece: Any) -> None:
        """Take notice of a piece. Usages are cumulative: the last one counts."""
        if isinstance(piece, str | bytes):
            return
        first = getter(piece)
        if not self._begun:
            self._begun = True
            self.sender = next((sender for name, sender in _FIRST.items() if first(name) is not None), None)
        usage = first(*_USAGE)
        if usage is not None:
            if first("type") == "message_delta":
                self._changes = usage
            else:
                self._told, self._changes = piece, None
            return
        if self._names is None and _name(first) is not None:
            self._names = piece
        for name in _INSIDE:
            inner = first(name)
            if inner is None or isinstance(inner, str):
                continue
            usage = getter(inner)(*_USAGE)
            if usage is not None:
                own = {"model": _name(first), "id": first("id"), "usage": usage, name: inner}
                self._told, self._changes = own if name == "x_groq" else inner, None
                return
            if self._names is None and _name(getter(inner)) is not None:
                self._names = inner

    def response(self) -> Any:
        """Return what stands for the whole response, as far as it came."""
        if self._changes is None:
            return self._told if self._told is not None else self._names if self._names is not None else {}
        # Anthropic's message begins with its input and ends with what has changed since.
        first = getter(self._told)
        model = _name(first)
        usages = [plain(usage, model or "a message") for usage in (first("usage"), self._changes) if usage is not None]
        usage = {name: value for each in usages for name, value in each.items()}
        return {"type": "message", "id": first("id"), "model": model, "usage": usage}


def _name(first: Any) -> str | None:
    name = first("model", "model_version", "modelVersion")
    return name if isinstance(name, str) and name else None
