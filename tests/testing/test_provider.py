"""`LoopbackProvider`: when it runs."""

from __future__ import annotations

import json
from textwrap import dedent
from urllib.request import Request, urlopen

import pytest
from support.spending import python

from tokenscope.testing import LoopbackProvider


def test_a_provider_that_no_block_ends():
    """A provider answers from when it is asked for its address, and does not keep the program from ending."""
    code = """
        import dspy, tokenscope
        from tokenscope.testing import LoopbackProvider
        provider = LoopbackProvider()
        dspy.configure(lm=provider.lm())
        dspy.Predict("question -> answer")(question="Why? <<bill a>>")
        print(provider.bill["a"].total_tokens == tokenscope.report().total.total_tokens > 0)
    """
    assert "True" == python(dedent(code)).strip()


def test_a_provider_in_a_block():
    """In a block it may be asked for its address before. It answers until the block ends."""
    provider = LoopbackProvider()
    url = provider.url
    with provider:
        assert url == provider.url
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{url}/chat/completions", timeout=10)


def test_counting_with_another_tokenizer():
    """A provider bills as many tokens as a given function counts."""
    with LoopbackProvider(count_tokens=lambda text: len(text.split())) as provider:
        body = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
        answer = json.load(urlopen(Request(f"{provider.url}/chat/completions", json.dumps(body).encode())))
    assert 3 == answer["usage"]["prompt_tokens"] == provider.total.input_tokens
