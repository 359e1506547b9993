"""How many tokens texts have: exact where a tokenizer has read them, estimated until then.

A tokenizer takes about a tenth of a millisecond for a thousand characters, so each call may have only so much read. What comes
again in each call (instructions, demos, tools) is soon exact: its length is kept, and long texts are read in several calls. Of
what is new each time, the tokenizer reads a sample, and what it finds corrects the estimates for that part of that prompt. Texts
are never kept: only their hashes and lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final

from tokenscope._providers.prompts.estimate import estimate, stretches
from tokenscope._providers.prompts.tokenizers import Tokenizer, choose, loaded
from tokenscope._usage.prompts import MEDIA, OTHER_INPUT, USUAL_ERROR, Prompt

Key = tuple[int, int]
"""What is kept of a text: its hash and its length in characters."""
Counter = Callable[[str], int]
Length = tuple[float, float]
"""How many tokens a text has, and how many of these are an estimate, which a tokenizer would correct."""
# How much is kept.
_MOST_TEXTS: Final = 4_096  # whose lengths are kept; as many again that were asked for before those
_MOST_PLACES: Final = 4_096

# How much a tokenizer reads: in the first calls of a place much, as they are to be measured well soon.
_FIRST_CALLS: Final = 8
_MANY_CALLS: Final = 64  # after these, only some calls have anything new read
_SELDOM: Final = 16  # one in so many
_MOST: Final = 3_000  # bytes in the very first call, which has most to do besides
_MUCH: Final = 4_000  # in the others of the first calls
_LITTLE: Final = 600  # in later ones
_SHORT: Final = 256  # bytes of a text that is read even if no more may be, a few of them
_FEW: Final = 512
_SAMPLE: Final = 400  # characters of a stretch
_LEAST: Final = 64  # bytes that are worth to be read
_LONG_WORD: Final = 256  # characters: for words longer than twice that, tokenizers take long
_LONGEST_WORD: Final = 128  # these are read in pieces of so many

# What estimates are corrected by.
FORMAT: Final = "format"
_CORRECTIONS: Final = {"fields": 0.97, FORMAT: 0.91}
"""Of estimates by bytes, for what DSPy's adapters write: the medians of 35 prompts of theirs, by `o200k_base`."""
_SAME: Final = frozenset({"instructions", "fields", FORMAT, "tools"})
"""Parts that come again in each call: they are soon exact, and teach nothing of what is guessed."""
_NOTHING: Final = (0.0, 0.0)
_MEMORY: Final = 4_000.0  # tokens: of a place's samples, older ones count less
_KNOWN: Final = 200.0  # tokens of a place that were read: then texts that are read whole teach no more of it
_WELL_KNOWN: Final = 500.0  # the same: then a look at few characters of a text is enough for its estimate
_GLANCE: Final = 480  # characters
_DOUBT: Final = 50.0  # tokens: how much of a place's own must be read until it counts as much as all places together

# What bills tell of messages.
UNSURE: Final = frozenset({MEDIA, OTHER_INPUT})
"""Parts of which it is not known what is billed for them."""
_MANY_BILLS: Final = 256  # after which no more are looked at
_MOST_LEARNED_OF: Final = 12.0  # tokens of a message beyond its text: what a bill has more is for something else
_DOUBT_OF_OPTIONS: Final = 4.0  # times that of a guess: OpenAI, for instance, gives tools to models in another form


def key_of(text: str) -> Key:
    """Return what is kept of a text."""
    return hash(text), len(text)


class Allowance:
    """How much one call may have read, in bytes."""

    __slots__ = ("exact", "left", "left_for_short", "place")

    def __init__(self, place: Hashable, left: int) -> None:
        self.place = place
        self.left = left
        self.left_for_short = _FEW if left else 0
        self.exact = True  # whether all that was measured since this was set is exact


class Meter:
    """Measures texts with one tokenizer, or by their bytes.

    Args:
        tokenizer: The tokenizer; None for bytes.
        is_exact: Whether the tokenizer is the model's own.
    """

    def __init__(self, tokenizer: Tokenizer | None, *, is_exact: bool) -> None:
        self.name = "bytes" if tokenizer is None else tokenizer.name
        self.is_exact = is_exact
        self._count = None if tokenizer is None else tokenizer.read
        self._slowness = 1 if tokenizer is None else tokenizer.slowness
        self._known: dict[Key, Length] = {}
        self._known_before: dict[Key, Length] = {}
        self._begun: dict[Key, tuple[int, float]] = {}  # how many characters of long texts were read, and their tokens
        # By place, how many tokens were read, and how many were estimated of the same texts.
        self._ratios: dict[Hashable, tuple[float, float]] = {}
        self._calls: dict[Hashable, int] = {}
        self._billed = 0.0, 0.0, 0  # for each message beyond its text, weighted; the weights; how many bills were read
        self.message_overhead = -1.0
        """How many tokens are billed for a message beyond its text; -1 while that is not known."""
        self._noted = 0  # how many bills were looked at
        self.is_learning = is_exact
        """Whether bills can tell more of that."""

    def allow(self, place: Hashable) -> Allowance:
        """Return how much the next call from a place may have read."""
        calls = self._calls.get(place, 0)
        if not calls and len(self._calls) >= _MOST_PLACES:
            self._calls.clear()
        self._calls[place] = calls + 1
        if self._count is None or (calls >= _MANY_CALLS and calls % _SELDOM):
            return Allowance(place, 0)
        size = _MOST if not calls else _MUCH if calls < _FIRST_CALLS else _LITTLE
        return Allowance(place, size // self._slowness)

    def note_bill(self, prompt: Prompt, billed: int) -> None:
        """Learn what messages are billed beyond their texts; the less of a prompt was guessed, the more it tells."""
        self._noted += 1
        self.is_learning = self._noted < _MANY_BILLS
        beyond, messages, guessed = float(billed), 0, 0.0
        for piece in prompt.pieces:
            if piece.part in UNSURE:
                return
            beyond -= piece.tokens
            messages += piece.messages
            guessed += piece.guessed
            if piece.part == "tools" or (piece.part == FORMAT and not piece.messages):  # a schema
                guessed += _DOUBT_OF_OPTIONS * piece.tokens
        if not messages or not -_MOST_LEARNED_OF < beyond / messages < _MOST_LEARNED_OF:
            return
        doubt = (1 + USUAL_ERROR * guessed) / messages  # tokens of each message
        weight = 1 / (doubt * doubt)
        total, weights, bills = self._billed
        total, weights, bills = total + weight * beyond / messages, weights + weight, bills + 1
        self._billed = total, weights, bills
        self.is_learning = self.is_learning and bills < _MANY_CALLS
        if weights > 1:
            self.message_overhead = max(0.0, total / weights)

    def measure(self, text: str, key: Key, allowance: Allowance, part: str = "") -> Length:
        """Return how many tokens a text has.

        Args:
            text: The text.
            key: Its key.
            allowance: How much of it may be read.
            part: What it is; texts of one part of one place are alike.
        """
        length = self._measured(text, key, allowance, part)
        return self._guess(text, key, (allowance.place, part)) if length is None else length

    def measure_all(self, texts: Sequence[tuple[str, Key]], allowance: Allowance, part: str) -> Length:
        """Return how many tokens some texts of one part have. Those that may not be read are estimated at once, as one text."""
        place = allowance.place, part
        tokens = guessed = 0.0
        rest: list[str] = []
        for text, key in texts:
            length = self._measured(text, key, allowance, part)
            if length is None and key not in self._begun:
                rest.append(text)
                continue
            length = length or self._guess(text, key, place)
            tokens += length[0]
            guessed += length[1]
        if rest:
            length = self._guess("".join(rest), (0, 0), place)
            tokens += length[0]
            guessed += length[1]
        return tokens, guessed

    def _measured(self, text: str, key: Key, allowance: Allowance, part: str) -> Length | None:
        """Return how many tokens a text has; None if it is not known and no more may be read."""
        length = self._known.get(key)
        if length is not None:
            return length
        if (length := self._known_before.get(key)) is not None:
            return self._keep(key, length)
        count = self._count
        if count is None:
            return self._keep(key, (estimate(text) * _CORRECTIONS.get(part, 1.0), 0.0))
        left = allowance.left
        size = key[1] if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        is_short = size <= _SHORT and size <= allowance.left_for_short
        if size <= left or is_short:
            if is_short:
                allowance.left_for_short -= size
            else:
                allowance.left = left - size
            tokens = float(_read(count, text))
            place = allowance.place, part
            if part not in _SAME and self._ratios.get(place, _NOTHING)[0] < _KNOWN:
                self._learn(place, tokens, estimate(text))
            if self._begun:
                self._begun.pop(key, None)
            return self._keep(key, (tokens, 0.0))
        allowance.exact = False
        place = allowance.place, part
        if left < _LEAST:
            return None
        allowance.left = 0
        characters = left * key[1] // size
        if key not in self._begun:  # it may never come again
            if len(self._begun) >= _MOST_TEXTS:
                self._begun.clear()
            self._begun[key] = 0, 0.0
            return self._sample(count, text, characters, place)
        return self._go_on(count, text, key, characters, place)

    def _sample(self, count: Counter, text: str, characters: int, place: Hashable) -> Length:
        """Read as much of a text, here and there."""
        read = guessed = 0.0
        number = max(1, characters // _SAMPLE)
        for stretch in stretches(text, number, characters // number):
            whole = stretch[max(0, stretch.find(" ")) :]
            read += _read(count, whole)
            guessed += estimate(whole)
        self._learn(place, read, guessed)
        tokens = estimate(text) * read / guessed
        return tokens, tokens

    def _go_on(self, count: Counter, text: str, key: Key, characters: int, place: Hashable) -> Length:
        """Read on in a text that has come before."""
        done, tokens = self._begun[key]
        end = done + characters
        if end < len(text) and (cut := text.rfind(" ", done + 1, end)) > 0:
            end = cut
        tokens += _read(count, text[done:end])
        if end >= len(text):
            self._begun.pop(key, None)
            return self._keep(key, (tokens, 0.0))
        self._begun[key] = end, tokens
        rest, _ = self._guess(text[end:], (0, 0), place)
        return tokens + rest, rest

    def _keep(self, key: Key, length: Length) -> Length:
        if len(self._known) >= _MOST_TEXTS:
            self._known_before, self._known = self._known, {}
        self._known[key] = length
        return length

    def _learn(self, place: Hashable, read: float, guessed: float) -> None:
        if len(self._ratios) >= _MOST_PLACES:
            self._ratios.clear()
        for each in (place, None):
            tokens, estimated = self._ratios.get(each, (0.0, 0.0))
            fade = 0.5 if tokens > _MEMORY else 1.0
            self._ratios[each] = tokens * fade + read, estimated * fade + guessed

    def _guess(self, text: str, key: Key, place: Hashable) -> Length:
        """Return about how many tokens a text has, corrected by what was read of others like it."""
        if key in self._begun and (begun := self._begun[key])[0]:
            done, before = begun
            rest, _ = self._guess(text[done:], (0, 0), place)
            return before + rest, rest
        all_read, all_guessed = self._ratios.get(None, (0.0, 0.0))
        usual = all_read / all_guessed if all_guessed else 1.0
        read, guessed = self._ratios.get(place, (0.0, 0.0))
        estimated = estimate(text) if read < _WELL_KNOWN else estimate(text, _GLANCE)
        tokens = estimated * (read + _DOUBT * usual) / (guessed + _DOUBT)
        return tokens, tokens


def _read(count: Counter, text: str) -> int:
    """Return how many tokens a text has, by a tokenizer. Long words, such as images in base64, are read in pieces."""
    if len(text) > 2 * _LONG_WORD and _has_long_word(text):
        return sum(count(text[start : start + _LONGEST_WORD]) for start in range(0, len(text), _LONGEST_WORD))
    return count(text)


def _has_long_word(text: str) -> bool:
    """Whether a text has a word of more than `2 * _LONG_WORD` characters: such a word fills one of the blocks."""
    blocks = range(0, len(text) - _LONG_WORD + 1, _LONG_WORD)
    if all(" " in text[start : start + _LONG_WORD] for start in blocks):  # nearly always, and quickly seen
        return False
    return len(max(text.split(), key=len, default="")) > 2 * _LONG_WORD


_BYTES: Final = Meter(None, is_exact=False)
_meters: Final[dict[tuple[str, bool], Meter]] = {}


def forget() -> None:
    """Forget the lengths of all texts."""
    _meters.clear()


def meter_for(model: str) -> Meter:
    """Return the meter for a model: with the tokenizer that is the most alike and loaded, else by bytes."""
    chosen = choose(model)
    meter = _meters.get(chosen)
    if meter is None:
        tokenizer = loaded(chosen[0])
        if tokenizer is None:
            return _BYTES
        meter = _meters.setdefault(chosen, Meter(tokenizer, is_exact=chosen[1]))
    return meter
