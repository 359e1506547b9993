"""Programs with a seeded cause: prompts with parts of random sizes, of which one makes a predictor's input large without need.

They are written from descriptions of such programs, without a look at what reports find. Of each, the sizes, the models, the
number of calls, the other predictors and the noise are drawn at random; a seed gives the same program again.
Their calls are recorded with pieces that are made here. `tests/report/test_advice_end_to_end.py` has programs of DSPy's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from tokenscope import Report, token_scope
from tokenscope._scopes.context import active
from tokenscope._scopes.process import STATE
from tokenscope._scopes.recording import record
from tokenscope._scopes.wasted import mark_all_wasted
from tokenscope._usage.calls import Frame
from tokenscope._usage.prompts import Piece, Prompt
from tokenscope._usage.usage import ZERO_COUNTS

AUTOMATIC: Final = (
    "openai/gpt-4o-mini",
    "openai/gpt-4o",
    "openai/gpt-4.1",
    "openai/gpt-5-mini",
    "deepseek/deepseek-chat",
)
"""Models whose provider keeps the beginnings of prompts in its cache without being asked."""
ON_REQUEST: Final = ("anthropic/claude-sonnet-4-5", "anthropic/claude-haiku-4-5")
WITHOUT: Final = ("groq/llama-3.3-70b-versatile", "mistral/mistral-large-latest", "ollama_chat/llama3.1")
"""Models without a lower price of cached input; of the last, no price is known."""
WINDOWS: Final = {"openai/gpt-4o-mini": 128_000, "openai/gpt-4": 8_192, "deepseek/deepseek-chat": 64_000}
LEAST_SHARE: Final = 0.2
"""What is less than that of a run is no cause of what it costs."""
_PRICES: Final = {
    "openai/gpt-4o-mini": (0.15, 0.6),
    "openai/gpt-4o": (2.5, 10),
    "openai/gpt-4.1": (2, 8),
    "openai/gpt-5-mini": (0.25, 2),
    "openai/gpt-4": (30, 60),
    "deepseek/deepseek-chat": (0.135, 0.55),
    "anthropic/claude-sonnet-4-5": (3, 15),
    "anthropic/claude-haiku-4-5": (1, 5),
    "groq/llama-3.3-70b-versatile": (0.59, 0.79),
    "mistral/mistral-large-latest": (2, 6),
    "ollama_chat/llama3.1": (1, 1),  # it has none: tokens count
}
"""Dollars for a million tokens of input and output."""
_NAMES: Final = ("planner", "writer", "judge", "extract", "answer", "rerank", "rewrite", "route", "check", "summarize")
_FIELDS: Final = (
    "question",
    "context",
    "passages",
    "draft",
    "notes",
    "query",
    "claim",
    "answer",
    "profile",
    "document",
)


@dataclass
class Asked:
    """One prompt of a predictor, and its answer."""

    pieces: list[Piece]
    changed: int  # the first piece that is not what it was in the prompt before
    output: int
    turn: int = 1


@dataclass
class Predictor:
    """A predictor: its model, its prompts, and how often the provider's cache has their unchanged beginning."""

    name: str
    model: str
    calls: list[Asked]
    hits: float = 0.0
    wasted: tuple[str, float] = ("", 0.0)  # why, and of which share of the calls
    tokenizer: float = 1.0  # how many tokens the provider bills for one that was measured


@dataclass
class Program:
    """A program, and what is wrong with it: a cause and the predictor that has it. A healthy program has neither."""

    predictors: list[Predictor]
    cause: str = ""
    predictor: str = ""
    sizes: dict[str, float] = field(default_factory=dict)

    def report(self, seed: int = 0) -> Report:
        """Record all calls, and return the report."""
        rng = random.Random(f"record {seed}")
        with token_scope("run") as scope:
            for predictor in self.predictors:
                _record(predictor, rng)
        return scope.report()


def between(rng: random.Random, low: float, high: float) -> float:
    """Draw a number; each power of ten is as likely as any other."""
    return float(low * (high / low) ** rng.random())


def _near(rng: random.Random, size: float, sigma: float = 0.25) -> float:
    return max(1.0, size * rng.lognormvariate(0, sigma))


def _record(predictor: Predictor, rng: random.Random) -> None:
    frames = (Frame("dspy", "Program"), Frame("dspy", predictor.name))
    bad = set(rng.sample(range(len(predictor.calls)), round(predictor.wasted[1] * len(predictor.calls))))
    for number, asked in enumerate(predictor.calls):
        measured = sum(piece.tokens for piece in asked.pieces)
        media = sum(1 for piece in asked.pieces if piece.part == "media")
        billed = max(
            1, round(measured * predictor.tokenizer) + sum(round(between(rng, 700, 1_600)) for _ in range(media))
        )
        changed = asked.changed if number else -1
        known = sum(piece.tokens for piece in asked.pieces[: max(0, changed)]) * predictor.tokenizer
        read = int(known) // 128 * 128 if known >= 1_024 and rng.random() < predictor.hits else 0
        counts = ZERO_COUNTS._replace(
            calls=1, input_tokens=billed, output_tokens=asked.output, cache_read_tokens=min(read, billed)
        )
        prompt = Prompt(tuple(asked.pieces), asked.turn, "bytes", is_exact=False, changed=changed)
        if number in bad:
            with token_scope("again"):
                record(active() or STATE.root, predictor.model, counts, 1.75e9, frames=frames, prompt=prompt)
                mark_all_wasted(active() or STATE.root, predictor.wasted[0])  # type: ignore[arg-type]
        else:
            record(active() or STATE.root, predictor.model, counts, 1.75e9, frames=frames, prompt=prompt)


# -- prompts ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The sizes of a prompt's parts."""

    instructions: float = 0
    fields: float = 0
    format: float = 0
    demos: tuple[float, ...] = ()
    tools: float = 0
    history: float = 0
    media: int = 0
    inputs: tuple[tuple[str, float], ...] = ()

    @property
    def tokens(self) -> float:
        """All of it, without media."""
        parts = self.instructions, self.fields, self.format, sum(self.demos), self.tools, self.history
        return sum(parts) + sum(size for _, size in self.inputs)

    def ask(self, rng: random.Random, output: float) -> Asked:
        """Return one prompt: what varies from call to call, does."""
        parts = (
            ("fields", self.fields),
            ("format", self.format),
            ("instructions", self.instructions),
            ("tools", self.tools),
        )
        pieces = [Piece(name, size) for name, size in parts if size]
        if self.demos:
            pieces.append(Piece("demos", sum(self.demos), items=len(self.demos)))
        changed = len(pieces)
        if self.history:
            pieces.append(Piece("history", _near(rng, self.history)))
        pieces += [Piece(f"input:{name}", _near(rng, size)) for name, size in self.inputs]
        pieces += [Piece("media", 0)] * self.media
        return Asked(pieces, changed, round(_near(rng, output)))


def _balanced(rng: random.Random, low: float = 350, high: float = 2_500, *, fields: int = 0) -> Shape:
    """Return a prompt in which no part is most of it."""
    whole = between(rng, low, high)
    count = fields or rng.randint(2, 3)
    with_demos = rng.random() < 0.6
    instructions, rules = rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.25)
    demos = rng.uniform(0.1, 0.3) if with_demos else 0.0
    inputs = 1 - instructions - rules - demos
    shares = [rng.uniform(0.8, 1.2) for _ in range(count)]
    number = rng.randint(1, 4) if with_demos else 0
    return Shape(
        instructions=whole * instructions,
        fields=whole * rules * 0.4,
        format=whole * rules * 0.6,
        demos=tuple(whole * demos / number for _ in range(number)),
        inputs=tuple(
            (name, whole * inputs * share / sum(shares))
            for name, share in zip(rng.sample(_FIELDS, count), shares, strict=True)
        ),
    )


def _model(rng: random.Random) -> tuple[str, float]:
    """Return a model, and how often its provider's cache has the beginning of a prompt in a program that uses it well."""
    kind = rng.choice((AUTOMATIC, AUTOMATIC, ON_REQUEST, WITHOUT))
    return rng.choice(kind), 0.0 if kind is WITHOUT else rng.uniform(0.75, 0.98)


def _predictor(rng: random.Random, name: str, shape: Shape, calls: int = 0) -> Predictor:
    model, hits = _model(rng)
    output = between(rng, 20, 400)
    number = calls or round(between(rng, 15, 150))
    prompts = [shape.ask(rng, output) for _ in range(number)]
    return Predictor(name, model, prompts, hits, tokenizer=rng.uniform(0.88, 1.12))


def _turns(
    rng: random.Random, predictor: Predictor, shape: Shape, turns: int, entries: int, added: float, tool: str
) -> None:
    """Give a predictor the prompts of an agent: each holds what the turns before have added, by a tool or not."""
    output, calls = between(rng, 30, 250), predictor.calls
    calls.clear()
    for _ in range(entries):
        held: list[Piece] = []
        for turn in range(1, turns + 1):
            asked = shape.ask(rng, output)
            # What is asked stays the same within an entry; the prompt grows at its end.
            carried = [piece._replace(carried=piece.tokens) for piece in asked.pieces] if turn > 1 else asked.pieces
            asked.pieces = [*carried, *held]
            if turn > 1:
                asked.changed = len(asked.pieces) - 1
            asked.turn = turn
            calls.append(asked)
            held = [piece._replace(carried=piece.tokens) for piece in held]
            new = _near(rng, added, 0.4)
            name = "input:trajectory" if tool else "input:conversation"
            if tool:
                held.append(Piece(name, between(rng, 20, 80)))  # what the model thought, and the call of the tool
                held.append(Piece(name, new, 0.0, tool))
            else:
                held.append(Piece(name, new))


# -- causes: each returns the predictor that has it ----------------------------------------------------------------------------


def _enlarged(rng: random.Random, share: float, low: float = 300, high: float = 1_500) -> tuple[Shape, float]:
    """Return a balanced prompt, and how much more makes that share of the whole."""
    shape = _balanced(rng, low, high)
    return shape, shape.tokens * share / (1 - share)


def demos(rng: random.Random, name: str) -> Predictor:
    """Four to sixteen demos, more than half of the prompt."""
    shape, more = _enlarged(rng, rng.uniform(0.5, 0.85))
    number = rng.randint(4, 16)
    sizes = [rng.uniform(0.6, 1.4) for _ in range(number)]
    return _predictor(rng, name, replace(shape, demos=tuple(more * each / sum(sizes) for each in sizes)))


def instructions(rng: random.Random, name: str) -> Predictor:
    """Instructions as an optimizer or a team writes them over months: most of the prompt."""
    shape, more = _enlarged(rng, rng.uniform(0.6, 0.9))
    return _predictor(rng, name, replace(shape, instructions=more))


def tools(rng: random.Random, name: str) -> Predictor:
    """The descriptions and schemas of many tools, given with each call."""
    shape, more = _enlarged(rng, rng.uniform(0.5, 0.85))
    return _predictor(rng, name, replace(shape, tools=more))


def given(rng: random.Random, name: str) -> Predictor:
    """One input field with many passages or a long document: nearly all of the prompt."""
    shape, more = _enlarged(rng, rng.uniform(0.78, 0.95))
    (first, _), *others = shape.inputs
    return _predictor(rng, name, replace(shape, inputs=((first, more), *others)))


def history(rng: random.Random, name: str) -> Predictor:
    """A chat whose whole history is sent with each question."""
    shape, more = _enlarged(rng, rng.uniform(0.6, 0.9))
    return _predictor(rng, name, replace(shape, history=more))


def media(rng: random.Random, name: str) -> Predictor:
    """Several images in each prompt of a few words."""
    return _predictor(rng, name, replace(_balanced(rng, 200, 700), media=rng.randint(2, 6)))


def formats(rng: random.Random, name: str) -> Predictor:
    """Short inputs, and long schemas and markers of many output fields."""
    inputs = between(rng, 40, 500)
    rules = inputs * between(rng, 1.3, 8)
    shape = Shape(
        instructions=between(rng, 40, 200),
        fields=rules * rng.uniform(0.05, 0.3),
        format=rules,
        inputs=tuple((each, inputs / 2) for each in rng.sample(_FIELDS, 2)),
    )
    return _predictor(rng, name, shape, round(between(rng, 60, 500)))


def reread(rng: random.Random, name: str) -> Predictor:
    """An agent whose tool returns much, which each later turn is given again."""
    shape = _balanced(rng, 300, 1_200)
    shape = replace(shape, tools=rng.uniform(0.1, 0.25) * shape.tokens)
    found = _predictor(rng, name, shape)
    turns, entries = rng.randint(6, 18), rng.randint(4, 20)
    _turns(rng, found, shape, turns, entries, between(rng, 150, 2_000), rng.choice(("search", "fetch_page", "run_sql")))
    return found


def growth(rng: random.Random, name: str) -> Predictor:
    """A conversation that goes on within one entry, and is given whole with each turn."""
    shape = _balanced(rng, 200, 800)
    found = _predictor(rng, name, shape)
    _turns(rng, found, shape, rng.randint(6, 20), rng.randint(4, 20), between(rng, 100, 1_000), "")
    return found


def window(rng: random.Random, name: str) -> Predictor:
    """Prompts that nearly fill the model's context window, with several long fields."""
    model = rng.choice(list(WINDOWS))
    full = WINDOWS[model] * rng.uniform(0.78, 0.97)
    shape = _balanced(rng, full * 0.1, full * 0.15, fields=2)
    found = _predictor(rng, name, shape, round(between(rng, 12, 60)))
    names = rng.sample([each for each in _FIELDS if each not in dict(shape.inputs)], rng.randint(2, 4))
    for asked in found.calls:
        rest = full * rng.uniform(0.75, 1.0) - sum(piece.tokens for piece in asked.pieces)
        sizes = [rng.uniform(0.5, 1.5) for _ in names]
        asked.pieces += [
            Piece(f"input:{each}", rest * size / sum(sizes)) for each, size in zip(names, sizes, strict=True)
        ]
    found.model, found.tokenizer = model, 1.0
    return found


def cache(rng: random.Random, name: str) -> Predictor:
    """A long beginning that is the same in all prompts, and yet the provider's cache has little of it."""
    whole = between(rng, 2_500, 12_000)
    number = rng.randint(3, 5)
    some = [rng.uniform(0.7, 1.3) for _ in range(4)]
    sizes = [whole * each / sum(some) for each in some]
    inputs = whole * rng.uniform(0.2, 0.6)
    shape = Shape(
        instructions=sizes[0],
        fields=sizes[1] * 0.3,
        format=sizes[1] * 0.7,
        demos=(sizes[2] / number,) * number,
        tools=sizes[3],
        inputs=tuple((each, inputs / 3) for each in rng.sample(_FIELDS, 3)),
    )
    found = _predictor(rng, name, shape)
    why = rng.choice(("date in the instructions", "field before the demos", "not asked for", "cold"))
    found.model = rng.choice(ON_REQUEST if why == "not asked for" else AUTOMATIC)
    found.hits = rng.uniform(0.0, 0.15) if why == "cold" else 0.0 if why == "not asked for" else 0.9
    for asked in found.calls:
        if why == "date in the instructions":
            asked.changed = next(i for i, piece in enumerate(asked.pieces) if piece.part == "instructions")
            if rng.random() < 0.5:  # at the very beginning of the prompt
                asked.pieces.insert(0, asked.pieces.pop(asked.changed))
                asked.changed = 0
        elif why == "field before the demos":
            asked.changed = next(i for i, piece in enumerate(asked.pieces) if piece.part == "demos")
            asked.pieces.insert(asked.changed, Piece("input:today", rng.uniform(4, 30)))
    return found


def waste(rng: random.Random, name: str) -> Predictor:
    """Answers that cannot be read, calls that fail, or attempts that others replace."""
    found = _predictor(rng, name, _balanced(rng, 500, 3_000), round(between(rng, 30, 200)))
    found.wasted = rng.choice(("failed_parses", "retries", "stragglers")), rng.uniform(0.15, 0.6)
    return found


CAUSES: Final[dict[str, Callable[[random.Random, str], Predictor]]] = {
    "demos": demos,
    "reread": reread,
    "window": window,
    "format": formats,
    "cache": cache,
    "input": given,
    "instructions": instructions,
    "tools": tools,
    "growth": growth,
    "history": history,
    "waste": waste,
    "media": media,
}


def seeded(seed: int, cause: str) -> Program:
    """Return a program with a cause, among up to four predictors without. The one that has it is a fifth of the cost, or more."""
    rng = random.Random(f"{cause} {seed}")
    names = rng.sample(_NAMES, rng.randint(1, 5))
    found = [_predictor(rng, name, _balanced(rng)) for name in names[1:]]
    guilty = CAUSES[cause](rng, names[0])
    others, own = sum(map(_worth, found)), _worth(guilty)
    if own < LEAST_SHARE * (own + others):
        guilty.calls *= math.ceil(others * LEAST_SHARE / (1 - LEAST_SHARE) / own)
    found.insert(rng.randint(0, len(found)), guilty)
    return Program(found, cause, f"Program.{names[0]}")


def _worth(predictor: Predictor) -> float:
    """Return about what a predictor's calls cost, in dollars."""
    prices = _PRICES[predictor.model]
    return (
        sum(
            sum(piece.tokens for piece in call.pieces) * prices[0] + call.output * prices[1] for call in predictor.calls
        )
        / 1e6
    )


def programs(seeds: range) -> Iterator[tuple[int, Program]]:
    """Yield a program for each seed; the causes take turns."""
    causes = list(CAUSES)
    for seed in seeds:
        yield seed, seeded(seed, causes[seed % len(causes)])


# -- healthy programs -----------------------------------------------------------------------------------------------------------


def healthy(kind: int, seed: int) -> Program:
    """Return a program without a cause: one of ten kinds."""
    rng = random.Random(f"healthy {kind} {seed}")
    names = rng.sample(_NAMES, 5)

    def one(shape: Shape, calls: int = 0) -> Program:
        return Program([_predictor(rng, names[0], shape, calls)])

    if kind == 0:  # one predictor with two fields
        return one(_balanced(rng))
    if kind == 1:  # retrieval: some passages, a question and a few demos
        whole = between(rng, 900, 3_000)
        passages = whole * rng.uniform(0.4, 0.55)
        rest = _balanced(rng, whole - passages, whole - passages + 1, fields=2)
        return one(replace(rest, inputs=(("passages", passages), *rest.inputs)))
    if kind == 2:  # a pipeline of five
        return Program([_predictor(rng, name, _balanced(rng)) for name in names])
    if kind == 3:  # an agent of a few turns, whose tool returns little
        shape = replace(_balanced(rng, 500, 1_200), tools=between(rng, 80, 250))
        found = _predictor(rng, names[0], shape)
        _turns(rng, found, shape, rng.randint(2, 4), rng.randint(5, 25), between(rng, 40, 120), "lookup")
        return Program([found])
    if kind == 4:  # few calls, of whatever shape: nothing can be said of them
        cause = rng.choice(("demos", "format", "input", "instructions", "tools", "history", "waste"))
        found = CAUSES[cause](rng, names[0])
        found.calls = found.calls[: rng.randint(1, 3)]
        found.wasted = ("", 0.0)
        return Program([found])
    if kind == 5:  # many tiny calls: short instructions, a question, an answer
        shape = Shape(between(rng, 15, 40), 30, between(rng, 60, 120), inputs=(("question", 25), ("hint", 20)))
        return one(shape, 300)
    if kind == 6:  # two to four demos, which are a third of the prompt
        whole = between(rng, 600, 2_500)
        rest = replace(_balanced(rng, whole, whole + 1), demos=())
        number = rng.randint(2, 4)
        return one(replace(rest, demos=(rest.tokens * 0.5 / number,) * number))
    if kind == 7:  # a long beginning that the provider's cache has
        shape = _balanced(rng, 4_000, 9_000)
        found = _predictor(rng, names[0], shape, 80)
        found.model, found.hits = rng.choice((*AUTOMATIC, *ON_REQUEST)), rng.uniform(0.85, 0.98)
        return Program([found])
    if kind == 8:  # long answers, such as those of a model that reasons
        found = _predictor(rng, names[0], _balanced(rng), 60)
        for asked in found.calls:
            asked.output = round(between(rng, 1_000, 6_000))
        return Program([found])
    # a small predictor of one cause beside large ones: it is not worth a sentence
    large = [_predictor(rng, name, _balanced(rng, 3_000, 5_000), 300) for name in names[1:3]]
    small = CAUSES[rng.choice(("demos", "instructions", "input"))](rng, names[0])
    small.calls = small.calls[:6]
    for each in (*large, small):
        each.model, each.hits = "openai/gpt-4o-mini", 0.9
    return Program([*large, small])
