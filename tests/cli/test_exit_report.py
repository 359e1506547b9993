"""The end of a program under `tokenscope run`: the report is written, whatever happens to the process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.programs import HEAD, INTERRUPTED, NOTHING, end, program, run, signalled, spender, start
from support.terminal import in_a_terminal

from tokenscope import Report

pytestmark = pytest.mark.measured_programs
WAIT = "import os, signal, sys, time\nspend(3)\nprint('ready', flush=True)\n"


def total(folder, name="r.json"):
    return Report.load(folder / name).total.total_tokens


# -- output ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.json", "r.txt", "r.md", "r.html", "r.csv", "r.folded", "r.speedscope.json"])
def test_the_report_is_in_the_format_of_its_suffix(name, tmp_path):
    """The file equals the one that `Report.save` writes, and the tree is shown as well."""
    code = f"spend(1200)\nimport tokenscope; tokenscope.report().save('theirs-{name}')"
    done = run("-o", name, spender(tmp_path, code), cwd=tmp_path)
    assert (0, b"", "") == done[:3]
    assert (tmp_path / f"theirs-{name}").read_bytes() == (tmp_path / name).read_bytes()
    assert HEAD.match(done.told)
    assert done.told.endswith(f"\nreport written to {name}\n")


def test_the_file_is_where_it_was_meant(tmp_path):
    """The report stays in its folder if the program changes the working directory."""
    code = "import os; os.mkdir('x'); os.chdir('x'); spend(1)"
    done = run("-o", "r.json", spender(tmp_path, code), cwd=tmp_path)
    assert done.told.endswith("\nreport written to r.json\n")
    assert 1 == total(tmp_path)


def test_nothing_counted(tmp_path):
    """Without any call, one line says so and why, and the file is an empty report."""
    code = "import tokenscope\nwith tokenscope.token_scope('empty'): pass"
    done = run("-o", "r.json", program(tmp_path, code), cwd=tmp_path)
    first, second = done.told.splitlines()
    assert first.startswith(NOTHING)
    assert "report written to r.json" == second
    assert 0 == total(tmp_path)


def test_an_amount_alone(tmp_path):
    """A program that made no call but paid an amount has a report."""
    code = "import tokenscope\ntokenscope.record_cost('search', 'web', 0.25)"
    done = run("-o", "r.json", program(tmp_path, code), cwd=tmp_path)
    assert HEAD.match(done.told)
    assert 0.25 == float(Report.load(tmp_path / "r.json").total.cost)


def test_disabled(tmp_path):
    """If tokenscope is disabled, the program runs, one line says so, and no empty report is written."""
    file = spender(tmp_path, "spend(1)\nprint(1)\nraise SystemExit(3)")
    done = run("-o", "r.json", "--live", file, cwd=tmp_path, env={"TOKENSCOPE_DISABLED": "1"})
    assert (3, b"1\n", "") == done[:3]
    assert "tokenscope run: TOKENSCOPE_DISABLED is set, so nothing was counted\n" == done.told
    assert not (tmp_path / "r.json").exists()


def test_the_order_of_output(tmp_path):
    """If both outputs go to one place, the tree comes after the program's own output."""
    code = "import atexit, sys\nspend(1); atexit.register(print, 'exit'); print('out'); sys.stderr.write('error\\n')"
    done = run(spender(tmp_path, code), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    *lines, head, _, _, _ = done.stdout.decode().splitlines()
    assert {"out", "error", "exit"} == set(lines)
    assert HEAD.match(head)


def test_a_program_that_counts_as_long_as_it_can(tmp_path):
    """Calls in threads and exit handlers are counted, and priced when everything else is shut down."""
    code = """
import atexit, threading, time
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor()
pool.submit(time.sleep, 0.2).add_done_callback(lambda _: spend(1))
atexit.register(lambda: record_tokens("m", "o", "gpt-4o-mini", "openai", 1_000_000, 0))
"""
    done = run(spender(tmp_path, code))
    assert "" == done.stderr
    assert done.told.startswith("1,000,001 tokens (1,000,001 in + 0 out); $0.15; 2 calls\n")


PROBLEMS = {
    "folder gone": "import shutil; shutil.rmtree('there'); open('there', 'w').close()",
    "folder in the way": "import os; os.mkdir('there/r.json')",
    "disk full": "import errno, os\ndef fsync(*a): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\nos.fsync = fsync",
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_report_that_cannot_be_written(problem, tmp_path):
    """If the report cannot be written, one line after the tree says so. The exit status is the program's."""
    (tmp_path / "there").mkdir()
    code = PROBLEMS[problem] + "\nspend(1)\nraise SystemExit(3)"
    done = run("-o", "there/r.json", spender(tmp_path, code), cwd=tmp_path)
    assert (3, "") == (done.status, done.stderr)
    assert HEAD.match(done.told)
    assert re.search(r"\ntokenscope run: the report cannot be written to there/r.json: \[Errno \d+\] .*\n$", done.told)


def test_modules_of_the_same_names(tmp_path):
    """The report does not import modules of the program's folder that have the names of modules it needs."""
    for name in ("rich", "genai_prices", "httpx", "csv"):
        program(tmp_path, "raise ImportError('the wrong one')", f"{name}.py")
    done = run("-o", "r.csv", spender(tmp_path, "spend(1)"), cwd=tmp_path)
    assert HEAD.match(done.told)
    assert done.told.endswith("\nreport written to r.csv\n")


def test_a_program_that_has_such_a_module_loaded(tmp_path):
    """If a program has loaded another module named rich, there is no tree, but the report is written."""
    program(tmp_path, "", "rich.py")
    done = run("-o", "r.json", spender(tmp_path, "import rich; spend(1)"), cwd=tmp_path)
    assert re.fullmatch(
        r"tokenscope run: the tree cannot be drawn: ModuleNotFoundError: .*\nreport written to r.json\n", done.told
    )
    assert 1 == total(tmp_path)


STREAMS = {
    "closed": "import sys; sys.stderr.close()",
    "closed below": "import os; os.close(2)",
    "nobody reads it": "import sys; print('ready', flush=True); sys.stdin.readline()",
}


@pytest.mark.parametrize("stream", STREAMS)
def test_standard_error_that_is_gone(stream, tmp_path):
    """If the tree cannot be shown, the report is written and the exit status stays the same."""
    process = start("-o", "r.json", spender(tmp_path, "spend(2)\n" + STREAMS[stream]), cwd=tmp_path)
    if stream == "nobody reads it":
        assert b"ready\n" == process.stdout.readline()
        process.stderr.close()
        process.stderr = None
    assert (0, b"") == end(process)[:2]
    assert 2 == total(tmp_path)


def test_standard_error_that_is_replaced(tmp_path):
    """The tree goes to the process's standard error, even if the program has replaced `sys.stderr`."""
    code = "import sys\nspend(1)\nsys.stderr = open('log', 'w')\nprint('theirs', file=sys.stderr)"
    done = run(spender(tmp_path, code), cwd=tmp_path)
    assert HEAD.match(done.told)
    assert "theirs\n" == (tmp_path / "log").read_text()


def test_standard_output_that_nobody_reads(tmp_path):
    """A broken pipe gives the exit status that Python gives it."""
    done = []
    for ours in (False, True):
        process = start(spender(tmp_path, "import sys\nsys.stdin.readline()\nspend(1)\nprint('x')"), ours=ours)
        process.stdout.close()
        process.stdout = None
        done.append(end(process))
    assert (120, done[0].status) == (done[1].status, done[1].status)
    assert HEAD.match(done[1].told)
    assert "BrokenPipeError" in done[1].told.splitlines()[-1]  # printed by Python at its very end


def on_a_terminal(*arguments, cwd, width=60):
    """Run with standard error on a terminal, and return the output to the terminal and to standard output."""
    environment = {"COLUMNS": str(width), "TERM": "xterm-256color", "NO_COLOR": ""}
    shown, stdout, _ = in_a_terminal(lambda terminal: start(*arguments, cwd=cwd, stderr=terminal, env=environment))
    return shown, stdout


def test_a_terminal(tmp_path):
    """On a terminal the tree is in colour and fits the width, even if standard output is a file."""
    shown, stdout = on_a_terminal(spender(tmp_path, "spend(1)\nprint('out')"), cwd=tmp_path)
    assert b"out\n" == stdout
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert HEAD.match(plain)
    assert all(len(line) <= 60 for line in plain.splitlines())


# -- forks --------------------------------------------------------------------------------------------------------------

FORK = """
import os, sys, multiprocessing
spend(1)
if PID := os.fork():
    os.waitpid(PID, 0)
    print("parent", flush=True)
else:
    spend(10)
    print("child", flush=True)
    LEAVE
"""


@pytest.mark.parametrize("leave", ["pass", "sys.exit(3)", "1/0", "os.kill(os.getpid(), 15)", "raise KeyboardInterrupt"])
def test_a_forked_child(leave, tmp_path):
    """A child prints and writes no report, however it ends. The parent reports its own usage."""
    code = FORK.replace("LEAVE", leave).replace("waitpid(PID, 0)", "waitpid(PID, 0) and print(os.listdir('.'))")
    done = run("-o", "r.json", spender(tmp_path, code), cwd=tmp_path)
    assert (0, b"child\n['program.py']\nparent\n") == done[:2]
    assert 1 == len(HEAD.findall(done.told))
    assert 1 == total(tmp_path)


def test_a_forked_child_and_sigterm(tmp_path):
    """In a child, SIGTERM has its default action again, and `terminate` ends the child."""
    code = """
import multiprocessing, signal, time
def child():
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
    printed.set()
    time.sleep(30)
context = multiprocessing.get_context("fork")
printed = context.Event()
process = context.Process(target=child)
process.start(); printed.wait(); process.terminate(); process.join()
print(process.exitcode)
"""
    done = run(spender(tmp_path, code))
    assert b"True\n-15\n" == done.stdout
    assert done.told.startswith(NOTHING)


# -- SIGTERM ------------------------------------------------------------------------------------------------------------

TERMINATED = {
    "sleep": "time.sleep(30)",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(30))",
    "loop": "while True: pass",
    "threads": "import threading\nfor _ in range(3): threading.Thread(target=time.sleep, args=(30,)).start()",
    # It gets none of our pipes, because the test waits until they are closed.
    "subprocess": "import subprocess; subprocess.run(['sleep', '10'], stdout=-3, stderr=-3)",
    "writing": "while True: print('x' * 1000, file=sys.stderr)",
    "counting": "while True: spend(0)",
    "at exit": "import atexit; atexit.register(time.sleep, 30)",
    "no except": "try: time.sleep(30)\nexcept BaseException: print('caught')\nfinally: print('finally')",
}


@pytest.mark.parametrize("name", TERMINATED)
def test_sigterm(name, tmp_path):
    """On SIGTERM, with which a CI ends a slow job, the process writes its report and then dies of the signal."""
    process = start("-o", "r.json", spender(tmp_path, WAIT + TERMINATED[name]), cwd=tmp_path)
    began = time.monotonic()
    signalled(process, signal.SIGTERM)
    done = end(process)
    assert (-signal.SIGTERM, b"") == done[:2]
    assert time.monotonic() - began < 10
    assert 3 == total(tmp_path)
    assert re.search(r"scope +calls +input", done.stderr + done.told)  # the signal may interrupt a line
    assert (done.stderr + done.told).endswith("report written to r.json\n")


def test_a_handler_of_the_programs_own(tmp_path):
    """A program's own handler for SIGTERM runs, and the report is written when the program ends."""
    code = WAIT.replace("spend(3)", "signal.signal(15, lambda *_: sys.exit(5))\nspend(3)") + "time.sleep(30)"
    process = start("-o", "r.json", spender(tmp_path, code), cwd=tmp_path)
    signalled(process, signal.SIGTERM)
    assert 5 == end(process).status
    assert 3 == total(tmp_path)


def test_sigterm_that_is_ignored(tmp_path):
    """If the process is started with SIGTERM ignored, SIGTERM stays ignored."""
    code = WAIT + "time.sleep(0.5); print(signal.getsignal(15).name)"
    process = start(spender(tmp_path, code), preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    signalled(process, signal.SIGTERM)
    done = end(process)
    assert (0, b"SIG_IGN\n") == done[:2]


# -- signals while the report is written -------------------------------------------------------------------------------

# This slow fsync delays the writing of the report.
SLOW = """
import os, sys, time
fsync = os.fsync
def slow(handle):
    print("ready", flush=True)
    sys.stdin.readline()
    fsync(handle)
os.fsync = slow
spend(3)
sys.exit(6)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 6), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_while_the_report_is_written(number, status, tmp_path):
    """Neither Ctrl-C nor SIGTERM loses a report that is being written."""
    process = start("-o", "r.json", spender(tmp_path, SLOW), cwd=tmp_path)
    signalled(process, number)
    done = end(process)
    assert (status, "") == (done.status, done.stderr)
    assert HEAD.match(done.told)
    assert 3 == total(tmp_path)
    assert ["program.py", "r.json"] == sorted(os.listdir(tmp_path))


def test_a_second_sigterm(tmp_path):
    """A second SIGTERM ends the process without waiting for the report."""
    process = start(
        "-o", "r.json", spender(tmp_path, SLOW.replace("sys.stdin.readline()", "time.sleep(30)")), cwd=tmp_path
    )
    signalled(process, signal.SIGTERM)
    time.sleep(0.2)
    process.terminate()
    assert -signal.SIGTERM == end(process).status


@pytest.mark.unmeasured
@pytest.mark.parametrize("delay", [n / 50 for n in range(15)])
def test_ctrl_c_at_any_moment(delay, tmp_path):
    """Ctrl-C at any moment leaves a report, and no traceback of tokenscope's."""
    process = start("-o", "r.json", spender(tmp_path, WAIT), cwd=tmp_path)
    assert b"ready\n" == process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    done = end(process)
    assert done.status in (0, INTERRUPTED, -signal.SIGINT)  # the last if Python no longer handles signals
    assert "tokenscope" not in done.stderr
    assert 3 == total(tmp_path)


def test_from_the_console_script(tmp_path):
    """The installed command does the same as `python -m tokenscope`."""
    script = os.path.join(os.path.dirname(sys.executable), "tokenscope")
    if not os.path.exists(script):
        pytest.skip("the package is not installed")
    done = subprocess.run(
        [script, "run", spender(tmp_path, "spend(1)\nimport sys; print(sys.argv); raise KeyError")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (1, f"['{tmp_path}/program.py']\n") == (done.returncode, done.stdout)
    shown = r'Traceback .*\n  File ".*program.py", line 5, in <module>\n.*\n[ ^]*\nKeyError\n1 token '
    assert re.match(shown, done.stderr)
