"""The prompts of calls that a program records by hand: the messages that it has sent, split by role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenscope._providers.prompts.assembly import assemble
from tokenscope._providers.prompts.messages import Message, by_role, read_messages
from tokenscope._providers.prompts.meter import meter_for
from tokenscope._providers.prompts.options import measure_options
from tokenscope._usage.prompts import Prompt


def read_sent(sent: Any, model: str) -> Prompt | None:
    """Return the prompt of a call that was made without DSPy; None if nothing was sent.

    Args:
        sent: The text, the messages, or all that the provider's SDK was given by name: a dict with `messages` (or `input`,
            `contents`), `system`, `tools`, `response_format`.
        model: `provider/model`.
    """
    meter = meter_for(model)
    allowance = meter.allow(("sent", model))
    options: Mapping[str, Any] = {}
    if isinstance(sent, Mapping):
        options = sent
        sent = next((sent[name] for name in ("messages", "input", "contents") if name in sent), None)
    messages: list[Message] = []
    system = options.get("system") or options.get("instructions")
    if system:
        messages += read_messages([{"role": "system", "content": system}])
    if isinstance(sent, str):
        messages.append(Message("user", sent))
    else:
        messages += read_messages(sent or ())
    found = measure_options(options.get("tools"), options.get("response_format"), meter, allowance)
    found += by_role(messages, meter, allowance)
    return assemble(found, meter) if found else None
