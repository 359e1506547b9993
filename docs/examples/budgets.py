"""Give a batch and each of its requests a budget. A budget ends its scope even if the code inside catches exceptions.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

import dspy

from tokenscope import Budget, BudgetExceeded, token_scope, track_tokens
from tokenscope.testing import LoopbackProvider

ask = dspy.Predict("question -> answer")


@track_tokens("research", "answer", budget=Budget(calls=3))
def answer(question, steps):
    """Ask a model once for each step, and continue after an error, as agents do."""
    for step in range(steps):
        try:
            ask(question=f"{question} Step {step}.")
        except Exception:  # noqa: BLE001
            print("never printed: inside its scope, an exceeded budget is not an Exception")
    return "an answer"


def main():
    """Answer questions until the total budget is spent. Each question may make three calls."""
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
