"""The program of `tokenscope demo`: an agent, an asyncio pipeline, and a call to a provider without DSPy."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from typing import Any

from tokenscope import Scope, record_tokens, token_scope, track_tokens
from tokenscope._report.formats.text import one_line
from tokenscope._scopes.process import DISABLED
from tokenscope.cli.console import quiet
from tokenscope.testing import LoopbackProvider

QUESTION = "Why did the Bronze Age trading cities of the eastern Mediterranean fall within fifty years?"
PERSONAS = ("an archaeologist", "a climate scientist", "an economist")


def run(model: str | None) -> int:
    """Run the demonstration with a real model, or with a server on loopback, and return the exit status."""
    if DISABLED:
        _say("tokenscope demo: TOKENSCOPE_DISABLED is set, so nothing would be counted")
        return 1
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no prices are fetched from anywhere
    _say("importing dspy ...")
    import dspy
    import litellm

    litellm.suppress_debug_info = True  # it prints advice when a call fails
    logging.getLogger("dspy").setLevel(logging.ERROR)
    if model is None:
        with LoopbackProvider(_answer) as provider:
            _say(f"asking an OpenAI-compatible server at {provider.url}\n")
            scope, problem = _spend(dspy, provider.lm("openai/gpt-4o-mini"), provider.lm("openai/gpt-4o"))
            bill = provider.total
    else:
        lm = dspy.LM(model, cache=False, num_retries=0)
        _say(f"asking {model}\n")
        scope, problem = _spend(dspy, lm, lm)
        bill = None
    if problem is None or scope.usage.calls > scope.usage.failed_calls:
        print(scope)
    if problem is not None:
        _say(f"tokenscope demo: {model or 'the server on loopback'}: {one_line(problem)}")
        return 1
    if bill is None:
        return 0
    spent = scope.usage
    equal = all(getattr(spent, name) == getattr(bill, name) for name in ("calls", "input_tokens", "output_tokens"))
    print(
        f"\nthe tree: {spent.total_tokens:,} tokens in {spent.calls} calls; the server's bill: {bill.total_tokens:,} tokens "
        f"in {bill.calls} calls: {'equal' if equal else 'NOT EQUAL'}"
    )
    return 0 if equal else 1


def _spend(dspy: Any, lm: Any, strong_lm: Any) -> tuple[Scope, Exception | None]:
    """Do the work in a scope. Return the scope, and the exception that ended the work, if any."""
    with token_scope("demo") as scope, dspy.context(lm=lm), quiet():
        try:
            answer = _agent(dspy, strong_lm)(question=QUESTION)
            asyncio.run(_review(dspy, answer.answer))
            _translate(lm, answer.answer)
        except Exception as error:  # noqa: BLE001 - any exception of the provider or of DSPy becomes one line
            return scope, error
    return scope, None


def _agent(dspy: Any, strong_lm: Any) -> Any:
    """Return a research agent with five modules. One is an agent with a tool, and the tool calls a model."""

    class ResearchAgent(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.planner = dspy.ChainOfThought("question -> plan")
            self.searcher = dspy.ReAct("plan -> findings", tools=[self.search], max_iters=4)
            self.summarizer = dspy.Predict("page -> summary")
            self.synthesizer = dspy.ChainOfThought("question, findings -> answer")
            self.critic = dspy.ChainOfThought("question, answer -> critique")

        def search(self, query: str) -> str:
            """Search the library for pages about something."""
            page = f"Page about {query}: " + "trade in copper and tin, drought, migration, and the sea peoples. " * 12
            return str(self.summarizer(page=page).summary)

        def forward(self, question: str) -> Any:
            plan = self.planner(question=question).plan
            findings = self.searcher(plan=plan).findings
            with dspy.context(lm=strong_lm):
                answer = self.synthesizer(question=question, findings=findings).answer
            critique = self.critic(question=question, answer=answer).critique
            return dspy.Prediction(answer=answer, critique=critique)

    return ResearchAgent()


async def _review(dspy: Any, answer: str) -> None:
    """Let three personas review the answer concurrently, in an asyncio pipeline of decorated functions."""
    review = dspy.Predict("briefing, answer -> review")
    formulate = dspy.Predict("persona -> briefing")

    @track_tokens("persona_formulation", "formulate_prompt")
    async def formulate_prompt(persona: str) -> str:
        return str((await formulate.acall(persona=persona)).briefing)

    @track_tokens("interaction", "assistant_response")
    async def respond(briefing: str) -> str:
        return str((await review.acall(briefing=briefing, answer=answer)).review)

    async def one(persona: str) -> str:
        return await respond(await formulate_prompt(persona))

    await asyncio.gather(*(one(persona) for persona in PERSONAS))


def _translate(lm: Any, answer: str) -> None:
    """Call the provider without DSPy, and record the tokens by hand."""
    import litellm

    where = {key: lm.kwargs[key] for key in ("api_base", "api_key") if key in lm.kwargs}
    messages = [{"role": "user", "content": f"Translate into French: {answer}"}]
    response: Any = litellm.completion(model=lm.model, messages=messages, **where)
    usage = response.usage
    record_tokens("translation", "to_french", lm.model, None, usage.prompt_tokens, usage.completion_tokens)


def _answer(field: str, prompt: str) -> str | None:
    if field == "next_tool_name":
        searches = len(re.findall(r"\[\[ ## observation_\d+ ## \]\]", prompt))
        return "search" if searches < 2 else "finish"
    texts = {
        "reasoning": "The question asks for causes that act together, so the evidence has to be weighed by kind. " * 2,
        "plan": "1. Date the destructions. 2. Look for drought in pollen and cores. 3. Follow the copper and the tin.",
        "next_thought": "What the plan needs next is evidence on the trade in metals and on the climate.",
        "summary": "Between 1225 and 1175 BC trade in copper and tin broke off, droughts lasted decades, people moved.",
        "findings": "Destruction layers cluster; pollen shows drought; letters ask for grain; metals stop arriving. "
        * 3,
        "answer": "No single blow felled them: drought, hunger, migration and broken trade routes fed each other. " * 6,
        "critique": "The answer names causes but no order of events; say which came first, and how one knows.",
        "briefing": "Read as that person would, and ask for the evidence that the field demands.",
        "review": "Convincing on trade, thin on dates; the drought needs its cores cited.",
        "": "Aucun coup unique ne les abattit : secheresse, famine, migrations et routes rompues se renforcerent. " * 6,
    }
    return texts.get(field)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
