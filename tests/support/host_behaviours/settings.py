"""Programs that read DSPy's settings, usage, history and cache."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from support.host_behaviours.subjects import (
    Rag,
    asked,
    model,
    number,
)
from support.host_behaviours.table import program, told


def visible_settings() -> Any:
    """Return what a program sees of DSPy's settings, except for the usage tracker, which `how-it-works.md` explains."""
    found = {name: value for name, value in dict(dspy.settings.copy()).items() if name != "usage_tracker"}
    return {
        name: type(value).__name__ if name in ("lm", "adapter", "caller_modules", "trace") else repr(value)
        for name, value in found.items()
    }


@program
def settings_inside_a_model() -> Any:
    found: list[Any] = []
    for track in (False, True):
        with model(lambda: found.append(visible_settings())) as lm, dspy.context(track_usage=track):
            lm("Why?")
            asked()
            asyncio.run(Rag().acall(question="Why?"))
    return found


@program
def settings_inside_a_module() -> Any:
    found = []

    class Looking(dspy.Module):
        def forward(self) -> Any:
            found.append(
                (
                    visible_settings(),
                    dspy.settings.usage_tracker,
                    [type(each).__name__ for each in dspy.settings.caller_modules],
                )
            )
            return dspy.Prediction(answer="yes")

    with model(Looking()):
        Looking()()
        asked()
    return found


@program
def settings_after_calls() -> Any:
    with model():
        before = visible_settings(), dspy.settings.usage_tracker
        asked()
        told(Rag())
        return before == (visible_settings(), dspy.settings.usage_tracker), before


@program
def settings_in_threads() -> Any:
    found = []

    def look() -> None:
        found.append((visible_settings(), told(lambda: dspy.configure(max_errors=3))))

    with model():
        for start in (look, contextvars.copy_context().run):
            thread = threading.Thread(target=start, args=() if start is look else (look,))
            thread.start()
            thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(look).result()
    return found


@program
def usage_of_predictions() -> Any:
    with model() as lm:
        found = [asked_usage(track) for track in (False, True)]
        with dspy.track_usage() as outer:
            lm("Why?")
            with dspy.track_usage() as inner:
                asked()
                kept = dspy.settings.usage_tracker is inner
        return found, outer.get_total_tokens(), inner.get_total_tokens(), dict(outer.usage_data), kept


def asked_usage(track: bool) -> Any:
    with dspy.context(track_usage=track):
        return Rag()(question="Why?").get_lm_usage(), asyncio.run(Rag().acall(question="Why?")).get_lm_usage()


@program
def trackers_of_the_programs_own_class() -> Any:
    from dspy.utils.usage_tracker import UsageTracker

    class Own(UsageTracker):
        colour = "red"

        def add_usage(self, lm: str, usage_entry: Any) -> None:
            seen.append((lm, dict(usage_entry)))

    seen: list[Any] = []
    with model(lambda: seen.append(dspy.settings.usage_tracker.colour)), dspy.context(usage_tracker=Own()):
        asked()
    return seen


@program
def history_of_models_and_modules() -> Any:
    from dspy.clients.base_lm import GLOBAL_HISTORY

    with model() as lm:
        rag, before = Rag(), len(GLOBAL_HISTORY)
        asked(rag)
        lm("Why?")
        entry = lm.history[0]
        kept = {name: entry.get(name) for name in ("prompt", "messages", "kwargs", "outputs", "usage", "cost", "model")}
        return [len(each.history) for each in (lm, rag, rag.answer)], len(GLOBAL_HISTORY) - before, list(entry), kept


@program
def inspected_history() -> Any:
    printed = io.StringIO()
    with model() as lm, redirect_stdout(printed):
        asked()
        lm.inspect_history(1)
        dspy.inspect_history(1)
    return re.sub(r"\[\d{4}-\d\d-\d\dT[\d:.]+\]", "[time]", printed.getvalue())


@program
def callbacks() -> Any:
    events: list[Any] = []

    class Recorder(BaseCallback):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("on_"):
                return super().__getattribute__(name)
            return lambda call_id="", instance=None, inputs=None, outputs=None, exception=None, **rest: events.append(
                (
                    name,
                    type(instance).__name__,
                    sorted(inputs or ()),
                    type(outputs).__name__,
                    repr(exception),
                    sorted(rest),
                )
            )

    with model(), dspy.context(callbacks=[Recorder()]):
        asked()
        asyncio.run(Rag().acall(question="Why?"))
        dspy.Tool(number)(n=1)
        told(lambda: dspy.Tool(number)(n=-1))
    return events


class Provider(BaseHTTPRequestHandler):
    """A provider on loopback that always gives the same answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "[[ ## answer ## ]]\nyes"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": choices,
            "usage": usage,
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@program
def cached_answers() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    lm = dspy.LM("openai/gpt-4o-mini", api_base=url, api_key="loopback", num_retries=0)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), track_usage=True):
        question = f"Why {random.random()}?"
        found = [dspy.Predict("question -> answer")(question=question) for _ in range(2)]
    server.shutdown()
    server.server_close()
    usage = [sorted(each.get_lm_usage()) for each in found]
    return [each.answer for each in found], usage, len(lm.history), [bool(entry["usage"]) for entry in lm.history]


@program
def the_cache_itself() -> Any:
    request = {"model": "m", "messages": [{"content": str(random.random())}]}
    before = dspy.cache.get(request)
    dspy.cache.put(request, SimpleNamespace(usage={"prompt_tokens": 1}, value=1))
    found = dspy.cache.get(request)
    return before, type(found).__name__, vars(found), told(dspy.cache.get)["args"]
