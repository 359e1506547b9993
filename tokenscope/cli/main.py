"""The command line: `tokenscope run`, `show`, `diff`, `merge`, `analyze`, `doctor` and `demo`.

Each command imports the code that does its work when it runs, so that help and completion are quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import chain
from typing import Any, Final, TypeVar

import click

from tokenscope._report.formats import FORMATS
from tokenscope._report.formats.order import SORTS
from tokenscope._usage.custom_prices import PRICES_VARIABLE
from tokenscope._version import __version__
from tokenscope.cli.console import STANDARD, Commands, dollars, format_for, percent, read, settings, use_prices, write

F = TypeVar("F", bound=Callable[..., None])
BREAKDOWNS: Final = ("module", "model", "predictor", "operation", "part")


class _Breakdown(click.Choice[str]):
    """One of the breakdowns, or the name of an attribute, which only the report knows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        return str(value)


_FILE: Final = click.Path(allow_dash=True)
_LIMIT: Final = click.IntRange(min=0)
_NUMBER: Final = click.IntRange(min=1)
_files: Final = click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")


def _output(help_text: str, **settings: Any) -> Callable[[F], F]:
    settings = {"type": click.Path(allow_dash=True, dir_okay=False), **settings}
    return click.option("-o", "--output", metavar="FILE", help=help_text, **settings)


def _format(formats: Iterable[str], default: str) -> Callable[[F], F]:
    help_text = f"The format. Default: the format of -o's suffix, or else {default}."
    return click.option("--format", "form", type=click.Choice(list(formats)), help=help_text)


def _prices(help_text: str) -> Callable[[F], F]:
    return click.option(
        "--prices",
        type=click.Path(),
        metavar="FILE",
        envvar=PRICES_VARIABLE,
        show_envvar=True,
        expose_value=False,
        callback=use_prices,
        help=help_text,
    )


_missing_prices: Final = _prices("A TOML file of prices, for calls without a known price.")


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
A program writes a report, and so does 'tokenscope run':
  tokenscope.report().save("tokens.json")
  tokenscope run -o tokens.json program.py

\b
Then, for example:
  tokenscope show tokens.json
  tokenscope show tokens.json -o tokens.html
  tokenscope diff before.json after.json --fail-above 5%

\b
To complete commands, options and file names, put the line for your shell into its start file:
  bash  (~/.bashrc)  eval "$(_TOKENSCOPE_COMPLETE=bash_source tokenscope)"
  zsh   (~/.zshrc)   eval "$(_TOKENSCOPE_COMPLETE=zsh_source tokenscope)"
  fish  (~/.config/fish/completions/tokenscope.fish)
                     _TOKENSCOPE_COMPLETE=fish_source tokenscope | source

[tool.tokenscope] in pyproject.toml can set prices, fail_above, format and baselines.

Exit status: 0; 1 if a check failed; 2 if the command line or a file is wrong.""",
)
@click.version_option(__version__, prog_name="tokenscope")
@click.pass_context
def main(context: click.Context) -> None:
    """Show which part of a program spends the tokens."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command(
    epilog="""\b
Examples:
  tokenscope show tokens.json                    the tree, in the terminal's width and colours
  tokenscope show worker-*.json --depth 2        the sum of several runs, two levels deep
  tokenscope show tokens.json --by model         what each model spent
  tokenscope show tokens.json --by user          what was spent for each value of an attribute
  tokenscope show tokens.json --parts            which parts of prompts the input is
  tokenscope show tokens.json -o tokens.html     a web page to fold, filter and sort
  tokenscope show tokens.json --format csv       for a spreadsheet, on standard output
  ssh host cat tokens.json | tokenscope show -   a report from standard input"""
)
@_files
@_format(FORMATS, "tree")
@click.option(
    "--by",
    type=_Breakdown(BREAKDOWNS),
    metavar=f"[{'|'.join(BREAKDOWNS)}|ATTRIBUTE]",
    help="Show a flat list with one row per name, or per value of an attribute, instead of the tree.",
)
@click.option("--parts", is_flag=True, default=None, help="Show which parts of its prompts each predictor's input is.")
@click.option("--depth", type=_NUMBER, metavar="N", help="Show N levels. Deeper levels are added to the last one.")
@click.option("--sort", type=click.Choice(SORTS), help="The order of siblings. Default: tokens.")
@click.option("--top", type=_NUMBER, metavar="N", help="Show N rows: the costliest and their parents. Tree: 60.")
@click.option("--all", "everything", is_flag=True, help="Show all rows.")
@click.option("--min-share", type=percent, metavar="PERCENT", help="Show rows with at least that share of the total.")
@_missing_prices
@_output("Write to a file, in the format of its suffix.")
def show(
    files: tuple[str, ...],
    form: str | None,
    by: str | None,
    depth: int | None,
    output: str | None,
    everything: bool,
    **chosen: Any,
) -> None:
    """Show a report in any format.

    Several FILEs are added up. - is standard input.
    """
    form = form or format_for(output, FORMATS, settings().format_among(FORMATS, "tree"))
    options = {name: value for name, value in chosen.items() if value is not None}
    if everything:
        options["top"] = None
    if "min_share" in options:
        options["min_share"] = float(options["min_share"] / 100)

    from tokenscope._report.formats import arranged
    from tokenscope._report.snapshot import Snapshot

    what = "module" if by or form == "table" else None
    for name, value in options.items():  # before anything is read
        try:
            render, nothing, option = arranged(Snapshot(), form, by=what, **{name: value})
            render(nothing, **option)
        except (TypeError, ValueError) as error:
            raise click.BadParameter(f"{error}.", param_hint=f"'--{name.replace('_', '-')}'") from None
    total = read(files)
    try:
        render, report, options = arranged(total, form, by=by, depth=depth, **options)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="'--by'") from None
    if form == "tree" and output in (None, STANDARD):
        from tokenscope._report.formats.tree import drawing

        write(drawing(report, **options).on(sys.stdout), output, drawn=True)
    else:
        write(render(report, **options), output)


@main.command(
    epilog="""\b
Examples:
  tokenscope diff old.json new.json                    what grew and what shrank
  tokenscope diff old.json new.json --fail-above 5%    exit status 1 if the totals grew by more
  tokenscope diff old.json new.json -o diff.md         for a comment on a pull request
  tokenscope diff old.json new.json -o diff.html       a web page to send to others
  tokenscope diff old.json new.json --format json | jq .growth
  tokenscope diff old.json new.json --github           in GitHub Actions: a summary and warnings

Each line shows what was spent at a path and below it. Paths without a change are left out. With --fail-above, the exit status
is 1 if total tokens or total cost grew by more than that. Costs are not compared if a call has no known price."""
)
@click.argument("old", type=_FILE, metavar="[OLD]", required=False)
@click.argument("new", type=_FILE, metavar="NEW", required=False)
@click.option("--fail-above", type=percent, metavar="PERCENT", help="Exit with status 1 if the totals grew by more.")
@_format(("text", "markdown", "html", "json"), "text")
@click.option("--github", is_flag=True, help="In GitHub Actions: add to the job's summary, and warn of what grew.")
@click.option(
    "--comment",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write Markdown for a comment on a pull request. Its first line marks it, so that it can be updated.",
)
@_missing_prices
@_output("Write to a file: .txt, .md, .html or .json.")
def diff(
    old: str | None,
    new: str | None,
    fail_above: Decimal | None,
    form: str | None,
    github: bool,
    comment: str | None,
    output: str | None,
) -> None:
    """Show what grew and what shrank from one report to another.

    Either OLD or NEW may be -, standard input. Without OLD, it is the baseline in pyproject.toml.
    """
    from tokenscope._report.formats.diff import FORMATS as DIFFS

    project = settings()
    form = form or format_for(output, DIFFS, project.format_among(DIFFS, "text"))
    fail_above = project.fail_above if fail_above is None else fail_above
    if old is None:
        raise click.UsageError("Missing argument 'NEW'")
    if new is None:
        if project.report is None:
            raise click.UsageError(
                "Missing argument 'OLD'; [tool.tokenscope.baselines] in pyproject.toml may name it: report"
            )
        old, new = project.report, old
    if old == new == STANDARD:
        raise click.BadParameter("only one of them can be -, standard input.", param_hint="'OLD NEW'")
    on_stdout = output in (None, STANDARD)
    if github and form == "json" and on_stdout:
        raise click.BadParameter("warnings go to standard output, so JSON needs -o FILE.", param_hint="'--github'")

    from tokenscope.cli import github as actions

    summary = actions.summary_file() if github else None
    difference = read([old]).diff(read([new]))
    failed, message = False, ""
    if fail_above is not None:
        from tokenscope.cli.fail_above import check_growth

        failed, message = check_growth(difference, fail_above)
    if summary:
        actions.add_to_summary(summary, difference.render("markdown"))
    if comment:
        write(f"{actions.MARKER}\n{difference.render('markdown')}", comment)
    drawn = form == "text" and on_stdout
    text = str(difference) if drawn else difference.render(form)
    write(actions.harmless(text) if github and on_stdout else text, output, drawn=drawn, failed=failed)
    if github:
        write([actions.warning_lines(difference, fail_above)], None, drawn=True, failed=failed)
    if message:
        click.echo(f"tokenscope diff: {message}", err=True)
    if failed:
        raise SystemExit(1)


@main.command(
    epilog="""\b
Examples:
  tokenscope merge worker-*.json -o tokens.json
  tokenscope merge tokens.json today.json -o tokens.json       an input may be the output
  tokenscope merge calls/*.jsonl --records -o calls.json       with a record of every call
  tokenscope merge a.json b.json -o - | gzip > tokens.json.gz

'tokenscope show' shows the sum of several reports, and writes it in other formats."""
)
@_files
@click.option("--records", is_flag=True, help="Keep the records of single calls, too.")
@_missing_prices
@_output("The file to write: .json or -.", required=True)
def merge(files: tuple[str, ...], records: bool, output: str) -> None:
    """Add up reports and files of records, and write one report.

    - is standard input, and as the output standard output.
    """
    format_for(output, {"json": ".json"}, "json")
    if records and STANDARD in files:
        raise click.BadParameter("standard input can be read only once; name files instead.", param_hint="'--records'")
    report = read(files)
    from tokenscope._report.formats import json
    from tokenscope._report.reading import record_lines

    write(json.pieces(report, chain.from_iterable(map(record_lines, files)) if records else None), output)


@main.command(
    epilog="""\b
Examples:
  tokenscope analyze tokens.json
  tokenscope analyze tokens.json --samples 500                 with tokens and cost per sample
  tokenscope analyze calls.jsonl --samples 5 --scale-to 1000   what 1,000 would spend
  tokenscope analyze run-*.json --samples 500 -o report.md"""
)
@_files
@click.option("--samples", type=_NUMBER, metavar="N", help="The number of samples that the run made.")
@click.option("--scale-to", "to", type=_NUMBER, metavar="N", help="Estimate what a run of N samples would spend.")
@_format(("text", "markdown"), "text")
@_missing_prices
@_output("Write to a file: .md or .txt.")
def analyze(files: tuple[str, ...], samples: int | None, to: int | None, form: str | None, output: str | None) -> None:
    """Sum up what a run spent, per sample, module and model.

    Several FILEs are added up. - is standard input.
    """
    from tokenscope._report.formats import analysis

    form = form or format_for(output, analysis.FORMATS, settings().format_among(analysis.FORMATS, "text"))
    report, estimate = read(files), None
    if to is not None:
        if samples is None:
            raise click.UsageError("--scale-to needs --samples N, the number of samples that the run made")
        from tokenscope._report.forecast import forecast
        from tokenscope._report.reading import record_lines

        # standard input can be read only once
        lines = chain.from_iterable(record_lines(file) for file in files if file != STANDARD)
        estimate = forecast(report, samples, to, lines)
    write(analysis.render(report, samples, form, estimate), output)


@main.command()
@click.option(
    "--model",
    metavar="NAME",
    help="Call a real model, named as dspy.LM takes it ('openai/gpt-5-mini'), with your key from the environment.",
)
@_prices("A TOML file of prices.")
def demo(model: str | None) -> None:
    """Run a real DSPy agent, and show the tree of what it spent.

    Without --model, the agent calls a small OpenAI-compatible server on loopback. It needs no key and no network. The server
    keeps its own bill, and the last line compares the tree with it.
    """
    from tokenscope.cli.demo import run

    raise SystemExit(run(model))


@main.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[-o FILE] [--live] [--parts] [--max-tokens N] [--max-cost USD] [--max-calls N] [--prices FILE]",
    epilog="""\b
Examples:
  tokenscope run agent.py --question "Why?"          options after the script are the script's
  tokenscope run -o tokens.json -m my_package        as python -m my_package, and keep the report
  tokenscope run --live evaluate.py                  watch the tree grow
  tokenscope run --parts evaluate.py                 and which parts of its prompts each input is
  tokenscope run --max-cost 0.50 optimize.py         end it when it has spent half a dollar

The program runs as it does with python, with its own arguments, output and exit status. When it ends, the tree goes to
standard error, even if it fails or is interrupted. A program that has spent its budget ends with exit status 1 before its next
call, whatever exceptions it catches. Calls in flight may exceed the budget's tokens and cost.""",
)
@_output("Write the report to a file, in the format of its suffix.", type=click.Path())
@click.option("--live", is_flag=True, help="Show the growing tree in the bottom lines of the terminal.")
@click.option(
    "--parts", is_flag=True, help="Measure the parts of prompts, also in child processes, and show them with findings."
)
@click.option("--max-tokens", "tokens", type=_LIMIT, metavar="N", help="End the program when it has spent N tokens.")
@click.option(
    "--max-cost", "cost", type=dollars, metavar="USD", help="End the program when it has spent so many dollars."
)
@click.option(
    "--max-calls", "calls", type=_LIMIT, metavar="N", help="End the program before it makes more than N LM calls."
)
@_prices("A TOML file of prices, for the program and those that it starts.")
@click.option("-m", "module", is_flag=True, help="Run a module, as python -m does.")
@click.argument("program", nargs=-1, required=True, type=click.Path(), metavar="(SCRIPT | -m MODULE) [ARGS]...")
def run(output: str | None, live: bool, parts: bool, module: bool, program: tuple[str, ...], **limits: Any) -> None:
    """Run a Python program, and show the tree of what it spent."""
    from tokenscope import Budget
    from tokenscope.cli.run.program import run as run_program

    budget = Budget(**limits) if any(limit is not None for limit in limits.values()) else None
    run_program(program, module=module, output=output, live=live, parts=parts, budget=budget)


@main.command(
    epilog="""\b
Examples:
  tokenscope doctor
  tokenscope doctor openai/gpt-5-mini bedrock/my-model     their engines and prices, too
  tokenscope doctor --format json | jq .failed
  opentelemetry-instrument tokenscope doctor               started as your program is started

Exit status: 0, or 1 if there is a problem. A note is not a problem."""
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@_prices("A TOML file of prices to check.")
@click.option(
    "--format", "form", type=click.Choice(("text", "json")), default="text", help="The format. Default: text."
)
def doctor(models: tuple[str, ...], form: str) -> None:
    """Check that DSPy's tokens are all counted, and only once.

    MODELs are named as dspy.LM takes them. No provider is called, only a small server on loopback.
    """
    from tokenscope.cli.doctor.report import as_json, as_text, examine, failed

    findings = examine(models, fresh=True)
    has_problem = failed(findings)
    write((as_json if form == "json" else as_text)(findings), None, drawn=form == "text", failed=has_problem)
    raise SystemExit(int(has_problem))
