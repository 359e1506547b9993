"""Ray: the driver's report equals the bill, and a worker that is killed loses only its unfinished task."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import asking
from support.dspy_support import assert_billed
from support.spending import spent

from tokenscope import Report, receive, ship, token_scope
from tokenscope.testing import LoopbackProvider

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Start Ray on this machine."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def provider():
    """Return a provider that workers can reach."""
    with LoopbackProvider() as provider:
        yield provider


@pytest.mark.timeout(300)
def test_tasks(provider):
    """Each scope counts the functions that it receives, including one that raises."""
    ask, fail = ray.remote(ship(asking.ask)), ray.remote(ship(asking.ask_and_fail))
    references = {tag: [ask.remote(provider.url, f"ray {tag}") for _ in range(3)] for tag in "ab"}
    scopes = {}
    for tag, each in references.items():
        with token_scope(tag) as scopes[tag]:
            assert all(receive(shipment) for shipment in ray.get(each))
            with pytest.raises(LookupError):
                receive(ray.get(fail.remote(provider.url, f"ray {tag}")))

    assert [4, 4] == [scope.report().find(f"{tag}/Agent/planner").usage.calls for tag, scope in scopes.items()]
    assert_billed(provider, {f"ray {tag}": scope.usage for tag, scope in scopes.items()})


@pytest.mark.timeout(300)
def test_actors(provider):
    """Methods of actors, sync and async, are counted in the scope that receives their results."""

    @ray.remote
    class Worker:
        @ship
        def ask(self, url, tag):
            return asking.ask(url, tag)

        @ship
        async def ask_async(self, url, tag):
            return asking.ask(url, tag)

    worker = Worker.remote()
    with token_scope("a") as a:
        assert receive(ray.get(worker.ask.remote(provider.url, "actor")))
        assert receive(ray.get(worker.ask_async.remote(provider.url, "actor")))

    assert provider.bill["actor"].total_tokens == a.usage.total_tokens
    assert 2 == a.usage.calls


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed(provider, tmp_path):
    """If a worker is killed, the others' results are received. A shared file has the killed worker's call, too."""
    file = str(tmp_path / "calls.jsonl")
    ask = ray.remote(ship(asking.ask_and_keep)).options(max_retries=0)
    with token_scope("a") as a:
        finished = [ask.remote(provider.url, "finished", file) for _ in range(3)]
        killed = ask.remote(provider.url, "killed", file, die=True)
        assert all(receive(shipment) for shipment in ray.get(finished))
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(killed)

    assert_billed(provider, {"finished": a.usage, "killed": provider.bill["killed"]})
    assert 1 == provider.bill["killed"].calls
    assert provider.total.total_tokens == Report.load(file).total.total_tokens


def test_references_are_no_shipments():
    """`receive` raises a TypeError for a reference that was not fetched, and counts nothing."""
    with token_scope("a") as a, pytest.raises(TypeError, match=r"receive takes a Shipment, .* not ObjectRef"):
        receive(ray.put(1))

    assert 0 == spent(a)
