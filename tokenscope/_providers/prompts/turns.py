"""Turns: what a predictor was given in one call, compared with in its next one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, MutableMapping
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, ref

from tokenscope._providers.prompts.assembly import Stretches
from tokenscope._providers.prompts.meter import Key, key_of

_ENDS: Final = "]}"  # of lists and objects, which grow before their ends


class Value(NamedTuple):
    """The value of an input field, as the prompt of one turn had it."""

    keys: tuple[Key, ...]  # of the whole, and without the end of a list
    stretches: Stretches

    def is_begun_by(self, text: str) -> bool:
        """Whether a text begins with it, and goes on."""
        return any(0 < size < len(text) and hash(text[:size]) == key for key, size in self.keys)


def value_keys(text: str, key: Key) -> tuple[Key, ...]:
    """Return the keys by which it is found out whether a longer text begins with this one."""
    return (key, key_of(text[:-1])) if text.endswith(tuple(_ENDS)) else (key,)


class Turn:
    """One call of a predictor."""

    __slots__ = ("_call", "_held", "before", "elsewhere", "number", "steps", "stretches", "values", "whole")

    def __init__(self, number: int = 1, before: Turn | None = None, call: Any = None) -> None:
        self.number = number
        self.before = before
        self.stretches: Stretches = ()
        self.values: dict[str, Value] = {}  # by part
        self.whole: tuple[Key, ...] = ()  # of messages that were split
        self.steps: set[Key] = set()  # of trajectories
        self.elsewhere: frozenset[Key] = frozenset()
        """The steps that the prompts of other predictors held: `dspy.ReAct` gives its trajectory to two."""
        self._call = None if call is None else ref(call)
        self._held: set[Key] | None = None

    def is_of(self, call: Any) -> bool:
        """Whether it belongs to a call of the predictor: an adapter may ask twice."""
        return call is not None and self._call is not None and self._call() is call

    @property
    def held(self) -> set[Key]:
        """What its prompt held, for the next turn."""
        if self._held is None:
            self._held = {stretch.key for stretch in self.stretches}
            self._held.update(self.whole)
        return self._held


class _Turns:
    """The turns of one predictor within one entry of the module around it."""

    __slots__ = ("latest", "numbers")

    def __init__(self) -> None:
        self.numbers: Iterator[int] = itertools.count(1)
        self.latest: Turn | None = None


_turns: Final[MutableMapping[Any, dict[Any, _Turns]]] = WeakKeyDictionary()
"""By entry and predictor."""


def next_turn(entry: Any, predictor: Any, call: Any = None) -> Turn:
    """Begin the next turn of a predictor within an entry of the module around it.

    Args:
        entry: What is kept alive as long as the entry is; None where turns are not counted.
        predictor: What tells the predictor from others in the same entry.
        call: What is alive as long as the call of the predictor is, if that is known.
    """
    if entry is None:
        return Turn()
    predictors = _turns.get(entry)
    if predictors is None:
        predictors = _turns.setdefault(entry, {})
    turns = predictors.get(predictor)
    if turns is None:
        turns = predictors.setdefault(predictor, _Turns())
    latest = turns.latest
    if latest is not None and latest.is_of(call):  # it is asked again, as its first answer could not be parsed
        turn = Turn(latest.number, latest.before, call)
    else:
        turn = Turn(next(turns.numbers), latest, call)
        if latest is not None:
            latest.before = None  # or all turns would be kept
        elif len(predictors) > 1:
            known = tuple(predictors.values())  # another thread may add one
            others = [each.latest.steps for each in known if each.latest is not None]
            turn.elsewhere = frozenset().union(*others)
    turns.latest = turn
    return turn
