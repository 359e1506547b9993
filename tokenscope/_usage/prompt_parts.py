"""Input by part of the prompt: what a call was billed for is apportioned to the pieces of its prompt.

Prompts are measured when calls begin. When a call has ended, the input tokens that it was billed for are apportioned to the
pieces of its prompt, so that the parts of each call add up to its input.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp
from operator import add, sub
from typing import Final

from tokenscope._usage.call_sizes import Measured
from tokenscope._usage.calls import Call
from tokenscope._usage.keys import PartView, UsageKey, key_of, part_key
from tokenscope._usage.prompts import MEDIA, OTHER_INPUT, USUAL_ERROR, Piece, Prompt
from tokenscope._usage.usage import NO_DOLLARS, ZERO_COUNTS, Counts

MOST_TURNS: Final = 32
"""How many turns are told apart; later ones are counted with the last of these."""
_MOST_A_MESSAGE: Final = 8.0
"""How many tokens beyond its text a message may have: its role, and what separates it from others (OpenAI bills 3 or 4)."""
_USUAL_A_MESSAGE: Final = 4.0
"""How many OpenAI bills."""
_LARGEST_ERROR: Final = 0.5
_NOTHING: Final = 1e-6  # tokens
_OTHER: Final = Piece(OTHER_INPUT, 0.0)


def parts_of(call: Call) -> dict[UsageKey, Counts]:
    """Return the input of a call by part of its prompt, and further views of it (see `PartView`)."""
    return sum_parts((call,))


def sum_parts(calls: Iterable[Call]) -> dict[UsageKey, Counts]:
    """Return the input of calls by part of their prompts, and further views of it.

    A key's `calls` are those whose prompts had the part; of the view `items`, how many demos or messages it was made of.
    """
    sums: dict[tuple[UsageKey, int], _Sums] = {}
    for number, call in enumerate(calls):
        if is_measured(call):
            assert call.prompt is not None
            # As the whole call is priced, but by the table of prices, even if the provider has told what the call cost.
            key, counts = call.key, call.counts
            if key.source != "table":
                key = key_of(key.model, counts._replace(cost=NO_DOLLARS), call.started, source="table")
            place = key, min(call.prompt.turn, MOST_TURNS)
            found = sums.get(place)
            if found is None:
                found = sums[place] = {}
            _add_call(found, number, call.prompt, counts)
    return {
        part_key(key, name, turn, view): ZERO_COUNTS._replace(
            calls=calls,
            input_tokens=tokens,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
            input_audio_tokens=audio,
        )
        for (key, turn), found in sums.items()
        for (name, view), (_, calls, tokens, read, written, hour, audio) in found.items()
    }


def is_measured(call: Call) -> bool:
    """Whether a call had input, and its prompt was measured. An answer from DSPy's cache had none."""
    return call.prompt is not None and call.counts.input_tokens > 0 and call.key.source != "cache"


def sizes_of(call: Call) -> Measured:
    """Return how large a measured call was: its model, input and output tokens, seconds, and what has measured its prompt."""
    assert call.prompt is not None
    counts = call.counts
    return call.key.model, counts.input_tokens, counts.output_tokens, call.seconds, call.prompt.measured_by


_Sums = dict[tuple[str, PartView], list[int]]
"""By part and view: the number of the last call, how many calls, and the tokens: all, and those of four kinds among them."""


def _add_call(sums: _Sums, number: int, prompt: Prompt, counts: Counts) -> None:
    """Add one call. A provider's cache holds the beginning of a prompt, and audio is in media first."""
    tokens = _apportioned(prompt, counts.input_tokens)
    read, written, hour = counts.cache_read_tokens, counts.cache_write_tokens, counts.cache_write_1h_tokens
    audio = _audio(prompt, tokens, counts.input_audio_tokens) if counts.input_audio_tokens else None
    changed = 0
    for index, some in enumerate(tokens):
        if not some:
            continue
        piece = prompt.pieces[index] if index < len(prompt.pieces) else _OTHER
        from_cache = to_cache = for_an_hour = 0
        if read:
            from_cache = min(read, some)
            read -= from_cache
        if written:
            to_cache = min(written, some - from_cache)
            for_an_hour = min(hour, to_cache)
            written -= to_cache
            hour -= for_an_hour
        heard = audio[index] if audio else 0
        is_special = from_cache or to_cache or heard or piece.carried > 0 or piece.tool or piece.items
        if not is_special:  # most are not
            place: tuple[str, PartView] = (piece.part, "part")
            found = sums.get(place)
            if found is None:
                sums[place] = [number, 1, some, 0, 0, 0, 0]
            else:
                if found[0] != number:
                    found[0] = number
                    found[1] += 1
                found[2] += some
            if index >= prompt.changed >= 0:
                changed += some
            continue
        _add(sums, (piece.part, "part"), number, 1, some, from_cache, to_cache, for_an_hour, heard)
        if piece.items:
            _add(sums, (piece.part, "items"), number, piece.items, some, from_cache, to_cache, for_an_hour, heard)
            sums[piece.part, "items"][0] = -1  # all of them are counted
        if index >= prompt.changed >= 0:
            name = prompt.pieces[prompt.changed].part
            _add(sums, (name, "changed"), number, 1, some, from_cache, to_cache, for_an_hour, heard)
        if piece.carried <= 0:
            if piece.tool:
                _add(sums, (piece.tool, "made"), number, 1, some, from_cache, to_cache, for_an_hour, heard)
            continue
        carried = some if piece.carried >= piece.tokens else round(some * piece.carried / piece.tokens)
        carried_from = min(from_cache, carried)  # the first tokens of a piece are those that were there before
        carried_to = min(to_cache, carried - carried_from)
        first = carried, carried_from, carried_to, min(for_an_hour, carried_to), min(heard, carried)
        _add(sums, (piece.part, "carried"), number, 1, *first)
        if piece.tool:
            _add(sums, (piece.tool, "reread"), number, 1, *first)
            whole = some, from_cache, to_cache, for_an_hour, heard
            _add(sums, (piece.tool, "made"), number, 1, *map(sub, whole, first))
    if changed:
        _add(sums, (prompt.pieces[prompt.changed].part, "changed"), number, 1, changed, 0, 0, 0, 0)


def _add(sums: _Sums, place: tuple[str, PartView], number: int, calls: int, some: int, *kinds: int) -> None:
    if not some:
        return
    found = sums.get(place)
    if found is None:
        sums[place] = [number, calls, some, *kinds]
        return
    if found[0] != number:
        found[0] = number
        found[1] += calls
    found[2] += some
    if any(kinds):
        found[3:] = map(add, found[3:], kinds)


def _apportioned(prompt: Prompt, billed: int) -> list[int]:
    """Return the tokens of each piece, and of what is billed beyond: whole numbers that add up to what is billed."""
    measured = [piece.tokens for piece in prompt.pieces]
    text = sum(measured)
    guessed = sum([piece.guessed for piece in prompt.pieces])
    if prompt.is_exact and text != billed and guessed > _NOTHING:
        factor = _correction(billed - text, guessed, prompt)
        measured = [piece.tokens + piece.guessed * factor for piece in prompt.pieces]
        text = sum(measured)
    media = [index for index, piece in enumerate(prompt.pieces) if piece.part == MEDIA]
    if media and text < billed:
        for index in media:
            measured[index] += (billed - text) / len(media)
    elif text <= _NOTHING:
        measured.append(float(billed))
    elif prompt.is_exact and text < billed:
        beyond = billed - text
        if messages := sum([piece.messages for piece in prompt.pieces]):
            each_has = min(beyond / messages, _MOST_A_MESSAGE)
            measured = [
                tokens + each_has * piece.messages for tokens, piece in zip(measured, prompt.pieces, strict=True)
            ]
            beyond -= each_has * messages
        measured.append(beyond)
    elif text != billed:
        scale = billed / text
        measured = [each * scale for each in measured]
    tokens = [int(each) for each in measured]
    if missing := billed - sum(tokens):
        # The largest remainders are rounded up; among equal ones, the first.
        for index in sorted(range(len(tokens)), key=lambda index: tokens[index] - measured[index])[:missing]:
            tokens[index] += 1
    return tokens


def _correction(beyond: float, guessed: float, prompt: Prompt) -> float:
    """Return by what share estimates are to grow: what was read by the tokenizer is exact, so that they are what is off.

    Some of what is billed beyond the text is for the messages. If it is not known how much, it is what is usual, or nothing: what
    fits better counts more.
    """
    messages = sum([piece.messages for piece in prompt.pieces])
    if prompt.message_overhead >= 0:
        share = (beyond - prompt.message_overhead * messages) / guessed
    else:
        others = beyond - _USUAL_A_MESSAGE * messages
        doubt = 2 * (USUAL_ERROR * guessed) ** 2
        odds = exp(max(-50.0, min(50.0, (others * others - beyond * beyond) / doubt)))
        share = (others + beyond * odds) / (1 + odds) / guessed
    return max(-_LARGEST_ERROR, min(_LARGEST_ERROR, share))


def _audio(prompt: Prompt, tokens: list[int], audio: int) -> list[int]:
    """Return how many audio tokens each piece has."""
    found = [0] * len(tokens)
    parts = [piece.part for piece in (*prompt.pieces, _OTHER)]
    for index in sorted(range(len(tokens)), key=lambda index: parts[index] != MEDIA):
        found[index] = min(audio, tokens[index])
        audio -= found[index]
    return found
