"""Celery: the programs of its how-to page, with a real worker and each kind of pool."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.dspy_support import assert_billed

from tokenscope import Report
from tokenscope.testing import LoopbackProvider

pytestmark = pytest.mark.slow
pytest.importorskip("celery")
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "celery.md").read_text(encoding="utf-8")
ELSEWHERE = "# in another program\n"
BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TASKS = "".join(block for block in BLOCKS if ELSEWHERE not in block)
SENDER = """
import tasks

sent = [tasks.ask.delay(f"Question {n}? <<bill {user}>>", user=user) for n in range(3) for user in ("alice", "bob")]
sent.append(tasks.summarize.delay("A text. <<bill (none)>>"))
assert 7 == len([each.get(timeout=150) for each in sent])
"""


def here(code: str) -> str:
    """Return a program with a broker and results in files, and with tags for the bill."""
    queue = '{"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}'
    code = code.replace(
        'broker="redis://localhost", backend="redis://localhost"', 'broker="filesystem://", backend="file://results"'
    )
    code = code.replace(
        "get_tracker().add_sink", f"app.conf.broker_transport_options = {queue}\nget_tracker().add_sink"
    )
    code = code.replace('"Why?", "How?", "When?"', '"Why? <<bill bob>>", "How? <<bill bob>>", "When?"')
    return code.replace('"leaf"', '"leaf <<bill (none)>>"')


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_the_page(tmp_path, pool):
    """The file of all workers has the bill by user; scopes have tasks' names; a spent budget and a shipment reach the sender."""
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(here(TASKS))
    (tmp_path / "sender.py").write_text(
        here(SENDER + "".join(block for block in BLOCKS if ELSEWHERE + "from tasks" in block))
    )
    (tmp_path / "reader.py").write_text(here(next(block for block in BLOCKS if ELSEWHERE + "from tokenscope" in block)))
    python = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with LoopbackProvider() as provider:
        environment = {
            "OPENAI_BASE_URL": provider.url,
            "OPENAI_API_KEY": "x",
            "C_FORCE_ROOT": "1",
            "DSPY_CACHEDIR": str(tmp_path),
        }
        python["env"] = {**os.environ, **environment}
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "2", "-P", pool]
        worker = subprocess.Popen(command, **python)
        try:
            sent = subprocess.run([sys.executable, "sender.py"], check=False, **python)
        finally:
            worker.terminate()
            log = worker.communicate()[0]
    assert 0 == sent.returncode, sent.stdout + log

    report = Report.load(tmp_path / "calls.jsonl")
    assert_billed(provider, dict(report.by_attribute("user")))
    assert {"alice", "bob", "(none)"} == set(provider.bill)
    assert 1 == report.find("tasks.summarize").usage.calls
    exceeded, translated = sent.stdout.splitlines()
    assert "the budget of 'research', 2 calls, is spent: 2 calls" == exceeded
    shipped = provider.bill["(none)"].total_tokens - report.find("tasks.summarize").usage.total_tokens
    assert translated.endswith(f" {shipped}")
    read = subprocess.run([sys.executable, "reader.py"], check=True, **python).stdout
    assert [(user, str(usage.total_tokens)) for user, usage in report.by_attribute("user").items()] == [
        (line.split()[0], line.split()[1]) for line in read.splitlines()
    ]
    saved = sum(map(Report.load, tmp_path.glob("tokens-*.json")))
    assert pool != "prefork" or saved.total.total_tokens == report.total.total_tokens - shipped
