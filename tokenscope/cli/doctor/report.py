"""What `tokenscope doctor` reports: the findings of all checks, as text and as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from tokenscope._report.formats.terminal import Drawing, Line
from tokenscope._report.formats.text import plural, printable
from tokenscope._version import __version__
from tokenscope.cli.doctor.checks import (
    NOTE,
    OK,
    PROBLEM,
    CheckResult,
    import_dspy,
    installation,
    others,
    patches,
    versions,
)

FORMAT: Final = 1
_USUAL: Final = "openai/gpt-4o-mini"
_STYLES: Final = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}


def examine(models: Sequence[Any] = (), *, fresh: bool = False) -> list[CheckResult]:
    """Return the findings about this process: whether everything that DSPy spends is counted, and counted once.

    Args:
        models: Names as `dspy.LM` takes them, or LMs. Without any, the LM that DSPy is configured with.
        fresh: This process was started for the checks: they import the modules to patch, and make calls to a server on
            loopback. Otherwise they look only at what is loaded, and call and change nothing.
    """
    installed = [CheckResult("versions", *each) for each in installation()]
    findings = [*(CheckResult("versions", *each) for each in versions()), *installed]
    if failed(installed):  # what else is to be imported may be another project's
        return findings
    if fresh:  # litellm would fetch its prices when it is imported
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    findings.append(CheckResult("patches", *import_dspy(fresh=fresh)))
    if findings[-1].mark != OK:
        return findings
    findings += [CheckResult("patches", *each) for each in patches(fresh=fresh)]

    import dspy

    from tokenscope.cli.doctor.models import cache, engine, name_of, prices, trials

    if not models:
        models = (_USUAL if dspy.settings.lm is None else dspy.settings.lm,)
    engines = [engine(model, fresh=fresh) for model in models]
    checks = {
        "models": [(mark, text) for _, mark, text in engines],
        "prices": prices(dict.fromkeys(map(name_of, models))),
        "cache": [cache()],
        "others": others({name for name, _, _ in engines}),
        "trial": trials() if fresh else (),
    }
    return findings + [CheckResult(about, *each) for about, results in checks.items() for each in results]


def failed(findings: Iterable[CheckResult]) -> bool:
    """Return whether there is a problem."""
    return any(finding.mark == PROBLEM for finding in findings)


def as_text(findings: Sequence[CheckResult]) -> str:
    """Return a line for each finding, as standard output can show it."""
    return Drawing(lambda _width, _ascii_only: _lines(findings)).on(sys.stdout)


def _lines(findings: Sequence[CheckResult]) -> Iterator[Line]:
    for about, group in groupby(findings, key=lambda finding: finding.about):
        yield [(about, "bold")]
        for finding in group:
            yield [("  ", ""), (f"{finding.mark:<9}", _STYLES[finding.mark]), (printable(finding.text), "")]
    problems = sum(finding.mark == PROBLEM for finding in findings)
    found = f"{plural(problems, 'problem') if problems else 'no problems'} found"
    yield [(found, _STYLES[PROBLEM if problems else OK])]


def as_json(findings: Sequence[CheckResult]) -> str:
    """Return the findings as JSON, for programs."""
    report = {
        "format": FORMAT,
        "tokenscope": __version__,
        "failed": failed(findings),
        "findings": [finding._asdict() for finding in findings],
    }
    return json.dumps(report, indent=2)
