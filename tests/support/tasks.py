"""Tasks for workers. They spend tokens without a model."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import tokenscope
from support.spending import spend, spent
from tokenscope import current_scope, token_scope


class Unloadable(Exception):
    """An exception that can be pickled, but not unpickled."""

    def __init__(self, first, second):
        super().__init__("unloadable")


class Unpicklable(Exception):
    """An exception that cannot be pickled, because it holds a lock."""

    def __init__(self):
        super().__init__("unpicklable")
        self.lock = threading.Lock()


class Stubborn(Exception):
    """An exception that allows no new attributes, and keeps none when it is pickled."""

    def __setattr__(self, name, value):
        if not name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)

    def __reduce__(self):
        return Stubborn, self.args


def scoped(tokens):
    with token_scope("inner"):
        spend(tokens)
    return tokens


def of_user(user, tokens):
    with token_scope("inner", user=user):
        spend(tokens)


def fail(tokens, error=ValueError):
    spend(tokens)
    raise error("failed", tokens) if error is not Unpicklable else error()


def leave(tokens):
    spend(tokens)
    raise SystemExit(3)


def unpicklable(tokens):
    spend(tokens)
    return threading.Lock()


def exception(tokens):
    spend(tokens)
    return KeyError(tokens)


def kill(tokens):
    spend(tokens)
    os._exit(9)


def sleep(seconds):
    time.sleep(seconds)
    spend(1)
    return seconds


def nothing(value=None):
    return value


def idle():
    with token_scope("idle"):
        pass


def respond(tokens):
    """Record a response, which counts in the current scope itself."""
    response = {"model": "gpt-4o", "usage": {"prompt_tokens": tokens, "completion_tokens": 0}}
    tokenscope.record_response(response, provider="openai")


def threads(tokens):
    thread = threading.Thread(target=spend, args=(tokens,))
    thread.start()
    thread.join()


def outlive(tokens):
    """Start a thread that spends its tokens after the task has ended."""

    def later():
        over.wait()
        spend(tokens, "late")

    over.clear()
    left_behind.append(threading.Thread(target=later))
    left_behind[-1].start()


over = threading.Event()
left_behind: list[threading.Thread] = []


def end_it():
    """Let the threads of `outlive` spend, and wait for them."""
    over.set()
    while left_behind:
        left_behind.pop().join(5)


def look(tokens):
    """Spend, and return the current scope's name, tokens and parent, and the tokens of the process."""
    spend(tokens)
    scope = current_scope()
    return (None if scope is None else (scope.name, spent(scope), scope.parent)), spent(tokenscope.report())


def nested(tokens):
    with token_scope("nested"), ProcessPoolExecutor(1) as pool:
        return pool.submit(scoped, tokens).result()


def over_budget(tokens):
    from tokenscope import Budget

    with token_scope("limited", budget=Budget(tokens=tokens)):
        spend(tokens + 1)
        with token_scope("more"):
            pass


def overspend(tokens):
    """Spend, and then open a scope. A spent budget of the program stops it there."""
    spend(tokens)
    with token_scope("more"):
        pass


async def spend_async(tokens):
    spend(tokens)
    return tokens


def generator():
    yield 1


async def async_generator():
    yield 1
