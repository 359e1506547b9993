"""Decorate functions, methods and generators with the module and the operation they belong to.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

import dspy

import tokenscope
from tokenscope import record_tokens, track_tokens
from tokenscope.testing import LoopbackProvider

summarize = dspy.Predict("text -> summary")


@track_tokens("ingest", "summarize_page")
def summarize_page(text):
    """Summarize one page."""
    return summarize(text=text).summary


@track_tokens("ingest", "ocr")
def read_pages(number):
    """Yield pages. What the caller spends between two pages is not counted for this generator."""
    for n in range(number):
        record_tokens(model="mistral-ocr", provider="mistral", input_tokens=900, output_tokens=300)
        yield f"Page {n}, about leaves."


class Librarian:
    """Shows a decorated method."""

    @track_tokens
    def shelve(self, pages):
        """Summarize pages. The module is named after this file, the operation after the method."""
        return [summarize_page(page) for page in pages]


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        Librarian().shelve(read_pages(3))
    print(tokenscope.report())
