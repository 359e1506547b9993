"""What an adapter of DSPy was given, found again in the messages that it has made.

Nothing is formatted again, and no code of the program's own is called: known texts are looked for. What DSPy's own adapters add
to them is `format`; what adapters of a program's own add cannot be told apart, and is `other`.
"""

from __future__ import annotations

import itertools
import re
import textwrap
import weakref
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from tokenscope._providers.prompts.meter import FORMAT
from tokenscope._usage.prompts import OTHER_INPUT

_METHODS: Final = ("format", "user_message_output_requirements")
_REQUEST: Final = "\n\nRespond with "  # how what DSPy's adapters ask for begins, after the inputs
_STRUCTURE: Final = "\nAll interactions will be structured "
_OBJECTIVE: Final = "your objective is: "
_FIELDS_OF_TWO_STEPS: Final = "As input, you will be provided with:\n"
_END_OF_TWO_STEPS: Final = "\nYou should lay out your outputs"
_INSTRUCTIONS_OF_TWO_STEPS: Final = "\nSpecific instructions: "
_TOOL: Final = re.compile(
    r"^[ \t]*\(\d+\) [^\n]{1,200}?(?:, whose description is <desc>.*?</desc>)?\. It takes arguments \{.*\}\.?[^\S\n]*$\n?",
    re.MULTILINE,
)
"""A tool, as `dspy.ReAct` writes it into its instructions."""
_STEP: Final = re.compile(r"(\w+_\d+)(?: ## \]\]\n|>\n|: )")
"""The name of a step's field in a trajectory, after what it begins with."""
_MOST_PLANS: Final = 1_000
_numbers: Final = itertools.count()
_own_methods: Final[MutableMapping[type, frozenset[str]]] = WeakKeyDictionary()
"""By class of adapters, the methods that format its prompts; none if one of them is not DSPy's own."""
_SHORT: Final = 16  # characters; a shorter text that is there more than once may be there by chance
_LEAST: Final = 3  # characters that are worth to be looked for


class Span(NamedTuple):
    """A stretch of a message's text."""

    part: str
    start: int
    end: int


class Style(NamedTuple):
    """How an adapter marks a field: what stands before its value, and after."""

    head: str
    tail: str = ""
    gap: str = ""  # between head and value: tokenizers take it for the value's first word


_MARKS: Final = Style("[[ ## {} ## ]]\n")
_TAGS: Final = Style("<{}>\n", "\n</{}>")
_NAMES: Final = Style("{}:", gap=" ")
_STYLES: Final = {"XMLAdapter": _TAGS, "TwoStepAdapter": _NAMES}
"""By the class that formats messages; all others use the marks of `ChatAdapter`, as `XMLAdapter` does before DSPy 3.1."""


class Plan:
    """What can be known of an adapter's prompts for a signature before it makes one."""

    def __init__(self, adapter: Any, signature: Any) -> None:
        self.number = next(_numbers)
        writer = str(getattr(type(adapter).format_user_message_content, "__qualname__", "")).partition(".")[0]
        self.style = _STYLES.get(writer, _MARKS)
        self.is_own = is_own(adapter)
        """Whether all that formats its prompts is DSPy's."""
        fields: Mapping[str, Any] = signature.input_fields
        self.history = next((name for name, field in fields.items() if _is_history(field)), None)
        self.inputs = tuple(name for name in fields if name != self.history)
        self.outputs = tuple(signature.output_fields)
        self.heads = {name: self.style.head.format(name) for name in self.inputs}
        self.tails = {name: self.style.tail.format(name) for name in self.inputs}
        self.parts = {name: "tools" if _is_tool(fields[name]) else f"input:{name}" for name in self.inputs}
        instructions = str(signature.instructions)
        # What begins with no space has none that all its lines share: `dedent` would only tidy lines of spaces.
        is_plain = instructions[:1].strip() and "\n " not in instructions and "\n\t" not in instructions
        lines = (instructions if is_plain else textwrap.dedent(instructions)).splitlines()
        self.instructions = ("\n".join(" " * 8 + line for line in lines), instructions)
        """The instructions, as DSPy's adapters write them, and as they are."""

    # -- prompts of DSPy's own adapters ---------------------------------------------------------------------------------

    def has_made(self, messages: Sequence[Any]) -> bool:
        """Whether messages that reach another LM than the adapter was given look like its own: an LM may hand them on."""
        text = messages[0].get("content")
        return self.is_own and isinstance(text, str) and any(each and each in text for each in self.instructions)

    def split_system(self, text: str) -> list[Span]:
        """Return what a system message is made of, in order and without gaps."""
        known = [*self._instructions_in(text), *_fields_in(text)]
        return fill(text, known, FORMAT)

    def _instructions_in(self, text: str) -> Iterator[Span]:
        start, end = self._find_instructions(text)
        at = start
        for tool in _TOOL.finditer(text, start, end):
            if tool.start() > at:
                yield Span("instructions", at, tool.start())
            yield Span("tools", tool.start(), tool.end())
            at = tool.end()
        if end > at:
            yield Span("instructions", at, end)

    def _find_instructions(self, text: str) -> tuple[int, int]:
        for instructions in self.instructions:
            if instructions.strip() and (start := text.rfind(instructions)) >= 0:
                end = start + len(instructions)
                if instructions.startswith(" " * 8):
                    return start + 7, end  # tokenizers take the last space for the word's after it
                return start - text.endswith(" ", 0, start), end
        for before in (_OBJECTIVE, _INSTRUCTIONS_OF_TWO_STEPS):  # others than the signature had
            if (start := text.rfind(before)) >= 0:
                return start + len(before), len(text)
        return 0, 0

    def find_inputs(self, text: str, inputs: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        """Return where the values of inputs are in the message that asks: names, starts and ends, in order."""
        found: list[tuple[str, int, int]] = []
        names = [name for name in self.inputs if name in inputs]
        at = -2
        for index, name in enumerate(names):
            head = self.heads[name]
            if not text.startswith(head if at < 0 else f"\n\n{head}", max(at, 0)):
                continue  # given in another way: tools, say, for which there is an API
            start = at + 2 + len(head)
            end = self._end_of_value(text, start, name, names[index + 1 :], inputs)
            found.append((name, start, end))
            at = end + len(self.tails[name])
        return found

    def _end_of_value(self, text: str, start: int, name: str, later: Sequence[str], inputs: Mapping[str, Any]) -> int:
        value, tail, gap = inputs[name], self.tails[name], self.style.gap
        if type(value) is str:
            for each in (gap + value, gap + value.rstrip()):
                end = start + len(each)
                if text.startswith(each, start) and text.startswith(tail, end):
                    after = end + len(tail)
                    if after == len(text) or text.startswith("\n\n", after):
                        return end
        end = -1
        for other in later:
            known = inputs[other]
            head = f"\n\n{self.heads[other]}{gap}"
            end = text.find(f"{tail}{head}{known if type(known) is str else ''}", start)
            end = text.find(tail + head, start) if end < 0 else end
            if end >= 0:
                return end
        end = text.rfind(tail + _REQUEST, start)
        if end < 0:
            end = len(text) - len(tail) if text.endswith(tail) else len(text)
        return max(start, end)

    def count_demos(self, demos: Sequence[Any]) -> int:
        """Return how many messages DSPy's adapters make of demos."""
        return 2 * sum(
            any(name in demo for name in (*self.inputs, self.history)) and any(name in demo for name in self.outputs)
            for demo in demos
        )

    # -- prompts of a program's own adapters ----------------------------------------------------------------------------

    def search(self, text: str, demos: Sequence[Any], inputs: Mapping[str, Any]) -> list[Span]:
        """Return what is found of known texts in a message, in order and without gaps."""
        spans: list[Span] = []
        for instructions in self.instructions:
            if not spans:
                _add(spans, text, "instructions", instructions.strip())
        for name in self.inputs:
            if name in inputs:
                _add(spans, text, self.parts[name], inputs[name])
        if self.history is not None:
            for message in _messages_of(inputs.get(self.history)):
                for value in message.values():
                    _add(spans, text, "history", value)
        for demo in demos:
            for name in (*self.inputs, *self.outputs):
                if name in demo:
                    _add(spans, text, "demos", demo[name])
        return fill(text, spans, OTHER_INPUT)


def _messages_of(history: Any) -> Sequence[Mapping[str, Any]]:
    return getattr(history, "messages", None) or ()


def _add(spans: list[Span], text: str, part: str, value: Any) -> None:
    """Add where a known text is, unless it may be there by chance, or is part of another that was found."""
    if type(value) is not str or len(value) < _LEAST:
        return
    start = text.rfind(value)
    if start < 0 or (len(value) < _SHORT and text.find(value) != start):
        return
    while start >= 0:
        end = start + len(value)
        around = [each for each in spans if each.start < end and start < each.end]
        if not around:
            spans.append(Span(part, start, end))
            return
        start = text.rfind(value, 0, min(each.start for each in around))


def fill(text: str, spans: list[Span], rest: str) -> list[Span]:
    """Return spans in order; what is between them is of the part `rest`."""
    found: list[Span] = []
    at = 0
    for span in sorted(spans, key=lambda each: each.start):
        if span.start < at:
            continue
        if span.start > at:
            found.append(Span(rest, at, span.start))
        found.append(span)
        at = span.end
    if at < len(text):
        found.append(Span(rest, at, len(text)))
    return found


def _fields_in(text: str) -> Iterator[Span]:
    """Yield the descriptions of fields in a system message of DSPy's own."""
    if (structure := text.find(_STRUCTURE)) >= 0:
        yield Span("fields", 0, structure + 1)  # with the end of the line, which tokenizers take for the last line's
    elif (start := text.find(_FIELDS_OF_TWO_STEPS)) >= 0 and (end := text.find(_END_OF_TWO_STEPS, start)) >= 0:
        yield Span("fields", start, end + 1)


def _is_history(field: Any) -> bool:
    kind = getattr(field, "annotation", None)
    return getattr(kind, "__name__", "") == "History" and str(getattr(kind, "__module__", "")).startswith("dspy.")


def _is_tool(field: Any) -> bool:
    kind = getattr(field, "annotation", None)
    kinds = getattr(kind, "__args__", None) or (kind,)
    return any(getattr(each, "__name__", "") == "Tool" and each.__module__.startswith("dspy.") for each in kinds)


def is_own(adapter: Any) -> bool:
    """Whether all that formats an adapter's prompts is DSPy's own."""
    kind = type(adapter)
    methods = _own_methods.get(kind)
    if methods is None:
        names = [name for name in dir(kind) if name in _METHODS or name.startswith("format_")]
        are_dspys = all(str(getattr(getattr(kind, name), "__module__", "")).startswith("dspy.") for name in names)
        methods = _own_methods[kind] = frozenset(names) if are_dspys else frozenset()
    return bool(methods) and vars(adapter).keys().isdisjoint(methods)


def split_steps(text: str) -> list[tuple[str, int, int]] | None:
    """Return the steps of a trajectory as `dspy.ReAct` writes it: names, starts and ends; None if a text is none.

    Each begins with its mark, in the form that the adapter gives to fields.
    """
    begins = "[[ ## " if text.startswith("[[ ## ") else "<" if text.startswith("<") else ""
    if _STEP.match(text, len(begins)) is None:
        return None
    found: list[tuple[str, int, int]] = []
    at = 0
    for block in text[len(begins) :].split(f"\n\n{begins}"):
        end = at + len(begins) + len(block)
        if (mark := _STEP.match(block)) is not None:
            found.append((mark[1], at, end))
        else:  # a paragraph of the step before
            name, start, _ = found[-1]
            found[-1] = name, start, end
        at = end + 2
    return found


_plans: Final[dict[tuple[int, type], tuple[weakref.ref[Any], Plan]]] = {}


def plan_of(adapter: Any, signature: Any) -> Plan:
    """Return the plan for an adapter and a signature; the same object again while the signature lives."""
    key = id(signature), type(adapter)
    known = _plans.get(key)
    if known is not None and known[0]() is signature:
        return known[1]
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    plan = Plan(adapter, signature)
    _plans[key] = weakref.ref(signature, lambda _: _plans.pop(key, None)), plan  # a plan holds instructions
    return plan
