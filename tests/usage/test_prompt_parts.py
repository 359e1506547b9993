"""Prompts by parts: apportioning what a call's input was billed for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenscope._usage.calls import ROOT, Call
from tokenscope._usage.keys import PromptPart, key_of
from tokenscope._usage.prompt_parts import parts_of, sum_parts
from tokenscope._usage.prompts import Piece, Prompt
from tokenscope._usage.usage import Counts

MODEL = "openai/gpt-4o-mini"
NOON = 1_800_000_000.0


def parts(prompt, counts, view="part"):
    """Return the counts of a prompt's parts, or of another view on them, by name."""
    return {
        key.part.name: counts
        for key, counts in parts_of(call(prompt, counts)).items()
        if key.part is not None and key.part.view == view
    }


def call(prompt, counts, **other):
    """Return a call."""
    return Call(ROOT, key_of(MODEL, counts, NOON)._replace(**other), counts, NOON, 0.1, None, None, prompt=prompt)


def tokens(prompt, billed, view="part", **counts):
    """Return the tokens of a prompt's parts, by name."""
    found = parts(prompt, Counts(1, input_tokens=billed, **counts), view)
    return {name: each.input_tokens for name, each in found.items()}


def pieces(**tokens):
    """Return pieces of so many tokens, by part."""
    return tuple(Piece(part.replace("_", ":"), number) for part, number in tokens.items())


COUNTS = st.integers(min_value=0, max_value=10_000)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["instructions", "demos", "input:a", "media", "other"]),
            st.floats(min_value=0, max_value=5_000, allow_nan=False),
            st.floats(min_value=0, max_value=9_000, allow_nan=False),
            st.sampled_from(["", "search"]),
            st.integers(min_value=0, max_value=5),
        ),
        max_size=8,
    ),
    st.booleans(),
    st.integers(min_value=0, max_value=20_000),
    COUNTS,
    COUNTS,
    COUNTS,
    st.integers(min_value=-1, max_value=7),
)
def test_parts_add_up(given_pieces, is_exact, billed, read, written, audio, changed):
    """Whatever was measured, the parts of a call add up to its billed input, and so do the cached tokens among them."""
    found = tuple(Piece(*each) for each in given_pieces)
    prompt = Prompt(found, 1, "bytes", is_exact, changed if changed < len(found) else -1)
    read = min(read, billed)
    written = min(written, billed - read)
    counts = Counts(
        1,
        input_tokens=billed,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=written // 2,
        input_audio_tokens=min(audio, billed),
    )
    split = parts(prompt, counts).values()

    for name in ("input", "cache_read", "cache_write", "cache_write_1h", "input_audio"):
        field = f"{name}_tokens"
        assert getattr(counts, field) == sum(getattr(each, field) for each in split)
    assert all(each.calls == 1 and not each.output_tokens for each in split)
    carried, part = tokens(prompt, billed, "carried"), tokens(prompt, billed)
    assert all(0 < number <= part[name] for name, number in carried.items())
    made, reread = tokens(prompt, billed, "made"), tokens(prompt, billed, "reread")
    assert sum(made.values()) + sum(reread.values()) <= billed


def test_a_models_own_tokenizer_leaves_the_rest_to_other():
    """What is billed beyond the text is `other`, if the text was measured exactly; or else all parts get their share of it."""
    prompt = Prompt(pieces(instructions=10, demos=30), measured_by="o200k_base", is_exact=True)

    assert {"instructions": 10, "demos": 30, "other": 7} == tokens(prompt, 47)
    assert {"instructions": 5, "demos": 15} == tokens(prompt, 20)
    assert {"instructions": 12, "demos": 35} == tokens(prompt._replace(is_exact=False), 47)


def test_what_messages_are_billed_beyond_their_text():
    """A few tokens for each message belong to the part in which the message begins; what is billed beyond is `other`."""
    prompt = Prompt(
        (Piece("instructions", 10, messages=1), Piece("demos", 30, messages=4), Piece("input:a", 5)), is_exact=True
    )

    assert {"instructions": 13, "demos": 42, "input:a": 5} == tokens(prompt, 60)
    assert {"instructions": 18, "demos": 62, "input:a": 5, "other": 15} == tokens(prompt, 100)


def test_media_are_billed_beyond_the_text():
    """Images and audio have no text: they get what is billed beyond it, in equal shares."""
    prompt = Prompt(pieces(instructions=10, media=0, input_a=5) + pieces(media=0))

    assert {"instructions": 10, "media": 85, "input:a": 5} == tokens(prompt, 100)
    assert {"instructions": 7, "input:a": 3} == tokens(prompt, 10)
    assert {"media": 10} == tokens(Prompt(pieces(media=0)), 10)


def test_nothing_was_measured():
    """A prompt without any text is `other`; a call without input has no parts."""
    assert {"other": 9} == tokens(Prompt(()), 9)
    assert {"other": 9} == tokens(Prompt(pieces(demos=0)), 9)
    assert {"other": 9} == tokens(Prompt(pieces(demos=5e-324)), 9)
    assert {"demos": 5, "other": 4} == tokens(Prompt((Piece("demos", 5, guessed=5e-324),), is_exact=True), 9)
    assert {} == tokens(Prompt(pieces(demos=5)), 0)


def test_the_providers_cache_holds_the_beginning():
    """Cached tokens are those of the first pieces, as providers cache beginnings of prompts; audio is in media first."""
    prompt = Prompt(pieces(instructions=10, demos=30, media=0, input_a=10))
    counts = Counts(
        1,
        input_tokens=60,
        cache_read_tokens=15,
        cache_write_tokens=20,
        cache_write_1h_tokens=4,
        input_audio_tokens=12,
    )
    found = parts(prompt, counts)

    assert [10, 5, 0, 0] == [each.cache_read_tokens for each in found.values()]
    assert [0, 20, 0, 0] == [each.cache_write_tokens for each in found.values()]
    assert [0, 4, 0, 0] == [each.cache_write_1h_tokens for each in found.values()]
    assert [2, 0, 10, 0] == [each.input_audio_tokens for each in found.values()]


def test_carried_and_made():
    """Of each piece, the tokens that the turn before held are carried; a tool's are made or given again."""
    prompt = Prompt(
        (
            Piece("instructions", 10, 10),
            Piece("input:trajectory", 20, 5, "search"),
            Piece("input:trajectory", 30, 30, "lookup"),
            Piece("input:trajectory", 8, 0, "search"),
        ),
        turn=3,
        is_exact=True,
    )

    assert {"instructions": 10, "input:trajectory": 58} == tokens(prompt, 68)
    assert {"instructions": 10, "input:trajectory": 35} == tokens(prompt, 68, "carried")
    assert {"search": 23} == tokens(prompt, 68, "made")
    assert {"search": 5, "lookup": 30} == tokens(prompt, 68, "reread")
    cached = parts(prompt, Counts(1, input_tokens=68, cache_read_tokens=12), "made")["search"]
    assert (23, 0, 1) == (cached.input_tokens, cached.cache_read_tokens, cached.calls)


def test_the_place_where_prompts_differ():
    """The input from the first piece that differs on is counted under its part, once for each call."""
    prompt = Prompt(pieces(instructions=10, input_today=5, demos=30), is_exact=True, changed=1)

    assert {"input:today": 35} == tokens(prompt, 45, "changed")
    assert {} == tokens(prompt._replace(changed=-1), 45, "changed")
    assert 1 == parts(prompt, Counts(1, input_tokens=45), "changed")["input:today"].calls


def test_turns():
    """Parts are counted by turn; many turns are counted with the last one that is told apart."""
    for turn, counted in ((1, 1), (32, 32), (33, 32), (500, 32)):
        prompt = Prompt(pieces(demos=3), turn=turn)
        assert PromptPart("demos", counted) == next(iter(parts_of(call(prompt, Counts(1, input_tokens=3))))).part


def test_prices_are_those_of_the_whole_call():
    """A part is priced as the call's input is: by the length of the whole prompt, and by the table even if the cost is known."""
    counts = Counts(1, input_tokens=300_000, output_tokens=1)
    prompt = Prompt(pieces(instructions=1, demos=2))
    found = parts_of(call(prompt, counts, model="google/gemini-2.5-pro", tier=3))

    assert [3, 3] == [key.tier for key in found]
    known = parts_of(call(prompt, counts, source="provider"))
    assert {"table"} == {key.source for key in known}
    assert [300_000] == [sum(each.input_tokens for each in known.values())]


def test_a_cached_answer_has_no_parts():
    """An answer from DSPy's cache had no input; nor has a call without tokens, or one that was not measured."""
    prompt = Prompt(pieces(demos=3))

    assert {} == parts_of(call(prompt, Counts(1, 1, input_tokens=30), source="cache"))
    assert {} == parts_of(call(prompt, Counts(1), source="none"))
    assert {} == parts_of(call(None, Counts(1, input_tokens=30)))


def test_items():
    """How many demos or messages a part is made of is counted beside it."""
    prompt = Prompt((Piece("demos", 30, items=2), Piece("format", 5), Piece("demos", 10, items=1)), is_exact=True)
    counts = Counts(1, input_tokens=45)
    found = sum_parts([call(prompt, counts), call(prompt, counts)])
    items, whole = (found[key] for view in ("items", "part") for key in found if key.part[::2] == ("demos", view))

    assert (6, 80) == (items.calls, items.input_tokens)
    assert (2, 80) == (whole.calls, whole.input_tokens)


def test_what_was_guessed_is_corrected_by_the_bill():
    """Where the tokenizer has read all but one part, the bill tells that part's length."""

    def guessed(tokens, **options):
        pieces = (Piece("instructions", 100, messages=1), Piece("input:a", tokens, guessed=tokens))
        return Prompt(pieces, 1, "o200k_base", is_exact=True, **options)

    assert {"instructions": 100, "input:a": 440} == tokens(guessed(400, message_overhead=0.0), 540)
    assert {"instructions": 100, "input:a": 360} == tokens(guessed(400, message_overhead=0.0), 460)
    assert {"instructions": 105, "input:a": 435} == tokens(guessed(400, message_overhead=5.0), 540)


def test_what_messages_are_billed_is_taken_into_account_if_it_is_not_known():
    """Of nothing a message and of what is usual, the one that fits better counts more."""

    def guessed(billed):
        pieces = (Piece("demos", 1_000, messages=50), Piece("input:a", 100, guessed=100))
        return tokens(Prompt(pieces, 1, "o200k_base", is_exact=True), billed)

    assert {"demos": 1_000, "input:a": 101} == guessed(1_101)
    assert {"demos": 1_200, "input:a": 99} == guessed(1_299)


def test_a_guess_is_corrected_within_bounds():
    """What is billed far beyond, no guess explains: it is for something else."""
    pieces = (Piece("instructions", 100, messages=1), Piece("input:a", 100, guessed=100))
    prompt = Prompt(pieces, 1, "o200k_base", is_exact=True, message_overhead=0.0)

    assert {"instructions": 108, "input:a": 150, "other": 742} == tokens(prompt, 1_000)
    assert {"instructions": 33, "input:a": 17} == tokens(prompt, 50)
