"""Put scopes around blocks of a DSPy program, and print the tree.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

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


def main():
    """Answer two questions, and check the first answer."""
    agent = Agent()
    answering = token_scope("answering")  # can be entered many times
    with token_scope("run") as run:
        for question in ("Why do leaves turn red?", "Why is the sky blue?"):
            with answering as scope:
                answer = agent(question=question).answer
            print(f"{question} {scope.usage.total_tokens:,} tokens")
        with token_scope("checking"):
            dspy.Predict("answer -> verdict")(answer=answer)
    print(run)


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        main()
