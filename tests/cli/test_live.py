"""`tokenscope run --live`: the tree in the bottom lines of a terminal, and the program's own lines above."""

from __future__ import annotations

import itertools
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest
from support.programs import ENVIRONMENT, HEAD, INTERRUPTED, end, run, spender, start

from tokenscope import Report

pytestmark = pytest.mark.measured_programs
LONG = "import os, sys, time\nfor n in range(10): print('line', n, flush=True); spend(1); time.sleep(0.1)\n"
REGION = re.compile(rb"\x1b\[1;(\d+)r")


class Terminal:
    """A terminal that keeps its input."""

    def __init__(self, columns=100, lines=30):
        self.leader, self.follower = pty.openpty()
        termios.tcsetwinsize(self.follower, (lines, columns))
        self.sent = b""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        try:
            while part := os.read(self.leader, 65536):
                self.sent += part
        except OSError:
            pass  # Linux's way of saying that the terminal was closed

    def close(self):
        """Return the input of the terminal."""
        os.close(self.follower)
        self.reader.join(10)
        os.close(self.leader)
        return self.sent.replace(b"\r\n", b"\n")


def in_a_terminal(*arguments, both=False, interrupt=False, **environment):
    """Run with standard error, or both outputs, on a terminal. Return the program's end and the terminal's input."""
    terminal = Terminal()
    options = {"stdout": terminal.follower} if both else {}
    env = {"TERM": "xterm-256color", "COLUMNS": "", **environment}
    process = start("--live", *arguments, stderr=terminal.follower, env=env, **options)
    if interrupt:
        while not REGION.search(terminal.sent):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    done = end(process)
    return done, terminal.close()


def uncoloured(sent):
    return re.sub(rb"\x1b\[[\d;]*m", b"", sent)


def test_without_a_terminal(tmp_path):
    """If standard error is not a terminal, `--live` changes nothing."""
    file = spender(tmp_path, LONG)
    plain, live = run(file), run("--live", file)
    assert plain[:3] == live[:3]
    assert "\x1b" not in live.told
    assert HEAD.match(live.told)


def test_standard_output_is_untouched(tmp_path):
    """Standard output outside a terminal gets exactly the program's bytes."""
    code = LONG + "assert (sys.stdout, sys.stderr) == (sys.__stdout__, sys.__stderr__)\n"
    code += "sys.stdout.buffer.write(bytes(range(256)))\n"
    done, sent = in_a_terminal(spender(tmp_path, code))
    assert (0, b"".join(b"line %d\n" % n for n in range(10)) + bytes(range(256))) == done[:2]
    assert len(re.findall(rb"m +\d+ +\d+ +0 +\d+ ", uncoloured(sent))) >= 2


@pytest.mark.parametrize("both", [False, True], ids=["standard error", "both"])
def test_the_terminal_is_left_as_it_was(both, tmp_path):
    """All lines scroll again before the final tree, the cursor is never hidden, and each line of output is whole."""
    done, sent = in_a_terminal(spender(tmp_path, LONG), both=both)
    *_, last = REGION.finditer(sent)
    tree = re.search(rb"scope +calls +input", uncoloured(sent[sent.rindex(b"\x1b[r") :]))
    assert 0 == done.status
    assert int(last[1]) < 30
    assert sent.rindex(b"\x1b[r") > last.start()
    assert tree
    assert b"?25l" not in sent
    if both:
        assert [b"%d" % n for n in range(10)] == re.findall(rb"line (\d+)\n", sent)


def test_ctrl_c(tmp_path):
    """Ctrl-C leaves a report, and a terminal whose lines all scroll."""
    done, sent = in_a_terminal("-o", f"{tmp_path}/r.json", spender(tmp_path, LONG + "time.sleep(30)"), interrupt=True)
    assert INTERRUPTED == done.status
    assert sent.index(b"KeyboardInterrupt") < sent.rindex(b"\x1b[r") < sent.index(b"report written to ")
    assert Report.load(tmp_path / "r.json").total.total_tokens > 0


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TOKENSCOPE_DISABLED": "1"}], ids=str)
def test_where_nothing_can_be_shown(environment, tmp_path):
    """Without cursor movements, or if tokenscope is disabled, no picture is drawn."""
    done, sent = in_a_terminal(spender(tmp_path, LONG), **environment)
    assert 0 == done.status
    assert b"\x1b" not in sent


def test_forked_children(tmp_path):
    """A forked child draws nothing, and leaves the terminal to its parent."""
    code = LONG.replace("spend(1)", "spend(1); PID = os.fork(); PID and os.waitpid(PID, 0) or not PID and sys.exit()")
    done, sent = in_a_terminal("-o", f"{tmp_path}/r.json", spender(tmp_path, code))
    assert 0 == done.status
    assert 1 == sent.count(b"\x1b[r")
    assert 10 == Report.load(tmp_path / "r.json").total.calls


# -- what a person sees -------------------------------------------------------------------------------------------------

numbers = itertools.count()


class Screen:
    """A terminal of tmux, whose screen can be read."""

    def __init__(self, columns, lines, *arguments):
        self.name = f"tokenscope-{os.getpid()}-{next(numbers)}"
        command = f"trap : INT; {sys.executable} -m tokenscope run --live {' '.join(arguments)}; echo status $?; exec sleep 60"
        self("-f", os.devnull, "new-session", "-d", "-x", str(columns), "-y", str(lines), command)

    def __call__(self, *arguments):
        environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("TMUX", "COLUMNS")}
        return subprocess.run(
            ["tmux", "-u", "-L", self.name, *arguments], capture_output=True, text=True, check=True, env=environment
        ).stdout

    def lines(self):
        return self("capture-pane", "-p").rstrip("\n").split("\n")

    def until(self, *patterns, present=True):
        """Wait until each pattern is on a line, or on none; return the lines."""
        deadline = time.monotonic() + 30
        while True:
            lines = self.lines()
            if all(present == any(re.search(pattern, line) for line in lines) for pattern in patterns):
                return lines
            assert time.monotonic() < deadline, "\n".join(lines)
            time.sleep(0.05)


@pytest.fixture
def screen():
    """Open terminals, and close them."""
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux, which shows what a terminal would show")
    opened = []

    def show(*arguments):
        opened.append(Screen(*arguments))
        return opened[-1]

    yield show
    for each in opened:
        each("kill-server")


TALKS = """
import time
spend(5)
for n in range(4):
    print(f"\\rprogress {n}", end="", flush=True); time.sleep(0.3)
print("\\nhalf a line", end="", flush=True); time.sleep(0.6); print(", and the rest")
answer = input("name? ")
print("hello", answer)
spend(5)
for n in range(100):
    print("line", n)
time.sleep(0.6)
input("end? ")
"""


def test_the_tree_below_and_the_program_above(screen, tmp_path):
    """Progress bars, half lines and prompts look the same above a growing tree. In the end, all lines are in order."""
    shown = screen(80, 20, spender(tmp_path, TALKS))
    lines = shown.until(r"^name\?$", r"^m +1 +5 ")
    assert ["progress 3", "half a line, and the rest", "name?"] == [line for line in lines[:15] if line]
    assert "─" * 80 == lines[15]
    assert HEAD.match(lines[16])
    shown("send-keys", "Ada")
    time.sleep(0.6)
    shown.until(r"^name\? Ada$")
    shown("send-keys", "Enter")
    lines = shown.until(r"^end\?$", r"^m +2 +10 ")
    assert [*(f"line {n}" for n in range(86, 100)), "end?"] == lines[:15]
    shown("send-keys", "Enter")
    lines = shown.until("^status 0$")
    assert ["line 98", "line 99", "end?"] == lines[lines.index("end?") - 2 : lines.index("end?") + 1]
    assert HEAD.match(lines[lines.index("end?") + 1])
    assert "─" * 80 not in lines
    assert "1 0 19\n" == shown("display-message", "-p", "#{cursor_flag} #{scroll_region_upper} #{scroll_region_lower}")
    everything = shown("capture-pane", "-p", "-S", "-").split("\n")
    above = ["progress 3", "half a line, and the rest", "name? Ada", "hello Ada", *(f"line {n}" for n in range(100))]
    assert above == [line for line in everything if line][: len(above)]


MANY = "import time\nfor n in range(200): spend(n, f'o{n}')\nfor n in range(1000): print('line', n); time.sleep(0.05)\n"


def test_a_tree_that_is_taller_than_the_terminal(screen, tmp_path):
    """The costliest rows are shown, with a note. The picture follows the size of the terminal."""
    shown = screen(80, 24, spender(tmp_path, MANY))
    note = r"^and (\d+) more rows with [\d,]+ tokens"
    lines = shown.until(note, r"^line [1-9]\d")
    assert "189" == re.search(note, lines[-1])[1]
    assert "19,900 tokens (19,900 in + 0 out); 200 calls" == lines[9]
    assert re.match("─+$", lines[8])
    assert re.match(r"^line \d+$", lines[6])
    for columns, height in ((80, 40), (60, 12), (100, 30)):
        shown("resize-window", "-x", str(columns), "-y", str(height))
        lines = shown.until(note, f"^─{{{columns}}}$")
        time.sleep(0.5)
        lines = shown.until(note, f"^─{{{columns}}}$")
        assert height == len(lines)
        assert re.match(note, lines[-1])
        assert "─" * columns == lines[-(height * 2 // 3)]
    shown("resize-window", "-x", "60", "-y", "5")
    shown.until("more rows", present=False)
    shown("resize-window", "-x", "60", "-y", "30")
    shown.until(note)
    shown("send-keys", "C-c")
    lines = shown.until("^status 130$")
    assert "1 0 29\n" == shown("display-message", "-p", "#{cursor_flag} #{scroll_region_upper} #{scroll_region_lower}")
