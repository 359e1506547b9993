"""What `tokenscope doctor` does: look at everything that decides whether tokens are counted, once, and say what was found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from tokenscope._report.formats.terminal import Line, for_stdout
from tokenscope._report.formats.text import printable
from tokenscope._version import __version__
from tokenscope.cli.doctor.checks import NOTE, OK, PROBLEM, Finding, environment, import_dspy, patches, versions

__all__ = ["Finding", "as_json", "as_text", "examine", "failed"]

FORMAT: Final = 1
_USUAL: Final = "openai/gpt-4o-mini"
_STYLES: Final = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}


def examine(models: Sequence[Any] = (), *, fresh: bool = False) -> list[Finding]:
    """Return what was found out about this process: whether what DSPy spends is counted, and counted once.

    Args:
        models: Names as `dspy.LM` takes them, or LMs; the LM that DSPy is configured with where there are none.
        fresh: This process was started to look around: import what is to be patched, and make calls to a server on
            loopback. Else only what is loaded is looked at, and nothing is called or changed.

    Example:
        >>> from tokenscope.cli.doctor.report import examine
        >>> [finding.text for finding in examine() if finding.mark == "problem"]
        []
    """
    with environment(LITELLM_LOCAL_MODEL_COST_MAP="True"):  # else litellm fetches its prices when it is imported
        return list(_examine(models, fresh=fresh))


def _examine(models: Sequence[Any], *, fresh: bool) -> Iterator[Finding]:
    yield from versions()
    dspy = import_dspy(fresh=fresh)
    yield dspy
    if dspy.mark != OK:
        return
    yield from patches(fresh=fresh)

    from tokenscope.cli.doctor.models import cache, configured, engine, name_of, prices, trials
    from tokenscope.cli.doctor.others import others

    models = models or configured() or (_USUAL,)
    engines: list[str] = []
    for model in models:
        kind, finding = engine(model, fresh=fresh)
        engines.append(kind)
        yield finding
    yield from prices(dict.fromkeys(map(name_of, models)))
    yield cache()
    yield from others(engines)
    if fresh:
        yield from trials()


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything is wrong."""
    return any(finding.mark == PROBLEM for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line a finding, as standard output can show it."""
    return for_stdout(lambda _width, _ascii_only: _lines(findings))


def _lines(findings: Sequence[Finding]) -> Iterator[Line]:
    for about, group in groupby(findings, key=lambda finding: finding.about):
        yield [(about, "bold")]
        for finding in group:
            yield [("  ", ""), (f"{finding.mark:<9}", _STYLES[finding.mark]), (printable(finding.text), "")]
    problems = sum(finding.mark == PROBLEM for finding in findings)
    yield [(f"{problems or 'no'} problem{'' if problems == 1 else 's'} found", _STYLES[PROBLEM if problems else OK])]


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as JSON, for programs."""
    told = [finding._asdict() for finding in findings]
    return json.dumps(
        {"format": FORMAT, "tokenscope": __version__, "failed": failed(findings), "findings": told}, indent=2
    )
