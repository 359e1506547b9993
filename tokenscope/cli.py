"""The command line: `tokenscope demo`."""

from __future__ import annotations

import click

from tokenscope._version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokenscope")
def main() -> None:
    """Tell which part of a program spends the tokens."""


@main.command()
@click.option(
    "--model",
    metavar="NAME",
    help="Ask this model of a real provider (as dspy.LM names it, 'openai/gpt-5-mini'), with your key from the environment.",
)
def demo(model: str | None) -> None:
    """Run a real DSPy agent and show the tree of what it spent.

    Without --model it talks to a small OpenAI-compatible server that is started on loopback for the time of the command: no
    key and no network are needed. The server keeps a bill of its own, and the last line compares the tree with it.
    """
    from tokenscope._demo import run

    raise SystemExit(run(model))
