"""A model provider on loopback, for tests and demonstrations. It is OpenAI-compatible over real HTTP, and keeps a bill.

    with LoopbackProvider() as provider:
        dspy.configure(lm=provider.lm())
        with token_scope("answering") as scope:
            dspy.Predict("question -> answer")(question="Why? <<bill answering>>")
    assert scope.usage.total_tokens == provider.bill["answering"].total_tokens

It answers DSPy's chat and JSON prompts with made-up values of the right types. A prompt can hold instructions for it in
double angle brackets. Of several instructions of one kind, the last one counts:

    <<bill NAME>>        bill this call under a tag; without this, under ""
    <<fail 500>>         answer with that HTTP status, and bill nothing
    <<fail 500 once>>    the same, but only the first time for this tag
    <<garble>>           bill for an answer that no adapter can parse
    <<garble once>>      the same, but only the first time for this tag
    <<wait 0.5>>         take at least so many seconds
    <<cached 7>>         report that so many prompt tokens were read from the provider's cache
    <<reasoning 5>>      spend so many completion tokens on reasoning
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tokenscope._usage.usage import Usage
from tokenscope.testing.answers import Answer, instruction, prompt_of, reply, tokens_of, usage_of


class LoopbackProvider:
    """An OpenAI-compatible server on 127.0.0.1: chat completions, responses, embeddings, streams, errors.

    It runs from when `lm` or `url` is first asked for, to the end of its `with` block; without one, to the end of the program.

    Args:
        answer: Given a field's name and the prompt, returns the field's value, or None for a made-up one. It is also asked for
            `tool_calls` if a request offers tools: a list of `{"name": ..., "args": {...}}`, or None to answer in text.
        latency: The least number of seconds that a call takes.
        count_tokens: Given a text, returns how many tokens it has. Without it, four bytes of text are a token.

    Example:
        >>> import json, urllib.request
        >>> from tokenscope.testing import LoopbackProvider
        >>> with LoopbackProvider() as provider:
        ...     body = {"model": "m", "messages": [{"role": "user", "content": "Hello there <<bill greeting>>"}]}
        ...     request = urllib.request.Request(provider.url + "/chat/completions", json.dumps(body).encode())
        ...     answer = json.load(urllib.request.urlopen(request))
        >>> answer["usage"]["prompt_tokens"] == provider.bill["greeting"].input_tokens
        True
    """

    def __init__(
        self,
        answer: Answer | None = None,
        latency: float = 0.0,
        count_tokens: Callable[[str], int] = tokens_of,
    ) -> None:
        self._answer: Answer = answer or (lambda _field, _prompt: None)
        self.latency = latency
        self.count_tokens = count_tokens
        self._lock = threading.Lock()
        self._bill: dict[str, Usage] = defaultdict(Usage)
        self._failed: set[str] = set()
        self._garbled: dict[str, Usage] = defaultdict(Usage)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.provider = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, as `api_base` takes it."""
        self._start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def bill(self) -> Mapping[str, Usage]:
        """The usage billed so far, by tag."""
        with self._lock:
            return dict(self._bill)

    @property
    def garbled(self) -> Mapping[str, Usage]:
        """The part of the bill for answers that no adapter can parse, by tag."""
        with self._lock:
            return dict(self._garbled)

    @property
    def total(self) -> Usage:
        """The usage billed so far, for all tags together."""
        return sum(self.bill.values(), Usage())

    def lm(self, model: str = "openai/gpt-4o-mini", **kwargs: Any) -> Any:
        """Return a `dspy.LM` that calls this server. DSPy's cache and its retries are off, unless `kwargs` turn them on."""
        import dspy

        settings: dict[str, Any] = {"api_base": self.url, "api_key": "loopback", "cache": False, "num_retries": 0}
        return dspy.LM(model, **{**settings, **kwargs})

    def _start(self) -> None:
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def charge(self, tag: str, usage: Usage, *, garbled: bool = False) -> None:
        """Add a call to the bill."""
        with self._lock:
            self._bill[tag] += usage
            if garbled:
                self._garbled[tag] += usage

    def failure(self, prompt: str, tag: str) -> int | None:
        """Return the HTTP status to fail with, if the prompt asks for one."""
        if (status := instruction(r"fail (\d{3}(?: once)?)", prompt)) is None:
            return None
        with self._lock:
            if status.endswith("once") and tag in self._failed:
                return None
            self._failed.add(tag)
        return int(status[:3])

    def tool_calls(self, body: dict[str, Any], prompt: str) -> list[dict[str, Any]]:
        """Return the tools to call in answer to a request, in OpenAI's format; none if it is to be answered in text."""
        calls = self._answer("tool_calls", prompt) if body.get("tools") else None
        functions = [{"name": call["name"], "arguments": json.dumps(call["args"])} for call in calls or ()]
        return [{"id": f"call_{n}", "type": "function", "function": each} for n, each in enumerate(functions)]

    def reply(self, prompt: str, last: str, tag: str) -> tuple[str, bool]:
        """Return the text of an answer, and whether it is one that no adapter can parse."""
        garble = instruction("(garble(?: once)?)", prompt)
        if garble is not None and not (garble.endswith("once") and tag in self.garbled):
            return "I would rather not say.", True
        return reply(prompt, last, self._answer), False


class _Server(ThreadingHTTPServer):
    request_queue_size = 2048
    daemon_threads = True
    provider: LoopbackProvider

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about clients that hang up, as cancelled calls do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        provider = self.server.provider
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, last = prompt_of(body)
        tag = instruction(r"bill ([^<>]*)", prompt) or ""
        time.sleep(max(provider.latency, float(instruction(r"wait ([\d.]+)", prompt) or 0)))
        if (status := provider.failure(prompt, tag)) is not None:
            self._json({"error": {"message": f"failing with {status}, as asked", "type": "server_error"}}, status)
        elif self.path.endswith("/embeddings"):
            self._embeddings(body, prompt, tag)
        elif self.path.endswith("/responses"):
            self._responses(body, prompt, last, tag)
        elif self.path.endswith("/systemone"):
            self._system_one(body, prompt, tag)
        elif self.path.endswith("/chat/completions"):
            self._chat(body, prompt, last, tag)
        else:
            self._json({"error": {"message": f"no such endpoint: {self.path}"}}, 404)

    def _chat(self, body: dict[str, Any], prompt: str, last: str, tag: str) -> None:
        provider = self.server.provider
        calls = provider.tool_calls(body, prompt)
        text, garbled = (json.dumps(calls), False) if calls else provider.reply(prompt, last, tag)
        number = int(body.get("n") or 1)
        usage = usage_of(prompt, text, number, provider.count_tokens)
        reported = _reported(usage, "prompt", "completion")
        common = {"id": "chatcmpl-loopback", "created": int(time.time()), "model": body["model"]} | _service(body)
        provider.charge(tag, usage, garbled=garbled)
        if not body.get("stream"):
            message = {"role": "assistant", **({"content": None, "tool_calls": calls} if calls else {"content": text})}
            choices = [{"index": i, "finish_reason": "stop", "message": message} for i in range(number)]
            self._json({**common, "object": "chat.completion", "choices": choices, "usage": reported})
            return
        chunk = {**common, "object": "chat.completion.chunk"}
        pieces = [{"content": piece} for piece in re.findall(r"\S+\s*", text)]
        events = [
            {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
            for delta in ({"role": "assistant", "content": ""}, *pieces, {})
        ]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({**chunk, "choices": [], "usage": reported})
        self._events([json.dumps(event) for event in events] + ["[DONE]"])

    def _responses(self, body: dict[str, Any], prompt: str, last: str, tag: str) -> None:
        text, garbled = self.server.provider.reply(prompt, last, tag)
        usage = usage_of(prompt, text, 1, self.server.provider.count_tokens)
        self.server.provider.charge(tag, usage, garbled=garbled)
        common = {"id": "resp-loopback", "object": "response", "created_at": int(time.time()), "model": body["model"]}
        tools = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"id": "msg-loopback", "type": "message", "role": "assistant", "content": content}
        output = [{**message, "status": "completed"}]
        reported = _reported(usage, "input", "output")
        self._json({**common, **_service(body), **tools, "status": "completed", "output": output, "usage": reported})

    def _embeddings(self, body: dict[str, Any], prompt: str, tag: str) -> None:
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        usage = Usage(calls=1, input_tokens=self.server.provider.count_tokens(prompt))
        self.server.provider.charge(tag, usage)
        data = [{"object": "embedding", "index": i, "embedding": [0.1, 0.2]} for i in range(len(texts))]
        counts = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens}
        self._json({"object": "list", "model": body["model"], "data": data, "usage": counts})

    def _system_one(self, body: dict[str, Any], prompt: str, tag: str) -> None:
        """Answer a request to the API that `dspy.experimental.TypeSafe` calls."""
        usage = Usage(
            calls=1, input_tokens=self.server.provider.count_tokens(prompt), output_tokens=len(body["questions"])
        )
        self.server.provider.charge(tag, usage)
        answers = {name: {"type": "noul", "noul": 0.9} for name in body["questions"]}
        counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        self._json({"model": body["model"], "answers": answers, "usage": counts})

    def _json(self, data: Any, status: int = 200) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _events(self, events: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {event}\n\n".encode())
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
        """Print nothing."""


def _service(body: dict[str, Any]) -> dict[str, Any]:
    """Return the service tier in which a request is answered: the one that it asks for."""
    return {"service_tier": body["service_tier"]} if "service_tier" in body else {}


def _reported(usage: Usage, prompt: str, answer: str) -> dict[str, Any]:
    """Return the usage in OpenAI's format, which has other names in chat completions and in responses."""
    return {
        f"{prompt}_tokens": usage.input_tokens,
        f"{answer}_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        f"{prompt}_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        f"{answer}_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
