"""Programs in which another package patches threads, too, run as without tokenscope, in whatever order both are imported."""

from __future__ import annotations

import os
from textwrap import dedent, indent

import pytest
from support.spending import python

pytestmark = pytest.mark.slow
PATCHING = {
    "sentry_sdk": """
        import sentry_sdk
        from sentry_sdk.transport import Transport

        class Nowhere(Transport):
            def capture_envelope(self, envelope):
                pass

        sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Nowhere, traces_sample_rate=1.0)
    """,
    "opentelemetry.instrumentation.threading": """
        from opentelemetry.instrumentation.threading import ThreadingInstrumentor

        ThreadingInstrumentor().instrument()
    """,
    "gevent": """
        import gevent.monkey

        gevent.monkey.patch_all()
    """,
}
PROGRAM = """
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

seen = []


class Own(threading.Thread):
    def run(self):
        work(1, by="own")


def work(tokens, by="function"):
    seen.append(by)
    record_tokens("m", "o", "x", "p", input_tokens=tokens, output_tokens=0)
    return tokens


with token_scope("outer") as outer:
    with token_scope("inner") as inner:
        threads = [Own(), threading.Thread(target=work, args=(10,), kwargs={"by": "target"}), threading.Timer(0.01, work, (100,))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads), threads
        with ThreadPoolExecutor(2) as pool:
            assert [1_000, 1_000] == list(pool.map(work, [1_000, 1_000], timeout=20))
    work(10_000)

assert ["own", "target"] == sorted(seen)[-2:], seen
assert (2_111, 12_111) == (inner.usage.input_tokens, outer.usage.input_tokens), (inner, outer)
"""
EVALUATION = """
import dspy
from dspy.utils import DummyLM

with token_scope("evaluation") as evaluation:
    dspy.configure(lm=DummyLM([{"answer": "yes"}] * 8))
    devset = [dspy.Example(question="?", answer="yes").with_inputs("question")] * 4
    evaluate = dspy.Evaluate(devset=devset, metric=lambda *_: 1.0, num_threads=2, display_progress=False)
    score = evaluate(dspy.Predict("question -> answer"))
assert 100.0 == score.score, score
assert 4 == evaluation.usage.calls, evaluation
print("done")
"""
OURS = "from tokenscope import record_tokens, token_scope\n"


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("package", PATCHING)
def test_threads_that_another_package_patches(package, order):
    """Threads, timers, pools and `dspy.Evaluate` run and are counted in their scopes."""
    if "instrumentors" not in os.environ.get("TOKENSCOPE_TESTS_REQUIRE", ""):
        pytest.importorskip(package)
    theirs = dedent(PATCHING[package])
    if package == "gevent" and order == "after":
        theirs = "import sys; assert 'threading' in sys.modules\n" + theirs  # gevent warns of that, without us as well
    code = theirs + OURS if order == "before" else OURS + theirs
    assert "done\n" == python(code + PROGRAM + EVALUATION)


def test_a_thread_under_two_wrappers():
    """A wrapper of `Thread.start` that calls `run` with the thread, its function, or no argument, runs it once in its scope."""
    wrapping = """
        import functools, threading

        start = threading.Thread.start

        def wrapped_start(self):
            run = self.run
            assert run.__self__ is self and "run" == run.__name__
            self.run = HOW
            return start(self)

        threading.Thread.start = wrapped_start
    """
    for how in (
        "functools.partial(run.__func__, self)",
        "functools.partial(run)",
        "type(run)(run.__func__, self)",
        "lambda: run.__func__(threading.current_thread())",
    ):
        theirs = dedent(wrapping).replace("HOW", how)
        checked = PROGRAM.replace(
            "work(10_000)", "work(10_000)\n    assert 1 == seen.count('own') == seen.count('target')"
        )
        for code in (theirs + OURS, OURS + theirs):
            assert "done\n" == python(code + checked + indent("print('done')\n", ""))
