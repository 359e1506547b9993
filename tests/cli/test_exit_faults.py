"""Programs that end while calls of DSPy are in flight: every call that has ended by then is counted."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support import asking
from support.dspy_support import ENGINES, tokens
from support.programs import INTERRUPTED, Done, end, expected_status, program, run, start

from tokenscope import Report, Usage, token_scope
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEADLINE = 50


class Holding(LoopbackProvider):
    """A provider that delays calls with the tag `held` until `gate` is set, and bills them then."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.holds = threading.Semaphore(0)

    def failure(self, prompt: str, tag: str) -> int | None:
        """Signal that a request has arrived, and delay it."""
        if "<<bill held>>" in prompt:
            self.holds.release()
            self.gate.wait(DEADLINE)
        return super().failure(prompt, tag)

    def wait_for(self, number: int) -> None:
        """Wait until this many more requests are delayed."""
        for _ in range(number):
            assert self.holds.acquire(timeout=DEADLINE)


SOURCE = """
import asyncio, atexit, concurrent.futures.thread, sys, threading, time
import dspy
url, engine = sys.argv[1:]
settings = {"engine": engine} if dspy.__version__ >= "3.4" and engine == "litellm" else {}
dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", api_base=url, api_key="loopback", cache=False, num_retries=0, **settings))
predict = dspy.Predict("question -> answer")
results = []

def ask(tag):
    try:
        results.append(predict(question=f"Why? <<bill {tag}>>").answer)
    except Exception as error:
        results.append(type(error).__name__)
    return results[-1]

def threads(*tags, daemon=False):
    started = [threading.Thread(target=ask, args=(tag,), daemon=daemon) for tag in tags]
    for each in started:
        each.start()
    return started

for each in threads("done", "done", "done"):
    each.join()
"""


class Ended(NamedTuple):
    """A program that was run with `tokenscope run`."""

    done: Done
    bill: Mapping[str, Usage]  # when the program had ended
    report: Report

    @property
    def answers(self) -> int:
        """The number of calls that got an answer, as the program printed it."""
        return sum(not each.endswith("Error") for each in json.loads(self.done.stdout))


def errors(done: Done) -> list[str]:
    """Return the last line of each traceback."""
    return [line for line in done.stderr.splitlines() if line.split(":")[0].endswith(("Error", "Interrupt"))]


def ended(folder: Path, source: str, engine: str, held: int, sent: int | None = None, *, opens: bool = False) -> Ended:
    """Run a program with and without tokenscope, send it a signal or a line while calls are in flight, and compare."""
    file = program(folder, SOURCE + source)
    with Holding() as alone, Holding() as with_us:
        processes = [
            start(file, alone.url, engine, ours=False, cwd=folder),
            start("-o", "r.json", file, with_us.url, engine, cwd=folder),
        ]
        for process, provider in zip(processes, (alone, with_us), strict=True):
            provider.wait_for(held)
            if sent is not None:
                process.send_signal(sent)
            if opens:
                provider.gate.set()
        without, done = [end(process, b"\n") for process in processes]
        bill = with_us.bill  # before the delayed calls go on
        alone.gate.set()
        with_us.gate.set()
    assert (expected_status(without), errors(without)) == (done.status, errors(done))
    assert "TokenScopeWarning" not in done.stderr
    assert "done" in bill
    return Ended(done, bill, Report.load(folder / "r.json"))


# -- signals ---------------------------------------------------------------------------------------------------------------

# Not joined: if Ctrl-C interrupts a join, Python up to 3.12 treats the thread as ended and does not wait for it.
THREADS = "threads('held', 'held')\nsys.stdin.readline()"
DAEMONS_AND_TASKS = """
threads("held", daemon=True)
async def main():
    await asyncio.gather(*(predict.acall(question="Why? <<bill held>>") for _ in range(3)))
asyncio.run(main())
"""


def test_sigterm_with_calls_in_flight(tmp_path):
    """With calls in threads, daemons and tasks, the process dies of SIGTERM at once. The report has the calls that had ended."""
    found = ended(tmp_path, "threads('held', 'held')" + DAEMONS_AND_TASKS, ENGINES[0], 6, signal.SIGTERM)

    assert -signal.SIGTERM == found.done.status
    assert {"done"} == set(found.bill)
    assert (3, 0) == (found.report.total.calls, found.report.total.failed_calls)
    assert tokens(found.bill["done"]) == tokens(found.report.total)


def test_ctrl_c_with_calls_in_flight(tmp_path):
    """With calls in daemons and tasks, the process ends at once. The calls that Ctrl-C cancels count as failed."""
    found = ended(tmp_path, DAEMONS_AND_TASKS, ENGINES[0], 4, signal.SIGINT)

    assert INTERRUPTED == found.done.status
    assert {"done"} == set(found.bill)
    assert (3 + 3, 3) == (found.report.total.calls, found.report.total.failed_calls)
    assert tokens(found.bill["done"]) == tokens(found.report.total)
    assert {} == found.report.waste()


def test_ctrl_c_with_threads_that_are_waited_for(tmp_path):
    """Python waits for threads that are not daemons, and the report has their late answers."""
    found = ended(tmp_path, RESULTS + THREADS, ENGINES[0], 2, signal.SIGINT, opens=True)

    assert INTERRUPTED == found.done.status
    assert_what_came(found, ENGINES[0], 5)


# -- the end of the interpreter ----------------------------------------------------------------------------------------------

RESULTS = "import json; atexit.register(lambda: print(json.dumps(results)))\n"
LATE = """
def late():
    while threading.main_thread().is_alive() and not concurrent.futures.thread._shutdown:
        time.sleep(0.01)
    for _ in range(2):
        ask("late")

pool = concurrent.futures.ThreadPoolExecutor(2)
pool.submit(ask, "held")
pool.submit(late)
threads("held")
threading.Thread(target=late).start()
"""


def assert_what_came(found: Ended, engine: str, asked: int) -> None:
    """Compare a report with the answers of a program, some of which arrived after its main thread had ended.

    By then, litellm raises for every call, also without tokenscope: it cannot log the answer. The call is still billed.
    """
    total = found.report.total
    assert found.answers == total.calls - total.failed_calls
    assert asked == len(json.loads(found.done.stdout))
    if engine == "native":
        assert (asked, 0) == (found.answers, total.failed_calls)
        assert tokens(sum(found.bill.values(), Usage())) == tokens(total)
    else:
        assert sum(usage.calls for usage in found.bill.values()) == total.calls
        assert found.bill["done"].total_tokens <= total.total_tokens


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_calls_after_the_main_thread_has_ended(engine, tmp_path):
    """The report has the calls that threads and pools make after the main thread has ended."""
    found = ended(tmp_path, RESULTS + LATE, engine, 2, opens=True)

    assert 0 == found.done.status
    assert_what_came(found, engine, 3 + 2 + 4)


LEFT = """
threads("held", "held", daemon=True)
async def main():
    global tasks
    tasks = [asyncio.create_task(predict.acall(question="Why? <<bill held>>")) for _ in range(3)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    loop.stop()
loop = asyncio.new_event_loop()
task = loop.create_task(main())
loop.run_forever()
"""


def test_calls_that_are_left(tmp_path):
    """With calls in daemons and in tasks of a stopped loop, the process ends at once with status 0, and reports ended calls."""
    found = ended(tmp_path, LEFT, ENGINES[0], 5)

    assert 0 == found.done.status
    assert "Traceback" not in found.done.stderr
    assert (3, 0) == (found.report.total.calls, found.report.total.failed_calls)
    assert {"done"} == set(found.bill)
    assert tokens(found.bill["done"]) == tokens(found.report.total)


# -- disks and processes -----------------------------------------------------------------------------------------------------

FULL = """
import resource
from tokenscope import JSONLSink, get_tracker
get_tracker().add_sink(JSONLSink("calls.jsonl"))
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.RLIM_INFINITY))
for _ in range(10):
    for each in threads("full", "full", "full", "full"):
        each.join()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(sum(not each.endswith("Error") for each in results))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of a file")
def test_a_full_disk_below_a_sink(tmp_path):
    """A program with several threads continues with one warning and counts every call. The file has whole lines."""
    with LoopbackProvider() as provider:
        done = run("-o", "r.json", program(tmp_path, SOURCE + FULL), provider.url, ENGINES[0], cwd=tmp_path)
        bill = provider.total

    assert (0, b"43\n") == done[:2]
    assert 1 == done.stderr.count("TokenScopeWarning") == done.stderr.count("JSONLSink('calls.jsonl') failed: OSError")
    report = Report.load(tmp_path / "r.json")
    assert (43, 0) == (report.total.calls, report.total.failed_calls)
    assert tokens(bill) == tokens(report.total)
    written = (tmp_path / "calls.jsonl").read_text()
    assert written.endswith("\n")
    assert 1 <= len([json.loads(line) for line in written.splitlines()]) < 40


def test_a_worker_that_is_killed_in_the_midst_of_a_call():
    """If a worker is killed, only the usage of its unfinished task is lost. All other calls are counted."""
    context = multiprocessing.get_context("spawn")
    with (
        Holding() as provider,
        ProcessPoolExecutor(1, context) as doomed,
        ProcessPoolExecutor(1, context) as other,
        token_scope("run") as run,
    ):
        with token_scope("finished") as finished:
            assert doomed.submit(asking.ask, provider.url, "finished").result(DEADLINE)
        with token_scope("other") as beside:
            going = [other.submit(asking.ask, provider.url, tag) for tag in ("other", "held", "other")]
        with token_scope("killed") as killed:  # three calls are one task, and the third is held
            lost = doomed.map(asking.ask, [provider.url] * 3, ["killed", "killed", "held"], chunksize=3)
        provider.wait_for(2)
        (worker,) = doomed._processes
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            list(lost)
        before = provider.bill
        provider.gate.set()
        assert all(future.result(DEADLINE) for future in going)
        report = run.report()

    assert {"finished": 1, "killed": 2, "other": 1} == {tag: usage.calls for tag, usage in before.items()}
    assert tokens(before["finished"]) == tokens(finished.usage)
    assert 0 == killed.usage.calls
    assert (3, 0) == (beside.usage.calls, beside.usage.failed_calls)
    # All delayed calls ask the same. The server may also have billed the one of the killed worker.
    held = provider.bill["held"]
    assert 2 * before["other"].total_tokens + held.total_tokens // held.calls == beside.usage.total_tokens
    assert finished.usage.calls + beside.usage.calls == report.total.calls
