"""The span processor counts each token that spans report once, in the scope in which the span was started."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from support.otel_support import usage

import tokenscope
from tokenscope import Budget, BudgetExceeded, Usage, get_tracker, token_scope
from tokenscope._scopes.event_log import records as recent
from tokenscope.errors import TokenScopeWarning
from tokenscope.integrations.otel import TokenScopeSpanProcessor, annotate_spans
from tokenscope.integrations.otel import spans as otel_spans
from tokenscope.testing import LoopbackProvider

pytest_plugins = ["support.otel_support"]


def test_a_span_is_a_call(tracing):
    """A span with usage counts as one call of its model, with the span's duration, name and ids."""
    with token_scope("work") as scope:
        with tracing.tracer().start_as_current_span("chat", attributes=usage(90, 30)) as span:
            pass
    call = recent()[-1]

    assert Usage(calls=1, input_tokens=90, output_tokens=30) == scope.report().total.__class__(
        calls=scope.usage.calls, input_tokens=scope.usage.input_tokens, output_tokens=scope.usage.output_tokens
    )
    assert ["openai/gpt-4o-mini"] == list(scope.report().by_model())
    assert {
        "span": "chat",
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
    } == call.metadata
    assert (span.end_time - span.start_time) / 1e9 == call.seconds


def test_the_scope_is_that_of_the_start(tracing):
    """A span is counted in the scope in which it was started, even if it ends in another scope."""
    with token_scope("here") as here:
        span = tracing.tracer().start_span("chat", attributes=usage(90, 30))
    with token_scope("there") as there:
        span.end()

    assert (120, 0) == (here.usage.total_tokens, there.usage.total_tokens)


def test_no_scope(tracing):
    """Outside of any scope, a span is counted at the top level."""
    tracing.tracer().start_span("chat", attributes=usage(90, 30)).end()

    assert 120 == tokenscope.report().find("(no scope)").usage.total_tokens


def test_threads_and_tasks(tracing):
    """Spans of many threads and tasks are each counted in their own scope."""

    def one(number):
        with token_scope(f"t{number}"), tracing.tracer().start_as_current_span("chat", attributes=usage(number, 1)):
            pass

    async def other(number):
        with token_scope(f"a{number}"), tracing.tracer().start_as_current_span("chat", attributes=usage(number, 1)):
            await asyncio.sleep(0.001)

    async def all_others():
        await asyncio.gather(*(other(number) for number in range(20)))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(all_others())

    report = tokenscope.report()
    assert {f"{kind}{n}": n + 1 for kind in "ta" for n in range(20)} == {
        node.name: node.usage.total_tokens for node in report.tree().children
    }


# -- spans in spans ----------------------------------------------------------------------------------------------------


def test_descendants_are_counted_and_not_those_above(tracing):
    """If an agent's span adds up two calls below it, only the calls are counted, even with a span in between."""
    start = tracing.tracer().start_as_current_span
    with token_scope("work") as scope, start("agent", attributes=usage(150, 50)), start("step"):
        for _ in range(2):
            with start("chat", attributes=usage(75, 25)):
                pass

    assert (2, 200) == (scope.usage.calls, scope.usage.total_tokens)


def test_siblings_are_all_counted(tracing):
    """Several calls below one span are all counted."""
    start = tracing.tracer().start_as_current_span
    with token_scope("work") as scope, start("chain"):
        for number in (1, 2, 3):
            with start("chat", attributes=usage(number, 0)):
                pass

    assert (3, 6) == (scope.usage.calls, scope.usage.total_tokens)


def test_what_ends_after_the_span_above_is_not_counted_on_top(tracing):
    """If a span with usage was counted, a stream's span below it that ends later adds nothing."""
    tracer = tracing.tracer()
    with token_scope("work") as scope:
        with tracer.start_as_current_span("client", attributes=usage(75, 25)):
            stream = tracer.start_span("stream", attributes=usage(75, 25))
        stream.end()

    assert (1, 100) == (scope.usage.calls, scope.usage.total_tokens)


def test_what_ends_after_a_span_above_that_tells_nothing_is_counted(tracing):
    """If the spans above reported no usage, a span that ends later is counted, in the scope of its start."""
    tracer = tracing.tracer()
    with token_scope("work") as scope:
        with tracer.start_as_current_span("agent"), tracer.start_as_current_span("step"):
            stream = tracer.start_span("stream", attributes=usage(75, 25))
    stream.end()

    assert (1, 100) == (scope.usage.calls, scope.usage.total_tokens)


def test_what_starts_after_the_span_above_has_ended_is_another_call(tracing):
    """A tool's span may start below a call that has ended. The tool's tokens are counted in addition."""
    tracer = tracing.tracer()
    with token_scope("work") as scope:
        asked = tracer.start_span("chat", attributes=usage(75, 25))
        asked.end()
        with trace.use_span(asked), tracer.start_as_current_span("tool"):
            tracer.start_span("chat", attributes=usage(5, 5)).end()

    assert (2, 110) == (scope.usage.calls, scope.usage.total_tokens)


def test_a_span_written_later_about_the_same_time_is_not_counted_on_top(tracing):
    """If a logger writes a span later, with a time inside the counted span above it, the span adds nothing."""
    tracer = tracing.tracer()
    with token_scope("work") as scope:
        told = tracer.start_span("chat", attributes=usage(75, 25))
        within = told.start_time
        told.end()
        with trace.use_span(told):
            tracer.start_span("logged", attributes=usage(75, 25), start_time=within).end()

    assert (1, 100) == (scope.usage.calls, scope.usage.total_tokens)


def test_a_failed_attempt_does_not_hide_what_was_spent(tracing):
    """A failed attempt below a span with tokens counts as a failed call, and the tokens are counted, too."""
    start = tracing.tracer().start_as_current_span
    with token_scope("work") as scope, start("client", attributes=usage(75, 25)):
        with pytest.raises(ValueError), start("attempt", attributes={"gen_ai.operation.name": "chat"}):
            raise ValueError

    assert (2, 1, 100) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)


def test_a_failed_child_does_not_reveal_the_tokens_of_the_one_before(tracing):
    """If a span adds up a call and a later failed call below it, the tokens are still counted once."""
    start = tracing.tracer().start_as_current_span
    with token_scope("work") as scope, start("agent", attributes=usage(75, 25)), start("step"):
        with start("chat", attributes=usage(75, 25)):
            pass
        with pytest.raises(ValueError), start("chat", attributes={"gen_ai.operation.name": "chat"}):
            raise ValueError

    assert (2, 1, 100) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_failed_call(tracing):
    """A failed model call is counted once, with its error's name, with and without usage."""
    start = tracing.tracer().start_as_current_span
    with token_scope("work") as scope, pytest.raises(TimeoutError):
        with (
            start("client", attributes={"openinference.span.kind": "LLM"}),
            start("chat", attributes=usage(9, 0)) as span,
        ):
            span.set_attribute("gen_ai.request.model", "gpt-5")
            raise TimeoutError
    assert (1, 1, 9) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)
    assert "TimeoutError" == recent()[-1].error

    with token_scope("work") as scope, pytest.raises(TimeoutError):
        with start("client", attributes={"openinference.span.kind": "LLM"}):
            with start("chat", attributes={"gen_ai.operation.name": "chat"}):
                raise TimeoutError
    assert (1, 1, 0) == (scope.usage.calls, scope.usage.failed_calls, scope.usage.total_tokens)


def test_an_error_type(tracing):
    """Without an exception event, the call's error is the attribute `error.type`, or else `error`."""
    for expected, attributes in (("429", {"error.type": "429"}), ("error", {})):
        span = tracing.tracer().start_span("chat", attributes={**usage(1, 0), **attributes})
        span.set_status(trace.StatusCode.ERROR)
        span.end()
        assert expected == recent()[-1].error


def test_several_exceptions(tracing):
    """If a span records several exceptions, the last one is the call's error."""
    span = tracing.tracer().start_span("chat", attributes=usage(1, 0))
    for error in (ConnectionError("try again"), TimeoutError("too late")):
        span.record_exception(error)
    span.set_status(trace.StatusCode.ERROR)
    span.end()

    assert "TimeoutError" == get_tracker().records[-1].error


def test_other_spans_that_fail_are_no_calls(tracing):
    """A tool's span that fails does not count as a model call."""
    with token_scope("work") as scope, pytest.raises(ValueError):
        with tracing.tracer().start_as_current_span("tool", attributes={"gen_ai.operation.name": "execute_tool"}):
            raise ValueError

    assert 0 == scope.usage.calls


def test_malformed_counts(tracing):
    """A value that is not a number of tokens is counted as 0, with one warning."""
    with (
        token_scope("work") as scope,
        pytest.warns(TokenScopeWarning, match="'many' as prompt_tokens of openai/odd-model"),
    ):
        attributes = {**usage(0, 7, "odd-model"), "gen_ai.usage.input_tokens": "many"}
        tracing.tracer().start_span("chat", attributes=attributes).end()

    assert (1, 7) == (scope.usage.calls, scope.usage.total_tokens)


def test_budgets(tracing):
    """The tokens of spans are charged to the scope's budget, and a budget that is spent stops the next scope."""
    with pytest.raises(BudgetExceeded, match="1,000 tokens, is spent: 1,200 tokens"):
        with token_scope("work", budget=Budget(tokens=1_000)):
            tracing.tracer().start_span("chat", attributes=usage(1_000, 200)).end()
            with token_scope("more"):
                pytest.fail("the budget is spent")


# -- DSPy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotated", [False, True])
def test_spans_around_and_inside_of_dspy(tracing, annotated):
    """A call that the DSPy bridge counts is not counted again by spans around it, inside it, or ending after it."""
    tracer = tracing.tracer()
    late = []

    class LM(dspy.LM):
        def forward(self, *args, **kwargs):
            response = super().forward(*args, **kwargs)
            with tracer.start_as_current_span("inside", attributes=usage(11, 13)):
                late.append(tracer.start_span("late", attributes=usage(11, 13)))
            return response

    stop = annotate_spans() if annotated else lambda: None
    with LoopbackProvider() as provider, token_scope("work") as scope:
        lm = LM("openai/gpt-4o-mini", api_base=provider.url, api_key="x", cache=False)
        with tracer.start_as_current_span("around", attributes=usage(11, 13)):
            with tracer.start_as_current_span("call"):
                lm("hello")
        for span in late:
            span.end()
        bill = provider.total
    stop()

    assert (1, bill.total_tokens) == (scope.usage.calls, scope.usage.total_tokens)


def test_a_span_after_a_dspy_call_is_counted(tracing):
    """A span that follows a DSPy call below the same agent's span is counted, too."""
    with LoopbackProvider() as provider, token_scope("work") as scope:
        with tracing.tracer().start_as_current_span("agent"):
            provider.lm()("hello")
            tracing.tracer().start_span("chat", attributes=usage(7, 5)).end()
        bill = provider.total

    assert (2, bill.total_tokens + 12) == (scope.usage.calls, scope.usage.total_tokens)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_spans_that_never_end_are_forgotten(tracing):
    """A span that the program drops before it ends leaves nothing in memory."""
    for _ in range(100):
        tracing.tracer().start_span("lost", attributes=usage(1, 1))
    gc.collect()

    assert {} == otel_spans._open


def test_a_chain_of_spans_is_not_kept(tracing):
    """Memory stays bounded if a program keeps starting each span below the one before it."""
    tracer = tracing.tracer()
    span = tracer.start_span("first")
    for _ in range(3 * otel_spans._REMEMBERED):
        with trace.use_span(span):
            following = tracer.start_span("next", attributes=usage(1, 0))
        span.end()
        span = following
    span.end()
    gc.collect()

    assert otel_spans._REMEMBERED == len(otel_spans._ended)
    assert 2 * otel_spans._REMEMBERED > sum(isinstance(each, otel_spans._Noted) for each in gc.get_objects())


def test_several_processors(tracing):
    """With a second processor, a span is still counted once."""
    tracing.provider.add_span_processor(TokenScopeSpanProcessor())
    with token_scope("work") as scope:
        tracing.tracer().start_span("chat", attributes=usage(90, 30)).end()

    assert (1, 120) == (scope.usage.calls, scope.usage.total_tokens)


def test_a_span_from_before_the_processor():
    """A span that was started before the processor was added is counted in the scope in which it ends."""
    provider = TracerProvider()
    span = provider.get_tracer("x").start_span("chat", attributes=usage(90, 30))
    provider.add_span_processor(TokenScopeSpanProcessor())
    with token_scope("work") as scope:
        span.end()

    assert 120 == scope.usage.total_tokens


def test_spans_that_are_not_recorded_tell_nothing():
    """If a sampler drops a span, its tokens are not counted, as the documentation says."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(TokenScopeSpanProcessor())
    with token_scope("work") as scope:
        provider.get_tracer("x").start_span("chat", attributes=usage(90, 30)).end()

    assert 0 == scope.usage.calls


# -- importing ---------------------------------------------------------------------------------------------------------


def test_importing_tokenscope_loads_no_opentelemetry():
    """Importing tokenscope does not import OpenTelemetry."""
    code = "import sys, tokenscope, tokenscope.integrations; assert not any(m.startswith('opentelemetry') for m in sys.modules)"

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_without_the_sdk():
    """If OpenTelemetry is not installed, the error says what to install."""
    code = "import sys; sys.modules['opentelemetry'] = None; import tokenscope.integrations.otel"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert 'pip install "dspy-tokenscope[otel]"' in result.stderr


def test_service_and_cost_of_a_span(tracing):
    """A span's call is priced by the service tier that it tells, or costs what the provider told."""
    tier = {"gen_ai.request.model": "gpt-5-mini", "openai.response.service_tier": "flex"}
    told = {"amount": 0.25, "currency": "USD", "source": "provider"}
    scopes = {}
    for name, attributes in {
        "usual": {"gen_ai.request.model": "gpt-5-mini"},
        "flex": tier,
        "told": {f"gen_ai.usage.cost.{key}": value for key, value in told.items()},
    }.items():
        with token_scope(name) as scopes[name]:
            tracing.tracer().start_span("chat", attributes={**usage(900_000, 0), **attributes}).end()
    costs = {name: float(scope.usage.cost) for name, scope in scopes.items()}

    assert costs["usual"] == pytest.approx(2 * costs["flex"])
    assert 0.25 == costs["told"]
    assert "provider" == get_tracker().records[-1]["price_source"]
