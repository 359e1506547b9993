"""Programs with threads, tasks and generators."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import re
import threading
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import dspy

from support.host_behaviours.subjects import (
    OWN,
    OwnError,
    OwnInterrupt,
    Rag,
    asked,
    fails_with,
    joined,
    model,
    number,
    seen_context,
)
from support.host_behaviours.table import own_frames, program, told


@program
def threads_as_they_see_themselves() -> Any:
    found = []

    def look(*args: Any, **kwargs: Any) -> None:
        me = threading.current_thread()
        found.append(
            (re.sub(r"\d+", "N", me.name), me.daemon, type(me).__name__, args, kwargs, me.is_alive(), "run" in vars(me))
        )

    joined(threading.Thread(target=look, args=(1,), kwargs={"a": 2}))
    joined(threading.Thread(target=look, name="named", daemon=True))
    joined(threading.Timer(0, look, (3,), {"b": 4}))
    return found


@program
def threads_with_a_run_of_their_own() -> Any:
    found = []

    class Own(threading.Thread):
        def run(self) -> None:
            found.append(("own", self.run.__func__ is Own.run, "run" in vars(self)))
            super().run()

    thread = Own(target=lambda: found.append("target"))
    before = sorted(vars(thread))
    joined(thread)
    assigned = threading.Thread()
    assigned.run = lambda: found.append("assigned")
    joined(assigned)
    twice = told(assigned.start)
    return (
        found,
        before == sorted(vars(thread)),
        twice["type"],
        twice["args"],
        assigned.run.__name__,
        thread.run.__func__ is Own.run,
    )


@program
def threads_with_a_start_of_their_own() -> Any:
    class Own(threading.Thread):
        def start(self) -> Any:
            found.append("started")
            return super().start()

    found: list[Any] = []
    thread = joined(Own(target=found.append, args=("ran",)))
    timer = threading.Timer(60, found.append, args=("late",))
    timer.start()
    timer.cancel()
    timer.join(20)
    return (
        found,
        sorted(vars(thread)),
        sorted(vars(timer)),
        threading.Thread(target=found.append, args=("called",)).run(),
    )


@program
def exceptions_in_threads() -> Any:
    found = []

    def hook(args: Any) -> None:
        found.append(
            (args.exc_type.__name__, args.exc_value.args, own_frames(args.exc_value), args.thread.name, len(args))
        )

    before, threading.excepthook = threading.excepthook, hook
    try:
        for error in (OwnError("no"), SystemExit(3), OwnInterrupt("out")):
            joined(threading.Thread(target=fails_with(error), name="fails"))
    finally:
        threading.excepthook = before
    return found


@program
def thread_pools() -> Any:
    started = []
    with ThreadPoolExecutor(1, thread_name_prefix="own", initializer=started.append, initargs=(1,)) as pool:
        names = pool.submit(lambda: threading.current_thread().name).result()
        failed = pool.submit(fails_with(OwnError("no"))).exception()
        mapped = list(pool.map(pow, [1, 2, 3], [2, 2, 2]))
        future = pool.submit(lambda *args, **kwargs: (args, kwargs), 1, function=2, fn=3, self=4)
        found = future.result(), type(future) is Future, future.done(), own_frames(failed)
    return names, mapped, found, started, told(lambda: pool.submit(len, ""))["args"]


@program
def cancelled_and_waiting_futures() -> Any:
    go, seen = threading.Event(), []
    pool = ThreadPoolExecutor(1)
    first, second = pool.submit(go.wait, 20), pool.submit(seen.append, "never")
    first.add_done_callback(lambda future: seen.append(future.result()))
    cancelled = second.cancel(), second.cancelled(), first.running() or not first.done()
    go.set()
    pool.shutdown(wait=True, cancel_futures=True)
    return cancelled, seen, told(second.result)["type"], told(lambda: pool.submit(len, ""))["type"]


@program
def pools_of_the_programs_own_class() -> Any:
    seen = []

    class Own(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            seen.append((fn.__name__, args))
            return super().submit(fn, *args, **kwargs)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, len, "abc"), await asyncio.to_thread(len, "ab")

    with Own(1) as pool:
        return pool.submit(len, "a").result(), list(pool.map(len, ["ab"])), asyncio.run(main()), seen


@program
def process_pools() -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks in a process that has threads
        future = pool.submit(number, 1)
        failed = pool.submit(number, -1).exception()
        text = [line for line in str(failed.__cause__).splitlines() if "host_behaviours" in line]
        found = type(failed).__name__, failed.args, type(failed.__cause__).__name__, len(text)
        return future.result(), type(future) is Future, list(pool.map(number, [1, 2])), found


@program
def context_variables_in_threads() -> Any:
    found = []
    token = OWN.set("set")
    try:
        joined(threading.Thread(target=lambda: found.append(seen_context())))
        with ThreadPoolExecutor(1) as pool:
            found += [
                pool.submit(seen_context).result(),
                pool.submit(contextvars.copy_context().run, seen_context).result(),
            ]
        found.append(asyncio.run(asyncio.to_thread(seen_context)))
    finally:
        OWN.reset(token)
    return found


@program
def context_variables_that_a_program_sets() -> Any:
    """What a module sets is set after its call, and what a task sets is not."""

    class Setting(dspy.Module):
        def forward(self, value: str) -> str:
            OWN.set(value)
            return value

        aforward = None

    async def main() -> Any:
        await asyncio.create_task(asyncio.to_thread(OWN.set, "thread"))
        Setting()(value="task")
        return OWN.get()

    def run() -> Any:
        Setting()(value="inside")
        return OWN.get(), asyncio.run(main()), OWN.get()

    return contextvars.copy_context().run(run), OWN.get()


@program
async def tasks() -> Any:
    async def look() -> Any:
        task = asyncio.current_task()
        return re.sub(r"\d+", "N", task.get_name()), type(task).__name__, task.get_coro().__qualname__, seen_context()

    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    context.run(OWN.set, "given")
    found = [await asyncio.create_task(look()), await asyncio.create_task(look(), name="named")]
    found += [await loop.create_task(look(), name="by loop"), await asyncio.create_task(look(), context=context)]
    found += await asyncio.gather(look(), look())
    async with asyncio.TaskGroup() as group:
        found.append(await group.create_task(look(), name="in a group"))
    refused = look()
    failed = [told(lambda: loop.create_task(1))["type"], told(loop.create_task)["type"]]
    refused.close()
    return found, failed, len(asyncio.all_tasks())


@program
async def task_factories() -> Any:
    made = []

    def factory(loop: Any, coroutine: Any, **kwargs: Any) -> Any:
        made.append((coroutine.__qualname__, sorted(name for name, value in kwargs.items() if value is not None)))
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    await asyncio.create_task(asyncio.sleep(0))
    await asyncio.create_task(asyncio.sleep(0), context=contextvars.copy_context())
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))  # from 3.12 on
    made.append(asyncio.create_task(asyncio.sleep(0)).done())
    loop.set_task_factory(None)
    return made


@program
def where_a_task_was_created() -> Any:
    """In debug mode, asyncio says of each task where it was created."""

    async def main() -> Any:
        made = [asyncio.create_task(asyncio.sleep(0)), asyncio.get_running_loop().create_task(asyncio.sleep(0))]
        await asyncio.gather(*made)
        return [re.sub(r"created at .*/", "created at ", repr(task)).partition("created")[2] for task in made]

    return asyncio.run(main(), debug=True)


@program
def exceptions_that_no_one_retrieves() -> Any:
    contexts: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
        with model(fails_with(OwnError("no"))) as lm:
            task = asyncio.create_task(lm.acall("Why?"))
            await asyncio.wait([task])
            del task
            gc.collect()

    asyncio.run(main())
    return [(sorted(each), each["message"], type(each["exception"]).__name__) for each in contexts]


@program
def generators() -> Any:
    def steps() -> Any:
        received = []
        try:
            while True:
                received.append((yield asked()))
        except KeyError:
            yield received
        finally:
            ended.append(asked())

    ended: list[str] = []
    with model():
        generator = steps()
        found = [type(generator).__name__, next(generator), generator.send(1), generator.throw(KeyError)]
        generator.close()
        return found, ended, told(lambda: next(generator))["type"], generator.gi_frame


@program
async def async_generators() -> Any:
    async def steps() -> Any:
        received = []
        try:
            while True:
                received.append((yield (await Rag().acall(question="Why?")).answer))
        except KeyError:
            yield received
        finally:
            ended.append((await Rag().acall(question="Why?")).answer)

    ended: list[str] = []
    with model():
        generator = steps()
        found = [
            type(generator).__name__,
            await anext(generator),
            await generator.asend(1),
            await generator.athrow(KeyError),
        ]
        await generator.aclose()
        return found, ended, generator.ag_frame, generator.ag_running
