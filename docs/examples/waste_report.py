"""Tell what bought nothing: answers that nobody could read, failing calls, attempts that were thrown away.

Runs against a small server on loopback; for a real model, configure DSPy as you always do.
"""

import contextlib

import dspy

from tokenscope import token_scope
from tokenscope.testing import LoopbackProvider


class Agent(dspy.Module):
    """Plans, then writes."""

    def __init__(self):
        super().__init__()
        self.planner = dspy.ChainOfThought("question -> plan")
        self.writer = dspy.Predict("plan -> answer")

    def forward(self, question):
        """Answer a question."""
        return self.writer(plan=self.planner(question=question).plan)


def length(inputs, prediction):
    """Score an answer: the longer, the better, up to a hundred times the question."""
    return min(1.0, len(prediction.answer) / len(inputs["question"]) / 100)


def main():
    """Answer questions, some of them badly; what stands in double angle brackets steers the server."""
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
