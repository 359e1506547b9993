"""Makes an environment for each tool, runs the scenarios in it, compares with the bill, and prints two tables in Markdown."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tokenscope import Usage
from tokenscope.testing import LoopbackProvider

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.append(str(HERE))  # as the workers have it
from scenarios import SCENARIOS  # noqa: E402 - they need DSPy, as this does
from tools import WAYS, Way  # noqa: E402

DSPY = ("dspy==3.4.1", "litellm", "numpy")  # Embedder needs numpy
EXACT, NONE = "100%", "none"
LEFT = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OTEL_", "OPENAI_", "DSPY_"))
}


def environment(folder: Path, name: str, way: Way) -> Path:
    """Return the Python of a tool's environment, which is made if it is not there."""
    place = folder / name.removesuffix("-documented")
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        ours = [str(ROOT)] if name == "tokenscope" else []
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *DSPY, *way.requirements, *ours], check=True)
    return python


def measure(python: Path, name: str) -> tuple[dict[str, Any], dict[str, Mapping[str, Usage]]]:
    """Run all scenarios with a tool, each against a server of its own, and return what the tool and the servers say."""
    with ExitStack() as stack:
        providers = {scenario: stack.enter_context(LoopbackProvider()) for scenario in SCENARIOS}
        done = subprocess.run(
            [python, HERE / "worker.py", name],
            input=json.dumps({scenario: provider.url for scenario, provider in providers.items()}),
            env={**LEFT, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr}")
        return json.loads(done.stdout), {scenario: provider.bill for scenario, provider in providers.items()}


def share(tokens: Mapping[str, int | None], bill: Mapping[str, Usage]) -> str:
    """Return the reported share of the bill: of the scope with the largest error, if there are several."""
    if not any(tokens.values()):
        return NONE
    found = []
    for scope, reported in tokens.items():
        tags = bill if len(tokens) == 1 else {tag for tag in bill if f"{tag}/".startswith(f"{scope}/")}
        billed = sum(bill[tag].total_tokens for tag in tags)
        found.append(EXACT if reported == billed else f"{(reported or 0) / billed:.1%}")
    return max(found, key=lambda each: (abs(float(each.rstrip("%")) - 100), each != EXACT))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print("|", " | ".join(row), "|")
    print()


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="keep the environments here")
    given = parser.parse_args()
    shares: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.ways or WAYS:
            print(f"{name} …", file=sys.stderr)
            said, bills = measure(environment(given.environments or Path(folder), name, WAYS[name]), name)
            versions[name] = ", ".join(f"{each} {number}" for each, number in said["versions"].items())
            shares[name] = {
                scenario: "error" if scenario in said["errors"] else share(said["tokens"][scenario], bills[scenario])
                for scenario in SCENARIOS
            }
            for scenario, error in said["errors"].items():
                print(f"  {scenario}: {error[:300]}", file=sys.stderr)
    best = [name for name in shares if WAYS[name].best]
    table(
        ["reported of the provider's bill", *(WAYS[name].title for name in best)],
        [[scenario, *(shares[name][scenario] for name in best)] for scenario in SCENARIOS],
    )
    exact = {name: f"{list(each.values()).count(EXACT)} of {len(each)}" for name, each in shares.items()}
    table(["way", "exact", "versions"], [[f"`{name}`", exact[name], versions[name]] for name in shares])


if __name__ == "__main__":
    main()
