"""Run the stages of an asyncio pipeline concurrently, and see what each of them spends.

It runs against a local server. To use a real model, configure DSPy as usual.
"""

import asyncio

import dspy

from tokenscope import token_scope, track_tokens
from tokenscope.testing import LoopbackProvider

formulate = dspy.Predict("persona -> briefing")
respond = dspy.Predict("briefing -> response")


@track_tokens("persona_formulation", "formulate_prompt")
async def formulate_prompt(persona):
    """Write the briefing of a persona."""
    return (await formulate.acall(persona=persona)).briefing


@track_tokens("interaction_generation", "assistant_response")
async def assistant_response(briefing):
    """Answer as that persona."""
    return (await respond.acall(briefing=briefing)).response


async def sample(persona):
    """Run both stages in a scope for this persona."""
    with token_scope(persona) as scope:
        await assistant_response(await formulate_prompt(persona))
    return scope


async def main():
    """Make three samples concurrently."""
    with token_scope("pipeline") as pipeline:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sample(persona)) for persona in ("a baker", "a nurse", "a pilot")]
    for task in tasks:
        scope = task.result()
        print(f"{scope.name}: {scope.usage.total_tokens:,} tokens")
    print(pipeline)


if __name__ == "__main__":
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
        asyncio.run(main())
