"""Tasks for workers. They ask a model through DSPy."""

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
    """Ask once, as a coroutine function."""
    return ask(url, tag)


def ask_and_fail(url: str, tag: str) -> None:
    """Ask, and then raise an error."""
    ask(url, tag)
    raise LookupError(tag)


def ask_and_die(url: str, tag: str) -> None:
    """Ask, and then kill this process."""
    ask(url, tag)
    os.kill(os.getpid(), 9)


def ask_and_keep(url: str, tag: str, file: str, *, die: bool = False) -> str:
    """Ask, and write the call to a file that workers share. If `die` is true, kill this process afterwards."""
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
