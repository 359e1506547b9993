"""Machine instructions that a `dspy.Predict` takes, counted by callgrind: the same on a busy machine as on a quiet one.

Run it with valgrind installed, by a Python that has tokenscope and DSPy 3.4 or later; it takes about three minutes:

    python tests/benchmarks/instructions.py
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

NUMBER = 100  # predictions a way
TEXT = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"


def control(*arguments: str) -> None:
    """Tell callgrind to start, to begin at 0, or to write what it has counted."""
    subprocess.run(["callgrind_control", *arguments, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


def measure() -> None:
    """Run the predictions in each way. To be run under callgrind, with its counting off."""
    warnings.simplefilter("ignore")
    import dspy
    from dspy.lm15 import Message, Response, TextPart, Usage

    import tokenscope
    from tokenscope import token_scope

    logging.disable(logging.CRITICAL)

    class Engine:
        """An engine that has its answer ready."""

        def complete(self, request: Any) -> Any:
            usage = Usage(input_tokens=90, output_tokens=10, total_tokens=100, cache_read_tokens=3, reasoning_tokens=5)
            message = Message.assistant([TextPart(TEXT)])
            return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", engine=Engine(), cache=False))
    predict = dspy.Predict("question -> answer")

    def run(around: Any, each: int) -> None:
        for _ in range(NUMBER // each):
            with around():
                for _ in range(each):
                    predict(question="What is six times seven?")
        if around is not contextlib.nullcontext:
            tokenscope.report()  # what tokenscope left for later belongs to the price

    def without(*, track_usage: bool = False) -> None:
        tokenscope.uninstrument()
        dspy.configure(track_usage=track_usage)

    def with_tokenscope() -> None:
        without()
        tokenscope.instrument()

    ways: dict[str, tuple[Any, Any, int]] = {
        "alone": (without, contextlib.nullcontext, NUMBER),
        "with track_usage": (lambda: without(track_usage=True), contextlib.nullcontext, NUMBER),
        "in a scope": (with_tokenscope, lambda: token_scope("run"), NUMBER),
        "with a scope each": (with_tokenscope, lambda: token_scope("run"), 1),
    }
    for prepare, around, each in ways.values():
        prepare()
        run(around, each)
    gc.disable()
    control("-i", "on")
    for name, (prepare, around, each) in ways.items():
        prepare()
        run(around, each)
        control("-z")
        run(around, each)
        control("-d", name)
    os._exit(0)


def main() -> None:
    """Run this file under callgrind, and print what each way adds."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"DSPY_CACHEDIR": folder, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", sys.executable, os.path.abspath(__file__), "-"]
        subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=True, stderr=subprocess.DEVNULL)
        found: dict[str, int] = {}
        for file in Path(folder).glob("callgrind.out.*"):
            text = file.read_text()
            name = re.search(r"^desc: Trigger: .*dump (.*)$", text, re.MULTILINE)
            total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
            if name and total:
                found[name[1]] = int(total[1]) // NUMBER
    alone = found.pop("alone")
    print(f"a dspy.Predict alone: {alone:,} instructions")
    for name, total in sorted(found.items(), key=lambda item: item[1]):
        print(f"{name}: {total - alone:+,}, {100 * (total - alone) / alone:.1f}%")


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["-"] else main()
