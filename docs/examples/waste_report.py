"""Show wasted tokens: answers that could not be parsed, failed calls, and discarded attempts.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

import contextlib

import dspy

from tokenscope import token_scope
from tokenscope.testing import LoopbackProvider


class Agent(dspy.Module):
    """Makes a plan, then writes the answer."""

    def __init__(self):
        super().__init__()
        self.planner = dspy.ChainOfThought("question -> plan")
        self.writer = dspy.Predict("plan -> answer")

    def forward(self, question):
        """Answer a question."""
        return self.writer(plan=self.planner(question=question).plan)


def length(inputs, prediction):
    """Score an answer by its length. An answer a hundred times as long as the question gets the best score."""
    return min(1.0, len(prediction.answer) / len(inputs["question"]) / 100)


def main():
    """Ask questions, and print the waste. The tags in double angle brackets control the server."""
    agent = Agent()
    with token_scope("run") as run:
        for question in ("Why do leaves turn red?", "Why is the sky blue? <<garble once>>", "Why? <<fail 500>>"):
            with contextlib.suppress(Exception):
                agent(question=question)
        dspy.BestOfN(module=agent, N=3, reward_fn=length, threshold=1.0)(question="Why is the sea blue?")

    report = run.report()
    print(report)
    waste = report.waste()
    for module, wasted in waste.items():
        for reason, usage in wasted.reasons():
            print(f"{module:22}  {reason:15}  calls: {usage.calls}  tokens: {usage.total_tokens:3,}  ${usage.cost:.6f}")
    share = waste.total.total.total_tokens / report.total.total_tokens
    print(f"{share:.0%} of all tokens bought nothing.")


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        main()
