"""The command line: `tokenscope run`, `show`, `diff`, `merge`, `analyze`, `doctor` and `demo`.

A command reads its arguments and calls what does the work; that is imported inside it, so that help and completion are quick.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import chain
from typing import Final

import click

from tokenscope._report.formats import FORMATS
from tokenscope._report.formats.order import SORTABLE, SORTS
from tokenscope._version import __version__
from tokenscope.cli.console import STANDARD, Commands, dollars, format_for, percent, read, write

_BY: Final = ("module", "model", "predictor", "operation")
_FILE: Final = click.Path(allow_dash=True)
_OUTPUT: Final = click.Path(allow_dash=True, dir_okay=False)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Reports are made in a program, and by 'tokenscope run':
  tokenscope.report().save("tokens.json")

\b
Then, for example:
  tokenscope show tokens.json
  tokenscope show tokens.json -o tokens.html
  tokenscope diff before.json after.json --fail-above 5%

\b
For completion of commands, options and file names, put the line for your shell into its start file:
  bash  (~/.bashrc)  eval "$(_TOKENSCOPE_COMPLETE=bash_source tokenscope)"
  zsh   (~/.zshrc)   eval "$(_TOKENSCOPE_COMPLETE=zsh_source tokenscope)"
  fish  (~/.config/fish/completions/tokenscope.fish)
                     _TOKENSCOPE_COMPLETE=fish_source tokenscope | source

Exit status: 0, 1 where a gate failed, 2 where something was wrong with the command or a file.""",
)
@click.version_option(__version__, prog_name="tokenscope")
@click.pass_context
def main(context: click.Context) -> None:
    """Tell which part of a program spends the tokens."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command(
    epilog="""\b
Examples:
  tokenscope show tokens.json                    the tree, in the terminal's width and colours
  tokenscope show worker-*.json --depth 2        several runs together, two levels deep
  tokenscope show tokens.json --by model         what each model spent
  tokenscope show tokens.json -o tokens.html     a page to fold, filter and sort
  tokenscope show tokens.json --format csv       for a spreadsheet, on standard output
  ssh host cat tokens.json | tokenscope show -   a report from elsewhere"""
)
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), help="The format; else that of -o's suffix, else a tree."
)
@click.option("--by", type=click.Choice(_BY), help="One flat row a name, instead of the tree.")
@click.option(
    "--depth", type=click.IntRange(min=1), metavar="N", help="Show N levels; what is deeper is added to those."
)
@click.option("--sort", type=click.Choice(SORTS), help="The order of scopes beside each other; else by tokens.")
@click.option("-o", "--output", type=_OUTPUT, metavar="FILE", help="Write to a file, in the format of its suffix.")
def show(
    files: tuple[str, ...], form: str | None, by: str | None, depth: int | None, sort: str | None, output: str | None
) -> None:
    """Show a report, in any format.

    Several FILEs are added up; - is standard input.
    """
    form = form or format_for(output, FORMATS, "tree")
    options: dict[str, str] = {}
    if sort is not None:
        if form not in SORTABLE:
            _refuse("--sort", f"{form} has an order of its own; {', '.join(SORTABLE)} can be sorted.")
        if sort == "time" and (by or form == "table"):
            _refuse("--sort", "a flat breakdown has no times.")
        options["sort"] = sort
    if by and form == "table":
        options["title"] = by.capitalize()

    from tokenscope._report.views import cut, pivot

    report = read(files)
    if by:
        report = pivot(report, by)
    if depth:
        report = cut(report, depth)
    if form == "tree" and output in (None, "-"):
        from tokenscope._report.formats import tree

        write(tree.for_stdout(report, sort=sort or "tokens"), output, drawn=True)
    else:
        write(report.render(form, **options), output)


@main.command(
    epilog="""\b
Examples:
  tokenscope diff old.json new.json                    what grew and what shrank, the most first
  tokenscope diff old.json new.json --fail-above 5%    a gate: exit status 1 where it grew more
  tokenscope diff old.json new.json -o diff.md         for a comment on a pull request
  tokenscope diff old.json new.json --format json | jq .growth

Each line holds what was spent at a path and below it; what is equal in both is left out. With --fail-above, the exit status is
1 where total tokens or total cost grew by more than that; a cost that is not wholly known is not compared, and that is said."""
)
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option("--fail-above", type=percent, metavar="PERCENT", help="Fail where the totals grew by more than that.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "markdown", "json")),
    help="The format; else that of -o's suffix, else text.",
)
@click.option("-o", "--output", type=_OUTPUT, metavar="FILE", help="Write to a file: .txt, .md or .json.")
def diff(old: str, new: str, fail_above: Decimal | None, form: str | None, output: str | None) -> None:
    """Show what grew and what shrank from one report to another.

    One of OLD and NEW may be -, standard input.
    """
    from tokenscope._report.formats import diff as _diff

    form = form or format_for(output, _diff.FORMATS, "text")
    if (old, new) == ("-", "-"):
        _refuse("OLD NEW", "only one of them can be -, standard input.")
    found = read([old]).diff(read([new]))
    failed, sentence = False, ""
    if fail_above is not None:
        from tokenscope.cli.fail_above import verdict

        failed, sentence = verdict(found, fail_above)
    try:
        if form == "text" and output in (None, "-"):
            write(str(found), output, drawn=True)
        else:
            write(found.render(form), output)
    except SystemExit:  # nobody reads the diff to its end: the gate holds
        if not failed:
            raise
    if sentence:
        click.echo(f"tokenscope diff: {sentence}", err=True)
    if failed:
        raise SystemExit(1)


@main.command(
    epilog="""\b
Examples:
  tokenscope merge worker-*.json -o tokens.json
  tokenscope merge tokens.json today.json -o tokens.json       an input may be the output
  tokenscope merge calls/*.jsonl --records -o calls.json       every call, too
  tokenscope merge a.json b.json -o - | gzip > tokens.json.gz

To see several reports together, or write them in another format, use 'tokenscope show'."""
)
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--records", is_flag=True, help="Keep the records that the FILEs hold, one call each.")
@click.option("-o", "--output", type=_OUTPUT, metavar="FILE", required=True, help="The file to write: .json, or -.")
def merge(files: tuple[str, ...], records: bool, output: str) -> None:
    """Add up reports and files of records, and write one report.

    Of the FILEs, and as the output, - is standard input and output. Without --records, records are added up and not kept.
    """
    format_for(output, {"json": ".json"}, "json")
    if records and STANDARD in files:
        _refuse("--records", "standard input can be read only once; name files.")
    report = read(files)
    from tokenscope._report.formats import json
    from tokenscope._report.reading import record_lines

    write(json.written(report, chain.from_iterable(map(record_lines, files)) if records else None), output)


@main.command(
    epilog="""\b
Examples:
  tokenscope analyze tokens.json
  tokenscope analyze tokens.json --samples 500                 tokens and cost a sample, too
  tokenscope analyze run-*.json --samples 500 -o report.md"""
)
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="How many samples the run made.")
@click.option(
    "--format", "form", type=click.Choice(("text", "markdown")), help="The format; else that of -o's suffix, else text."
)
@click.option("-o", "--output", type=_OUTPUT, metavar="FILE", help="Write to a file: .md or .txt.")
def analyze(files: tuple[str, ...], samples: int | None, form: str | None, output: str | None) -> None:
    """Tell what a run spent: in all, a sample, and by module and model.

    Several FILEs are added up; - is standard input.
    """
    from tokenscope._report.analysis import FORMATS as ANALYSES
    from tokenscope._report.analysis import analysis

    form = form or format_for(output, ANALYSES, "text")
    write(analysis(read(files), samples, form), output)


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
    from tokenscope.cli.demo import run

    raise SystemExit(run(model))


@main.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[-o FILE] [--live] [--max-tokens N] [--max-cost USD] [--max-calls N]",
    epilog="""\b
Examples:
  tokenscope run agent.py --question "Why?"          what follows the script is the script's
  tokenscope run -o tokens.json -m my_package        as python -m my_package, and keep the report
  tokenscope run --live evaluate.py                  watch the tree grow
  tokenscope run --max-cost 0.50 optimize.py         end it before it spends more than half a dollar

The program runs as it does with python: its arguments, its output and its exit status are its own. The tree goes to standard
error when it ends, also where it fails or is interrupted. A program that has spent its budget ends with exit status 1, before
it makes another call, whatever exceptions it catches; calls on their way may exceed the budget's tokens and cost.""",
)
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Keep the report, in the format of its suffix.")
@click.option("--live", is_flag=True, help="Show the tree while it grows, in the bottom lines of the terminal.")
@click.option("--max-tokens", type=click.IntRange(min=0), metavar="N", help="End it when so many tokens are spent.")
@click.option("--max-cost", type=dollars, metavar="USD", help="End it when so many dollars are spent.")
@click.option("--max-calls", type=click.IntRange(min=0), metavar="N", help="Let it make so many LM calls.")
@click.option("-m", "module", is_flag=True, help="Run a module, as python -m does.")
@click.argument("program", nargs=-1, required=True, type=click.Path(), metavar="(SCRIPT | -m MODULE) [ARGS]...")
def run(
    output: str | None,
    live: bool,
    max_tokens: int | None,
    max_cost: Decimal | None,
    max_calls: int | None,
    module: bool,
    program: tuple[str, ...],
) -> None:
    """Run a Python program, and show the tree of what it spent."""
    from tokenscope import Budget
    from tokenscope.cli.run import program as _run

    limited = any(limit is not None for limit in (max_tokens, max_cost, max_calls))
    budget = Budget(tokens=max_tokens, cost=max_cost, calls=max_calls) if limited else None
    _run.run(program, module=module, output=output, live=live, budget=budget)


@main.command(
    epilog="""\b
Examples:
  tokenscope doctor
  tokenscope doctor openai/gpt-5-mini bedrock/my-model     which engine and price these have
  tokenscope doctor --format json | jq .failed
  opentelemetry-instrument tokenscope doctor               as your program is started, so is this

Exit status: 0, or 1 where there is a problem. Notes are no problems."""
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", help="The format; else text.")
def doctor(models: tuple[str, ...], form: str) -> None:
    """Check whether all that DSPy spends is counted, and counted once.

    MODELs are named as dspy.LM takes them. No provider is asked: what is called is a small server on loopback.
    """
    from tokenscope.cli.doctor import report as _doctor

    findings = _doctor.examine(models, fresh=True)
    failed = _doctor.failed(findings)
    try:
        if form == "json":
            write(_doctor.as_json(findings), None)
        else:
            write(_doctor.as_text(findings), None, drawn=True)
    except SystemExit:  # nobody reads it to its end: what was found holds
        if not failed:
            raise
    raise SystemExit(int(failed))


def _refuse(what: str, why: str) -> None:
    raise click.BadParameter(why, click.get_current_context(), param_hint=f"'{what}'")
