"""The prompts of adapters, measured: what each stretch of their messages is, and how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokenscope._providers.prompts.adapters import Plan, Span, split_steps
from tokenscope._providers.prompts.assembly import Stretch, Stretches
from tokenscope._providers.prompts.messages import Message, read_message, read_messages
from tokenscope._providers.prompts.meter import FORMAT, Allowance, Key, Meter, key_of
from tokenscope._providers.prompts.turns import Turn, Value, value_keys
from tokenscope._usage.prompts import MEDIA, OTHER_INPUT

_SYSTEM: Final = ("system", "developer")
_MOST: Final = 1_000
_FOR_INPUTS: Final = 3  # which part of what may be read is kept for what differs from call to call: a sample tells much
_prefixes: Final[dict[Any, Stretches]] = {}
"""What does not change from call to call: the system message and the demos, once they are measured exactly."""


class AdapterPrompt:
    """What is being measured of one prompt.

    Args:
        plan: What is known of the adapter's prompts.
        demos: The demos that the adapter was given.
        inputs: The values of input fields that it was given.
        meter: Measures texts.
        allowance: How much may be read.
        turn: The turn of the predictor.
    """

    def __init__(
        self,
        plan: Plan,
        demos: Sequence[Any],
        inputs: Mapping[str, Any],
        meter: Meter,
        allowance: Allowance,
        turn: Turn,
    ) -> None:
        self._plan = plan
        self._demos = demos
        self._inputs = inputs
        self._meter = meter
        self._allowance = allowance
        self._turn = turn
        self._found: list[Stretch] = []

    def read(self, messages: Sequence[dict[str, Any]]) -> list[Stretch]:
        """Return the stretches of its messages."""
        last = len(messages) - 1
        first = 1 if messages[0].get("role") in _SYSTEM else 0
        has_history = self._plan.history is not None and self._plan.history in self._inputs
        demos_end = last
        if has_history:
            demos_end = max(first, min(last, first + self._plan.count_demos(self._demos)))
        if messages[last].get("role") != "user":
            last += 1  # nothing is asked but to go on
            demos_end = demos_end if has_history else last
        if demos_end > 0:
            kept = self._allowance.left // _FOR_INPUTS
            self._allowance.left -= kept
            self._found.extend(self._prefix(messages[:demos_end], first))
            self._allowance.left += kept
        if has_history:
            self._add_history(messages[demos_end:last])
        if last < len(messages):
            self._add_last(messages[last], is_alone=last <= first)
        return self._found

    def _measure(self, text: str, part: str, tool: str = "", messages: int = 0) -> Stretch:
        key = key_of(text)
        tokens, guessed = self._meter.measure(text, key, self._allowance, part)
        return Stretch(part, key, tokens, tool, messages, 0, guessed)

    # -- what does not change -------------------------------------------------------------------------------------------

    def _prefix(self, messages: Sequence[dict[str, Any]], first: int) -> Stretches:
        place: Any = None
        try:
            place = self._meter, self._plan.number, hash(tuple([message["content"] for message in messages]))
        except (TypeError, KeyError):  # images in demos
            pass
        else:
            if (known := _prefixes.get(place)) is not None:
                return known
        self._allowance.exact = True
        found = tuple(self._measured_prefix(messages, first))
        if place is not None and self._allowance.exact:
            if len(_prefixes) >= _MOST:
                _prefixes.clear()
            _prefixes[place] = found
        return found

    def _measured_prefix(self, messages: Sequence[dict[str, Any]], first: int) -> list[Stretch]:
        found: list[Stretch] = []
        read = read_messages(messages)
        plan = self._plan
        for message in read[:first]:
            text = message.text
            spans = plan.split_system(text) if plan.is_own else plan.search(text, self._demos, self._inputs)
            found += self._system(text, spans)
        demos: list[tuple[str, Key]] = []
        media: list[Key] = []
        for message in read[first:]:
            if not plan.is_own and not self._is_demo(message):
                found.append(self._measure(message.text, OTHER_INPUT, messages=1))
                continue
            demos.append((message.text, key_of(message.text)))
            media += message.media
        if demos:
            tokens, guessed = self._meter.measure_all(demos, self._allowance, "demos")
            keys = [key for _, key in demos]
            key = keys[0] if len(keys) == 1 else (hash(tuple(keys)), sum(size for _, size in keys))
            found.append(Stretch("demos", key, tokens, "", len(demos), len(demos) // 2, guessed))
        found += [Stretch(MEDIA, each, 0.0) for each in media]
        return found

    def _system(self, text: str, spans: Sequence[Span]) -> list[Stretch]:
        found = [self._measure(text[start:end], part) for part, start, end in spans]
        for index, stretch in enumerate(found):
            if stretch.part in (FORMAT, OTHER_INPUT) or index == len(found) - 1:
                found[index] = stretch._replace(messages=1)
                break
        return found

    def _is_demo(self, message: Message) -> bool:
        spans = self._plan.search(message.text, self._demos, {})
        return any(span.part == "demos" for span in spans)

    # -- what does ------------------------------------------------------------------------------------------------------

    def _add_history(self, messages: Sequence[dict[str, Any]]) -> None:
        for message in read_messages(messages):
            self._found.append(self._measure(message.text, "history", message.tool, 1)._replace(items=1))
            self._found += [Stretch(MEDIA, each, 0.0) for each in message.media]

    def _add_last(self, sent: dict[str, Any], *, is_alone: bool) -> None:
        """Add the message that asks: inputs, and what stands around them."""
        plan = self._plan
        message = read_message(sent, {})
        text = message.text
        if plan.history is not None:
            self._turn.whole = (key_of(text),)  # in the next turn it is history
        if plan.is_own:
            around: list[str] = []
            marks: list[str] = []
            at = 0
            inputs = plan.find_inputs(text, self._inputs)
            for _, start, end in inputs:
                # A line's end after a letter is a token of its own, after a full stop it is one with it. So something stands for
                # each value, of one token that the value itself has, too.
                marks.append(text[at:start])
                around += text[at:start], plan.style.gap, "x" if text[end - 1 : end].isalnum() else "."
                at = end
            marks.append(text[at:])
            around.append(text[at:])
            # Before the values, which may use up the allowance.
            rest = self._measure("".join(around), FORMAT, messages=1)
            for name, start, end in inputs:
                self._add_value(plan.parts[name], text[start:end])
            rest = rest._replace(key=key_of("".join(marks)), tokens=max(0.0, rest.tokens - len(inputs)))
        else:
            others: list[str] = []
            rest = None
            for part, start, end in plan.search(text, self._demos if is_alone else (), self._inputs):
                if part.startswith("input:"):
                    self._add_value(part, text[start:end])
                elif part == OTHER_INPUT:
                    others.append(text[start:end])
                else:
                    self._found.append(self._measure(text[start:end], part))
            rest = self._measure("".join(others), OTHER_INPUT, messages=1)
        self._found += [Stretch(MEDIA, each, 0.0) for each in message.media]
        self._found.append(rest)

    def _add_value(self, part: str, text: str) -> None:
        steps = split_steps(text)
        if steps is not None:
            self._add_steps(part, text, steps)
            return
        key = key_of(text)
        before = None if self._turn.before is None else self._turn.before.values.get(part)
        stretches: Stretches
        if before is not None and before.is_begun_by(text):
            size = sum(stretch.key[1] for stretch in before.stretches)
            stretches = (*before.stretches, self._measure(text[size:], part))
        else:
            tokens, guessed = self._meter.measure(text, key, self._allowance, part)
            stretches = (Stretch(part, key, tokens, guessed=guessed),)
        self._turn.values[part] = Value(value_keys(text, key), stretches)
        self._found += stretches

    def _add_steps(self, part: str, text: str, steps: Sequence[tuple[str, int, int]]) -> None:
        """Add the steps of a trajectory: what tools have returned apart from the rest."""
        tools: dict[str, str] = {}
        first = len(self._found)
        for name, start, end in steps:
            kind, _, number = name.rpartition("_")
            step = text[start:end].rstrip()  # as what stands last has no space at its end, until something follows it
            stretch = self._measure(step, part)
            if kind == "tool_name":
                tools[number] = _value_of(step, name)
            elif kind == "observation" and (tool := tools.get(number)):
                head = step[: step.index(name) + len(name)]
                mark = min(self._measure(head, part).tokens + 2, stretch.tokens)
                self._found.append(Stretch(part, (hash((stretch.key, name)), len(head)), mark))
                rest = stretch.tokens - mark
                stretch = stretch._replace(tokens=rest, tool=tool, guessed=min(rest, stretch.guessed))
            self._found.append(stretch)
        self._turn.steps.update([stretch.key for stretch in self._found[first:]])


def _value_of(step: str, name: str) -> str:
    """Return the value of a step's field that has one line."""
    value = step[step.index(name) + len(name) :]
    for mark in (" ## ]]\n", ">\n", ": "):
        value = value.removeprefix(mark)
    return value.partition("\n")[0].strip()


def forget() -> None:
    """Forget what does not change."""
    _prefixes.clear()
