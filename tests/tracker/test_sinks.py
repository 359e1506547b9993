"""JSONLSink writes each record as one whole line, even if several processes write and some are killed."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import dspy
import pytest

from tokenscope import JSONLSink, Report, get_tracker, record_tokens, token_scope
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider

WRITER = """
import sys
from tokenscope import JSONLSink, get_tracker, token_scope
path, name, lines, padding = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tracker = get_tracker()
tracker.add_sink(JSONLSink(path))
print("ready", flush=True)
sys.stdin.readline()
with token_scope("worker"):
    for n in range(lines):
        tracker.record(name, "write", "model", "provider", n, 1, metadata={"padding": "x" * padding})
"""


@pytest.fixture
def sink(tmp_path):
    """Return a sink that is added to the tracker."""
    sink = JSONLSink(tmp_path / "calls.jsonl")
    get_tracker().add_sink(sink)
    yield sink
    get_tracker().remove_sink(sink)
    sink.close()


def lines(path):
    """Return the records of a file, and assert that its lines are whole."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def start(path, name, count, padding=0):
    """Start a process that writes `count` records as soon as `go` tells it to."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count), str(padding)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()
    return process


def go(process):
    """Tell a process from `start` to write its records."""
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_line_a_record(sink):
    """Each line is the record's dict as JSON, and it is in the file when the call returns."""
    for n in range(3):
        record_tokens("m", "o", "model", "provider", n, 1, metadata={"id": n, "text": "two\nlines\u2028研究"})
        assert n + 1 == len(lines(sink.path))

    assert [record.to_dict() for record in get_tracker().records[-3:]] == lines(sink.path)


def test_calls_of_dspy(sink):
    """DSPy's calls are written as they end. The file adds up to the bill, and loads as the scope's report."""
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm(cache=False)):
        with token_scope("run") as scope:
            for n in range(3):
                dspy.Predict("question -> answer")(question="Why?")
                assert n + 1 == len(lines(sink.path))
            with pytest.raises(Exception, match="500"):
                dspy.Predict("question -> answer")(question="<<fail 500>>")
        bill = provider.total

    written = lines(sink.path)
    assert bill.total_tokens == sum(record["total_tokens"] for record in written)
    assert [None, None, None] == [record.get("error") for record in written[:3]]
    assert all(record["error"] for record in written[3:])
    loaded, report = Report.load(sink.path), scope.report()
    assert report.total == loaded.total
    assert [(row.frame, row.usages) for row in report.rows] == [(row.frame, row.usages) for row in loaded.rows]
    assert all(0 < record["seconds"] < 60 for record in written)


def test_what_is_there_is_added_to(tmp_path):
    """A sink appends to a file that exists."""
    path = tmp_path / "calls.jsonl"
    for n in range(2):
        sink = JSONLSink(str(path))
        get_tracker().add_sink(sink)
        record_tokens("m", "o", "model", None, n, 0)
        get_tracker().remove_sink(sink)
        sink.close()

    assert [0, 1] == [record["input_tokens"] for record in lines(path)]


def test_many_threads(sink):
    """Lines that several threads write at the same time are not mixed."""

    def work(name):
        for n in range(500):
            record_tokens(name, "o", "model", None, n, 0)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    written = lines(sink.path)
    assert {(str(name), n) for name in range(8) for n in range(500)} == {
        (r["module"], r["input_tokens"]) for r in written
    }
    assert 4_000 == len(written)


@pytest.mark.slow
def test_eight_processes_one_of_which_is_killed(tmp_path):
    """If one of eight writers is killed, all lines of the file are whole, and the other writers' lines are complete."""
    path = tmp_path / "calls.jsonl"
    workers = [start(path, f"worker {n}", 10_000 if n != 3 else 10_000_000) for n in range(8)]
    for worker in workers:
        go(worker)
    while path.stat().st_size < 2_000_000 or b'"worker 3"' not in path.read_bytes():
        time.sleep(0.01)
    workers[3].kill()
    assert [-signal.SIGKILL if n == 3 else 0 for n in range(8)] == [worker.wait(150) for worker in workers]

    written = lines(path)
    found: dict[str, list[int]] = {}
    for record in written:
        found.setdefault(record["module"], []).append(record["input_tokens"])
    killed = found.pop("worker 3")
    assert {f"worker {n}": list(range(10_000)) for n in range(8) if n != 3} == found
    assert list(range(len(killed))) == killed
    assert 0 < len(killed)
    assert len(written) == Report.load(path).total.calls


def test_killed_in_the_midst_of_long_lines(tmp_path):
    """If a writer is killed in the middle of a long line, the next writer removes the unfinished line."""
    path = tmp_path / "calls.jsonl"
    for n in range(8):
        worker = start(path, str(n), 100_000, padding=200_000)
        before = path.stat().st_size
        go(worker)
        while path.stat().st_size < before + 250_000:  # at least one line is whole
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.02))
        worker.kill()
        worker.wait(60)
    sink = JSONLSink(path)
    get_tracker().add_sink(sink)
    record_tokens("last", "o", "model", None, 1, 1)
    get_tracker().remove_sink(sink)

    written = lines(path)
    assert "last" == written[-1]["module"]
    assert len(written) > 8


BEFORE = [b"", b'{"model": "m", "module": "m", "input_tokens": 1}\n']


def write_next(path):
    """Write a record to a file with a sink of its own."""
    sink = JSONLSink(path)
    get_tracker().add_sink(sink)
    record_tokens("next", "o", "model", None, 1, 1)
    get_tracker().remove_sink(sink)


@pytest.mark.parametrize(
    "left", [b'{"', b'{"mod', b'{"module": "cut o', b'{"module": "' + b"x" * 10_000, b'{"module": "m"'], ids=len
)
@pytest.mark.parametrize("before", BEFORE, ids=["first", "later"])
def test_what_a_killed_writer_left(tmp_path, left, before):
    """The next record replaces a record that a killed writer did not finish."""
    path = tmp_path / "calls.jsonl"
    path.write_bytes(before + left)
    write_next(path)

    assert before == path.read_bytes()[: len(before)]
    assert len(before.splitlines()) + 1 == len(lines(path))


@pytest.mark.parametrize(
    "left",
    [
        b"notes of somebody else",
        b"{",
        b"x" * 4_096,
        b"\0" * 4_095,
        b'{"model": "other", "module": "m"',
        b'{"module": "m", "input_tokens": 1}',
        b'[{"module": "m"}',
    ],
    ids=len,
)
@pytest.mark.parametrize("before", BEFORE, ids=["first", "later"])
def test_what_somebody_else_left(tmp_path, left, before):
    """What is no record of ours that was cut off stays, though its line has no end. The next record begins a new line."""
    path = tmp_path / "calls.jsonl"
    path.write_bytes(before + left)
    write_next(path)

    assert path.read_bytes().startswith(before + left + b'\n{"module": "next", ')
    assert len(before.splitlines()) + 2 == path.read_bytes().count(b"\n")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
def test_a_stopped_writer_holds_nobody_up(sink):
    """If a writer was stopped while it holds the file's lock, the others wait once, warn once, and lose no record."""
    holding = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'ab')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
    )
    stopped = subprocess.Popen(
        [sys.executable, "-c", holding, str(sink.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert stopped.stdout is not None
    stopped.stdout.readline()
    stopped.send_signal(signal.SIGSTOP)
    forget_warnings()
    try:
        began = time.monotonic()
        with pytest.warns(TokenScopeWarning, match="has held the lock of .* for 1 s") as caught:
            for n in range(50):
                record_tokens("m", "o", "model", None, n, 0)
        took = time.monotonic() - began
    finally:
        stopped.send_signal(signal.SIGCONT)
        stopped.communicate(b"\n", timeout=20)
    for n in range(50, 60):
        record_tokens("m", "o", "model", None, n, 0)

    assert 1 == len(caught)
    assert 1 <= took < 30
    assert list(range(60)) == [record["input_tokens"] for record in lines(sink.path)]


def test_a_torn_record_stays_while_its_writer_has_the_lock(sink):
    """Without the lock nothing is removed: the writer of the record may go on."""
    sink.path.write_bytes(b'{"module": "half')
    with sink.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        forget_warnings()
        with pytest.warns(TokenScopeWarning, match="has held the lock"):
            record_tokens("m", "o", "model", None, 1, 0)

    assert sink.path.read_bytes().startswith(b'{"module": "half\n{"module": "m", ')


def test_a_forked_child_writes_too(sink):
    """Parent and child write whole lines to one file, even if a thread waited for the file's lock during the fork."""
    with sink.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waits = threading.Thread(target=record_tokens, args=("thread", "o", "model", None, 0, 0))
        waits.start()
        time.sleep(0.2)  # until the thread waits
        child = os.fork()
        if not child:  # pragma: no cover - the child
            try:
                for n in range(2_000):
                    record_tokens("child", "o", "model", None, n, 0)
            finally:
                os._exit(0)
        fcntl.flock(file, fcntl.LOCK_UN)
    for n in range(2_000):
        record_tokens("parent", "o", "model", None, n, 0)
    waits.join()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    written = [(record["module"], record["input_tokens"]) for record in lines(sink.path)]
    assert sorted([("thread", 0), *((who, n) for who in ("child", "parent") for n in range(2_000))]) == sorted(written)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of a file")
def test_a_full_disk(tmp_path):
    """If the disk is full, there is one warning, and all calls are counted. Later records are written again."""
    script = """
import json, resource, signal, sys, warnings
from tokenscope import JSONLSink, get_tracker, record_tokens, report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
get_tracker().add_sink(JSONLSink(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
for n in range(100):
    record_tokens("m", "o", "model", None, n, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record_tokens("m", "o", "model", None, 100, 0)
print(report().total.calls)
"""
    path = tmp_path / "calls.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)

    assert "101\n" == done.stdout
    assert 1 == done.stderr.count("TokenScopeWarning: JSONLSink(")
    assert "File too large" in done.stderr
    assert done.stderr.startswith("<string>:8: ")
    numbers = [record["input_tokens"] for record in lines(path)]
    assert [*range(len(numbers) - 1), 100] == numbers
    assert 5 < len(numbers) < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of a file")
def test_nothing_is_left_of_a_line_that_did_not_fit(tmp_path):
    """While the disk is full, the file ends with its last whole line, so that it can be read."""
    script = """
import resource, signal, sys
from tokenscope import JSONLSink, get_tracker, record_tokens
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
get_tracker().add_sink(JSONLSink(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
for n in range(100):
    record_tokens("m", "o", "model", None, n, 0)
"""
    path = tmp_path / "calls.jsonl"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(path)], check=True)

    numbers = [record["input_tokens"] for record in lines(path)]
    assert list(range(len(numbers))) == numbers
    assert 5 < len(numbers) < 20
    assert len(numbers) == Report.load(path).total.calls


def test_a_closed_sink(sink):
    """A closed sink writes nothing, and the next record leads to a warning. Closing twice does no harm."""
    sink.close()
    sink.close()
    with pytest.warns(TokenScopeWarning, match=r"JSONLSink\('.*calls\.jsonl'\) failed: ValueError: .* is closed"):
        record_tokens("m", "o", "model", None, 1, 0)
    forget_warnings()

    assert [] == lines(sink.path)


def test_another_directory(tmp_path, monkeypatch):
    """A relative path refers to the directory in which the sink was created."""
    monkeypatch.chdir(tmp_path)
    sink = JSONLSink("calls.jsonl")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    get_tracker().add_sink(sink)
    record_tokens("m", "o", "model", None, 1, 0)
    get_tracker().remove_sink(sink)

    assert 1 == len(lines(tmp_path / "calls.jsonl"))
    assert [] == os.listdir()


def test_a_file_that_cannot_be(tmp_path):
    """If the file cannot be written, creating the sink raises the error."""
    with pytest.raises(FileNotFoundError):
        JSONLSink(tmp_path / "no" / "folder.jsonl")
    with pytest.raises(IsADirectoryError):
        JSONLSink(tmp_path)
    with pytest.raises(ValueError, match="'/dev/null' is not a regular file, and only in such"):
        JSONLSink("/dev/null")


def test_shown(sink):
    """The `repr` of a sink shows its path."""
    assert f"JSONLSink({str(sink.path)!r})" == repr(sink)
