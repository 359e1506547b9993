"""Decorate functions, methods and generators with the module and the operation they belong to.

Runs against a small server on loopback; for a real model, configure DSPy as you always do.
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


@track_tokens("ingest", "read_pages")
def read_pages(number):
    """Yield pages: what is done with a page between two of them is not charged to the reading."""
    for n in range(number):
        record_tokens("ingest", "ocr", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        yield f"Page {n}, about leaves."


class Librarian:
    """Methods are decorated like functions."""

    @track_tokens
    def shelve(self, pages):
        """Summarize pages; the module is this file's name, the operation the method's."""
        return [summarize_page(page) for page in pages]


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        Librarian().shelve(read_pages(3))
    print(tokenscope.report())
