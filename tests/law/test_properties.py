"""Properties: the algebra of reports, and random programs of scopes, tasks and threads against simple models."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.reports import build, loaded
from support.spending import count, spend, spent

import tokenscope
from tokenscope import Report, Usage, token_scope, track_tokens
from tokenscope._report.formats.json import render
from tokenscope._scopes.context import entered
from tokenscope._scopes.event_log import clear
from tokenscope._usage.calls import Frame
from tokenscope._usage.usage import FIELDS, MONEY, values_of

QUICK = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# -- algebra ----------------------------------------------------------------------------------------------------------------

few = st.integers(0, 1_000_000)
money = st.decimals(0, 1_000, places=6, allow_nan=False, allow_infinity=False)
usages = st.builds(
    Usage, **{name: money.map(abs) if name in MONEY else few | st.integers(0, 10**30) for name in FIELDS}
)
names = st.sampled_from("abc") | st.text(min_size=1)
frames = st.builds(Frame, st.sampled_from(["scope", "module", "operation", "dspy", "tool", "none", "other"]), names)


@st.composite
def reports(draw):
    """Make a report of any shape."""
    rows = []
    for index in range(draw(st.integers(0, 8))):
        models = draw(st.dictionaries(st.sampled_from(["p/x", "p/y", "研究"]), usages, max_size=2))
        rows.append((draw(st.integers(-1, index - 1)), draw(frames), draw(few), draw(few), models))
    return build(rows, scoped=bool(draw(st.booleans()) or not rows))


@QUICK
@given(usages, usages, usages)
def test_usage_is_a_commutative_monoid(a, b, c):
    """Sums of usages do not depend on order or grouping, and an empty usage does not change a sum."""
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a == a + Usage() == Usage() + a == sum([a])
    assert tuple(map(sum, zip(values_of(a), values_of(b), strict=True))) == values_of(a + b)
    assert (a + b).total_tokens == a.total_tokens + b.total_tokens


@QUICK
@given(reports(), reports(), reports())
def test_report_is_a_commutative_monoid(a, b, c):
    """Sums of reports do not depend on order or grouping, and an empty report does not change a sum."""
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a == a + Report() == Report() + a == sum([a])
    assert a.total + b.total == (a + b).total


@QUICK
@given(reports(), reports())
def test_subtracting_undoes_adding(a, b):
    """What was added to a report is what the sum has more than the report."""
    since = (a + b) - a
    assert since + a == a + b
    assert since.total == b.total
    assert since.by_model().keys() >= {model for model, usage in b.by_model().items() if usage}


@QUICK
@given(reports())
def test_views_of_a_report_agree(report):
    """Every partition adds up to the total, and so do the nodes' own usages."""
    for breakdown in (report.by_module(), report.by_operation(), report.by_model()):
        assert report.total == sum(breakdown.values(), Usage())
    nodes = [node for _, node in report.tree().walk()]
    assert report.total == report.tree().usage == sum((node.own for node in nodes), Usage())
    assert len(report.rows) == len([node for node in nodes if node.kind != "root"])
    for node in nodes:
        assert node.usage == node.own + sum((child.usage for child in node.children), Usage())
        assert node.usage == sum(node.by_model.values(), Usage())


@QUICK
@given(reports())
def test_a_saved_report_loads_again(report):
    """A report is unchanged after a round trip through JSON."""
    assert report == loaded(render(report))


@QUICK
@given(reports(), st.integers(1, 200))
def test_any_report_can_be_drawn(report, width):
    """Any report is drawn at any width with at least one line per scope, and without control characters."""
    lines = report.render(width=width).split("\n")

    assert len(lines) >= len(report.rows)
    assert all(line.isprintable() for line in lines)


# -- scopes -----------------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """The expected counts of a scope. The test adds each call to every scope around it."""

    above: Entry | None
    name: str
    total: int = 0
    closed: bool = False
    rows: Counter = field(default_factory=Counter)

    @property
    def path(self):
        return (*(self.above.path if self.above else ()), self.name)


steps = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "leave", "add", "add", "late", "clear", "look"]),
        st.integers(0, 50),
        st.sampled_from("abc"),
        st.integers(1, 9),
    ),
    max_size=60,
)


@settings(QUICK, max_examples=200)
@given(steps, st.booleans())
def test_scopes_and_brute_force(program, large):
    """Scopes hold the expected tokens if they are left in any order, counted in when closed, or cleared."""
    clear()
    process: Counter = Counter()
    entries_since: Counter = Counter()
    scopes: list[tuple[tokenscope.Scope, Entry]] = []
    try:
        for what, index, name, tokens in program:
            chosen = scopes[index % len(scopes)] if scopes else None
            if what == "enter":
                entered.set(None if chosen is None else chosen[0])
                scope = token_scope(name).__enter__()
                assert (None if chosen is None else chosen[0]) is scope.parent
                scopes.append((scope, Entry(chosen and chosen[1], name)))
            elif what == "leave" and chosen and not chosen[1].closed:
                entered.set(chosen[0])
                chosen[0].leave()
                chosen[1].closed = True
                entries_since[chosen[1].path] += 1
            elif (what == "add" and chosen and not chosen[1].closed) or (what == "late" and chosen):
                scope, entry = chosen
                # sometimes many names
                for number in range(70 if large and tokens == 9 else 1):
                    usage = Usage(calls=1, input_tokens=tokens)
                    count(scope, "x", usage, frames=(Frame("operation", str(number)),))
                    process[(*entry.path, str(number))] += tokens
                    around: Entry | None = entry
                    while around is not None:
                        around.rows[(*entry.path, str(number))] += tokens
                        around = around.above
            elif what == "clear":
                clear()
                process.clear()
                entries_since.clear()
            elif chosen:
                assert sum(chosen[1].rows.values()) == spent(chosen[0])
        for scope, entry in scopes:
            assert sum(entry.rows.values()) == spent(scope)
            skip = len(entry.path) - 1
            assert {path[skip:]: n for path, n in entry.rows.items()} == own_tokens(scope.report())
        assert dict(process) == own_tokens(tokenscope.report())
        seen = entries(tokenscope.report())
        for path, number in entries_since.items():
            open_now = sum(not entry.closed and entry.path == path for _, entry in scopes)
            assert number <= seen[path] <= number + open_now
    finally:
        entered.set(None)


def paths(report):
    """Yield each row of a report with its path of names."""
    found = []
    for row in report.rows:
        found.append((*(found[row.parent] if row.parent >= 0 else ()), row.frame.name))
        yield found[-1], row


def own_tokens(report):
    """Return the own tokens of each path."""
    return {path: sum(each.spent.input_tokens for each in row.usages) for path, row in paths(report) if row.usages}


def entries(report):
    """Return how often each path was entered."""
    return Counter({path: row.entries for path, row in paths(report)})


# -- programs ---------------------------------------------------------------------------------------------------------------

Program = list
"""The steps in order: ("spend", n), ("pause", n), or (how, name, program)."""

leaf = st.tuples(st.just("spend"), st.integers(1, 9)) | st.tuples(st.just("pause"), st.integers(0, 2))
programs = st.recursive(
    st.lists(leaf, max_size=3),
    lambda inner: st.lists(
        leaf
        | st.tuples(
            st.sampled_from(
                [
                    "with",
                    "async with",
                    "decorated",
                    "generator",
                    "async generator",
                    "task",
                    "later",
                    "thread",
                    "to_thread",
                ]
            ),
            st.sampled_from("abcd"),
            inner,
        ),
        max_size=4,
    ),
    max_leaves=25,
)


class Run:
    """Runs a program, and keeps the tokens that each scope and each path should hold."""

    def __init__(self):
        self.expected: Counter = Counter()  # by path
        self.scopes: list[tuple[object, tuple[int, ...]]] = []
        self.held: Counter = Counter()  # by entry
        self.lock = threading.Lock()
        self.late: list[asyncio.Task] = []

    def entered(self, scope, entries):
        with self.lock:
            entry = len(self.scopes)
            self.scopes.append((scope, entry))
        return (*entries, entry)

    def spend(self, tokens, path, entries):
        spend(tokens)
        with self.lock:
            self.expected[path] += tokens
            for entry in entries:
                self.held[entry] += tokens

    async def run(self, program, path=(), entries=()):
        for what, name, *inner in program:
            if what == "spend":
                self.spend(name, path, entries)
            elif what == "pause":
                for _ in range(name):
                    await asyncio.sleep(0)
            elif what == "task":
                await asyncio.create_task(self.scoped(name, inner[0], path, entries))
            elif what == "later":
                self.late.append(asyncio.create_task(self.scoped(name, inner[0], path, entries)))
            elif what == "thread":
                thread = threading.Thread(target=self.alone, args=(name, inner[0], path, entries))
                thread.start()
                await asyncio.to_thread(thread.join)
            elif what == "to_thread":
                await asyncio.to_thread(self.alone, name, inner[0], path, entries)
            elif what == "with":
                await self.scoped(name, inner[0], path, entries)
            elif what == "async with":
                async with token_scope(name) as scope:
                    await self.run(inner[0], (*path, name), self.entered(scope, entries))
            elif what == "decorated":
                await track_tokens(name, "call")(self.decorated)(name, inner[0], path, entries)
            elif what == "generator":
                for step in self.generator(name, inner[0], path, entries):
                    await self.run([step] if step else [], path, entries)
            elif what == "async generator":
                async for step in self.async_generator(name, inner[0], path, entries):
                    await self.run([step] if step else [], path, entries)

    async def scoped(self, name, program, path, entries):
        with token_scope(name) as scope:
            await self.run(program, (*path, name), self.entered(scope, entries))

    def alone(self, name, program, path, entries):
        asyncio.run(self.scoped_and_late(name, program, path, entries))

    async def scoped_and_late(self, name, program, path, entries):
        inner = Run()
        inner.expected, inner.scopes, inner.held, inner.lock = self.expected, self.scopes, self.held, self.lock
        await inner.scoped(name, program, path, entries)
        await inner.finish()

    async def decorated(self, name, program, path, entries):
        scope = tokenscope.current_scope()
        await self.run(program, (*path, name, "call"), self.entered(scope, entries))

    def generator(self, name, program, path, entries):
        """Spend one token before each step and at the end, and let the consumer run the steps."""
        with token_scope(name) as scope:
            entries = self.entered(scope, entries)
            for step in program:
                self.spend(1, (*path, name), entries)
                yield step
            self.spend(1, (*path, name), entries)

    async def async_generator(self, name, program, path, entries):
        """Run every second step, and let the consumer run the others."""
        async with token_scope(name) as scope:
            entries = self.entered(scope, entries)
            for number, step in enumerate(program):
                if number % 2:
                    await self.run([step], (*path, name), entries)
                    yield None
                else:
                    yield step

    async def finish(self):
        while self.late:
            await self.late.pop()


@settings(QUICK, max_examples=80)
@given(st.lists(programs, min_size=1, max_size=4))
def test_random_programs_conserve_every_token(several):
    """If programs run side by side, each path and each scope holds exactly the tokens spent in it."""
    clear()
    run = Run()

    async def main():
        await asyncio.gather(*(run.run(program) for program in several))
        await run.finish()
        assert tokenscope.current_scope() is None

    asyncio.run(main())
    report = tokenscope.report()

    assert sum(run.expected.values()) == report.total.input_tokens
    found: Counter = Counter()
    for path, tokens in own_tokens(report).items():
        found[path[:-2]] += tokens  # without the two frames of record_tokens
    assert {path: n for path, n in run.expected.items() if n} == {path: n for path, n in found.items() if n}
    for scope, entry in run.scopes:
        assert run.held[entry] == spent(scope)
        assert run.held[entry] == scope.report().total.input_tokens
        assert "closed" in repr(scope)


@QUICK
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=30), st.data())
def test_interleaved_generators_conserve_every_token(plan, data):
    """Generators that are resumed in a random order each count only their own tokens."""
    clear()
    held: Counter = Counter()

    def generator(number, steps):
        with token_scope(f"generator {number}") as scope:
            for _ in range(steps):
                spend(1)
                held[scope] += 1
                with token_scope("inner") as inner:
                    spend(10)
                    held[scope] += 10
                    held[inner] += 10
                    yield
                    spend(10)
                    held[scope] += 10
                    held[inner] += 10

    items = [generator(number, steps) for number, (_, steps) in enumerate(plan)]
    with token_scope("consumer") as consumer:
        live = list(items)
        while live:
            chosen = live[data.draw(st.integers(0, len(live) - 1))]
            blocks = [token_scope("block") for _ in range(data.draw(st.integers(0, 2)))]
            scopes = [block.__enter__() for block in blocks]
            try:
                next(chosen)
            except StopIteration:
                live.remove(chosen)
            spend(100)
            for scope in scopes:
                held[scope] += 100
            for block in reversed(blocks):
                block.__exit__(None, None, None)
            assert consumer is tokenscope.current_scope()

    for scope, tokens in held.items():
        # a generator that was first resumed in this scope counts for this scope, too
        assert tokens <= spent(scope)
        if scope.name.startswith("generator") or scope.name == "inner":
            assert tokens == spent(scope)
    assert spent(consumer) == spent(tokenscope.report())
    assert not tokenscope.report().total.cost
