"""Asking for parts of prompts: by the environment or in a program, before DSPy is imported or after."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(program, **environment):
    """Return what a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


STATE = "from tokenscope._scopes.process import STATE; print(STATE.splits_prompts, STATE.read_prompt is not None)"


@pytest.mark.parametrize(("value", "told"), [("1", "True True"), ("0", "False False"), ("", "False False")])
def test_the_environment_asks(value, told):
    """TOKENSCOPE_PROMPT_PARTS is read when tokenscope is imported, and heeded when DSPy is."""
    assert told == run(f"import tokenscope, dspy; {STATE}", TOKENSCOPE_PROMPT_PARTS=value)


def test_nothing_is_loaded_for_those_who_do_not_ask():
    """Neither tokenizers nor what measures prompts is loaded, with DSPy or without."""
    found = (
        "print(sorted(name for name in sys.modules if name.startswith(('tokenscope._providers.prompts', 'tiktoken'))))"
    )
    make = "dspy.LM('openai/gpt-4o-mini', api_key='x')"
    without = run(f"import sys, dspy; {make}; {found}")  # older versions of litellm load one themselves

    assert without == run(f"import sys, tokenscope, dspy; {make}; {found}")
    assert "tokenscope" not in without
    assert "[]" == run(f"import sys, tokenscope; {found}", TOKENSCOPE_PROMPT_PARTS="1")


def test_a_tokenizer_is_loaded_when_an_lm_is_made():
    """The first call does not wait for it; an LM that is there already when prompts are asked for is looked at then."""
    loaded = "from tokenscope._providers.prompts import tokenizers; print(sorted(tokenizers._loaded))"
    make = "dspy.LM('openai/gpt-4o-mini', api_key='x')"

    assert "['o200k_base']" == run(
        f"import tokenscope; tokenscope.instrument(prompt_parts=True); import dspy; {make}; {loaded}"
    )
    assert "['o200k_base']" == run(
        f"import tokenscope, dspy; dspy.configure(lm={make}); tokenscope.instrument(prompt_parts=True); {loaded}"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_a_tokenizer_is_loaded():
    """A child that is forked meanwhile can measure prompts, and so can the parent."""
    program = """
import os, warnings
warnings.simplefilter("ignore")
from tokenscope._providers.prompts import tokenizers
for name in ("o200k_base", "anthropic"):
    tokenizers.loaded(name)
child = os.fork()
for name in ("o200k_base", "anthropic"):
    tokenizers.load(name)
    assert tokenizers.loaded(name).read("Hello there") == 2
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("both")
"""
    assert "both" == run(program)
