"""Prompts, measured: the pieces that a prompt is made of, and how many tokens each has.

`tokenscope._providers.prompts` measures them, and keeps no text.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MEDIA: Final = "media"
OTHER_INPUT: Final = "other"
"""What is billed beyond the text, or cannot be told apart."""
USUAL_ERROR: Final = 0.05
"""How far off an estimate of a text's length is, as a share of it."""


class Piece(NamedTuple):
    """A stretch of a prompt that belongs to one part."""

    part: str
    tokens: float  # as they were measured, 0 or more, before they are apportioned; 0 of media
    carried: float = 0.0  # how many of them the prompt of the turn before held, too; of media, above 0 if it held these
    tool: str = ""  # the tool that made it
    messages: int = 0  # how many messages begin in it: providers bill a few tokens for each
    items: int = 0  # how many demos or messages it is made of, if these can be counted
    guessed: float = 0.0  # how many of its tokens are an estimate: the tokenizer has not read all of its text


class Prompt(NamedTuple):
    """A prompt, measured."""

    pieces: tuple[Piece, ...]  # in their order in the prompt
    turn: int = 1  # which call of its predictor it is, counted from the entry of the module around it
    measured_by: str = "bytes"  # the tokenizer, or `bytes`
    is_exact: bool = False  # whether that is the model's own tokenizer: then what is billed beyond is `other`
    # The index of the first piece that differs from the prompt of the call before; -1 if there was none.
    changed: int = -1
    # How many tokens are billed for each message beyond its text, as calls before have shown; -1 if that is not known.
    message_overhead: float = -1.0
