"""Highlights: what stands out in a report or a diff, as sentences. Where nothing stands out, there is no sentence.

What could be saved comes first: see `advice`. For example: "searcher spends 51% of the tokens."
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from tokenscope._report.advice import Write, advice
from tokenscope._report.changes import Change, Comparison
from tokenscope._report.formats.text import compared, dollars, listed, money, plural, printable, share
from tokenscope._report.snapshot import Snapshot
from tokenscope._usage.keys import NO_MODEL
from tokenscope._usage.usage import Usage

_NOTABLE: Final = 0.2  # a smaller share of a total is nothing to say first


def highlights(snapshot: Snapshot, write: Write = printable) -> list[str]:
    """Return what could be saved, who spends most, what was wasted and why, and what the cache saved, each as a sentence.

    `write` writes a name.
    """
    advised = advice(snapshot, write)
    is_said = any(each.kind == "waste" for each in advised)
    found = (_spenders, _model, *(() if is_said else (_waste,)), _calls)
    return [*map(str, advised), *(sentence for find in found for sentence in find(snapshot, snapshot.total, write))]


def highlights_of_diff(diff: Comparison, write: Write = printable) -> list[str]:
    """Return by how much the totals grew or shrank, and where most, each as a sentence. `write` writes a name."""
    return [*_totals(diff.total), *_most_changed(diff, write)]


def _spenders(snapshot: Snapshot, total: Usage, write: Write) -> Iterator[str]:
    modules = snapshot.by_module()
    if len(modules) == 1 and len(predictors := snapshot.predictors()) > 1:  # one module is around the whole program
        modules = predictors
    parts: dict[str, list[str]] = {}
    for what, amount in (("tokens", _tokens), (_known_cost(total), _cost)):
        if name := _leader(modules, amount):
            parts.setdefault(name, []).append(f"{_percent(amount(modules[name]), amount(total))} of the {what}")
    for name, several in parts.items():
        yield f"{write(name)} spends {' and '.join(several)}."


def _model(snapshot: Snapshot, total: Usage, write: Write) -> Iterator[str]:
    models = snapshot.by_model()
    if (name := _leader(models, _cost)) and name != NO_MODEL:
        calls, cost = share(models[name].calls, total.calls), share(_cost(models[name]), _cost(total))
        if cost >= 2 * calls:
            answers = f"{write(name)} answers {_percent(models[name].calls, total.calls)} of the calls"
            yield f"{answers} and takes {_percent(_cost(models[name]), _cost(total))} of the {_known_cost(total)}."


def _waste(snapshot: Snapshot, total: Usage, write: Write) -> Iterator[str]:
    if not (wastes := snapshot.waste()):
        return
    wasted = wastes.total.total
    reasons = {name.replace("_", " "): usage for name, usage in wastes.total.reasons()}
    where = f"{'most in' if len(wastes) > 1 else 'all in'} {write(next(iter(wastes)))}"
    if not wasted.total_tokens:
        yield f"{plural(wasted.calls, 'call')} came to nothing: {listed(list(reasons))}, {where}."
        return
    cost = f" ({money(wasted)})" if wasted.cost else ""
    reasons = {name: usage for name, usage in reasons.items() if usage.total_tokens}
    parts = [f"{name} {_percent(usage.total_tokens, total.total_tokens)}" for name, usage in reasons.items()]
    why = f" on {next(iter(reasons))}" if len(parts) == 1 else f": {listed(parts)}"
    yield f"{_percent(wasted.total_tokens, total.total_tokens)} of the tokens{cost} were wasted{why}, {where}."


def _calls(_snapshot: Snapshot, total: Usage, _write: Write) -> Iterator[str]:
    of_all = f"of {plural(total.calls, 'call')}"
    if total.cached_calls:
        worth = f", worth {dollars(total.saved_cost)}" if total.saved_cost else ""
        saved = f" and saved {plural(total.saved_tokens, 'token')}{worth}" if total.saved_tokens else ""
        yield f"DSPy's cache answered {total.cached_calls:,} {of_all}{saved}."
    if total.failed_calls:
        yield f"{total.failed_calls:,} {of_all} failed."


def _leader(usages: Mapping[str, Usage], amount: Callable[[Usage], Any]) -> str:
    """Return whose amount is the largest, if it is notable and no other one is as large; or else an empty name."""
    first, *others = sorted(usages.items(), key=lambda item: -amount(item[1])) or [("", Usage())]
    whole = sum(map(amount, usages.values()))
    leads = bool(others) and amount(first[1]) > amount(others[0][1])
    return first[0] if leads and share(amount(first[1]), whole) >= _NOTABLE else ""


def _tokens(usage: Usage) -> int:
    return usage.total_tokens


def _cost(usage: Usage) -> Decimal:
    return usage.cost or Decimal(0)


def _known_cost(total: Usage) -> str:
    return "known cost" if total.unpriced_calls else "cost"


def _percent(part: Any, whole: Any) -> str:
    value = share(part, whole)
    return "under 1%" if 0 < value < 0.01 else "over 99%" if 0.99 < value < 1 else f"{value:.0%}"


def _totals(total: Change) -> Iterator[str]:
    before, after = total.before, total.after
    if total.tokens:
        yield _grew("Tokens", total.tokens, before.total_tokens, f"{before.total_tokens:,}", f"{after.total_tokens:,}")
    if total.cost:
        yield _grew("The cost", total.cost, before.cost or 0, *compared(before, after))


def _grew(what: str, change: Any, base: Any, before: str, after: str) -> str:
    by = f" by {100 * share(abs(change), base):,.1f}%," if base else ""
    return f"{what} {'grew' if change > 0 else 'shrank'}{by} from {before} to {after}."


def _most_changed(diff: Comparison, write: Write) -> Iterator[str]:
    own: list[int] = []  # by how many tokens each path changed itself
    above: list[int] = []
    for index, change in enumerate(diff.changes):
        del above[change.where.depth - 1 :]
        if above:
            own[above[-1]] -= change.tokens
        above.append(index)
        own.append(change.tokens)
    if not own:
        return
    for index, sign, one_side, verb in (
        (max(range(len(own)), key=own.__getitem__), 1, "new", "grew"),
        (min(range(len(own)), key=own.__getitem__), -1, "gone", "shrank"),
    ):
        if own[index] * sign > 0:
            change, count = diff.changes[index], plural(abs(own[index]), "token")
            what = f"is {one_side}, with" if change.status == one_side else f"{verb} most, by"
            yield f"{write(change.name)} {what} {count}."
