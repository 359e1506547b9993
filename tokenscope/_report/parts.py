"""What reports tell of prompts: the input by part, by turn, and what was given to models again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from tokenscope._report.attribution import attributions
from tokenscope._report.breakdown import Breakdown, ByName, breakdown_of
from tokenscope._report.rows import Rows
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.keys import PartView, PromptPart, UsageKey
from tokenscope._usage.model_usage import ModelUsage, total
from tokenscope._usage.prices import repriced
from tokenscope._usage.usage import ZERO, Usage, subtract, sum_usages

NOT_MEASURED: Final = "(not measured)"
"""The input of calls whose prompts were not measured."""


class Reread(NamedTuple):
    """What a tool added to prompts, and how much of that later prompts held again.

    Args:
        made: The input tokens that its results were when they were first given to a model. `calls` counts the prompts.
        reread: The input tokens that the same results were in later prompts. They are part of the input of these calls.
    """

    made: Usage
    reread: Usage


def has_parts(rows: Rows) -> bool:
    """Whether any prompt was measured."""
    return any(key.part is not None for key in rows.keys)


def parts_of_input(usages: Iterable[ModelUsage]) -> Iterator[tuple[str, ModelUsage]]:
    """Yield input by part, as finely as prices need it; what was not measured comes last. All of it adds up to the input."""
    whole: dict[str, list[Usage]] = {}
    measured: dict[str, list[Usage]] = {}
    prompts: dict[str, Counter[str]] = {}
    for each in usages:
        key, usage = each
        if key.part is None:
            if key.wasted is None and key.source != "cache" and usage.input_tokens:
                whole.setdefault(key.model, []).append(_input_of(key, usage))
        elif key.part.view == "part":
            measured.setdefault(key.model, []).append(usage)
            prompts.setdefault(key.model, Counter())[key.part.name] += usage.calls
            yield key.part.name, each
    for model, several in whole.items():
        all_input = sum_usages(several)
        rest = subtract(all_input, sum_usages(measured.get(model, ())))
        if rest.input_tokens:
            # A measured call has several parts: the one that most of them have, such as `format`, tells how many there were.
            calls = max(0, all_input.calls - max(prompts.get(model, {"": 0}).values()))
            rest = replace(rest, calls=calls, unpriced_calls=min(calls, all_input.unpriced_calls))
            yield NOT_MEASURED, ModelUsage(UsageKey(model, part=PromptPart(NOT_MEASURED)), rest)


def _input_of(key: UsageKey, usage: Usage) -> Usage:
    """Return the input of a usage, with what it cost by the table of prices."""
    without = replace(usage, output_tokens=0, reasoning_tokens=0, output_audio_tokens=0)
    return repriced(key._replace(source="table", part=PromptPart(NOT_MEASURED)), without)


def by_part(usages: Iterable[ModelUsage]) -> Breakdown:
    """Partition input by part of the prompt."""
    return breakdown_of((name, each.usage) for name, each in parts_of_input(usages))


def by_predictor(rows: Rows) -> dict[str, Breakdown]:
    """Return the input by part for each DSPy predictor, or for each module outside of DSPy."""
    return ByName({name: found for name, usages in _grouped(rows).items() if (found := by_part(usages))})


def measured(rows: Rows) -> dict[str, list[ModelUsage]]:
    """Return the parts of measured prompts by predictor, as finely as prices need it."""
    found: dict[str, list[ModelUsage]] = {}
    if not has_parts(rows):  # nothing is kept of a large report that has none
        return found
    for name, usages in _grouped(rows).items():
        if several := [each for each in usages if each.key.part is not None and each.key.part.view == "part"]:
            found[name] = several
    return found


def by_turn(rows: Rows) -> dict[str, dict[int, Breakdown]]:
    """Return the input by part for each predictor and turn."""
    found: dict[str, dict[int, list[tuple[str, Usage]]]] = {}
    for name, usages in _grouped(rows).items():
        for part, usage in _seen(usages, "part"):
            found.setdefault(name, {}).setdefault(part.turn, []).append((part.name, usage))
    return ByName({name: {turn: breakdown_of(turns[turn]) for turn in sorted(turns)} for name, turns in found.items()})


def carried(rows: Rows) -> dict[str, Breakdown]:
    """Return the input that the prompts of the turns before held, too, by predictor and part."""
    return _by_part(rows, "carried")


def changed(rows: Rows) -> dict[str, Breakdown]:
    """Return, by predictor, the parts at which prompts first differ from the ones before, with the input from there on."""
    return _by_part(rows, "changed")


def items(rows: Rows) -> dict[str, Breakdown]:
    """Return the demos and messages that prompts are made of, by predictor and part: four in each of ten are 40 `calls`."""
    return _by_part(rows, "items")


def _by_part(rows: Rows, view: PartView) -> dict[str, Breakdown]:
    groups = _grouped(rows).items()
    found = {name: breakdown_of((part.name, usage) for part, usage in _seen(usages, view)) for name, usages in groups}
    return ByName({name: breakdown for name, breakdown in found.items() if breakdown})


def rereads(rows: Rows) -> dict[str, dict[str, Reread]]:
    """Return what tools added to prompts, and how much of that was given again, by predictor and tool.

    What a predictor inside an agent is given of the agent's tools counts with the agent's: `dspy.ReAct` gives its trajectory once
    more to the predictor that extracts the answer.
    """
    found: dict[str, dict[str, Reread]] = {}
    for name, usages in _grouped(rows).items():
        made = breakdown_of((part.name, usage) for part, usage in _seen(usages, "made"))
        again = breakdown_of((part.name, usage) for part, usage in _seen(usages, "reread"))
        if made or again:
            found[name] = {tool: Reread(made.get(tool, ZERO), again.get(tool, ZERO)) for tool in {**made, **again}}
    for name in sorted(found, key=len, reverse=True):
        agent = name.rpartition(".")[0]
        while agent and agent not in found:
            agent = agent.rpartition(".")[0]
        for tool in found[name].keys() & found.get(agent, {}).keys():
            (made_before, again_before), (made_here, again_here) = found[agent][tool], found[name].pop(tool)
            found[agent][tool] = Reread(made_before + made_here, again_before + again_here)
    return ByName(
        {
            name: ByName(sorted(tools.items(), key=lambda each: (-_tokens(each[1]), each[0])))
            for name, tools in found.items()
            if tools
        }
    )


def sizes(rows: Rows) -> dict[str, CallSizes]:
    """Return how calls' sizes are distributed, by predictor."""
    found = ByName[CallSizes]()
    for row, attribution in attributions(rows):
        if row.sizes is not None:
            name = attribution.predictor or attribution.module
            found[name] = found[name] + row.sizes if name in found else row.sizes
    return found


def prompts_of(parts: Breakdown, sizes: CallSizes | None = None) -> int:
    """Return how many prompts with these parts were measured; without sizes, as many as have the part that most of them have."""
    if sizes is not None:
        return sizes.calls
    return max((usage.calls for name, usage in parts.items() if name != NOT_MEASURED), default=0)


def measured_by(rows: Rows) -> tuple[str, ...]:
    """Return what has measured the prompts: names of tokenizers, and `bytes`."""
    return tuple(sorted({name for _, sizes in rows.sizes for name in sizes.measured_by}))


def _tokens(tool: Reread) -> int:
    return tool.made.input_tokens + tool.reread.input_tokens


def _seen(usages: Iterable[ModelUsage], view: PartView) -> Iterator[tuple[PromptPart, Usage]]:
    for key, usage in usages:
        if key.part is not None and key.part.view == view:
            yield key.part, usage


def _grouped(rows: Rows) -> dict[str, list[ModelUsage]]:
    """Return the usages of predictors, the costliest first."""
    found: dict[str, list[ModelUsage]] = {}
    for row, attribution in attributions(rows):
        if row.usages:
            found.setdefault(attribution.predictor or attribution.module, []).extend(row.usages)
    return dict(sorted(found.items(), key=lambda item: (-total(item[1]).total_tokens, item[0])))
