"""Large processes: a bounded number of paths, and threads that count while others read."""

from __future__ import annotations

import gc
import threading
import warnings
from functools import partial

import pytest
from support.spending import spend, spent

import tokenscope
from tokenscope import Report, current_scope, token_scope
from tokenscope._report import snapshot
from tokenscope._scopes.event_log import drain
from tokenscope._scopes.process import STATE
from tokenscope._usage import prices
from tokenscope._usage import table as tables
from tokenscope._usage.calls import MAX_PATHS, ROOT
from tokenscope._usage.table import UsageRow
from tokenscope._usage.warnings import forget_warnings
from tokenscope.errors import TokenScopeWarning


def visit(numbers):
    """Enter one of 200 scopes, and one of its own in it, for each number."""
    for number in numbers:
        with token_scope(f"route {number % 200}"), token_scope(f"request {number}"):
            spend(2)


def test_paths_are_capped_and_nothing_is_lost():
    """A process holds 50,000 paths. What else is spent or entered is in `(other)`, and one warning says what to do."""
    forget_warnings()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        visit(range(20_000))
        report = tokenscope.report()
        with token_scope("another"):
            spend(3)

    (warning,) = (each for each in caught if each.category is TokenScopeWarning)
    assert (
        "more than 50,000 distinct paths of names: the tokens of further ones are added up under '(other)'. Use fewer names, and "
        "put what differs from call to call (ids, urls) into attributes: token_scope('request', id=...)."
    ) == str(warning.message)
    nodes = [node for _, node in report.tree().walk()]
    assert MAX_PATHS == len([node for node in nodes if node.kind not in ("other", "root")])
    assert len(nodes) <= MAX_PATHS + 200 + 1
    assert 40_000 == spent(report) == sum(node.own.input_tokens for node in nodes)
    assert [100] * 200 == [node.entries for node in report.tree().children]
    assert {200} == {node.usage.input_tokens for node in report.tree().children}
    assert 20_000 == sum(node.entries for route in report.tree().children for node in route.children)
    assert 3 == spent(tokenscope.report()) - 40_000


def test_other_scopes_are_capped_too():
    """The table of a scope has the same limits as the one of the process."""
    forget_warnings()
    with warnings.catch_warnings(), token_scope("all") as scope:
        warnings.simplefilter("ignore", TokenScopeWarning)
        visit(range(20_000))
        report = scope.report()

    assert len(report.rows) <= MAX_PATHS + 200 + 1
    assert 40_000 == spent(scope) == spent(report) == report.find("all").usage.input_tokens


@pytest.mark.unmeasured
@pytest.mark.parametrize("number", [40_000, pytest.param(150_000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:more than")
def test_new_names_for_weeks(number):
    """A process that has all the paths it may hold keeps no more objects, however many new names come."""
    visit(range(30_000))  # the latest 10,000 records have paths that are not kept
    tokenscope.report()
    gc.collect()
    before = len(gc.get_objects())
    visit(range(30_000, number))
    tokenscope.report()
    gc.collect()

    assert len(gc.get_objects()) < before + 1_000
    assert 2 * number == spent(tokenscope.report())


def test_a_reset_forgets_the_paths():
    """After a reset, new names are kept again. Scopes that are open go on."""
    with token_scope("open"):
        visit(range(5_000))
        tokenscope.get_tracker().reset()
        assert not ROOT.children
        visit(range(3))
        with token_scope("route 1"):
            spend(5)

    assert {"open"} == {node.name for node in tokenscope.report().tree().children}
    assert 6 + 5 == spent(tokenscope.report())
    assert 2 + 5 == tokenscope.report().find("open/route 1").usage.input_tokens


# -- reading beside counting ----------------------------------------------------------------------------------------------


def is_locked() -> bool:
    """Return whether another thread would wait for the lock now."""
    found = []

    def try_lock() -> None:
        found.append(not STATE.lock.acquire(blocking=False))
        if not found[0]:
            STATE.lock.release()

    thread = threading.Thread(target=try_lock)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def large():
    """Have a scope with 4,000 paths."""
    with token_scope("large") as scope:
        visit(range(1_900))
        drain()
        yield scope


@pytest.mark.parametrize(
    "read", [lambda scope: scope.report(), lambda scope: scope.usage, lambda _: tokenscope.report()]
)
def test_reading_holds_up_no_other_thread(large, monkeypatch, read):
    """While counts are read, no row is copied, and none is priced while the lock is taken."""
    locked, copied = [], []
    copy = UsageRow.copy
    monkeypatch.setattr(UsageRow, "copy", lambda row: copied.append(row) or copy(row))
    for module in (prices, snapshot):
        monkeypatch.setattr(module, "priced", watched(prices.priced, locked))
    read(large)

    assert len(locked) in (1_900, 3_800)  # twice where `priced` is seen through both modules
    assert not any(locked)
    assert len(copied) <= 1  # those of open scopes, whose entries are added


def watched(method, locked):
    """Return a function that notes whether the lock is taken each time."""

    def priced(key, counts):
        locked.append(is_locked() if len(locked) % 100 == 0 else False)
        return method(key, counts)

    return priced


def test_a_report_is_of_one_moment(large, monkeypatch):
    """What is counted while a report is made is not in it. It is in the next one, once."""
    priced = snapshot.priced

    def spend_meanwhile(key, counts):
        spend(1, module="meanwhile")
        drain()
        return priced(key, counts)

    before = spent(large)
    monkeypatch.setattr(snapshot, "priced", spend_meanwhile)
    report = large.report()
    monkeypatch.undo()

    assert before == spent(report)
    assert before + 1_900 == spent(large) == spent(large.report())


def test_a_scope_that_ends_meanwhile(large, monkeypatch):
    """Each entry is in a report once, whether its scope ends before or after."""
    priced = snapshot.priced
    inner = token_scope("inner").__enter__()
    spend(1)

    def leave_meanwhile(key, counts):
        inner.leave()
        drain()
        return priced(key, counts)

    monkeypatch.setattr(snapshot, "priced", leave_meanwhile)
    report = large.report()
    monkeypatch.undo()

    assert 1 == report.find("large/inner").entries == large.report().find("large/inner").entries


def test_reading_in_the_midst_of_counting(large, monkeypatch):
    """If a finaliser or a signal reads at any point of counting, what is being counted is not lost."""
    add = tables.add_counts
    seen = []

    def read_meanwhile(before, counts):
        if STATE.lock._is_owned() and len(seen) < 5:
            seen.append(0)
            spend(1)
            seen[-1] = len(large.report().rows)
            spend(1)
            large.usage  # noqa: B018
        return add(before, counts)

    before = spent(large)
    monkeypatch.setattr(tables, "add_counts", read_meanwhile)
    for number in range(100):
        with token_scope("route 1"):
            spend(1, module=str(number % 7))
    drain()
    monkeypatch.undo()

    assert 5 == len(seen)
    assert before + 100 + 2 * 5 == spent(large) == spent(large.report())


def test_many_readers_and_recorders(large):
    """Threads that read and threads that record leave exact sums, and no reader sees less than it saw before."""
    stop = threading.Event()
    seen: list[list[int]] = [[], [], []]

    def read(number: int) -> None:
        reading = (large.report, tokenscope.report, lambda: large)[number]
        while not stop.is_set():
            seen[number].append(spent(reading()))

    before = spent(large)
    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    recorders = [threading.Thread(target=visit, args=(range(first, 2_000, 3),)) for first in range(3)]
    for thread in readers + recorders:
        thread.start()
    for thread in recorders:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()

    assert before + 4_000 == spent(large) == spent(tokenscope.report())
    assert all(sorted(each) == each for each in seen)
    assert current_scope() is large


FORMATS = ("tree", "table", "markdown", "html", "json", "csv", "folded")
READS = {
    "report": lambda _: tokenscope.report(),
    "total": lambda report: report.total,
    "modules": lambda report: report.by_module(),
    "models": lambda report: report.by_model(),
    "waste": lambda report: report.waste(),
    "sum": lambda report: report + report,
    "reprice": lambda report: report.reprice("openai/gpt-4o"),
    "walk": lambda report: [node.usage.total_tokens for _, node in report.tree().walk()],
    "notebook": lambda report: report._repr_html_(),
    "every row": partial(Report.render, top=None),
    "costliest rows": partial(Report.render, format="markdown", top=20),
    **{name: partial(Report.render, format=name) for name in FORMATS},
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", READS)
def test_reading_leaves_nothing_to_collect(name):
    """Reading a large report keeps no object for each path. Such objects begin garbage collections, which stop all threads."""
    for number in range(1_500):
        with token_scope(f"route {number % 10}"), token_scope(f"request {number}"):
            spend(2)
    report = tokenscope.report()
    READS[name](report)  # loads what it needs
    sizes = []

    def note_size(phase, collection):
        if phase == "stop" and collection["generation"] == 1:
            sizes.append(len(gc.get_objects(generation=2)))

    gc.collect()
    thresholds = gc.get_threshold()
    gc.set_threshold(
        50, 2, 10**9
    )  # no full collection, and many others: what they find in use is looked at by the next full one
    gc.callbacks.append(note_size)
    try:
        READS[name](report)
    finally:
        gc.callbacks.remove(note_size)
        gc.set_threshold(*thresholds)
    assert len(sizes) > 3
    assert max(sizes) - sizes[0] < len(report.rows) / 3
