"""Dask (distributed): the driver's report equals the bill, with worker processes and with worker threads."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from support import asking
from support.dspy_support import assert_billed

import tokenscope
from tokenscope import receive, ship, token_scope
from tokenscope.testing import LoopbackProvider

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("distributed") is None, reason="distributed is not installed"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def client(request):
    """Start two workers on this machine."""
    import distributed  # not at the top: importing it changes how exceptions are pickled, in other tests, too

    with distributed.Client(
        n_workers=2, threads_per_worker=2, processes=request.param, dashboard_address=None, memory_limit=0
    ) as client:
        yield client


@pytest.mark.timeout(300)
def test_tasks(client):
    """Each scope counts the mapped functions and coroutines that it receives, including one that raises."""
    with LoopbackProvider() as provider:
        futures = {tag: client.map(ship(asking.ask), [provider.url] * 3, [tag] * 3, pure=False) for tag in "ab"}
        scopes = {}
        for tag, each in futures.items():
            with token_scope(tag) as scopes[tag]:
                assert all(receive(shipment) for shipment in client.gather(each))
                assert receive(client.submit(ship(asking.ask_async), provider.url, tag, pure=False).result())
                with pytest.raises(LookupError, match=tag):
                    receive(client.submit(ship(asking.ask_and_fail), provider.url, tag, pure=False).result())

        assert [5, 5] == [scope.report().find(f"{tag}/Agent/planner").usage.calls for tag, scope in scopes.items()]
        assert_billed(provider, {tag: scope.usage for tag, scope in scopes.items()})
        assert provider.total.total_tokens == tokenscope.report().total.total_tokens


@pytest.mark.timeout(300)
def test_delayed(client):
    """The results of a graph of delayed functions are received together, and counted as billed."""
    import dask

    with LoopbackProvider() as provider, token_scope("a") as a:
        graph = [dask.delayed(ship(asking.ask), pure=False)(provider.url, "a") for _ in range(3)]
        assert all(receive(shipment) for shipment in dask.compute(*graph))
        assert_billed(provider, {"a": a.usage})


@pytest.mark.timeout(300)
def test_a_result_fetched_twice(client):
    """A result that is fetched and received twice counts once."""
    with LoopbackProvider() as provider, token_scope("a") as a:
        future = client.submit(ship(asking.ask), provider.url, "a", pure=False)
        assert receive(future.result()) == receive(future.result())
        assert_billed(provider, {"a": a.usage})
