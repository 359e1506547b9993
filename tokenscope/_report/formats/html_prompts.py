"""What the page of a report shows of prompts: a bar of parts for each scope, and a section by predictor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tokenscope._report.breakdown import Breakdown
from tokenscope._report.formats import text
from tokenscope._report.formats.part_shares import KINDS, a_call, is_measured, kind_of, note, percent
from tokenscope._report.parts import NOT_MEASURED, Reread, prompts_of
from tokenscope._report.snapshot import Snapshot
from tokenscope._report.tree import Node
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.usage import ZERO

_MEANING: Final = "Carried is the part of the tokens that the prompt of the turn before held, too."
Shares = list[tuple[int, float]]


class PromptsOfPage:
    """The parts of prompts in a page, numbered in the order in which bars have them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        tokens = {name: usage.input_tokens for name, usage in snapshot.by_part().items()}
        self._names = sorted(tokens, key=lambda name: (KINDS.index(kind_of(name)), -tokens[name], name))
        self._numbers = {name: number for number, name in enumerate(self._names)}

    def shares(self, tokens: Mapping[str, int]) -> Shares:
        """Return the parts of an input by number, each with its share, in the order of bars; empty if none was measured."""
        if not is_measured(tokens):
            return []
        whole = sum(tokens.values())
        numbered = sorted((self._numbers[name], number) for name, number in tokens.items() if number)
        return [(number, _rounded(part, whole)) for number, part in numbered]

    def below(self, nodes: Sequence[tuple[int, Node]]) -> list[Shares]:
        """Return the shares of nodes and what is below each, given all nodes of a tree with their depths, parents first."""
        found: list[Shares] = []
        sums: list[dict[str, int]] = []  # by depth, of what follows
        for depth, node in reversed(nodes):
            sums.extend({} for _ in range(depth + 2 - len(sums)))
            tokens = sums[depth + 1]
            sums[depth + 1] = {}
            _add(tokens, ((name, usage.input_tokens) for name, usage in node.own_parts.items()))
            _add(sums[depth], tokens.items())
            found.append(self.shares(tokens))
        return found[::-1]

    def own(self, node: Node) -> Shares:
        """Return the shares of a node's own input."""
        return self.shares({name: usage.input_tokens for name, usage in node.own_parts.items()})

    def content(self) -> dict[str, Any]:
        """Return the names of parts, their kinds, and the section by predictor."""
        kinds = [kind_of(name) for name in self._names]
        return {
            "note": f"{note(self._snapshot)} {_MEANING}" if self._snapshot.carried() else note(self._snapshot),
            "names": [text.printable(name) for name in self._names],
            "kinds": [KINDS.index(kind) for kind in kinds],
            "legend": [(KINDS.index(kind), kind.strip("()")) for kind in dict.fromkeys(kinds)],
            "predictors": list(self._predictors()),
        }

    def _predictors(self) -> Iterator[dict[str, Any]]:
        snapshot = self._snapshot
        turns, carried, rereads = snapshot.by_turn(), snapshot.carried(), snapshot.rereads()
        changed, sizes = snapshot.changed(), snapshot.call_sizes()
        for name, parts in snapshot.parts().items():
            if not (prompts := prompts_of(parts, sizes.get(name))):
                continue
            whole = sum(usage.input_tokens for part, usage in parts.items() if part != NOT_MEASURED)
            tables = [
                self._parts(parts, carried.get(name, Breakdown()), prompts),
                _quantiles(sizes.get(name)),
                self._turns(turns.get(name, {})),
                _tools(rereads.get(name, {})),
                self._changed(changed.get(name, Breakdown())),
            ]
            yield {
                "name": text.printable(name),
                "facts": f"{whole / prompts:,.0f} tokens a call · {text.plural(prompts, 'call')}",
                "shares": self.shares({part: usage.input_tokens for part, usage in parts.items()}),
                "tables": [each for each in tables if each["rows"]],
            }

    def _parts(self, parts: Breakdown, carried: Breakdown, prompts: int) -> dict[str, Any]:
        whole = sum(usage.input_tokens for usage in parts.values())
        cached = any(usage.cache_read_tokens for usage in parts.values())
        heads = ["Part", "Tokens", "Share", "A call", *["Cached"] * cached, *["Carried"] * bool(carried), "Cost"]
        rows: list[list[str]] = []
        for name, usage in parts.items():
            tokens = usage.input_tokens
            row = [text.printable(name), f"{tokens:,}", percent(tokens, whole), a_call(name, tokens, prompts)]
            row += [f"{usage.cache_read_tokens:,}"] * cached
            row += [f"{carried.get(name, ZERO).input_tokens:,}"] * bool(carried)
            rows.append([*row, text.money(usage)])
        return _table("Parts", heads, rows, swatches=[self._numbers[name] for name in parts])

    def _turns(self, turns: Mapping[int, Breakdown]) -> dict[str, Any]:
        if len(turns) < 2:
            return _table("Turns", [], [])
        by_turn = {turn: {name: usage.input_tokens for name, usage in parts.items()} for turn, parts in turns.items()}
        calls = {turn: prompts_of(parts) or 1 for turn, parts in turns.items()}
        sizes = {turn: sum(tokens.values()) / calls[turn] for turn, tokens in by_turn.items()}
        most = max(sizes.values())
        rows = [[f"{turn}", f"{calls[turn]:,}", f"{sizes[turn]:,.0f}"] for turn in turns]
        bars = [(_rounded(sizes[turn], most), self.shares(by_turn[turn])) for turn in turns]
        return _table("Input by turn", ["Turn", "Calls", "A call"], rows, bars=bars)

    def _changed(self, changed: Breakdown) -> dict[str, Any]:
        rows = [
            [text.printable(name), f"{usage.calls:,}", f"{usage.input_tokens:,}"] for name, usage in changed.items()
        ]
        swatches = [self._numbers.get(name, -1) for name in changed]
        return _table("Where prompts first differ", ["Part", "Calls", "Tokens from there on"], rows, swatches=swatches)


def _tools(tools: Mapping[str, Reread]) -> dict[str, Any]:
    rows = [
        [
            text.printable(name),
            f"{made.input_tokens:,}",
            f"{again.input_tokens:,}",
            f"{again.input_tokens / made.input_tokens:.1f} times" if made.input_tokens else text.UNKNOWN,
            text.money(again),
        ]
        for name, (made, again) in tools.items()
    ]
    return _table("Tools", ["Tool", "Made", "Re-read", "Again", "Its cost"], rows)


def _quantiles(sizes: CallSizes | None) -> dict[str, Any]:
    rows: list[list[str]] = []
    below = ""
    if sizes is not None:
        for name, sketch in (
            ("Input tokens", sizes.input),
            ("Output tokens", sizes.output),
            ("Time", sizes.seconds),
        ):
            values = (sketch.p50, sketch.p95, sketch.max)
            rows.append(
                [name, *(text.duration(value) if sketch is sizes.seconds else f"{value:,.0f}" for value in values)]
            )
        model, tokens = sizes.longest[0]
        below = f"Longest prompt: {tokens:,} tokens, {text.printable(model)}."
        if (filled := sizes.window_share) is not None:
            below += f" At most {filled:.0%} of the context window was filled."
    return _table("Size of a call", ["", "p50", "p95", "Max"], rows, note=below)


def _table(title: str, heads: list[str], rows: list[list[str]], **more: Any) -> dict[str, Any]:
    return {"title": title, "heads": heads, "rows": rows, **more}


def _add(tokens: dict[str, int], more: Iterable[tuple[str, int]]) -> None:
    for name, number in more:
        tokens[name] = tokens.get(name, 0) + number


def _rounded(part: float, whole: float) -> float:
    return float(f"{text.share(part, whole):.4g}")
