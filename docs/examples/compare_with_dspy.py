"""Measure which share of a bill DSPy's usage tracking and tokenscope report. Prints the tables of docs/explanation/comparison.md.

Each situation runs once for each way of counting, against a local server that keeps a bill. tokenscope's patches are removed
while DSPy's ways are measured. A percentage is the reported share of the billed tokens.
"""

import asyncio
import contextlib
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import dspy

import tokenscope
from tokenscope import token_scope
from tokenscope.testing import LoopbackProvider

NOTHING = "none"


class Answer(dspy.Module):
    """Thinks first, then writes the answer."""

    def __init__(self):
        super().__init__()
        self.thinker = dspy.ChainOfThought("question -> plan")
        self.writer = dspy.Predict("question, plan -> answer")

    def forward(self, question):
        """Answer a question."""
        return self.writer(question=question, plan=self.thinker(question=question).plan)


class Survey(dspy.Module):
    """Answers questions in parallel."""

    def __init__(self):
        super().__init__()
        self.answer = Answer()

    def forward(self, questions):
        """Answer several questions at once."""
        return dspy.Prediction(answers=in_parallel(self.answer, questions))


QUESTIONS = [f"Question {number}?" for number in range(6)]
EXAMPLES = [dspy.Example(question=question).with_inputs("question") for question in QUESTIONS]


def full_marks(*_):
    """Give every answer the best score."""
    return 1.0


def in_parallel(program, questions):
    """Run a program with dspy.Parallel."""
    parallel = dspy.Parallel(num_threads=3, disable_progress_bar=True)
    return parallel([(program, dspy.Example(question=question).with_inputs("question")) for question in questions])


# -- situations: each returns the predictions it makes ----------------------------------------------------------------------


def module():
    return [Answer()(question="Why?")]


def direct_call():
    dspy.settings.lm("Why?")
    return []


def parallel():
    return in_parallel(Answer(), QUESTIONS)


def parallel_in_a_module():
    return [Survey()(questions=QUESTIONS)]


def evaluate():
    judge = dspy.Predict("answer -> verdict")

    def metric(_, prediction):
        return bool(judge(answer=prediction.answer))

    result = dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=4, display_progress=False)(Answer())
    return [prediction for _, prediction, _ in result.results]


def optimizer():
    dspy.BootstrapFewShot(metric=full_marks, max_bootstrapped_demos=2).compile(Answer(), trainset=EXAMPLES)
    return []


def best_of_n():
    return [dspy.BestOfN(module=Answer(), N=3, reward_fn=full_marks, threshold=2.0)(question="Why?")]


def failure():
    with contextlib.suppress(Exception):
        Answer()(question="Why? <<garble>>")
    return []


def stream():
    async def collect():
        return [item async for item in dspy.streamify(Answer())(question="Why?") if isinstance(item, dspy.Prediction)]

    return asyncio.run(collect())


def own_threads():
    program, settings = Answer(), {name: dspy.settings[name] for name in ("lm", "track_usage")}

    def work(question):
        with dspy.context(**settings):
            return program(question=question)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(work, QUESTIONS))


def embedder():
    url = dspy.settings.lm.kwargs["api_base"]
    dspy.Embedder("openai/text-embedding-3-small", api_base=url, api_key="none", caching=False)(QUESTIONS)
    return []


SITUATIONS = {
    "a module of two predictors": module,
    '`lm("…")`, outside of any module': direct_call,
    "`dspy.Parallel`, its predictions added up": parallel,
    "`dspy.Parallel` inside a module": parallel_in_a_module,
    "`dspy.Evaluate`, its predictions added up, and a judge in the metric": evaluate,
    "an optimizer: `BootstrapFewShot`": optimizer,
    "`dspy.BestOfN`, three attempts": best_of_n,
    "a program that fails: answers that no adapter can parse": failure,
    "`dspy.streamify`": stream,
    "a `ThreadPoolExecutor` of your own, its predictions added up": own_threads,
    "`dspy.Embedder`": embedder,
}


# -- ways of counting: each returns the tokens it reports for a situation ---------------------------------------------------


def tokens_of(by_model):
    """Add up what DSPy reports by model. Return None if it reports nothing at all."""
    if by_model is None:
        return None
    return sum(usage.get("prompt_tokens", 0) + (usage.get("completion_tokens") or 0) for usage in by_model.values())


def lm_usage(situation, provider):
    with dspy.context(lm=provider.lm(), track_usage=True):
        found = [tokens_of(prediction.get_lm_usage()) for prediction in situation()]
    return None if not found or None in found else sum(found)


def tracker(situation, provider):
    with dspy.context(lm=provider.lm()), dspy.track_usage() as tracked:
        situation()
    return tokens_of(tracked.get_total_tokens())


def history(situation, provider):
    lm = provider.lm()
    with dspy.context(lm=lm):
        situation()
    return spent_by_history(lm)


def spent_by_history(lm):
    """Add up the tokens in an LM's history."""
    return sum(entry["usage"].get("total_tokens", 0) for entry in lm.history)


def scope(situation, provider):
    with dspy.context(lm=provider.lm()), token_scope("situation") as opened:
        situation()
    return opened.usage.total_tokens


WAYS = {"`get_lm_usage()`": lm_usage, "`dspy.track_usage()`": tracker, "`lm.history`": history, "tokenscope": scope}


@contextlib.contextmanager
def without_tokenscope():
    """Remove the patches inside a block."""
    tokenscope.uninstrument()
    try:
        yield
    finally:
        tokenscope.instrument()


def measure(way, situation):
    """Run a situation and return the reported share of its bill."""
    with LoopbackProvider() as provider, contextlib.nullcontext() if way is scope else without_tokenscope():
        with contextlib.redirect_stdout(sys.stderr):  # optimizers print messages
            reported = way(situation, provider)
        return share(reported, provider.total.total_tokens)


def share(reported, billed):
    """Format the reported share of the bill."""
    return NOTHING if reported is None else f"{reported / billed:.0%}"


# -- parts of a program -----------------------------------------------------------------------------------------------------


def parts():
    """Yield the question about a part of a program, the way of counting, and the reported share of its bill."""
    with without_tokenscope():
        yield from inner_module()
        for way in ("difference of `lm.history`", "`dspy.track_usage()` in the task"):
            yield "one of two tasks at once", way, asyncio.run(task_among_others(way))
    yield "one of two tasks at once", "tokenscope", asyncio.run(task_among_others("tokenscope"))
    yield from cached_cost()


class Watched(Answer):
    """Keeps the usage that the prediction of an inner predictor reports."""

    def forward(self, question):
        """Answer a question."""
        thought = self.thinker(question=question)
        self.noted = thought.get_lm_usage()
        return self.writer(question=question, plan=thought.plan)


def inner_module():
    """Ask for the usage of a predictor inside a module, and of a module inside `dspy.track_usage()`."""
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm(), track_usage=True):
        program = Watched()
        program(question="Why?")
        yield "a predictor inside a module", "`get_lm_usage()`", share(tokens_of(program.noted), 1)
        with dspy.track_usage():
            usage = Answer()(question="Why?").get_lm_usage()
        yield "a module inside `dspy.track_usage()`", "`get_lm_usage()`", share(tokens_of(usage), 1)


async def task_among_others(way):
    """Ask for the usage of a slow task while another task asks two questions."""
    ask = dspy.Predict("question -> answer")
    with LoopbackProvider() as provider:
        lm = provider.lm()

        async def slow():
            before = spent_by_history(lm)
            with dspy.track_usage() as tracked, token_scope("slow") as opened:
                await ask.acall(question="Why? <<wait 1.0>> <<bill slow>>")
            return {
                "difference of `lm.history`": spent_by_history(lm) - before,
                "`dspy.track_usage()` in the task": tokens_of(tracked.get_total_tokens()),
                "tokenscope": opened.usage.total_tokens,
            }[way]

        async def other():
            await ask.acall(question="Why? <<wait 0.1>> <<bill fast>>")
            await ask.acall(question="Why? <<wait 0.1>> <<bill fast>>")

        with dspy.context(lm=lm):
            reported, _ = await asyncio.gather(slow(), other())
        return share(reported, provider.bill["slow"].total_tokens)


def cached_cost():
    """Ask for the cost of a question that is asked twice; DSPy's cache answers the second time."""
    with LoopbackProvider() as provider:
        lm = provider.lm(cache=True)
        question = f"Why, at {provider.url}?"
        with dspy.context(lm=lm), token_scope("twice") as opened:
            dspy.Predict("question -> answer")(question=question)
            once = opened.usage.cost
            dspy.Predict("question -> answer")(question=question)
    repeated = sum(entry["cost"] for entry in lm.history)
    yield "dollars, where DSPy's cache answers the second time", "sum of `lm.history`", share(repeated, float(once))
    yield "dollars, where DSPy's cache answers the second time", "tokenscope", share(opened.usage.cost, once)


def print_table(head, rows):
    """Print a table in Markdown."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)] if len(head) > 3 else ["---", "---", "---:"], *rows]
    for row in rows:
        print("|", " | ".join(row), "|")
    print()


def main():
    """Measure, and print the tables."""
    logging.getLogger("dspy").setLevel(logging.ERROR)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    print_table(
        ["reported of the provider's bill", *WAYS],
        [[name, *(measure(way, situation) for way in WAYS.values())] for name, situation in SITUATIONS.items()],
    )
    print_table(["what is asked", "asked how", "reported of the bill"], parts())


if __name__ == "__main__":
    main()
