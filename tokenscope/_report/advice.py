"""Advice: what makes a run's prompts large without need, and what to do about it: `Report.findings`.

For example: "Demos are 63% of writer's input: 1,840 of 2,920 tokens a call, $4.10 of this run; two instead of eight would save
about $3.00." There is a finding only if it is large for the whole run, and if enough calls show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Final, Literal, NamedTuple

from tokenscope._report import parts
from tokenscope._report.breakdown import Breakdown
from tokenscope._report.formats.text import dollars, money, plural, printable, share
from tokenscope._report.parts import NOT_MEASURED, Reread
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.prices import known_rates
from tokenscope._usage.prompts import MEDIA, OTHER_INPUT
from tokenscope._usage.usage import ARITHMETIC, NO_DOLLARS, ZERO, Usage, sum_usages

FindingKind = Literal[
    "demos",
    "instructions",
    "tools",
    "format",
    "input",
    "history",
    "media",
    "reread",
    "growth",
    "window",
    "cache",
    "waste",
]
"""What a finding is about. `docs/how-to/reports.md` says what each needs."""

_DEMOS: Final = "demos"
_MOST_FINDINGS: Final = 10
_SMALLEST_SAVING: Final = 0.03
"""Of the run's cost, or of its tokens if no price is known: a finding that would save less is none."""
_FEWEST_CALLS: Final = 5
"""A predictor with fewer calls has no findings."""
_FEWEST_ENTRIES: Final = 3
"""What is told of turns needs so many runs of the agent or the conversation."""
_NEARLY_FULL: Final = 0.7
"""The share of the context window that a prompt at the 95th percentile fills."""
_OFTEN_REREAD: Final = 1.5
"""How many times later prompts hold what tools have returned."""
_FAST_GROWTH: Final = 2.0
"""How many times the input of the first turn that of the last one is."""
_MUCH_CARRIED: Final = 0.3
"""The share of the input that was in the turn before, of what grows."""
_CACHEABLE: Final = 1_024
"""Providers keep no shorter beginning of a prompt in their caches."""
_FEWEST_REPEATS: Final = 10
"""What is told of a cache needs so many prompts that follow others."""
_LONGEST_NAME: Final = 40
_HALF: Final = 0.5
_LITTLE: Final = 1 / 3
"""A provider's cache that has more of what does not change is used well."""
_FAR: Final = 200
"""How many tokens that do not change come after what does, if moving it is worth while."""
_STABLE: Final = frozenset({"instructions", "fields", "format", _DEMOS, "tools"})
"""Parts that are usually the same in all prompts of a predictor."""
_WORDS: Final = [
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


class _Size(NamedTuple):
    """From when on a part of prompts is too large: which share of the input it is, and how many tokens a call."""

    share: float
    tokens: int


_DOMINANT: Final[dict[FindingKind, _Size]] = {
    "demos": _Size(0.45, 200),
    "instructions": _Size(0.5, 400),
    "tools": _Size(0.4, 300),
    "format": _Size(0.25, 200),
    "history": _Size(0.5, 500),
    "media": _Size(0.6, 500),
    "input": _Size(0.75, 700),
}

Write = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that makes a run cost more than it needs to, in one sentence, which `str(finding)` returns.

    Args:
        text: The sentence, with the numbers and what to do.
        kind: What it is about: `demos`, `instructions`, `tools`, `format`, `input`, `history`, `media`, `reread`, `growth`,
            `window`, `cache` or `waste`.
        predictor: The predictor, as `Report.parts` names it; of `waste`, the module.
        cost: How many dollars of this run it is about; None if no price is known.
        saving: How many dollars of this run the advice would save, estimated; None if that is unknown.
        saved_tokens: How many tokens of this run it would save, estimated; None if it saves none, or that is unknown.
    """

    text: str
    kind: FindingKind
    predictor: str
    cost: Decimal | None = None
    saving: Decimal | None = None
    saved_tokens: int | None = None

    def __str__(self) -> str:
        return self.text


class _Ranked(NamedTuple):
    """A finding, and what it is ranked by: the share of the run that it would save, or else is about."""

    weight: float
    finding: Finding


def short(name: str) -> str:
    """Return a name as a sentence has it: printable, and not too long."""
    text = printable(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def advice(snapshot: Snapshot, write: Write = short) -> tuple[Finding, ...]:
    """Return the findings of a report, the most expensive first. `write` writes a name."""
    run = _Whole(snapshot.total, write)
    found = list(_waste(snapshot, run))
    for prompts in _predictors(snapshot):
        if prompts.calls >= _FEWEST_CALLS:
            for find in (_window, _reread, _growth, _cache, _format, _parts):
                found += find(prompts, run)
    found.sort(key=lambda each: (-each.weight, each.finding.predictor, each.finding.kind))
    return tuple(each.finding for each in found[:_MOST_FINDINGS])


class _Whole:
    """A run, for which savings are large or small."""

    def __init__(self, total: Usage, write: Write) -> None:
        self.total = total
        self.write = write

    def share(self, cost: Decimal | None, tokens: int) -> float:
        """Return the share of the run's cost, or of its tokens if no price is known."""
        if cost and self.total.cost:
            return share(cost, self.total.cost)
        return share(tokens, self.total.total_tokens)

    def saving(
        self, kind: FindingKind, prompts: _Prompts, usage: Usage, part: float, text: Callable[[str, str], str]
    ) -> Iterator[_Ranked]:
        """Yield a finding that would save a part of a usage, if that is much; the text is made of the amount and the saving."""
        saved = None if usage.cost is None else _times(usage.cost, part)
        tokens = round(usage.total_tokens * part)
        weight = self.share(saved, tokens)
        if weight >= _SMALLEST_SAVING:
            about = dollars(saved) if saved else plural(_rounded(tokens), "token")
            sentence = text(f"{_amount(usage)} of this run", f"would save about {about}")
            yield _Ranked(weight, Finding(sentence, kind, prompts.name, usage.cost, saved, tokens))


@dataclass(frozen=True, slots=True)
class _Prompts:
    """What is known of a predictor's prompts."""

    name: str
    parts: Breakdown  # without what was not measured
    calls: int
    input: Usage
    usages: list[ModelUsage]  # the same parts, by model
    items: Breakdown
    turns: dict[int, Breakdown]
    carried: Breakdown
    changed: Breakdown
    tools: dict[str, Reread]
    sizes: CallSizes | None
    seen: set[str] = field(default_factory=set)  # parts that a finding is about already

    def tokens(self, names: Iterable[str]) -> int:
        """Return the input tokens of some parts."""
        return sum(self.parts[name].input_tokens for name in names if name in self.parts)

    def a_call(self, tokens: float) -> int:
        """Return tokens a call."""
        return round(tokens / self.calls)


def _predictors(snapshot: Snapshot) -> Iterator[_Prompts]:
    rows = snapshot.rows
    usages = parts.measured(rows)
    if not usages:
        return
    items, sizes, turns = parts.items(rows), parts.sizes(rows), parts.by_turn(rows)
    carried, changed, tools = parts.carried(rows), parts.changed(rows), parts.rereads(rows)
    nothing = Breakdown()
    for name, whole in parts.by_predictor(rows).items():
        if name not in usages:
            continue
        measured = Breakdown((part, usage) for part, usage in whole.items() if part != NOT_MEASURED)
        yield _Prompts(
            name,
            measured,
            parts.prompts_of(measured, sizes.get(name)),
            sum_usages(measured.values()),
            usages[name],
            items.get(name, nothing),
            turns.get(name, {}),
            carried.get(name, nothing),
            changed.get(name, nothing),
            tools.get(name, {}),
            sizes.get(name),
        )


# -- findings: each function yields those of one kind ----------------------------------------------------------------------------


def _parts(prompts: _Prompts, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding for each part that is most of the prompts."""
    name = run.write(prompts.name)
    for part, usage in prompts.parts.items():
        kind: FindingKind | None = "input" if part.startswith("input:") else _KINDS.get(part)
        if kind is None or part in prompts.seen or not _is_large(prompts, usage.input_tokens, _DOMINANT[kind]):
            continue
        percent, numbers = _percent(usage, prompts.input), _of(prompts, usage.input_tokens)
        what, verb, advised, saved = _advice(part, prompts, usage, run.write)
        begin = f"{what} {verb} {percent} of {name}'s input: {numbers}"
        text = partial("{0}, {2}; {1} {3}.".format, begin, advised)
        yield from run.saving(kind, prompts, usage, saved, text)


_KINDS: Final[dict[str, FindingKind]] = {
    _DEMOS: "demos",
    "instructions": "instructions",
    "tools": "tools",
    "history": "history",
    MEDIA: "media",
}


def _advice(part: str, prompts: _Prompts, usage: Usage, write: Write) -> tuple[str, str, str, float]:
    """Return what a part is, the verb for it, what to do about it, and which share of it that saves."""
    if part == _DEMOS:
        number = share(prompts.items.get(_DEMOS, ZERO).calls, usage.calls)
        if round(number) > 2:
            return "Demos", "are", f"two instead of {_word(round(number))}", 1 - 2 / number
        return "Demos", "are", "demos half as long", _HALF
    found = {
        "instructions": ("Instructions", "are", "half of their text"),
        "tools": ("Tools' descriptions", "are", "half as many of them"),
        "history": ("History", "is", "only the newer half of it"),
        MEDIA: ("Media", "are", "half as many"),
    }
    field = _field(part, write)
    what, verb, how = found.get(part, (field[:1].upper() + field[1:], "is", "half of it"))
    return what, verb, how, _HALF


def _format(prompts: _Prompts, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding if what an adapter adds is longer than what is asked."""
    rules = sum_usages(prompts.parts[part] for part in ("format", "fields") if part in prompts.parts)
    inputs = sum(usage.input_tokens for part, usage in prompts.parts.items() if part not in _STABLE)
    if (
        len(prompts.turns) > 1
        or rules.input_tokens <= inputs
        or not _is_large(prompts, rules.input_tokens, _DOMINANT["format"])
    ):
        return
    what = f"Format markers and field descriptions cost more than inputs in {run.write(prompts.name)}"
    numbers = f"{prompts.a_call(rules.input_tokens):,} to {prompts.a_call(inputs):,} tokens a call"
    yield from run.saving(
        "format",
        prompts,
        rules,
        _HALF,
        lambda amount, saving: f"{what}: {numbers}, {amount}; asking for two items in one call {saving}.",
    )


def _reread(prompts: _Prompts, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding if later prompts of an agent hold again and again what its tools returned."""
    if not prompts.tools:
        return
    made = sum_usages(each.made for each in prompts.tools.values())
    again = sum_usages(each.reread for each in prompts.tools.values())
    times = share(again.input_tokens, made.input_tokens)
    if times < _OFTEN_REREAD or _entries(prompts) < _FEWEST_ENTRIES:
        return
    (tool, first), *others = prompts.tools.items()
    whole = made + again
    is_one = not others or first.made.input_tokens + first.reread.input_tokens >= 0.8 * whole.input_tokens
    what = f"the results of {run.write(tool)}" if is_one else f"the results of {len(prompts.tools)} tools"
    tokens = f"{made.input_tokens:,} tokens, and {again.input_tokens:,} again"
    for finding in run.saving(
        "reread",
        prompts,
        whole,
        _HALF,
        lambda amount, saving: (
            f"{run.write(prompts.name)} rereads {what} {times:.1f} times on average: {tokens}, {amount}; "
            f"results half as long {saving}."
        ),
    ):
        prompts.seen.update(_carried_parts(prompts))
        yield finding


def _growth(prompts: _Prompts, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding if the prompts of a conversation or an agent grow, as each holds what the ones before did."""
    sizes = {
        turn: _input_a_call(each) for turn, each in prompts.turns.items() if parts.prompts_of(each) >= _FEWEST_ENTRIES
    }
    names = _carried_parts(prompts)
    if len(sizes) < 3 or not names or names <= prompts.seen:
        return
    first, last = min(sizes), max(sizes)
    carried = sum_usages(prompts.carried[name] for name in names)
    if sizes[last] < _FAST_GROWTH * sizes[first] or carried.input_tokens < _MUCH_CARRIED * prompts.input.input_tokens:
        return
    turns = f"from {sizes[first]:,} tokens in turn {first} to {sizes[last]:,} in turn {last}"
    what = f"{run.write(prompts.name)}'s input grows {turns}"
    percent = _percent(carried, prompts.input)
    for finding in run.saving(
        "growth",
        prompts,
        carried,
        _HALF,
        lambda amount, saving: f"{what}; {percent} of it was in the turn before, {amount}; half of that {saving}.",
    ):
        prompts.seen.update(names)
        yield finding


def _window(prompts: _Prompts, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding if prompts nearly fill the model's context window."""
    filled = _filled(prompts.sizes)
    if filled is None or filled.share < _NEARLY_FULL:
        return
    part = next(iter(prompts.parts))
    largest = prompts.parts[part]
    what = "billed beyond its text" if part == OTHER_INPUT else _field(part, run.write)
    prompts.seen.add(part)
    numbers = f"{filled.tokens:,} of {filled.window:,} tokens"
    text = (
        f"{run.write(prompts.name)} fills {filled.share:.0%} of the window at p95: {numbers}; "
        f"{_percent(largest, prompts.input)} of its input is {what}: shorten that before calls fail."
    )
    weight = run.share(prompts.input.cost, prompts.input.total_tokens)
    yield _Ranked(weight, Finding(text, "window", prompts.name, prompts.input.cost))


class _Filled(NamedTuple):
    share: float
    tokens: int
    window: int


def _filled(sizes: CallSizes | None) -> _Filled | None:
    """Return how far prompts at the 95th percentile fill the window of their model; of several, of the one filled most."""
    if sizes is None:
        return None
    from tokenscope._usage.windows import context_window

    found: list[_Filled] = []
    for model, longest in sizes.longest:
        if window := context_window(model):
            tokens = round(min(longest, sizes.input.p95))
            found.append(_Filled(tokens / window, tokens, window))
    return max(found, default=None)


def _cache(prompts: _Prompts, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding if prompts begin alike, or could, and little of that comes from the provider's cache."""
    repeats = sum(usage.calls for usage in prompts.changed.values())
    if repeats < _FEWEST_REPEATS:
        return
    where, after = max(prompts.changed.items(), key=lambda each: each[1].calls)
    cheaper, is_asked_for = _cache_discount(prompts.usages)
    if not cheaper or after.calls * 2 < repeats:
        return
    whole = prompts.input.input_tokens / prompts.calls
    stable = prompts.tokens(_STABLE - {where}) / prompts.calls
    varying = whole - stable
    behind = after.input_tokens / after.calls - varying  # what stays the same, and yet comes after what changes
    is_early = where not in (_DEMOS, "tools") and behind >= max(0.15 * stable, _FAR)
    alike = stable if is_early else whole - after.input_tokens / after.calls
    read = prompts.input.cache_read_tokens / prompts.calls
    if alike < _CACHEABLE or (not is_early and read >= alike * _LITTLE):
        return
    saving = _times(cheaper, (alike - read) * repeats)
    weight = run.share(saving, 0)
    if weight < _SMALLEST_SAVING:
        return
    share_read = f"{prompts.input.cache_read_tokens / prompts.input.input_tokens:.0%}"
    begin = f"{share_read} of {run.write(prompts.name)}'s input comes from the provider's cache"
    same = f"{round(alike):,} of {round(whole):,} tokens a call"
    saves = f"save about {dollars(saving)}"
    if is_early:
        demos = prompts.tokens([_DEMOS]) / prompts.calls
        before = "the demos" if demos and behind >= 0.9 * demos else "parts that do not"
        place = f"the prefix changes at {_field(where, run.write)}, before {before}"
        text = f"{begin}; {place}; moved to the end, {same} could, to {saves}."
    else:
        how = "asking for it (`cache_control`)" if is_asked_for else "calls closer in time"
        text = f"{begin}, though the first {same} stay the same; {how} would {saves}."
    yield _Ranked(weight, Finding(text, "cache", prompts.name, prompts.input.cost, saving))


def _waste(snapshot: Snapshot, run: _Whole) -> Iterator[_Ranked]:
    """Yield a finding for each module that spends much without a use."""
    modules: Breakdown | None = None
    for name, waste in snapshot.waste().items():
        wasted = waste.total
        modules = snapshot.by_module() if modules is None else modules
        if modules[name].calls < _FEWEST_CALLS or wasted.calls < _FEWEST_ENTRIES or not wasted.total_tokens:
            continue
        weight = run.share(wasted.cost, wasted.total_tokens)
        if weight < _SMALLEST_SAVING:
            continue
        reason = max(waste.reasons(), key=lambda each: each[1].total_tokens)[0]
        tokens = f"{_percent(wasted, modules[name], 'total_tokens')} of {run.write(name)}'s tokens"
        calls = f"{wasted.calls:,} of {plural(modules[name].calls, 'call')}"
        text = (
            f"{tokens} were wasted on {_reason(reason)}: {calls}, {_amount(wasted)} of this run; {_REMEDIES[reason]}."
        )
        yield _Ranked(weight, Finding(text, "waste", name, wasted.cost, wasted.cost, wasted.total_tokens))


_REMEDIES: Final = {
    "failed_parses": "a simpler output, or another adapter, would save it",
    "provider_errors": "`report.records()` has each error",
    "retries": "fewer attempts would save it",
    "stragglers": "a longer `straggler_limit` would save it",
}


# -- numbers --------------------------------------------------------------------------------------------------------------------


def _is_large(prompts: _Prompts, tokens: int, size: _Size) -> bool:
    return tokens >= size.share * prompts.input.input_tokens and tokens >= size.tokens * prompts.calls


def _carried_parts(prompts: _Prompts) -> set[str]:
    """Return the parts that grow from turn to turn, much of which was in the turn before."""
    return {
        name
        for name, usage in prompts.carried.items()
        if name not in _STABLE and usage.input_tokens >= _MUCH_CARRIED * prompts.parts[name].input_tokens
    }


def _entries(prompts: _Prompts) -> int:
    """Return how many times an agent or a conversation began."""
    return parts.prompts_of(prompts.turns[1]) if 1 in prompts.turns else 0


def _input_a_call(breakdown: Breakdown) -> int:
    return round(sum(usage.input_tokens for usage in breakdown.values()) / parts.prompts_of(breakdown))


def _cache_discount(usages: Iterable[ModelUsage]) -> tuple[Decimal, bool]:
    """Return by how many dollars a token is cheaper from the provider's cache, and whether a program has to ask for its cache.

    0 if that is unknown for most of the input, or makes no difference.
    """
    cheaper, tokens, whole, is_asked_for = NO_DOLLARS, 0, 0, False
    for key, usage in usages:
        whole += usage.input_tokens
        _, rates = known_rates(key) or (False, {})
        if "cache_read_tokens" in rates and rates["cache_read_tokens"] < rates["input_tokens"]:
            difference = ARITHMETIC.subtract(rates["input_tokens"], rates["cache_read_tokens"])
            cheaper = ARITHMETIC.add(cheaper, ARITHMETIC.multiply(difference, usage.input_tokens))
            tokens += usage.input_tokens
            is_asked_for |= "cache_write_tokens" in rates
    if tokens * 2 <= whole:
        return NO_DOLLARS, False
    return ARITHMETIC.divide(cheaper, whole * 1_000_000), is_asked_for


def _times(amount: Decimal, factor: float) -> Decimal:
    return ARITHMETIC.multiply(amount, Decimal(f"{factor:.6g}"))


def _amount(usage: Usage) -> str:
    return money(usage) if usage.cost else plural(usage.total_tokens, "token")


def _of(prompts: _Prompts, tokens: int) -> str:
    return f"{prompts.a_call(tokens):,} of {prompts.a_call(prompts.input.input_tokens):,} tokens a call"


def _percent(part: Usage, whole: Usage, tokens: Literal["input_tokens", "total_tokens"] = "input_tokens") -> str:
    return f"{share(getattr(part, tokens), getattr(whole, tokens)):.0%}"


def _rounded(tokens: int) -> int:
    """Return a number of tokens with two digits that count."""
    return round(tokens, 2 - len(str(tokens))) if tokens >= 100 else tokens


def _word(number: int) -> str:
    """Return a number from three on as a sentence has it."""
    return _WORDS[number - 3] if number < len(_WORDS) + 3 else f"{number:,}"


def _reason(name: str) -> str:
    return name.replace("_", " ")


def _field(part: str, write: Write) -> str:
    """Return a part as a sentence has it."""
    return f"field {write(part.removeprefix('input:'))}" if part.startswith("input:") else write(part)
