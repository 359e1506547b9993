"""Print what each phase of GEPA spends, by model.

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


def feedback(example, prediction, *_):
    """Score an answer, and say what would be better."""
    right = prediction.answer == example.answer
    return dspy.Prediction(score=float(right), feedback="Right." if right else f"It should be {example.answer!r}.")


def main(reflection_lm):
    """Optimize the agent, use it, and print the costs of both."""
    examples = [
        dspy.Example(question=f"What is {n} + {n}?", answer=str(n + n)).with_inputs("question") for n in range(9)
    ]
    optimizer = dspy.GEPA(metric=feedback, max_metric_calls=30, reflection_lm=reflection_lm, num_threads=2)
    with token_scope("run") as run:
        with token_scope("optimize"):
            agent = optimizer.compile(Agent(), trainset=examples[:6], valset=examples[6:])
        with token_scope("use"):
            agent(question="What is 9 + 9?")

    report = run.report()
    print(report)
    for phase in report.find("run/optimize/GEPA").children:
        for model, usage in phase.by_model.items():
            print(
                f"{phase.name:8}  {model:18}  {usage.calls:3} calls  {usage.total_tokens:6,} tokens  ${usage.cost:.4f}"
            )
    once, all_of_it = report.find("run/use").usage.cost, report.find("run/optimize").usage.cost
    print(f"The optimisation cost as much as {all_of_it / once:.0f} uses of the program.")


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        main(provider.lm("openai/gpt-4o"))
