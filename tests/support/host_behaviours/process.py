"""Programs that look at their process: hooks, signals, environment, loaded modules."""

from __future__ import annotations

import asyncio
import decimal
import gc
import hashlib
import locale
import logging
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
from typing import Any

from support.host_behaviours.subjects import (
    Rag,
    asked,
    model,
)
from support.host_behaviours.table import HERE, program


@program
def tracing_and_profiling() -> Any:
    """A tracer and a profiler see the same functions of the program's own, in the same order."""
    seen: list[Any] = []

    def watch(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename.startswith(HERE) and event in ("call", "return"):
            seen.append((event, frame.f_code.co_name))
        return watch

    with model():
        for install in (sys.settrace, sys.setprofile):
            install(watch)
            try:
                asked()
                asyncio.run(Rag().acall(question="Why?"))
            finally:
                install(None)
    return seen


@program
def hooks_of_the_interpreter() -> Any:
    with model():
        asked()
    return (
        sys.excepthook is sys.__excepthook__,
        sys.displayhook is sys.__displayhook__,
        sys.unraisablehook is sys.__unraisablehook__,
        threading.excepthook is threading.__excepthook__,
        sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile(),
        sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth(),
        sys.getrecursionlimit(), sys.getswitchinterval(), sys.flags, sys.path_hooks,
        gc.isenabled(), gc.get_threshold(), [type(each).__name__ for each in gc.callbacks],
        [getattr(each, "__name__", type(each).__name__) for each in sys.meta_path if "tokenscope" not in type(each).__module__],
    )  # fmt: skip


@program
def handlers_of_signals() -> Any:
    with model():
        asked()
    return {
        number.name: str(signal.getsignal(number))
        for number in signal.valid_signals()
        if isinstance(number, signal.Signals)
    }


@program
def loggers_and_filters_of_warnings() -> Any:
    with model():
        asked()
    names = sorted(name for name in logging.root.manager.loggerDict if not name.startswith("tokenscope"))
    handlers = [
        (type(each).__name__, each.level) for each in logging.root.handlers + logging.getLogger("dspy").handlers
    ]
    return logging.root.level, handlers, names, [str(each) for each in warnings.filters], warnings.showwarning.__name__


@program
def environment_and_folders() -> Any:
    with model():
        asked()
    environment = {name: value for name, value in os.environ.items() if name != "DSPY_CACHEDIR"}
    digest = hashlib.sha256(repr(sorted(environment.items())).encode()).hexdigest()
    mask = os.umask(0)
    os.umask(mask)
    return (
        sorted(environment),
        digest,
        os.getcwd(),
        mask,
        sys.path[1:],
        locale.setlocale(locale.LC_ALL),
        time.tzname,
        sys.stdout.encoding,
    )


@program
def random_numbers_and_decimals() -> Any:
    random.seed(7)
    with model():
        asked()
    drawn = random.random()
    decimal.setcontext(decimal.Context(prec=5, traps=[]))
    try:
        with model():
            asked()
        return drawn, str(decimal.getcontext()), decimal.Decimal(1) / 3
    finally:
        decimal.setcontext(decimal.DefaultContext.copy())


@program
def event_loops() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # policies are deprecated from 3.14 on
        policy = type(asyncio.get_event_loop_policy()).__name__

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        return (
            type(loop).__name__,
            loop.get_debug(),
            loop.get_task_factory(),
            sorted(vars(loop)),
            len(asyncio.all_tasks()),
        )

    return policy, asyncio.run(main())


@program
def threads_and_files_of_the_process() -> Any:
    with model():
        asked()
    gc.collect()
    return sorted(re.sub(r"\d+", "N", each.name) for each in threading.enumerate()), len(os.listdir("/proc/self/fd"))


@program
def modules_that_are_loaded() -> Any:
    """What a program loads late is not loaded earlier."""
    with model():
        asked()
    heavy = ("litellm", "openai", "mcp", "numpy", "pandas", "optuna", "gepa", "httpx", "genai_prices", "rich.table")
    return sorted(name for name in sys.modules if name.partition(".")[0] == "dspy"), [
        name in sys.modules for name in heavy
    ]
