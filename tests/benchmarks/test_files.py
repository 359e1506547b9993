"""Files of 1,000,000 records are shown, analyzed and merged within bounds of time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

from benchmarks.ratios import Ratios

RECORDS = 1_000_000
MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro"]
MEASURE = """
import re, sys
from tokenscope.cli import main
try:
    main(sys.argv[1:])
finally:
    # Not getrusage: its maximum includes the process that has started this one.
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def line(number: int) -> str:
    """Return a record as a sink writes it: 60 paths, three models, prompts of all lengths."""
    provider, _, model = MODELS[number % 3].partition("/")
    spent, gained = number * 7_919 % 40_000 + 100, number % 2_000 + 1
    step = number % 60
    agent = f"Agent{step % 7}"
    return json.dumps(
        {
            "module": f"{agent}.step{step}",
            "operation": "",
            "model": model,
            "provider": provider,
            "input_tokens": spent,
            "output_tokens": gained,
            "total_tokens": spent + gained,
            "timestamp": "2026-01-01T00:00:00.000000+00:00",
            "metadata": {},
            "scope": f"run/{agent}/step{step}",
            "frames": [["scope", "run"], ["dspy", agent], ["dspy", f"step{step}"]],
            "seconds": 0.5,
            "cache_read_tokens": spent // 2,
        }
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write 1,000,000 and 10,000 records, each as lines and as a report with its records."""
    folder = tmp_path_factory.mktemp("files")
    found: dict[str, Path] = {}
    for name, number in (("all", RECORDS), ("few", RECORDS // 100)):
        found[f"{name}.jsonl"] = folder / f"{name}.jsonl"
        with open(found[f"{name}.jsonl"], "w") as file:
            file.writelines(line(n) + "\n" for n in range(number))
    for name in ("all", "few"):
        found[f"{name}.json"] = folder / f"{name}.json"
        command = ["merge", "--records", str(found[f"{name}.jsonl"]), "-o", str(found[f"{name}.json"])]
        run(*command)
    return found


def run(*arguments: str) -> tuple[float, float, str]:
    """Run the command line, and return its seconds, its largest memory in MB, and its output."""
    before = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, env={**os.environ}
    )
    return perf_counter() - before, int(done.stderr.split()[-1]) / 1024, done.stdout


def parse_only(path: Path) -> float:
    """Return the seconds that only parsing each line of a file takes."""
    before = perf_counter()
    with open(path, "rb") as file:
        for each in file:
            json.loads(each)
    return perf_counter() - before


@pytest.mark.parametrize("command", ["show", "analyze", "merge", "merge --records"])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_million_records(ratios: Ratios, files: dict[str, Path], command: str, suffix: str, tmp_path: Path) -> None:
    """Every record counts, in at most four times the time of parsing, and in at most 1.2 times the memory."""
    output = ["-o", str(tmp_path / "out.json")] if command.startswith("merge") else []

    def both() -> tuple[float, float, float]:
        seconds, most, text = run(*command.split(), str(files[f"all.{suffix}"]), *output)
        assert f"{RECORDS:,}" in (text or run("show", str(tmp_path / "out.json"))[2])
        _, few, _ = run(*command.split(), str(files[f"few.{suffix}"]), *output)
        return seconds, most, few

    seconds, most, few = ratios.once(both)
    parsing = parse_only(files["all.jsonl"])
    what = f"tokenscope {command}, 1,000,000 records in .{suffix}"
    ratios.line(what, f"{seconds:.1f} s", f"json.loads of each line, {parsing:.1f} s", seconds / parsing, at_most=4.0)
    if command == "show" and suffix == "jsonl":
        ratios.line(what, f"{seconds:.1f} s", "", seconds, at_most=8.0, form="{:.1f} s")
        ratios.line(what, f"{most:.0f} MB", "", most, at_most=100.0, form="{:.0f} MB")
    ratios.line(what, f"{most:.0f} MB", f"of 10,000 records, {few:.0f} MB", most / few, at_most=1.2)
