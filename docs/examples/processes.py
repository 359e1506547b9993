"""Count what worker processes spend. A ProcessPoolExecutor needs no change; other pools need `ship` and `receive`.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import dspy

from tokenscope import receive, ship, token_scope, track_tokens
from tokenscope.testing import LoopbackProvider


@track_tokens("worker", "draft")
def draft(url, number):
    """Ask a model, in a worker process."""
    with dspy.context(lm=dspy.LM("openai/gpt-4o-mini", api_base=url, api_key="none", cache=False)):
        return dspy.Predict("question -> draft")(question=f"Question {number}?").draft


def main(url):
    """Give work to two worker processes, with each kind of pool."""
    spawn = multiprocessing.get_context("spawn")
    with token_scope("run") as run:
        with token_scope("executor"), ProcessPoolExecutor(2, mp_context=spawn) as executor:
            list(executor.map(draft, [url] * 4, range(4)))
        with token_scope("pool"), spawn.Pool(2) as pool:  # Ray, Dask and joblib: see docs/how-to/processes.md
            for shipment in pool.starmap(ship(draft), [(url, number) for number in range(3)]):
                receive(shipment)
    print(run)


if __name__ == "__main__":
    with LoopbackProvider() as provider:
        main(provider.url)
