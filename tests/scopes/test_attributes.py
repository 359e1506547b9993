"""Attributes of scopes: what was spent by their values, wherever the calls were made."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import random
import warnings
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from support import tasks
from support.dspy_support import assert_billed, tokens
from support.spending import spend, spent

import tokenscope
from tokenscope import (
    Budget,
    JSONLSink,
    Report,
    ReportFormatError,
    carry,
    current_scope,
    get_tracker,
    receive,
    record_cost,
    record_tokens,
    ship,
    token_scope,
    track_tokens,
)
from tokenscope._report.snapshot import pivot
from tokenscope._scopes.event_log import collect
from tokenscope._scopes.process import STATE
from tokenscope._usage.calls import ATTRIBUTES
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning
from tokenscope.testing import LoopbackProvider


def by(report, name="user"):
    """Return the input tokens by the value of an attribute."""
    return {value: usage.input_tokens for value, usage in report.by_attribute(name).items()}


def test_the_inner_scope_wins():
    """A call has the attributes of all scopes around it; of one name, that of the innermost. None is no value."""
    with token_scope("all") as scope:
        spend(1)
        with token_scope("request", user="alice", tenant="acme"):
            spend(2)
            with token_scope("step", user="bob"):
                spend(4)
            with token_scope("step", user=None):
                spend(8)

    for report in (scope.report(), tokenscope.report()):
        assert by(report) == {"(none)": 9, "bob": 4, "alice": 2}
        assert by(report, "tenant") == {"acme": 14, "(none)": 1}
        assert by(report, "unheard of") == {"(none)": 15}
        assert list(report.by_attribute("user")) == ["(none)", "bob", "alice"]  # the costliest first
    with pytest.raises(KeyError, match="no 'carol'; the nearest"):
        scope.report().by_attribute("user")["carol"]


def test_every_way_of_opening_a_scope():
    """Attributes hold in decorated functions, modules, generators, tasks, threads and what is carried into them."""

    @token_scope("decorated", user="decorated")
    def decorated():
        spend(1)

    @track_tokens("m", "o")
    def tracked():
        spend(2)

    def generate():
        with token_scope("generator", user="generator"):
            yield spend(4)
            yield spend(8)

    async def task(number):
        with token_scope("task", user=f"task {number}"):
            await asyncio.sleep(0)
            spend(number)

    async def tasks_at_once():
        await asyncio.gather(task(32), task(64))

    with token_scope("all", user="outer") as scope:
        decorated()
        tracked()
        for _ in generate():
            spend(16)
        asyncio.run(tasks_at_once())
        with ThreadPoolExecutor(1) as pool:
            pool.submit(carry(spend), 128).result()

    expected = {"outer": 2 + 32 + 128, "task 64": 64, "task 32": 32, "generator": 12, "decorated": 1}
    assert by(scope.report()) == expected


def test_a_random_program_is_partitioned():
    """Whatever is nested in whatever, the values partition the total of each scope, tokens, calls and costs alike."""
    chance = random.Random(7)
    expected = {}
    with token_scope("all") as scope:
        for _ in range(300):
            with ExitStack() as stack:
                user = "(none)"
                for _ in range(chance.randrange(4)):
                    if chance.random() < 0.6:
                        user = chance.choice(["a", "b", 7, True])
                        stack.enter_context(token_scope("s", user=user))
                    else:
                        stack.enter_context(token_scope("s", other=chance.random()))
                amount, model = chance.randrange(1, 300_000), chance.choice(["gpt-4o", "gpt-5", "no such model"])
                record_tokens(model=model, provider="openai", input_tokens=amount, output_tokens=0)
                if chance.random() < 0.2:
                    record_cost(cost=0.25)
            expected[str(user)] = expected.get(str(user), 0) + amount

    report = scope.report()
    assert expected == by(report)
    assert report.total == sum(report.by_attribute("user").values())
    assert report.total == pivot(report, "user").total


def test_only_values_are_kept():
    """A value is kept as text unless it is a number or text. An object is not kept alive, and one without text does no harm."""

    class Person:
        def __str__(self):
            return "a person"

    class Nameless:
        def __str__(self):
            raise ValueError("no name")

    class Plain:
        """Has no text of its own."""

    for value in (10**5_000, Plain(), {"a": 1}, ["x", 2]):
        with token_scope("a", kind=value):
            spend(4)
    assert {"<int>": 4, "<Plain>": 4, "<dict>": 4, "['x', 2]": 4} == by(tokenscope.report(), "kind")
    person = Person()
    with token_scope("a", user=person):
        spend(1)
    reference = weakref.ref(person)
    tokenscope.report()  # counts the end of the scope
    with token_scope("a", user=Nameless()), token_scope("b", more="x" * 5_000):
        spend(2)
    del person

    assert reference() is None
    assert by(tokenscope.report()) == {"(none)": 16, "<Nameless>": 2, "a person": 1}
    assert ["(none)", "x" * 1_000] == list(tokenscope.report().by_attribute("more"))


def test_numbers_and_truths_stay_what_they_are():
    """Records have the values of attributes that are numbers, truths or None as they were given."""
    with token_scope("run", rate=0.5, count=3, flag=True, nothing=None):
        spend(1)

    found = tokenscope.get_tracker().records[-1].attributes
    assert [("rate", 0.5), ("count", 3), ("flag", True)] == [(name, value) for name, value in found.items() if value]
    assert [float, int, bool] == [type(value) for value in found.values() if value]


def test_who_uses_none_pays_nothing():
    """Without attributes, scopes share one empty mapping, and tables have no rows for them."""
    with token_scope("a"), token_scope("b") as scope:
        spend(1)
    assert scope.all_attributes is STATE.root.all_attributes
    assert ATTRIBUTES not in collect(STATE.root).all_rows
    assert b"attributes" not in scope.report().render("json").encode()
    assert "attributes" not in get_tracker().records[-1]


def test_records_and_files(tmp_path):
    """Records, JSONL, exports and saved reports have attributes, and what is read is what was counted."""
    sink = JSONLSink(tmp_path / "calls.jsonl")
    get_tracker().add_sink(sink)
    with token_scope("all", tenant="acme") as scope:
        for user, amount in (("alice", 1), ("bob", 2), ("alice", 4)):
            with token_scope("request", user=user, number=7):
                spend(amount)
        with pytest.raises(ZeroDivisionError), token_scope("request", user=None):
            spend(8)
            raise ZeroDivisionError
    get_tracker().remove_sink(sink)

    assert {"tenant": "acme", "user": "alice", "number": 7} == get_tracker().records[-4].attributes
    assert {"tenant": "acme", "user": None} == dict(get_tracker().records[-1])["attributes"]
    report = scope.report()
    report.save(tmp_path / "report.json")
    get_tracker().export_to_file(tmp_path / "export.json")
    for name in ("report.json", "export.json", "calls.jsonl"):
        loaded = Report.load(tmp_path / name)
        assert by(loaded) == {"(none)": 8, "alice": 5, "bob": 2}, name
        assert by(loaded, "number") == {"(none)": 8, "7": 7}
        assert by(loaded + loaded, "tenant") == {"acme": 30}
    assert report == Report.load(tmp_path / "report.json") == pickle.loads(pickle.dumps(report))
    assert by(report.reprice("openai/gpt-4o")) == by(report)
    assert (
        report.reprice("openai/gpt-4o").by_attribute("user")["alice"].cost
        == 5 * report.reprice("openai/gpt-4o").total.cost / 15
    )
    with token_scope("without"):
        spend(0)
    for record in get_tracker().records[-2:]:
        assert dict(record) == dict(pickle.loads(pickle.dumps(record))) == dict(copy.deepcopy(record))


@pytest.mark.parametrize("damage", [{"attributes": {}}, {"attributes": [{"parent": 3}]}])
def test_a_damaged_file(damage, tmp_path):
    """Damaged attributes are a ReportFormatError; rows that fit no total are never less than 0."""
    with token_scope("a", user="alice") as scope:
        spend(4)
    whole = json.loads(scope.report().render("json"))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(whole | damage))
    with pytest.raises(ReportFormatError):
        Report.load(path)

    whole["attributes"][1]["tallies"][0]["input_tokens"] = 6
    path.write_text(json.dumps(whole))
    assert by(Report.load(path)) == {"alice": 6}


def test_a_record_with_damaged_attributes(tmp_path):
    """Attributes of a record must be an object."""
    with token_scope("a", user="alice"):
        spend(4)
    record = dict(get_tracker().records[-1]) | {"attributes": ["user"]}
    (tmp_path / "calls.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ReportFormatError, match="line 1"):
        Report.load(tmp_path / "calls.jsonl")


def test_values_are_capped():
    """2,000 values of an attribute are told apart, in the process and in each scope; one warning says so. Nothing is lost."""
    forget_warnings()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with token_scope("a"), token_scope("b"), token_scope("deep") as scope:
            for number in range(2_500):
                with token_scope("request", user=number):
                    spend(1)
            found = [by(scope.report()), by(tokenscope.report())]

    (warning,) = (each for each in caught if each.category is TokenScopeWarning)
    assert "more than 2,000 distinct values of the attribute 'user'" in str(warning.message)
    for each in found:
        assert (2_001, 500, 2_500) == (len(each), each["(other)"], sum(each.values()))


def test_forgotten_with_the_rest():
    """A reset forgets values, too. A scope that is open keeps its own, and adds to them."""
    with token_scope("a") as scope:
        with token_scope("request", user="alice"):
            spend(1)
        get_tracker().reset()
        with token_scope("request", user="alice"):
            spend(2)
    assert by(scope.report()) == {"alice": 3}
    assert by(tokenscope.report()) == {"alice": 2}


def test_processes():
    """What a worker spends is of the user of the scope that submitted the task, unless the worker's own scope says otherwise."""
    with token_scope("all", user="outer", budget=Budget(tokens=1_000)) as scope, ProcessPoolExecutor(1) as pool:
        pool.submit(tasks.scoped, 1).result()
        with token_scope("request", user="alice"):
            pool.submit(tasks.scoped, 2).result()
            pool.submit(tasks.of_user, "bob", 4).result()
    assert by(scope.report()) == {"bob": 4, "alice": 2, "outer": 1}
    assert scope.account.spent["tokens"] == 7


def test_shipments():
    """A shipment tells what was spent by user, and is received in scopes with attributes of their own."""

    def work():
        spend(1)
        with token_scope("inner", user="bob"):
            spend(2)

    shipment = ship(work)()
    assert by(shipment.report) == {"bob": 2, "(none)": 1}
    with token_scope("all", user="alice", tenant="acme") as scope:
        receive(pickle.loads(pickle.dumps(shipment)))
    assert by(scope.report()) == {"bob": 2, "alice": 1}
    assert by(scope.report(), "tenant") == {"acme": 3}
    assert spent(scope) == 3


def test_dspy_is_billed_by_user():
    """What DSPy programs spend for each user, in threads, asynchronously, from the cache and on errors, is what is billed."""
    with LoopbackProvider() as provider, token_scope("service") as service:
        answer = dspy.ChainOfThought("question -> answer")

        def serve(user, marks=""):
            with token_scope("request", user=user):
                return answer(question=f"Why? {marks} <<bill {user}>>")

        async def aserve(user):
            with token_scope("request", user=user):
                return await answer.acall(question=f"Why? <<bill {user}>>")

        async def both():
            await asyncio.gather(aserve("ann"), aserve("bob"), aserve("ann"))

        with dspy.context(lm=provider.lm(), num_threads=4):
            serve("ann")
            asyncio.run(both())
            dspy.Parallel(num_threads=4)([(carry(serve), {"user": user}) for user in ("ann", "bob", "cid") * 3])
            with pytest.raises(AdapterParseError):
                serve("cid", "<<garble>>")
        with dspy.context(lm=provider.lm(cache=True)):
            once = uuid4().hex  # no earlier run has asked this
            serve("dora", once)
            serve("dora", once)
    report = service.report()
    assert_billed(provider, dict(report.by_attribute("user")))
    assert report.by_attribute("user")["dora"].cached_calls == 1
    assert tokens(provider.total) == tokens(service.usage)
    wasted = pivot(report, "user").waste()
    assert wasted["cid"].failed_parses.input_tokens == provider.garbled["cid"].input_tokens > 0
    assert list(wasted) == ["cid"]
    assert current_scope() is None


def test_attempts_that_are_replaced():
    """What replaced attempts wasted is of the users of the calls in them, and of nobody else."""
    users, rewards = iter(["ann", "bob", "cid"]), iter([0.1, 0.9, 0.3])

    class Draft(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question):
            with token_scope("draft", user=next(users)):
                return self.predict(question=question)

    with (
        LoopbackProvider() as provider,
        dspy.context(lm=provider.lm()),
        token_scope("all", user="outer", tenant="t") as scope,
    ):
        dspy.BestOfN(Draft(), N=3, reward_fn=lambda *_: next(rewards), threshold=1.0)(question="Why?")
    by_user, by_tenant = (pivot(scope.report(), name).waste() for name in ("user", "tenant"))
    assert {"ann": 1, "cid": 1} == {user: waste.retries.calls for user, waste in by_user.items()}
    assert {"t": 2} == {tenant: waste.retries.calls for tenant, waste in by_tenant.items()}
    assert scope.report().waste().total == by_user.total == by_tenant.total
