"""Runs all scenarios with one tool: `python worker.py WAY`. Reads the server of each scenario, and writes the tool's tokens.

It runs as a script in the tool's environment, so it imports nothing but its neighbours, DSPy and the tool.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dspy
from scenarios import SCENARIOS, Run
from tools import WAYS, Totals


def main() -> None:
    """Read `{scenario: url}` from standard input, and write `{"versions": …, "tokens": {scenario: {scope: tokens}}}`."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    servers: dict[str, str] = json.load(sys.stdin)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    way = WAYS[sys.argv[1]]
    errors: dict[str, str] = {}
    with contextlib.redirect_stdout(sys.stderr):
        tool = way.set_up()
        for number, (name, url) in enumerate(servers.items()):
            options: dict[str, Any] = {"api_base": url, "api_key": "none", "num_retries": 0, **tool.lm}
            lms = [dspy.LM("openai/gpt-4o-mini", cache=cache, **options) for cache in (False, True)]
            dspy.configure(lm=lms[0])
            run = Run(lambda scope, number=number: tool.scope(f"{number}/{scope}"), *lms, url)
            try:
                contextvars.copy_context().run(SCENARIOS[name], run)
            except Exception as error:  # it is a result
                errors[name] = f"{type(error).__name__}: {error}"
        totals = tool.totals()
    tokens: dict[str, Totals] = {name: {} for name in servers}
    for scope, total in totals.items():
        number, slash, name = scope.partition("/")
        if slash and number.isdigit():
            tokens[list(servers)[int(number)]][name] = total
    versions = {}
    for name in ("dspy", "litellm", *way.versions):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    json.dump({"versions": versions, "tokens": tokens, "errors": errors}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # some tools wait for a server that is not there


if __name__ == "__main__":
    main()
