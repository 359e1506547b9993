"""The lengths of texts: exact where a tokenizer has read them, estimated and corrected until then."""

from __future__ import annotations

import pytest
from support.counting_server import count

from tokenscope._providers.prompts import tokenizers
from tokenscope._providers.prompts.estimate import estimate
from tokenscope._providers.prompts.meter import Meter, key_of, meter_for
from tokenscope._providers.prompts.tokenizers import Tokenizer
from tokenscope._usage.prompts import Piece, Prompt

LINE = "Each call may have only so much read, and what comes again is soon exact. "


class Words:
    """A tokenizer that counts words, and knows how much it has read."""

    def __init__(self):
        self.read = 0

    def __call__(self, text):
        self.read += len(text)
        return len(text.split())


def words_meter(**options):
    """Return a meter that counts words, and what it reads with."""
    words = Words()
    return Meter(Tokenizer("words", words, **options), is_exact=True), words


def measure(meter, text, allowance, part="x"):
    """Return the length of a text."""
    return meter.measure(text, key_of(text), allowance, part)


def test_a_short_text_is_exact_at_once():
    """What fits into a call's allowance is read whole, once."""
    meter, words = words_meter()

    assert (15.0, 0.0) == measure(meter, LINE, meter.allow("place"))
    assert (15.0, 0.0) == measure(meter, LINE, meter.allow("place"))
    assert len(LINE) == words.read


def test_a_long_text_is_read_in_several_calls_until_it_is_exact():
    """No call reads more than it may; a text that comes again becomes exact."""
    meter, words = words_meter()
    text = LINE * 500
    found = []
    for _ in range(60):
        before = words.read
        found.append(measure(meter, text, meter.allow("place")))
        assert words.read - before <= 4_100

    assert (7_500.0, 0.0) == found[-1]
    assert all(tokens == pytest.approx(7_500, rel=0.03) for tokens, _ in found)
    assert found[0][1] > found[5][1] > 0


def test_new_texts_are_seldom_read_after_many_calls():
    """Of texts that are new in each call, only one in sixteen is read, and estimates are corrected by that."""
    meter, words = words_meter()
    for number in range(64):
        measure(meter, f"{number} {LINE * 10}", meter.allow("place"))
    before = words.read
    lengths = [measure(meter, f"new {number} {LINE * 10}", meter.allow("place")) for number in range(64)]

    assert words.read - before <= 64 / 16 * 700
    assert sum(tokens for tokens, _ in lengths) == pytest.approx(64 * 152, rel=0.02)


def test_a_slow_tokenizer_reads_less():
    """How much may be read depends on how long the tokenizer takes."""
    meter, words = words_meter(slowness=6)
    measure(meter, LINE * 100, meter.allow("place"))

    assert words.read <= 700


def test_images_as_text_are_read_in_pieces():
    """A word of thousands of letters is not given to the tokenizer whole: some would take seconds for it."""
    longest = []
    meter = Meter(Tokenizer("longest", lambda text: longest.append(len(text)) or 1), is_exact=True)
    measure(meter, "A" * 3_000, meter.allow("place"))

    assert max(longest) <= 128


def test_without_a_tokenizer_bytes_are_counted():
    """Estimates are no guesses that a bill could correct: nothing will be read."""
    meter = Meter(None, is_exact=False)

    assert "bytes" == meter.name
    assert (estimate(LINE), 0.0) == measure(meter, LINE, meter.allow("place"))


@pytest.mark.parametrize(
    "text",
    [
        "Answer questions with short answers, and say where each of them was found in the documents. " * 8,
        '{"name": "Aurelia", "scores": [12, 9, 7], "nested": {"is_open": true, "note": null}}\n' * 8,
        "Перед нами стоит простая задача: посчитать, сколько слов в этом предложении. " * 8,
        "我们需要知道每个部分有多少个词元,这样才能知道钱花在了哪里。" * 8,
    ],
    ids=["English", "JSON", "Russian", "Chinese"],
)
def test_estimates_are_about_right(text):
    """Bytes tell a text's length to a third, in any language."""
    assert estimate(text) == pytest.approx(count(text), rel=0.3)


def test_estimates_of_long_texts_take_a_sample():
    """The length of a text of a megabyte is estimated from a little of it."""
    assert estimate(LINE * 10_000) == pytest.approx(estimate(LINE * 10) * 1_000, rel=0.1)
    assert 0.0 == estimate("")
    assert 1.0 <= estimate("a")
    assert estimate("\ud800 is half a letter") > 0


def bill(meter, billed, *pieces):
    """Let a meter learn from a bill."""
    meter.note_bill(Prompt(pieces, 1, meter.name, is_exact=True), billed)


def test_bills_tell_what_messages_cost_beyond_their_text():
    """It is learned from prompts that were measured exactly, and not from those with images."""
    meter, _ = words_meter()
    assert meter.message_overhead < 0

    bill(meter, 900, Piece("media", 0.0), Piece("format", 90.0, messages=2))
    assert meter.message_overhead < 0
    bill(meter, 108, Piece("format", 90.0, messages=1), Piece("demos", 10.0, messages=1))
    bill(meter, 110, Piece("format", 90.0, messages=1), Piece("demos", 12.0, messages=1))
    assert 4.0 == pytest.approx(meter.message_overhead)
    bill(meter, 9_000, Piece("format", 90.0, messages=2))
    assert 4.0 == pytest.approx(meter.message_overhead)


@pytest.mark.parametrize(
    ("model", "name", "is_own"),
    [
        ("openai/gpt-4o-mini", "o200k_base", True),
        ("openai/gpt-5-nano", "o200k_base", True),
        ("openrouter/openai/gpt-4o", "o200k_base", True),
        ("openai/ft:gpt-4o-mini:me::1", "o200k_base", True),
        ("openai/o3-mini", "o200k_base", True),
        ("openai/gpt-4-turbo", "cl100k_base", True),
        ("azure/gpt-35-turbo", "cl100k_base", True),
        ("openai/my-own-model", "o200k_base", False),
        ("gemini/gemini-2.5-flash", "o200k_base", False),
        ("anthropic/claude-sonnet-4-5", "anthropic", False),
        ("anthropic/claude-2.1", "anthropic", True),
        ("bedrock/anthropic.claude-instant-v1", "anthropic", True),
        ("deepseek/deepseek-chat", "deepseek", True),
        ("groq/deepseek-r1-distill-llama-70b", "deepseek", False),
    ],
)
def test_the_tokenizer_is_chosen_by_the_model(model, name, is_own):
    """The model's own if it is at hand, else the one that is the most alike, and which of both is told."""
    assert (name, is_own) == tokenizers.choose(model)


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base", "anthropic", "deepseek"])
def test_tokenizers_that_come_with_litellm_are_loaded(name):
    """Each is loaded from a file that is there."""
    tokenizers.load(name)
    tokenizer = tokenizers.loaded(name)

    assert tokenizer is not None
    assert 4 == tokenizer.read("Hello there, world")


def test_nothing_is_fetched(monkeypatch, tmp_path):
    """If a file is not there, bytes are counted, and no connection is made."""
    monkeypatch.setattr(tokenizers, "_folders", lambda: iter([str(tmp_path)]))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was made"))
    monkeypatch.setattr("sys.modules", {**__import__("sys").modules, "tiktoken.registry": None})
    tokenizers.forget()
    try:
        for name in ("o200k_base", "anthropic"):
            tokenizers.load(name)
            assert tokenizers.loaded(name) is None
        assert "bytes" == meter_for("ollama/never-seen").name
    finally:
        tokenizers.forget()


def test_a_tokenizer_that_was_never_asked_for_is_loaded_in_the_background():
    """The call that needs it first does not wait."""
    import threading

    tokenizers.forget()
    first = tokenizers.loaded("cl100k_base")
    for thread in threading.enumerate():
        if thread.name == "tokenscope-tokenizer":
            thread.join()

    assert first is None
    assert tokenizers.loaded("cl100k_base") is not None
