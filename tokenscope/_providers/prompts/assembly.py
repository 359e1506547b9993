"""A prompt put together from its measured stretches: which pieces it has, what was in the one before, and where they differ."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Final, NamedTuple

from tokenscope._providers.prompts.meter import Key, Meter
from tokenscope._usage.prompts import MEDIA, Piece, Prompt

_new_tuple: Any = tuple.__new__  # a named tuple's own constructor costs as much again
NOTHING_HELD: Final[frozenset[Key]] = frozenset()


class Stretch(NamedTuple):
    """A stretch of a prompt, measured: nothing of its text is kept but a hash and the length."""

    part: str
    key: Key
    tokens: float
    tool: str = ""  # the tool that made it
    messages: int = 0  # how many messages begin in it
    items: int = 0  # how many demos or messages it is
    guessed: float = 0.0  # how many of its tokens are an estimate


Stretches = tuple[Stretch, ...]


def assemble(
    stretches: Sequence[Stretch],
    meter: Meter,
    *,
    turn: int = 1,
    held: Container[Key] = NOTHING_HELD,
    before: Sequence[Stretch] | None = None,
) -> Prompt:
    """Put a prompt together. Neighbours that are of one part become one piece, or one for each tool.

    Args:
        stretches: What it is made of, in order.
        meter: What has measured them.
        turn: Which call of its predictor it is.
        held: What the prompt of the turn before held.
        before: What the prompt of the call before was made of; None if there was none.
    """
    differs = -1 if before is None else _first_difference(stretches, before)
    pieces: list[Piece] = []
    changed = -1
    part = None
    run: dict[str, Piece] = {}  # by tool
    for index, stretch in enumerate(stretches):
        name, key, tokens, tool, messages, items, guessed = stretch
        if name != part or index == differs:
            pieces += run.values()
            part, run = name, {}
            if index == differs:
                changed = len(pieces)
        carried = 0.0 if key not in held else tokens if name != MEDIA else 1.0
        found = run.get(tool)
        if found is not None:
            tokens += found.tokens
            carried += found.carried
            messages += found.messages
            items += found.items
            guessed += found.guessed
        run[tool] = _new_tuple(Piece, (name, tokens, carried, tool, messages, items, guessed))
    pieces += run.values()
    return Prompt(tuple(pieces), turn, meter.name, meter.is_exact, changed, meter.message_overhead)


def _first_difference(stretches: Sequence[Stretch], before: Sequence[Stretch]) -> int:
    """Return the index of the first stretch that is not as it was, or -1."""
    for index, (stretch, old) in enumerate(zip(stretches, before, strict=False)):
        if stretch.key != old.key:
            return index
    return len(before) if len(stretches) > len(before) else -1
