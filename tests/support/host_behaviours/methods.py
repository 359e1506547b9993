"""Programs that look at methods and classes: what they are, and what they tell of themselves."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import pydoc
import sys
import threading
import types
import typing
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShot

from support.host_behaviours.subjects import (
    NAMES,
    Answering,
    Rag,
    bound_methods,
    model,
    of_methods,
    patched_classes,
)
from support.host_behaviours.table import program


@program
def methods_of_classes_are_one_object() -> Any:
    return {
        f"{cls.__name__}.{name}": (
            getattr(cls, name) is getattr(cls, name),
            id(getattr(cls, name)) == id(getattr(cls, name)),
        )
        for cls in patched_classes()
        for name in NAMES
        if hasattr(cls, name)
    }


@program
def bound_methods_are_equal_and_hash() -> Any:
    rag, other = Rag(), Rag()
    return (
        rag.__call__ == rag.__call__,
        rag.__call__ == other.__call__,
        hash(rag.acall) == hash(rag.acall),
        len({rag.__call__, rag.__call__, other.__call__}),
        {rag.acall: 1}.get(rag.acall),
        rag.__call__.__func__ is dspy.Module.__call__,
        Rag.__call__ is dspy.Module.__call__,
        Answering.acall is dspy.BaseLM.acall,
        rag.__call__.__self__ is rag,
        dspy.Predict.acall is dspy.Module.acall,
    )


@program
def where_methods_are_defined() -> Any:
    return {
        cls.__name__: [(each.name, each.kind, each.defining_class.__name__) for each in inspect.classify_class_attrs(cls)
                       if each.name in NAMES]
        for cls in patched_classes()
    }  # fmt: skip


@program
def methods_in_partials_and_weak_references() -> Any:
    rag = Rag()
    partial = functools.partial(rag.__call__, question="Why?")
    weak = weakref.WeakMethod(rag.__call__)
    with model():
        found = (
            partial().answer,
            weak()(question="Why?").answer,
            types.MethodType(dspy.Module.__call__, rag)(question="?").answer,
        )
    del rag, partial
    gc.collect()
    return found, weak() is None


@program
def what_is_stored_in_classes() -> Any:
    """`vars` of a class holds a plain function, a classmethod or a staticmethod."""
    classes = patched_classes()
    return {
        f"{cls.__name__}.{name}": type(vars(cls)[name]).__name__
        for cls in classes
        for name in NAMES
        if name in vars(cls)
    }


@program
def kinds_of_methods() -> Any:
    asks = (
        inspect.isfunction, inspect.ismethod, inspect.isroutine, inspect.isbuiltin, inspect.iscoroutinefunction,
        asyncio.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.ismethoddescriptor,
        callable,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asyncio.iscoroutinefunction is deprecated from 3.14 on
        return of_methods(lambda method: (type(method).__name__, [ask(method) for ask in asks]))


@program
def names_of_methods() -> Any:
    return of_methods(
        lambda method: (method.__name__, method.__qualname__, method.__module__, inspect.getmodule(method).__name__)
    )


@program
def documentation_of_methods() -> Any:
    return of_methods(lambda method: (method.__doc__, inspect.getdoc(method)))


@program
def signatures_of_methods() -> Any:
    return of_methods(lambda method: str(inspect.signature(method)))


@program
def signatures_of_bound_methods() -> Any:
    return {name: str(inspect.signature(bound)) for name, bound in bound_methods().items()}, str(
        inspect.signature(Rag())
    )


@program
def argument_specifications_of_methods() -> Any:
    """Of methods that DSPy's own callbacks wrap, the specification is the wrapper's, which names its first argument otherwise."""

    def specification(method: Any) -> Any:
        args, *rest = inspect.getfullargspec(method)
        return args[1:], *rest[:5]

    return of_methods(specification)


@program
def annotations_of_methods() -> Any:
    return of_methods(lambda method: (dict(method.__annotations__), typing.get_type_hints(method)))


@program
def sources_of_methods() -> Any:
    return of_methods(lambda method: inspect.getsource(method).partition("\n")[0])


@program
def unwrapped_methods() -> Any:
    def inside(method: Any) -> Any:
        found = inspect.unwrap(method)
        return Path(inspect.getsourcefile(found)).name, found.__code__.co_firstlineno, found.__code__.co_varnames

    return of_methods(inside)


@program
def help_on_classes() -> Any:
    return {cls.__name__: pydoc.plain(pydoc.render_doc(cls)) for cls in (dspy.LM, Rag, dspy.Tool, threading.Thread)}


@program
def ancestors_of_classes() -> Any:
    return {
        cls.__name__: ([each.__qualname__ for each in cls.__mro__], type(cls).__name__) for cls in patched_classes()
    }


@program
def subclasses_of_classes() -> Any:
    kept = (dspy.BaseLM, dspy.Adapter, threading.Thread, ThreadPoolExecutor, asyncio.BaseEventLoop)
    return {cls.__name__: sorted({each.__name__ for each in cls.__subclasses__()}) for cls in kept}


@program
def names_in_classes() -> Any:
    """What `dir` and `vars` show, except for what `limits.md` names."""
    found = {cls.__name__: (dir(cls), sorted(vars(cls))) for cls in patched_classes()}
    return {
        name: (names, [each for each in own if each != "__init_subclass__"]) for name, (names, own) in found.items()
    }


@program
def names_in_instances() -> Any:
    with model() as lm:
        rag = Rag()
        prediction = rag(question="Why?")
        return [sorted(vars(each)) for each in (rag, rag.answer, lm, prediction)], dir(rag), dir(lm)


@program
def names_in_modules() -> Any:
    kept = (
        "dspy",
        "dspy.clients.base_lm",
        "dspy.primitives.module",
        "threading",
        "asyncio",
        "concurrent.futures.thread",
    )
    return {name: sorted(vars(sys.modules[name])) for name in kept}


@program
def instances_of_classes() -> Any:
    with model() as lm:
        return (
            isinstance(lm, dspy.BaseLM),
            isinstance(lm, dspy.LM),
            isinstance(dspy.Module.__call__, types.FunctionType),
            isinstance(Rag().__call__, types.MethodType),
            issubclass(Rag, dspy.Module),
            isinstance(Rag(), Callable),
            issubclass(BootstrapFewShot, dspy.teleprompt.Teleprompter),
        )


@program
def loaders_of_modules() -> Any:
    kept = ("dspy", "dspy.primitives.module", "asyncio.base_events", "concurrent.futures.thread")
    found = [sys.modules[name] for name in kept]
    return [
        (
            type(each.__loader__).__name__,
            each.__spec__.loader is each.__loader__,
            each.__spec__.name,
            Path(each.__file__).name,
        )
        for each in found
    ]


@program
def representations() -> Any:
    bound = bound_methods()
    return [
        repr(each)
        for each in (dspy.Module.__call__, bound["call"], bound["acall"], bound["lm"], Rag(), threading.Thread.start)
    ]
