"""A real Prometheus scrapes a running program, and its sums equal the provider's bill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from tokenscope.testing import LoopbackProvider

PROMETHEUS = shutil.which("prometheus")
if PROMETHEUS is None and "prometheus" in os.environ.get("TOKENSCOPE_TESTS_REQUIRE", ""):
    pytest.fail("prometheus is required here, and is not installed", pytrace=False)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian's package is of that name)"),
]

PROGRAM = """
import sys
import dspy
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server
import tokenscope
from tokenscope import token_scope
from tokenscope.integrations.otel import export_metrics

export_metrics(MeterProvider([PrometheusMetricReader()]))
server, _ = start_http_server(0, addr="127.0.0.1")
lm = dspy.LM("openai/gpt-4o-mini", api_base=sys.argv[1], api_key="x", cache=False)
dspy.configure(lm=lm)
with token_scope("pipeline"):
    examples = [dspy.Example(question=f"Why {n}?").with_inputs("question") for n in range(20)]
    dspy.Parallel(num_threads=4, disable_progress_bar=True)([(dspy.ChainOfThought("question -> answer"), e) for e in examples])
with token_scope("afterwards"):
    lm("Why?")
print(server.server_address[1], tokenscope.report().total.cost, flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ask(url: str, query: str) -> dict[str, float]:
    """Return the values that Prometheus answers to a query, by the first label."""
    with urllib.request.urlopen(f"{url}/api/v1/query?query={urllib.parse.quote(query)}", timeout=5) as response:
        result = json.load(response)["data"]["result"]
    return {next(iter(row["metric"].values()), ""): float(row["value"][1]) for row in result}


def test_prometheus(tmp_path):
    """Prometheus has the billed tokens by type and by scope, the number of calls, and the costs of the report."""
    pytest.importorskip("opentelemetry.exporter.prometheus")
    port = free_port()
    with LoopbackProvider() as provider:
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, provider.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        target, cost = program.stdout.readline().split()
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "p", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config), "utf-8")  # JSON is YAML
        prometheus = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            by_kind = {}
            while not by_kind and time.monotonic() < deadline:
                time.sleep(0.2)
                try:
                    by_kind = ask(url, "sum by (gen_ai_token_type) (gen_ai_client_token_usage_sum)")
                except OSError:
                    continue
            by_scope = ask(url, "sum by (tokenscope_scope) (gen_ai_client_token_usage_sum)")
            calls = ask(url, "sum(gen_ai_client_operation_duration_seconds_count)")
            costs = ask(url, "sum(tokenscope_cost_total or tokenscope_cost_USD_total)")
        finally:
            prometheus.terminate()
            prometheus.wait()
            program.communicate("")
        bill = provider.total

    assert {"input": bill.input_tokens, "output": bill.output_tokens} == by_kind
    assert {"pipeline/ChainOfThought", "afterwards"} == set(by_scope)
    assert bill.total_tokens == sum(by_scope.values())
    assert {"": bill.calls} == calls
    assert {"": pytest.approx(float(cost))} == costs
