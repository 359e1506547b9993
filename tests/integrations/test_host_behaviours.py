"""Programs see the same with and without tokenscope.

The small programs of `support/host_behaviours` are run by four interpreters: without tokenscope, with tokenscope imported
before DSPy and after it, outside of any scope and inside one, and with all patches undone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.host_behaviours import OURS, PROGRAMS

pytestmark = pytest.mark.timeout(300)  # the first test runs them all

RUN = "import sys\nfrom support.host_behaviours import main\n"
WAYS = {
    "without": f"{RUN}main(sys.argv[1])",
    "before": f"import tokenscope\n{RUN}main(sys.argv[1], tokenscope.token_scope)",
    "after": f"import dspy\nimport tokenscope\n{RUN}main(sys.argv[1], tokenscope.token_scope)",
    "undone": f"import tokenscope\nimport dspy\ntokenscope.uninstrument()\n{RUN}main(sys.argv[1])",
}
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    "PYTHONUTF8": "1",
    "COVERAGE_PROCESS_START": "",  # programs would see the tracer
    "COVERAGE_PROCESS_CONFIG": "",
}


@cache
def results() -> dict[str, Any]:
    """Run all programs in each way, at the same time, and return what they have seen."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        processes = {way: start(folder / way, code) for way, code in WAYS.items()}
        for way, process in processes.items():
            assert 0 == process.wait(280), (folder / way / "output.txt").read_text()
        return {way: json.loads((folder / way / "results.json").read_text()) for way in WAYS}


def start(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """Start a program in a folder of its own, where DSPy's cache is empty."""
    folder.mkdir()
    program = folder / "program.py"  # not `-c`: DSPy 3.0 looks for the source of each caller
    program.write_text(code)
    environment = {**ENVIRONMENT, "DSPY_CACHEDIR": str(folder / "cache")}
    command = [sys.executable, str(program), str(folder / "results.json")]
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(command, cwd=folder.parent, env=environment, stdout=output, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "without"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_sees_the_same(program: str, way: str) -> None:
    """It returns the same as without tokenscope, outside of any scope and inside one."""
    expected, actual = results()["without"]["found"][program], results()[way]["found"][program]

    for one, two in zip(expected, actual, strict=True):
        assert one.splitlines() == two.splitlines()


def test_all_programs_return() -> None:
    """Each of at least 60 programs returns something: none of the comparisons is of two failures."""
    assert 60 <= len(PROGRAMS)
    assert [] == results()["without"]["failed"]


ENDINGS = {
    "exit": "sys.exit(3)",
    "message": "sys.exit('bye')",
    "hard exit": "os._exit(4)",
    "error": "def fail():\n    raise LookupError('no')\nfail()",
    "interrupt": "raise KeyboardInterrupt",
    "signal": "os.kill(os.getpid(), signal.SIGTERM)",
    "handlers": "atexit.register(print, 'one')\natexit.register(print, 'two')\natexit.register(lambda: 1 / 0)",
    "thread": "threading.Thread(target=lambda: (time.sleep(0.05), print('ran'))).start()\nprint('end')",
    "daemon": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "pool": "pool = ThreadPoolExecutor(1)\npool.submit(print, 'ran')\npool.submit(sys.exit, 5)",
    "fork": "child = os.fork()\nif not child:\n    sys.exit(6)\nprint(os.waitpid(child, 0)[1])",
    "task": "async def main():\n    asyncio.create_task(asyncio.sleep(60))\n    raise LookupError('no')\nasyncio.run(main())",
    "coroutine": "asyncio.sleep(0)",
    "program": "import dspy\nprint(dspy.Predict('question -> answer'))",
}
IMPORTS = (
    "import asyncio, atexit, os, signal, sys, threading, time; from concurrent.futures import ThreadPoolExecutor\n"
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_the_same(ending: str) -> None:
    """Its exit status, output and traceback are the same, where warnings are errors."""
    seen = []
    for first in ("", "import tokenscope; scope = tokenscope.token_scope('all').__enter__(); "):
        command = [sys.executable, "-W", "error", "-c", first + IMPORTS + ENDINGS[ending]]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
        seen.append((done.returncode, done.stdout, re.sub("0x[0-9a-f]+", "0x", done.stderr)))
        assert OURS not in done.stderr
    assert seen[0] == seen[1]
