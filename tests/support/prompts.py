"""Reports with measured prompts: a writer with demos, an agent whose trajectory grows, and a judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from tokenscope import Report, Usage
from tokenscope._report.rows import Row
from tokenscope._usage.call_sizes import CallSizes
from tokenscope._usage.calls import Frame
from tokenscope._usage.keys import PartView, PromptPart, UsageKey
from tokenscope._usage.model_usage import ModelUsage

MODEL = "openai/gpt-5-mini"
_RATES = {"input": Decimal("0.25e-6"), "cached": Decimal("0.025e-6"), "output": Decimal("2e-6")}


class Piece(NamedTuple):
    """A stretch of a prompt."""

    part: str
    tokens: int
    carried: int = 0  # how many of them the prompt of the turn before held, too
    tool: str = ""


class PromptCall(NamedTuple):
    """A call with a measured prompt. What is billed beyond its pieces is the part `other`."""

    billed: int
    output: int
    pieces: Sequence[Piece]
    cached: int = 0  # of the input, from the provider's cache
    turn: int = 1
    changed: int = -1  # the first piece that differs from the prompt before; -1 if none does
    measured_by: str = "o200k_base"


def pieces(**parts: int) -> list[Piece]:
    """Return the pieces of a prompt, in their order; `input_x` is the part `input:x`."""
    return [Piece(name.replace("input_", "input:"), tokens) for name, tokens in parts.items()]


def call(output: int = 1, measured_by: str = "o200k_base", **parts: int) -> PromptCall:
    """Return a call whose prompt has these parts, and nothing else."""
    return PromptCall(sum(parts.values()), output, pieces(**parts), measured_by=measured_by)


def measured_row(parent: int, frame: Frame, entries: int, seconds: float, calls: Iterable[PromptCall]) -> Row:
    """Return a row of calls with measured prompts, with the costs of fixed rates."""
    usages: list[ModelUsage] = []
    sizes: list[tuple[str, int, int, float, str]] = []
    for each in calls:
        usages.append(ModelUsage(UsageKey(MODEL), _priced(each.billed, each.cached, each.output)))
        usages += _parts(each)
        sizes.append((MODEL, each.billed, each.output, each.output / 100, each.measured_by))
    return Row(parent, frame, entries, round(seconds * 1e9), usages, CallSizes.of(sizes) if sizes else None)


def _parts(made: PromptCall) -> Iterator[ModelUsage]:
    """Yield the input of a call by part, in all views. The cache holds the beginning of its prompt."""
    rest, found = made.cached, dict[PromptPart, list[int]]()  # by part: tokens, and how many of them are from the cache

    def add(name: str, view: PartView, tokens: int, cached: int) -> None:
        if tokens:
            sums = found.setdefault(PromptPart(name, made.turn, view), [0, 0])
            sums[0] += tokens
            sums[1] += cached

    beyond = made.billed - sum(piece.tokens for piece in made.pieces)
    for index, piece in enumerate([*made.pieces, Piece("other", beyond)]):
        cached = min(rest, piece.tokens)
        rest -= cached
        add(piece.part, "part", piece.tokens, cached)
        add(piece.part, "carried", piece.carried, min(cached, piece.carried))
        if piece.tool:
            add(piece.tool, "reread", piece.carried, 0)
            add(piece.tool, "made", piece.tokens - piece.carried, 0)
        if 0 <= made.changed <= index:
            add(made.pieces[made.changed].part, "changed", piece.tokens, cached)
    for part, (tokens, cached) in found.items():
        yield ModelUsage(UsageKey(MODEL, part=part), _priced(tokens, cached, 0))


def _priced(tokens: int, cached: int, output: int) -> Usage:
    cost = (tokens - cached) * _RATES["input"] + cached * _RATES["cached"] + output * _RATES["output"]
    return Usage(calls=1, input_tokens=tokens, cache_read_tokens=cached, output_tokens=output, cost=cost)


def writer(demos: int) -> Iterator[PromptCall]:
    """Yield the calls of a predictor with so many demos. Its context grows, and the provider's cache holds what is before."""
    for n in range(20):
        demo = {"demos": 230 * demos}
        prompt = pieces(instructions=180, fields=90, format=140, **demo, input_context=480 + 4 * n, input_question=32)
        yield PromptCall(930 + 230 * demos + 4 * n, 310 + n, prompt, 640 if n else 0, changed=4 if n else -1)


def agent() -> Iterator[PromptCall]:
    """Yield the calls of an agent that searches for four turns, and reads all it has found again at each turn."""
    for _ in range(20):
        for turn in range(1, 5):
            fixed = pieces(instructions=260, fields=70, format=150, tools=310, input_question=32)
            prompt = [piece._replace(carried=piece.tokens if turn > 1 else 0) for piece in fixed]
            for tool, tokens in ("search", 133), ("read_page", 57):
                prompt.append(Piece("input:trajectory", tokens * (turn - 1), tokens * max(0, turn - 2), tool))
            yield PromptCall(sum(piece.tokens for piece in prompt) + 7, 60, prompt, turn=turn)


def measured_report(demos: int, *, history: bool) -> Report:
    """Return a report of a small program, whose writer has so many demos. What `ingest` spends is not measured."""
    ended = pieces(instructions=150, fields=60, format=110, input_trajectory=1_090, input_question=32)
    asked = {
        "instructions": 120,
        "fields": 30,
        "format": 190,
        **({"history": 90} if history else {}),
        "input_answer": 70,
    }
    embeddings = ModelUsage(UsageKey("local/minilm", source="provider"), Usage(calls=3, input_tokens=4_800))
    rows = [
        Row(-1, Frame("scope", "pipeline"), 1, 42_000_000_000, []),
        Row(0, Frame("dspy", "Research"), 20, 41_500_000_000, []),
        measured_row(1, Frame("dspy", "writer"), 20, 20.1, writer(demos)),
        measured_row(1, Frame("dspy", "searcher"), 20, 18.0, agent()),
        Row(3, Frame("tool", "search"), 60, 2_000_000_000, []),
        measured_row(3, Frame("dspy", "extract"), 20, 2.0, [PromptCall(1_450, 90, ended)] * 20),
        measured_row(1, Frame("dspy", "judge"), 20, 1.2, [call(12, "bytes", **asked)] * 20),
        Row(0, Frame("module", "ingest"), 3, 90_000_000, [embeddings]),
    ]
    return Report.from_rows(rows, scoped=True)


MEASURED = measured_report(8, history=False)
FEWER_DEMOS = measured_report(2, history=True)
