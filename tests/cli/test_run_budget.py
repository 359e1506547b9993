"""`tokenscope run` with a budget: the program ends when the budget is spent, whatever it catches, and one line sums up."""

from __future__ import annotations

import json

import pytest
from support.programs import program, run

from tokenscope import Report

BUYER = """
import asyncio, atexit, sys, threading
import dspy
from tokenscope.testing import LoopbackProvider

provider = LoopbackProvider().__enter__()
atexit.register(lambda: print("billed", provider.total.calls, provider.total.total_tokens))
dspy.configure(lm=provider.lm())
ask = dspy.Predict("question -> answer")

def stubborn(number=10):
    for n in range(number):
        try:
            ask(question=str(n))
        except Exception:
            pass

def in_threads():
    threads = [threading.Thread(target=stubborn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

def in_tasks():
    async def main():
        async with asyncio.TaskGroup() as group:
            for n in range(10):
                await ask.acall(question=str(n))
    asyncio.run(main())

def swallowing():
    try:
        stubborn()
    except BaseException:
        pass

def failing():
    try:
        stubborn()
    except BaseException:
        raise KeyError("answer")

globals()[sys.argv[1]]()
print("the end")
"""


@pytest.mark.parametrize(
    ("way", "printed"),
    [("stubborn", ""), ("in_threads", "the end\n"), ("in_tasks", ""), ("swallowing", "the end\n"), ("failing", "")],
)
def test_a_spent_budget(tmp_path, way, printed):
    """The program makes no more calls than allowed. The status is 1, the report is whole, and there is no traceback."""
    path = program(tmp_path, BUYER)
    done = run("--max-calls", "4", "--max-cost", "$1.50", "-o", str(tmp_path / "r.json"), path, way)

    billed = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert f"{printed}billed 4 {billed['total_tokens']}\n" == done.stdout.decode()
    assert 1 == done.status
    assert "Traceback" not in done.stderr + done.told
    (line,) = [line for line in done.told.splitlines() if line.startswith("budget: ")]
    assert line.endswith("of $1.50; 4 of 4 calls: spent, and the run was ended")
    assert 4 == Report.load(tmp_path / "r.json").total.calls


def test_within_the_budget(tmp_path):
    """Within its budget the program runs to its end, and one line shows what it spent of the budget."""
    done = run("--max-tokens", "100000", program(tmp_path, BUYER), "stubborn")

    billed = int(done.stdout.decode().split()[-1])
    assert 0 == done.status
    assert done.stdout.decode().startswith("the end\nbilled 10 ")
    assert f"\nbudget: {billed:,} of 100,000 tokens\n" in done.told + "\n"


def test_tokens_and_cost(tmp_path):
    """The call that reaches a limit on tokens or cost finishes, and no other call begins."""
    for option in (["--max-tokens", "10"], ["--max-cost", "0.0000001"]):
        done = run(*option, program(tmp_path, BUYER), "stubborn")

        assert 1 == done.status
        assert done.stdout.decode().startswith("billed 1 ")


@pytest.mark.parametrize("option", ["--max-calls", "--max-tokens", "--max-cost"])
def test_nothing_at_all(tmp_path, option):
    """A limit of 0 is a limit: the first call is not made."""
    done = run(option, "0", program(tmp_path, BUYER), "stubborn")

    assert (1, b"billed 0 0\n") == (done.status, done.stdout)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--max-cost", "dear"], "'dear' is not an amount of dollars, 0 or more, such as 0.50."),
        (["--max-cost", "-1"], "'-1' is not an amount of dollars"),
        (["--max-cost", "nan"], "'nan' is not an amount of dollars"),
        (["--max-calls", "1.5"], "'1.5' is not a valid integer range"),
        (["--max-tokens", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_wrong_budgets(tmp_path, option, said):
    """A wrong budget leads to an error of one line before the program begins."""
    done = run(*option, program(tmp_path, "print('begun')"))

    assert (2, b"") == (done.status, done.stdout)
    assert said in done.stderr + done.told
    assert 1 == len((done.stderr + done.told).strip().splitlines())


def test_disabled(tmp_path):
    """If tokenscope is disabled, nothing is limited, and one line says so."""
    done = run("--max-calls", "1", program(tmp_path, "print('ran')"), env={"TOKENSCOPE_DISABLED": "1"})

    assert (0, b"ran\n") == (done.status, done.stdout)
    assert "TOKENSCOPE_DISABLED is set, so nothing was counted" in done.told
