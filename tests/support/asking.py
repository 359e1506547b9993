"""Tasks for workers that ask a model through DSPy, and know nothing of tokenscope."""

from __future__ import annotations

import os


def ask(url: str, tag: str) -> str:
    """Ask once, in a module, and return the answer."""
    import dspy

    class Agent(dspy.Module):
        def __init__(self) -> None:
            self.planner = dspy.ChainOfThought("question -> plan")

        def forward(self, question: str) -> str:
            return self.planner(question=question).plan

    lm = dspy.LM("openai/gpt-4o-mini", api_base=url, api_key="loopback", cache=False, num_retries=0)
    with dspy.context(lm=lm):
        return Agent()(question=f"Why? <<bill {tag}>>")


async def ask_async(url: str, tag: str) -> str:
    """Do the same in a coroutine."""
    return ask(url, tag)


def ask_and_fail(url: str, tag: str) -> None:
    """Ask, and raise something else then."""
    ask(url, tag)
    raise LookupError(tag)


def ask_and_die(url: str, tag: str) -> None:
    """Ask, and be killed then."""
    ask(url, tag)
    os.kill(os.getpid(), 9)


def ask_and_keep(url: str, tag: str, file: str, *, die: bool = False) -> str:
    """Ask, with every call kept in a file that all workers share."""
    from tokenscope import JSONLSink, get_tracker

    tracker = get_tracker()
    sink = JSONLSink(file)
    tracker.add_sink(sink)
    try:
        answer = ask(url, tag)
        if die:
            os.kill(os.getpid(), 9)
        return answer
    finally:
        tracker.remove_sink(sink)
