"""A server on loopback that answers Anthropic's messages API, streams too, and keeps a bill."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tokenscope import Usage

SPENT = Usage(calls=1, input_tokens=100, output_tokens=30, cache_read_tokens=60, cache_write_tokens=15)
"""The bill of each call. Anthropic's own input excludes cached tokens, so the answers say 25."""


class AnthropicServer:
    """A server whose calls all spend the same. For a model named `broken`, it answers with status 500.

    `more_usage` is what its answers tell in their usage besides the counts.
    """

    def __init__(self, **more_usage: Any) -> None:
        self.bill = Usage()
        self.usage = {**_USAGE, **more_usage}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_USAGE = {
    "input_tokens": SPENT.input_tokens - SPENT.cache_read_tokens - SPENT.cache_write_tokens,
    "cache_read_input_tokens": SPENT.cache_read_tokens,
    "cache_creation_input_tokens": SPENT.cache_write_tokens,
    "output_tokens": SPENT.output_tokens,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] == "broken":
            self._answer(b'{"type": "error", "error": {"type": "api_error", "message": "broken"}}', status=500)
            return
        self.server.owner.bill += SPENT  # type: ignore[attr-defined]
        message: dict[str, Any] = {
            "id": "msg_loopback",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": "Because."}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": self.server.owner.usage,  # type: ignore[attr-defined]
        }
        if not body.get("stream"):
            self._answer(json.dumps(message).encode())
            return
        start = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 0}}
        events = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Because."}},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": SPENT.output_tokens},
            },
            {"type": "message_stop"},
        ]
        text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        self._answer(text.encode(), kind="text/event-stream")

    def _answer(self, content: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""
