"""What the programs use: an LM that answers at once, modules that ask it, and what they look at."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShot
from dspy.utils import DummyLM

from support.host_behaviours.table import told


class Answering(dspy.BaseLM):
    """An LM that always gives the same answer, and reports usage."""

    within: Any = None
    """What is called with each request, inside of `forward`."""

    def __init__(self, within: Any = None) -> None:
        super().__init__(model="answering")
        self.within = within

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if self.within is not None:
            self.within()
        text = "[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
        message = SimpleNamespace(content=text, tool_calls=None)
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage=usage, model="answering")

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self.forward(prompt, messages, **kwargs)


class Asking(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Rag(dspy.Module):
    """A program with one predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Asking)

    def forward(self, question: str) -> Any:
        return self.answer(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.answer.acall(question=question)


class Steps(dspy.Module):
    """A program that holds a bound method of a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rag = Rag()
        self.steps = [self.rag.__call__]

    def forward(self, question: str) -> Any:
        return self.steps[0](question=question)


def asked(rag: Any = None) -> str:
    """Ask a program, and return its answer."""
    return (rag or Rag())(question="Why?").answer


@contextmanager
def model(within: Any = None) -> Any:
    """Have programs ask an LM that answers at once."""
    lm = Answering(within)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        yield lm


def bound_methods() -> dict[str, Any]:
    """Return what programs keep, copy and pickle."""
    rag = Rag()
    lm = Answering()
    tool = dspy.Tool(rag.acall, name="rag", desc="asks", args={"question": {"type": "string"}})
    return {"call": rag.__call__, "acall": rag.acall, "lm": lm.__call__, "tool": tool, "tool's": tool.__call__}


def described(bound: Any) -> Any:
    """Return what a bound method, or a tool, is."""
    if isinstance(bound, dspy.Tool):
        return type(bound).__name__, bound.name, described(bound.func)
    return type(bound).__name__, bound.__name__, bound.__qualname__, type(bound.__self__).__name__


def patched_classes() -> list[type]:
    """Return the classes that tokenscope patches, and some that inherit from them."""
    from dspy.adapters.two_step_adapter import TwoStepAdapter
    from dspy.clients.cache import Cache
    from dspy.utils.parallelizer import ParallelExecutor

    return [
        dspy.BaseLM, dspy.LM, Answering, DummyLM, Cache, dspy.Module, dspy.Predict, Rag, dspy.Tool, dspy.Evaluate,
        ParallelExecutor, dspy.Adapter, dspy.ChatAdapter, TwoStepAdapter, dspy.teleprompt.Teleprompter, BootstrapFewShot,
        dspy.MIPROv2, threading.Thread, threading.Timer, ThreadPoolExecutor, ProcessPoolExecutor,
        asyncio.BaseEventLoop, asyncio.SelectorEventLoop,
    ]  # fmt: skip


NAMES = (
    "__call__", "acall", "forward", "aforward", "_process_lm_response", "_process_completion", "_process_response", "get",
    "execute", "_call_postprocess", "_create_extractor_signature", "compile", "_bootstrap", "start", "submit", "create_task",
)  # fmt: skip


def methods() -> dict[str, Any]:
    """Return all methods that tokenscope patches, and what is inherited from them."""
    classes = patched_classes()
    found = {f"{cls.__name__}.{name}": getattr(cls, name, None) for cls in classes for name in NAMES}
    return {
        name: method for name, method in found.items() if inspect.isroutine(method) and hasattr(method, "__module__")
    }


def of_methods(look: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what a look at each method finds."""
    return {name: told(lambda method=method: look(method)) for name, method in methods().items()}


DEVSET = [dspy.Example(question=f"Why {n}?", answer="yes").with_inputs("question") for n in range(3)]


class Adding(dspy.Module):
    """A program that asks nothing."""

    def forward(self, x: int) -> int:
        return x + 1


class OwnError(Exception):
    """An error of the program's."""


class OwnInterrupt(BaseException):
    """What passes by `except Exception`."""


def fails_with(error: BaseException, cause: BaseException | None = None) -> Callable[[], None]:
    """Return a function that fails."""

    def fail() -> None:
        raise error from cause

    return fail


def joined(thread: threading.Thread) -> threading.Thread:
    thread.start()
    thread.join(20)
    return thread


def number(n: int) -> int:
    """Return a number, or fail."""
    if n < 0:
        raise OwnError(n)
    return n


OWN: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="default")


def seen_context() -> Any:
    """Return the context variables that are set here, except for tokenscope's and those that `limits.md` names."""
    names = {variable.name for variable in contextvars.copy_context()}
    return OWN.get(), sorted(name for name in names if not name.startswith("tokenscope") and name != "decimal_context")
