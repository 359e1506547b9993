"""`CallSizes`: how large and how slow the calls of one path are, as quantiles of input, output and seconds a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tokenscope._usage.sketch import EMPTY, Sketch

MOST_NAMES: Final = 3
"""How many models, and how many tokenizers, are kept of a path: with the sketches, at most 1.5 kB."""
MOST_LETTERS: Final = 64
"""Longer names of models lose letters in their midst: a provider begins them, and Amazon's end with what tells the window."""
_FIRST_LETTERS: Final = 15
MOST_OF_TOKENIZERS: Final = 32
"""Letters of the names of tokenizers."""

Measured = tuple[str, int, int, float, str]
"""A call: `provider/model`, input tokens, output tokens, seconds, and what measured its prompt; empty if nothing has."""


@dataclass(frozen=True, slots=True)
class CallSizes:
    """What is kept of the sizes of one path's calls: frozen, and a monoid under `+` (so `sum` works).

    Args:
        input: Input tokens per call. It has `p50` (the median), `p95` (the 95th percentile), both within 1%, and `max`.
        output: Output tokens per call, likewise.
        seconds: Seconds per call, likewise.
        longest: The models with the longest calls, at most `MOST_NAMES`, and the most input tokens that a call of each had; the
            longest first.
        measured_by: What measured the prompts, at most `MOST_NAMES`: names of tokenizers, or `bytes`; in alphabetical order.

    Example:
        >>> from tokenscope import CallSizes
        >>> sizes = CallSizes.of([("openai/gpt-4o", 1_200, 80, 1.5, "bytes"), ("openai/gpt-4o", 9_000, 60, 2.5, "bytes")])
        >>> sizes.calls, sizes.input.max, sizes.longest
        (2, 9000.0, (('openai/gpt-4o', 9000),))
    """

    input: Sketch = EMPTY
    output: Sketch = EMPTY
    seconds: Sketch = EMPTY
    longest: tuple[tuple[str, int], ...] = ()
    measured_by: tuple[str, ...] = ()

    @classmethod
    def of(cls, calls: Iterable[Measured]) -> CallSizes:
        """Return the sizes of some calls.

        Raises:
            ValueError: a number is negative, infinite or NaN.
        """
        columns = [*zip(*calls, strict=True)]
        if not columns:
            return _NO_CALLS
        models, inputs, outputs, seconds, measured_by = columns
        longest: dict[str, int] = {}
        for model, tokens in zip(models, inputs, strict=True):
            if tokens >= longest.get(model, 0):
                longest[model] = tokens
        return cls(
            Sketch.of(inputs),
            Sketch.of(outputs),
            Sketch.of(seconds),
            _longest(longest.items()),
            _names(measured_by),
        )

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return self.input.count

    @property
    def window_share(self) -> float | None:
        """The largest share of its model's context window that a call's input has filled; None if no model's window is known.

        The windows are those of genai-prices.
        """
        from tokenscope._usage.windows import context_window

        shares = [tokens / window for model, tokens in self.longest if (window := context_window(model))]
        return max(shares, default=None)

    def __bool__(self) -> bool:
        return self.calls > 0

    def __add__(self, other: object) -> CallSizes:
        if not isinstance(other, CallSizes):
            return NotImplemented
        return CallSizes(
            self.input + other.input,
            self.output + other.output,
            self.seconds + other.seconds,
            _longest(self.longest, other.longest),
            _names(self.measured_by, other.measured_by),
        )

    def __radd__(self, other: Literal[0]) -> CallSizes:
        """Make `sum` work, which begins with 0."""
        return self if other == 0 else NotImplemented

    def __sub__(self, other: object) -> CallSizes:
        """Return what was added to `other` to make this one: `newer - older`.

        A model's longest call stays if it is longer than before, or if a call of this length may be among the rest. What measured
        the prompts stays as long as there are calls.

        Raises:
            ValueError: `other` has calls that this one has not.
        """
        if not isinstance(other, CallSizes):
            return NotImplemented
        inputs, outputs, seconds = self.input - other.input, self.output - other.output, self.seconds - other.seconds
        if not inputs:
            return _NO_CALLS
        before = dict(other.longest)
        longest = tuple(
            (model, tokens)
            for model, tokens in self.longest
            if tokens > before.get(model, -1) or inputs.may_hold(tokens)
        )
        return CallSizes(inputs, outputs, seconds, longest, self.measured_by)

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON has it; `from_dict` reads it."""
        return {
            "calls": self.calls,
            "input": self.input.to_dict(),
            "output": self.output.to_dict(),
            "seconds": self.seconds.to_dict(),
            "longest": dict(self.longest),
            "measured_by": list(self.measured_by),
        }

    @classmethod
    def from_dict(cls, found: object) -> CallSizes:
        """Return the sizes that `to_dict` has returned, from JSON.

        Raises:
            TypeError: something has another type.
            ValueError: something is not what `to_dict` returns.
        """
        if not isinstance(found, Mapping):
            raise TypeError(f"call sizes must be an object, not {type(found).__name__}")
        inputs, outputs, seconds = (_sketch_of(found, name) for name in ("input", "output", "seconds"))
        calls, longest, measured_by = found.get("calls"), found.get("longest"), found.get("measured_by")
        if type(calls) is not int:
            raise TypeError(f"the calls of call sizes must be an int, not {type(calls).__name__}")
        if not calls == inputs.count == outputs.count == seconds.count:
            numbers = f"{inputs.count:,}, {outputs.count:,} and {seconds.count:,}"
            raise ValueError(f"call sizes of {calls:,} calls have {numbers} values of input, output and seconds")
        if not isinstance(longest, Mapping):
            raise TypeError(f"the longest of call sizes must be an object, not {type(longest).__name__}")
        if not isinstance(measured_by, list):
            raise TypeError(f"the measured_by of call sizes must be a list, not {type(measured_by).__name__}")
        _check_names("longest", longest, MOST_LETTERS)
        _check_names("measured_by", measured_by, MOST_OF_TOKENIZERS)
        for model, tokens in longest.items():
            if type(tokens) is not int:
                raise TypeError(f"the longest call of {model!r} must be an int, not {type(tokens).__name__}")
            if not 0 <= tokens <= _MOST_TOKENS:
                raise ValueError(
                    f"the longest call of {model!r} must be from 0 to {_MOST_TOKENS:,} tokens, but is {tokens:,}"
                )
        return cls(inputs, outputs, seconds, _longest(longest.items()), _names(measured_by))


_NO_CALLS: Final = CallSizes()
_MOST_TOKENS: Final = 10**15


def _longest(*several: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Return the models with the longest calls, and the tokens of these."""
    found: dict[str, int] = {}
    for some in several:
        for name, tokens in some:
            model = _shortened(name)
            found[model] = max(min(tokens, _MOST_TOKENS), found.get(model, 0))
    return tuple(sorted(found.items(), key=lambda each: (-each[1], each[0]))[:MOST_NAMES])


def _shortened(model: str) -> str:
    if len(model) <= MOST_LETTERS:
        return model
    return f"{model[:_FIRST_LETTERS]}…{model[_FIRST_LETTERS + 1 - MOST_LETTERS :]}"


def _names(*several: Iterable[str]) -> tuple[str, ...]:
    """Return the first names in alphabetical order."""
    found = {name[:MOST_OF_TOKENIZERS] for some in several for name in some}
    return tuple(sorted(found - {""})[:MOST_NAMES])


def _sketch_of(found: Mapping[Any, Any], name: str) -> Sketch:
    try:
        return Sketch.from_dict(found.get(name))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _check_names(what: str, names: Iterable[object], most: int) -> None:
    several = [*names]
    if len(several) > MOST_NAMES:
        raise ValueError(f"the {what} of call sizes has {len(several):,} names, more than {MOST_NAMES}")
    for name in several:
        if not isinstance(name, str):
            raise TypeError(f"a name in {what} of call sizes must be a str, not {type(name).__name__}")
        if len(name) > most:
            raise ValueError(f"a name in {what} of call sizes has {len(name):,} letters, more than {most}")
