"""Prompts by parts: what adapters were given, kept while they call an LM, and found again in what it is asked.

Loaded, and patched in, only in programs that ask for parts of prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from weakref import ref

from dspy.dsp.utils.settings import main_thread_config, thread_local_overrides

from tokenscope._providers.openai_usage import read_counts
from tokenscope._providers.prompts.adapter_prompts import AdapterPrompt
from tokenscope._providers.prompts.adapters import plan_of
from tokenscope._providers.prompts.assembly import Stretch, Stretches, assemble
from tokenscope._providers.prompts.messages import Message, by_role, read_messages
from tokenscope._providers.prompts.meter import Allowance, Meter, meter_for
from tokenscope._providers.prompts.options import measure_options
from tokenscope._providers.prompts.tokenizers import choose, load
from tokenscope._providers.prompts.turns import Turn, next_turn
from tokenscope._scopes.scope import Scope
from tokenscope._usage.prompts import Prompt
from tokenscope._usage.warnings import internal_error
from tokenscope.integrations.dspy.lm_calls import answered_call

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
_get: Final = dict.get  # of DSPy's settings, whose own `get` is found by a `__getattr__` in Python
_ENTRIES: Final = frozenset({"dspy", "operation", "module"})
"""Kinds of scopes in which turns are counted."""
_THIN: Final = frozenset({"ChainOfThought", "ChainOfThoughtWithHint", "MultiChainComparison"})
"""Modules of DSPy's that call their predictor once."""
_MOST: Final = 2_000
_latest: Final[dict[Any, Stretches]] = {}
"""The latest prompt of each predictor, by path."""


class Asked(NamedTuple):
    """What an adapter was given."""

    adapter: Any
    lm: Any
    signature: Any
    demos: Sequence[Any]
    inputs: Mapping[str, Any]
    settings: Any  # of DSPy: the same object in all that one call of a predictor asks


class Given:
    """What an adapter was given, until its call has ended."""

    __slots__ = ("asked", "outside")

    def __init__(self, adapter: Any, lm: Any, signature: Any, demos: Any, inputs: Mapping[str, Any]) -> None:
        self.asked: Asked | None = Asked(adapter, lm, signature, demos or (), inputs, thread_local_overrides.get())
        self.outside: Given | None = None

    def begin(self) -> None:
        """Keep it for the LM calls inside."""
        self.outside = _given.get()
        _given.set(self)

    def finish(self) -> None:
        """Forget it, also in tasks that were started meanwhile: they may outlive it, and must not keep texts."""
        if _given.get() is self:  # a coroutine that is finalised in another Context has nothing to restore there
            _given.set(self.outside)
        self.asked = self.outside = None


_given: Final[ContextVar[Given | None]] = ContextVar("tokenscope_given", default=None)


_noted: Final[ContextVar[Prompt | None]] = ContextVar("tokenscope_noted", default=None)
"""The prompt whose bill was read last here."""


def keep_given(wrapped: Any, switch: list[bool]) -> Any:
    """`Adapter.__call__`, `.acall`: keep what the adapter was given while it calls the LM.

    The first arguments have names, as they have in what DSPy itself puts around these methods.
    """
    if inspect.iscoroutinefunction(wrapped):

        async def acall(self: Any, lm: Any, lm_kwargs: Any, *args: Any, **kwargs: Any) -> Any:
            given = _given_to(self, lm, args, kwargs) if switch else None
            try:
                if given is not None:
                    given.begin()
                return await wrapped(self, lm, lm_kwargs, *args, **kwargs)
            finally:
                if given is not None:
                    given.finish()

        return acall

    def call(self: Any, lm: Any, lm_kwargs: Any, *args: Any, **kwargs: Any) -> Any:
        given = _given_to(self, lm, args, kwargs) if switch else None
        try:
            if given is not None:
                given.begin()
            return wrapped(self, lm, lm_kwargs, *args, **kwargs)
        finally:
            if given is not None:
                given.finish()

    return call


def _given_to(adapter: Any, lm: Any, args: Args, kwargs: Kwargs) -> Given | None:
    try:
        return Given(adapter, lm, *args, **kwargs)
    except Exception:  # noqa: BLE001 - it is called in a way of its own
        return None


def make_lm(lm: Any, args: Args, kwargs: Kwargs) -> None:
    """`BaseLM.__init__`, `LM.__init__`: load the tokenizer for its model, so that no call has to do without."""
    _load_for(args[0] if args else kwargs.get("model"))


def prepare() -> None:
    """Load the tokenizer for the model of the LM that is configured already."""
    _load_for(getattr(main_thread_config.get("lm"), "model", None))


def _load_for(model: Any) -> None:
    if isinstance(model, str):
        load(choose(model)[0])


def read_prompt(lm: Any, args: Args, kwargs: Mapping[str, Any], scope: Any) -> Prompt | None:
    """Return the prompt of an LM call that begins, measured by parts; None if it is given in a way that is not known."""
    try:
        return _read_prompt(lm, args, kwargs, scope)
    except Exception:  # noqa: BLE001
        internal_error("measuring a prompt")
        return None


def _read_prompt(lm: Any, args: Args, kwargs: Mapping[str, Any], scope: Any) -> Prompt | None:
    meter = meter_for(str(getattr(lm, "model", None) or type(lm).__name__))
    if meter.is_learning:
        _note_bill(meter)
    messages = kwargs.get("messages")
    given, plan = _given.get(), None
    asked = None if given is None else given.asked
    if asked is not None and type(messages) is list and messages and type(messages[0]) is dict:
        plan = plan_of(asked.adapter, asked.signature)
        if asked.lm is not lm and not plan.has_made(messages):
            plan = None
    place = scope.path, None if plan is None else plan.inputs
    allowance = meter.allow(place)
    own = getattr(lm, "kwargs", None) or {}
    tools, schema = kwargs.get("tools") or own.get("tools"), kwargs.get("response_format") or own.get("response_format")
    if plan is not None and asked is not None:
        turn = _turn_of(scope, place, asked.settings)
        found = measure_options(tools, schema, meter, allowance)
        found += AdapterPrompt(plan, asked.demos, asked.inputs, meter, allowance, turn).read(messages or ())
    else:
        turn = next_turn(scope if _is_entry(scope) else None, place)
        found = _direct(args, kwargs, tools, schema, meter, allowance)
    if not found:
        return None
    turn.stretches = tuple(found)
    latest = _latest.pop(place, None)
    if len(_latest) >= _MOST:
        _latest.clear()
    _latest[place] = turn.stretches
    held = turn.elsewhere if turn.before is None else turn.before.held
    return assemble(found, meter, turn=turn.number, held=held, before=latest)


def _note_bill(meter: Meter) -> None:
    """Let a meter learn from what the call was billed that has ended last here."""
    call = answered_call.get()
    if call is None or (prompt := call.prompt) is None or prompt is _noted.get():
        return
    if prompt.measured_by == meter.name and len(call.entries) == 1:
        _noted.set(prompt)
        meter.note_bill(prompt, read_counts(call.model, call.entries[0]).input_tokens)


def _direct(
    args: Args, kwargs: Mapping[str, Any], tools: Any, schema: Any, meter: Meter, allowance: Allowance
) -> list[Stretch]:
    """Return the stretches of a prompt that no adapter has made, each by its role."""
    messages: list[Message] = []
    prompt = args[0] if args else kwargs.get("prompt") or kwargs.get("request")
    if isinstance(prompt, str):
        messages.append(Message("user", prompt))
    elif prompt is not None:  # a request of DSPy's own class
        if system := getattr(prompt, "system", None):
            messages += read_messages([{"role": "system", "content": system}])
        messages += read_messages(getattr(prompt, "messages", None) or ())
        tools = tools or getattr(prompt, "tools", None)
        schema = schema or getattr(getattr(prompt, "config", None), "response_format", None)
    messages += read_messages(kwargs.get("messages") or ())
    return measure_options(tools, schema, meter, allowance) + by_role(messages, meter, allowance)


def _turn_of(scope: Any, place: Any, settings: Any) -> Turn:
    """Begin the next turn of the predictor that asks in a scope."""
    modules = _get(settings, "caller_modules")
    predictor = modules[-1] if modules else None
    entry = scope
    if _is_entry(scope) and type(scope.opened_by) is ref:
        module: Any = scope.opened_by()
        if module is predictor or (type(module).__name__ in _THIN and type(module).__module__.startswith("dspy.")):
            entry = scope.above
    return next_turn(entry if _is_entry(entry) else None, place, None if predictor is None else settings)


def _is_entry(scope: Any) -> bool:
    """Whether turns are counted in a scope: that of a module, or of a decorated function."""
    return isinstance(scope, Scope) and scope.path.frame.kind in _ENTRIES


def forget() -> None:
    """Forget the latest prompts."""
    _latest.clear()
