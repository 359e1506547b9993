"""Put budgets on a batch and on each of its requests: a spent one ends what it was put on, whatever catches exceptions there.

Runs against a small server on loopback; for a real model, configure DSPy as you always do.
"""

import dspy

from tokenscope import Budget, BudgetExceeded, token_scope, track_tokens
from tokenscope.testing import LoopbackProvider

ask = dspy.Predict("question -> answer")


@track_tokens("research", "answer", budget=Budget(calls=3))
def answer(question, steps):
    """Ask a model once a step, and go on where that fails, as agents do."""
    for step in range(steps):
        try:
            ask(question=f"{question} Step {step}.")
        except Exception:  # noqa: BLE001
            print("never printed: a budget is no exception in here")
    return "an answer"


def main():
    """Answer questions until a total is spent; each may take three calls."""
    with token_scope("batch", budget=Budget(tokens=1_500, on_exceed="stop")) as batch:
        for number in range(100):
            try:
                answer(f"Question {number}?", steps=2 + number)
            except BudgetExceeded as error:
                print(f"question {number}: {error}")
    print(f"the batch was ended: {batch.budget_exceeded}")
    print(batch)


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        main()
