"""The table of programs: how one is put into it, run, and what it has seen is written down."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import json
import pprint
import re
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dspy

OURS = str(Path(find_spec("tokenscope").origin).parent)
"""Where the code of tokenscope is, which is not imported for that."""
HERE = str(Path(__file__).parent)
"""Where the programs are."""
Program = Callable[[], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    """Put a program into the table, under its name."""
    PROGRAMS[function.__name__] = function
    return function


class Failure(dict):
    """What a program can see of an exception."""


def told(function: Callable[[], Any]) -> Any:
    """Return what a function returns, or how it fails."""
    try:
        return function()
    except BaseException as error:
        return failure(error)


def failure(error: BaseException | None) -> Any:
    """Return all that a program can see of an exception, except for frames of tokenscope."""
    if error is None:
        return None
    frames = [
        f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(OURS)
    ]
    return Failure(
        type=type(error).__name__,
        args=error.args,
        frames=frames,
        cause=failure(error.__cause__),
        context=type(error.__context__).__name__,
        suppressed=error.__suppress_context__,
        notes=getattr(error, "__notes__", None),
    )


def own_frames(error: BaseException) -> list[str]:
    """Return the functions of the programs in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if frame.filename.startswith(HERE)]


def main(file: str, scope: Any = lambda name: nullcontext()) -> None:
    """Write what all programs return: outside of any scope, and in one."""
    dspy.configure(max_errors=10)  # or the first thread that configures DSPy would be the only one that may
    gc.collect()
    gc.freeze()  # collections are quick from now on
    found: dict[str, list[str]] = {}
    failed: list[str] = []
    for name, each in PROGRAMS.items():
        run = functools.partial(lambda each: asyncio.run(each()), each) if inspect.iscoroutinefunction(each) else each
        values = [told(run)]
        with scope(name):
            values.append(told(run))
        failed += [name for value in values if type(value) is Failure]
        found[name] = [re.sub(r"0x[0-9a-f]+", "0x", pprint.pformat(value, width=120)) for value in values]
    Path(file).write_text(json.dumps({"found": found, "failed": failed}))
