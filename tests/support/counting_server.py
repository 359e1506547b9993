"""A server on loopback that counts with a known tokenizer, and knows which part of a prompt has how many tokens, by its tags.

The value of a part begins with the word `Bname` and ends with `Ename`, for instance `Bcontext ... Econtext`: what is between is
of the part `name`, as tokens are counted by where they begin. A message that holds the word `Qdemos` is a demo, with the answer
after it, and one that holds `Qhistory` is of a history. Descriptions of fields end with `Efields`. All else is `format`.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tokenscope._providers.prompts import tokenizers
from tokenscope.testing.answers import reply

_FIELDS = ("Your input fields are:", "As input, you will be provided with:")
_WORD = r"B(?P<name>[a-z_]+)\b.*?\bE(?P=name)\b"


@lru_cache
def encoding(name: str = tokenizers.O200K) -> Any:
    """Return tiktoken's encoding, from the file that litellm comes with."""
    from types import FunctionType

    import tiktoken
    import tiktoken_ext.openai_public as constructors

    found = vars(constructors) | {"load_tiktoken_bpe": tokenizers._read_ranks}
    return tiktoken.Encoding(**FunctionType(getattr(constructors, name).__code__, found)())


def count(text: str) -> int:
    """Return how many tokens a text has."""
    return len(encoding().encode_ordinary(text))


def text_of(message: dict[str, Any]) -> str:
    """Return the text of a message, the names and arguments of tools that it calls included."""
    content = message.get("content") or ""
    texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
    for call in message.get("tool_calls") or ():
        texts.append(call["function"]["name"] + call["function"]["arguments"])
    return "".join(texts)


class CountingServer:
    """An OpenAI-compatible server that bills the tokens of all texts.

    Args:
        answer: As of `LoopbackProvider`.
        overhead: What it bills for each message besides.
        media: What it bills for each image.
    """

    def __init__(self, answer: Any = None, overhead: int = 0, media: int = 0) -> None:
        self.answer = answer or (lambda _field, _prompt: None)
        self.overhead, self.media = overhead, media
        self.garbled = 0  # how many answers cannot be parsed
        self.lock = threading.Lock()
        self.truth: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.billed: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def lm(self, model: str = "openai/gpt-4o-mini", **kwargs: Any) -> Any:
        """Return a `dspy.LM` that calls this server."""
        import dspy

        url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return dspy.LM(model, **{"api_base": url, "api_key": "k", "cache": False, "num_retries": 0, **kwargs})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def bill(self, body: dict[str, Any]) -> int:
        """Return what a request costs, and note which part of it has how many tokens."""
        found: Counter[str] = Counter()
        pending = ""
        for message in body["messages"]:
            text = text_of(message)
            size = count(text)
            whole = "demos" if "Qdemos" in text else "history" if "Qhistory" in text else ""
            if message["role"] == "assistant":
                whole = whole or pending
            pending = whole if message["role"] == "user" else ""
            if message["role"] == "tool":
                whole = "history"
            if whole:
                found[whole] += size + self.overhead
            else:
                known = self._regions(text)
                found.update(known)
                found["format"] += size - sum(known.values()) + self.overhead
            if isinstance(message.get("content"), list):
                found["media"] += self.media * sum("text" not in part for part in message["content"])
        if body.get("tools"):
            found["tools"] += count(json.dumps(body["tools"]))
        if "json_schema" in (schema := body.get("response_format") or {}):
            found["format"] += count(json.dumps(schema["json_schema"]["schema"]))
        with self.lock:
            self.bodies.append(body)
            self.truth += found
            self.billed.append(found.total())
        return found.total()

    def _regions(self, text: str) -> Counter[str]:
        spans = [(match["name"], match.start(), match.end()) for match in re.finditer(_WORD, text, re.DOTALL)]
        begins = [text.find(each) for each in _FIELDS if each in text]
        if begins and "Efields" in text:
            spans.append(("fields", begins[0], text.rindex("Efields") + len("Efields\n")))
        tokens = encoding().encode_ordinary(text)
        _, offsets = encoding().decode_with_offsets(tokens)
        return Counter(name for name, start, end in spans for offset in offsets if start - 1 <= offset < end)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner: CountingServer = self.server.owner  # type: ignore[attr-defined]
        billed = owner.bill(body)
        prompt = "\n".join(text_of(message) for message in body["messages"])
        last = text_of(body["messages"][-1])
        message: dict[str, Any] = {"role": "assistant"}
        calls = owner.answer("tool_calls", prompt) if body.get("tools") else None
        if calls:
            functions = [{"name": call["name"], "arguments": json.dumps(call["args"])} for call in calls]
            message["content"] = None
            message["tool_calls"] = [
                {"id": f"call_{len(owner.bodies)}_{n}", "type": "function", "function": each}
                for n, each in enumerate(functions)
            ]
        elif owner.garbled:
            owner.garbled -= 1
            message["content"] = "I would rather not say."
        elif "wrapped in XML tags" in last:
            names = re.findall(r"`<(\w+)>`", last[last.rfind("Respond with") :])
            values = {name: owner.answer(name, prompt) or f"a {name} of some length" for name in names}
            message["content"] = "\n".join(f"<{name}>\n{value}\n</{name}>" for name, value in values.items())
        else:
            message["content"] = reply(prompt, last, owner.answer)
        usage = {"prompt_tokens": billed, "completion_tokens": 10, "total_tokens": billed + 10}
        content = json.dumps(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": usage,
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
        """Print nothing."""
