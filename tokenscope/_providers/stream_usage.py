"""The usage of a stream, collected from its pieces. Only the pieces that report usage are kept."""

from __future__ import annotations

from typing import Any, Final

from tokenscope._providers.extractors import plain
from tokenscope._providers.openai_usage import Get, getter

_USAGE: Final = ("usage_metadata", "usageMetadata", "usage")
_ENVELOPES: Final = (
    "response",  # OpenAI's Responses
    "message",  # Anthropic's first event, and the last event of its stream object
    "chunk",  # OpenAI's stream object
    "data",  # Mistral, OpenAI's assistants
    "metadata",  # Bedrock's Converse
    "delta",  # Cohere
    "x_groq",
)
"""Where a piece has its usage if not in a field of its own."""

_FIRST_PIECE: Final = {"prompt_filter_results": "azure", "messageStart": "bedrock"}
"""Fields of a stream's first piece that show its provider."""


class StreamUsage:
    """The usage of a stream so far, in the provider's own format."""

    __slots__ = ("_begun", "_changes", "_named", "_reporting", "sender")

    def __init__(self) -> None:
        self._begun = False
        self._reporting: Any = None  # the last piece that reported usage
        self._named: Any = None  # a piece that names the model, for streams that end without usage
        self._changes: Any = None  # what Anthropic's message has reported since it began
        self.sender: str | None = None
        """The provider, if the first piece shows it: the piece with the usage may not."""

    def add(self, piece: Any) -> None:
        """Read a piece. Usage is cumulative: the last one counts."""
        if isinstance(piece, str | bytes):
            return
        get = getter(piece)
        if not self._begun:
            self._begun = True
            self.sender = next((sender for name, sender in _FIRST_PIECE.items() if get(name) is not None), None)
        for name in (None, *_ENVELOPES):
            part = piece if name is None else get(name)
            if part is None or isinstance(part, str):
                continue
            usage = getter(part)(*_USAGE)
            if usage is not None:
                if name is None and get("type") == "message_delta":
                    self._changes = usage
                    return
                if name == "x_groq":  # has the usage, but not the model
                    part = {"model": _model(get), "id": get("id"), "usage": usage, name: part}
                self._reporting, self._changes = part, None
                return
            if self._named is None and _model(getter(part)) is not None:
                self._named = part

    def response(self) -> Any:
        """Return a stand-in for the whole response, with what has been reported so far."""
        if self._changes is None:
            return next((each for each in (self._reporting, self._named) if each is not None), {})
        # Anthropic's message begins with its input and ends with what has changed since.
        get = getter(self._reporting)
        model = _model(get)
        usages = [plain(usage, model or "a message") for usage in (get("usage"), self._changes) if usage is not None]
        usage = {name: value for each in usages for name, value in each.items()}
        return {"type": "message", "id": get("id"), "model": model, "usage": usage}


def _model(get: Get) -> str | None:
    name = get("model", "model_version", "modelVersion")
    return name if isinstance(name, str) and name else None
