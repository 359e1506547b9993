"""joblib: with each backend, the driver's report equals the bill; files of killed workers keep their calls."""

from __future__ import annotations

import pytest
from support import asking
from support.dspy_support import assert_billed
from support.spending import spent

import tokenscope
from tokenscope import Report, receive, ship, token_scope
from tokenscope.cli import main
from tokenscope.testing import LoopbackProvider

joblib = pytest.importorskip("joblib")

BACKENDS = ["loky", "multiprocessing", "threading", "sequential"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parallel(backend):
    """Tasks are counted as billed, whether they run in other processes, in threads, or in this thread."""
    with LoopbackProvider() as provider, token_scope("a") as a:
        tasks = [joblib.delayed(ship(asking.ask))(provider.url, "a") for _ in range(4)]
        tasks.append(joblib.delayed(ship(asking.ask_and_fail))(provider.url, "a"))
        shipments = joblib.Parallel(n_jobs=2, backend=backend)(tasks)
        assert all(receive(shipment) for shipment in shipments[:4])
        with pytest.raises(LookupError, match="a"):
            receive(shipments[4])

        assert 5 == a.report().find("a/Agent/planner").usage.calls
        assert_billed(provider, {"a": a.usage})
        assert provider.total.total_tokens == tokenscope.report().total.total_tokens


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed(tmp_path, capsys):
    """If a worker is killed, `tokenscope merge` finds every finished call in the files that the workers wrote."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    with LoopbackProvider() as provider, token_scope("a") as a:
        keep = joblib.delayed(ship(asking.ask_and_keep))
        calls = [keep(provider.url, "a", str(files[n % 2])) for n in range(5)]
        calls.append(keep(provider.url, "a", str(files[0]), die=True))
        with pytest.raises(TerminatedWorkerError):
            joblib.Parallel(n_jobs=2)(calls)
        assert 0 == spent(a)  # joblib returns no results if one task fails
        bill = provider.total

    merged = tmp_path / "all.json"
    with pytest.raises(SystemExit) as done:
        main(["merge", *(str(file) for file in files if file.exists()), "-o", str(merged)])
    assert 0 == done.value.code
    capsys.readouterr()
    report = Report.load(merged)
    assert (bill.calls, bill.input_tokens, bill.output_tokens) == (
        report.total.calls,
        report.total.input_tokens,
        report.total.output_tokens,
    )
    assert report.total == report.find("Agent/planner").usage
