"""Count what threads spend. A ThreadPoolExecutor needs no change; other thread pools need `carry`.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import dspy

import tokenscope
from tokenscope import carry, token_scope
from tokenscope.testing import LoopbackProvider


def main(lm):
    """Use one pool in two scopes, and again outside of both."""
    with ThreadPoolExecutor(4) as pool:
        with token_scope("drafts"):
            drafts = [pool.submit(lm, f"Draft {n}") for n in range(4)]
        with token_scope("edits"):
            list(pool.map(lm, ["Edit 1", "Edit 2"]))
        pool.submit(lm, "Nobody's call").result()
        for draft in drafts:
            draft.result()
    with token_scope("other pool"), ThreadPool(2) as other:
        other.map(carry(lm), ["Proof 1", "Proof 2"])
    print(tokenscope.report())


if __name__ == "__main__":
    with LoopbackProvider() as provider:
        main(dspy.LM("openai/gpt-4o-mini", api_base=provider.url, api_key="none", cache=False))
