"""A LoopbackProvider with more APIs on the same bill: Anthropic's messages, Google's content, and streamed responses.

A prompt can hold further instructions:

    <<break>>      bill everything, send half of a stream, and then an error, as overloaded providers do
    <<hang up>>    the same, but close the connection instead of sending an error
    <<stall>>      bill everything, and send the second half of a stream a minute after the first
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from tokenscope import Usage
from tokenscope.testing import LoopbackProvider
from tokenscope.testing.answers import prompt_of, tokens_of, usage_of
from tokenscope.testing.provider import _Handler


class EveryProvider(LoopbackProvider):
    """A LoopbackProvider that also serves clients of Anthropic and Google."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._server.RequestHandlerClass = _Every

    @property
    def host(self) -> str:
        """The base URL, as Anthropic's and Google's clients take it."""
        return self.url.removesuffix("/v1")


class _Every(_Handler):
    def do_POST(self) -> None:
        asked = self.path.partition("?")[0]
        if not asked.endswith(("/messages", ":generateContent", ":streamGenerateContent")):
            super().do_POST()
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = json.dumps(body) if "contents" in body else prompt_of(body)[0]
        tag = [*re.findall(r"<<bill ([^<>]*)>>", prompt), ""][0]
        status = self.server.provider.failure(prompt, tag)
        if status is not None:
            error = {"type": "error", "error": {"type": "api_error", "message": f"failing with {status}, as asked"}}
            self._json(error, status)
        elif "contents" in body:
            self._content(prompt, tag, stream=asked.endswith(":streamGenerateContent"))
        else:
            self._message(body, prompt, tag)

    # -- Anthropic -----------------------------------------------------------------------------------------------------

    def _message(self, body: dict[str, Any], prompt: str, tag: str) -> None:
        text, _ = self.server.provider.reply(prompt, prompt, tag)
        usage = usage_of(prompt, text, 1, tokens_of)
        self.server.provider.charge(tag, usage)
        read = {
            "input_tokens": usage.input_tokens - usage.cache_read_tokens,
            "cache_read_input_tokens": usage.cache_read_tokens,
            "cache_creation_input_tokens": 0,
        }
        message = {
            "id": "msg_loopback",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**read, "output_tokens": 1, "service_tier": "standard"},
        }
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        gained = {"output_tokens": usage.output_tokens}
        if not body.get("stream"):
            content = [{"type": "text", "text": text}]
            self._json({**message, **end, "content": content, "usage": {**read, **gained}})
            return
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
                for piece in re.findall(r"\S+\s*", text)
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": gained},
            {"type": "message_stop"},
        ]
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded, as asked"}}
        self._send(_named(events), prompt, _named([error]))

    # -- OpenAI --------------------------------------------------------------------------------------------------------

    def _chat(self, body: dict[str, Any], prompt: str, last: str, tag: str) -> None:
        self._prompt = prompt
        super()._chat(body, prompt, last, tag)

    def _events(self, events: list[str]) -> None:
        error = json.dumps({"error": {"message": "overloaded, as asked", "type": "server_error"}})
        self._send([f"data: {event}\n\n" for event in events], self._prompt, [f"data: {error}\n\n"])

    def _responses(self, body: dict[str, Any], prompt: str, last: str, tag: str) -> None:
        whole = self._json
        if body.get("stream"):
            self._json = lambda response, status=200: self._in_pieces(response, prompt)  # type: ignore[method-assign]
        try:
            super()._responses(body, prompt, last, tag)
        finally:
            self._json = whole  # type: ignore[method-assign]

    def _in_pieces(self, whole: dict[str, Any], prompt: str) -> None:
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        item = {**whole["output"][0], "status": "in_progress", "content": []}
        text = whole["output"][0]["content"][0]["text"]
        at = {"output_index": 0, "content_index": 0, "item_id": item["id"]}
        empty = {"type": "output_text", "text": "", "annotations": []}
        ending = "incomplete" if "<<incomplete>>" in prompt else "completed"
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", **at, "part": empty},
            *(
                {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
                for piece in re.findall(r"\S+\s*", text)
            ),
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": f"response.{ending}", "response": {**whole, "status": ending}},
        ]
        for number, event in enumerate(events):
            event["sequence_number"] = number
        error = {"type": "error", "error": {"message": "overloaded, as asked", "code": "server_error"}}
        self._send(_named(events), prompt, _named([error]))

    # -- Google --------------------------------------------------------------------------------------------------------

    def _content(self, prompt: str, tag: str, *, stream: bool) -> None:
        text, _ = self.server.provider.reply(prompt, prompt, tag)
        usage = Usage(calls=1, input_tokens=tokens_of(prompt), output_tokens=tokens_of(text) + 5, reasoning_tokens=5)
        self.server.provider.charge(tag, usage)
        pieces = re.findall(r"\S+\s*", text)

        def until(count: int) -> dict[str, Any]:
            gained = tokens_of(text) if count == len(pieces) else count - 1
            content = {"role": "model", "parts": [{"text": pieces[count - 1]}]}
            return {
                "candidates": [{"content": content, "index": 0}],
                "modelVersion": "gemini-2.5-flash",
                "usageMetadata": {
                    "promptTokenCount": usage.input_tokens,
                    "candidatesTokenCount": gained,
                    "thoughtsTokenCount": 5,
                    "totalTokenCount": usage.input_tokens + gained + 5,
                },
            }

        if stream:
            self._send([f"data: {json.dumps(until(count + 1))}\r\n\r\n" for count in range(len(pieces))], prompt, [])
        else:
            self._json(until(len(pieces)))

    # -- sending -------------------------------------------------------------------------------------------------------

    def _send(self, events: list[str], prompt: str, error: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        half = events[: max(1, len(events) // 2)]
        if "<<hang up>>" in prompt:
            events = half
            self.send_header("Content-Length", "1000000")
        elif "<<break>>" in prompt:
            events = half + error
        self.end_headers()
        for place, event in enumerate(events):
            if "<<stall>>" in prompt and place == len(half):
                time.sleep(60)
            self.wfile.write(event.encode())
        self.close_connection = True


def _named(events: list[dict[str, Any]]) -> list[str]:
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
