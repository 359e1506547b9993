"""Read a report: totals, breakdowns, single nodes and files.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

import tempfile
from pathlib import Path

import dspy

from tokenscope import Report, token_scope
from tokenscope.testing import LoopbackProvider


def run(question):
    """Spend some tokens and return the report."""
    with token_scope("run") as scope:
        dspy.ChainOfThought("question -> answer")(question=question)
    return scope.report()


def main():
    """Compare, add up, save and load."""
    short, long = run("Why?"), run("Why, for what reason, and to what end? " * 20)
    print(f"short: {short.total.total_tokens:,} tokens, long: {long.total.total_tokens:,} tokens")

    both = short + long  # reports add up: sum(reports) works
    for model, usage in both.by_model().items():
        print(f"{model}: {usage.calls} calls, {usage.total_tokens:,} tokens")
    print(both.find("run/ChainOfThought").usage.output_tokens, "output tokens below run/ChainOfThought")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.json"
        both.save(path)
        print(Report.load(path))


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        main()
