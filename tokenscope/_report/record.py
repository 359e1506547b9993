"""Record: one counted call, or a plain amount, as scripts read it, an object and a mapping, and as JSON holds it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from itertools import starmap
from types import MappingProxyType
from typing import Any, Final

from tokenscope._report.attribution import attribution_of
from tokenscope._usage.calls import Call, Frame
from tokenscope._usage.keys import PromptPart, UsageKey
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.price_list import price_source
from tokenscope._usage.prices import priced
from tokenscope._usage.prompt_parts import parts_of
from tokenscope._usage.usage import TOKENS, ZERO_COUNTS, Counts, Usage

_FIRST: Final = ("module", "operation", "model", "provider", *TOKENS[:2], "total_tokens", "timestamp")
_DEEPEST_METADATA: Final = 20  # levels of containers in metadata that are kept; deeper ones become text
_OPTIONAL: Final = (*TOKENS[2:], "saved_tokens")  # counts that JSON holds only if they are not 0
_attribution_of = lru_cache(maxsize=4_096)(attribution_of)


class Record(Mapping[str, Any]):
    """One counted call. `record.module` and `record["module"]` are the same; `dict(record)` is the call as JSON holds it.

    Example:
        >>> from tokenscope import get_tracker, record_tokens
        >>> record_tokens("ocr", "page", "mistral-ocr", "mistral", input_tokens=900, output_tokens=300)
        >>> record = get_tracker().records[-1]
        >>> record.module, record["operation"], record.provider, record.model, record.total_tokens
        ('ocr', 'page', 'mistral', 'mistral-ocr', 1200)
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def module(self) -> str:
        """The module that the call belongs to, as in `Report.by_module`."""
        return _attribution_of(self._call.path).module

    @property
    def operation(self) -> str:
        """The operation of `track_tokens` or `record_tokens` in which the call was made; empty if there is none."""
        return _attribution_of(self._call.path).operation

    @property
    def scope(self) -> str:
        """The path at which the call was counted, its names joined by `/`, as `Report.find` takes it."""
        return "/".join(self._call.path.names)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The same path: the kind and the name of each level."""
        return tuple(self._call.path)

    @property
    def model(self) -> str:
        """The model's name, without the provider; `(no model)` for an amount of `record_cost`."""
        return self._call.key.model.split("/", 1)[-1]

    @property
    def provider(self) -> str:
        """The provider, the part of the model's whole name before the first `/`; empty if there is none."""
        provider, slash, _ = self._call.key.model.partition("/")
        return provider if slash else ""

    @property
    def usage(self) -> Usage:
        """What the call spent, with its cost."""
        return ModelUsage(self._call.key, priced(self._call.key, self._call.counts)).spent

    @property
    def input_tokens(self) -> int:
        """Prompt tokens, cached ones included."""
        return self._spent.input_tokens

    @property
    def output_tokens(self) -> int:
        """Completion tokens, reasoning included."""
        return self._spent.output_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self._spent.tokens

    @property
    def _spent(self) -> Counts:
        return ZERO_COUNTS if self._call.key.source == "cache" else self._call.counts

    @property
    def cost(self) -> Decimal | None:
        """The cost in dollars, as of when the call was made; None if its price is not known."""
        return self.usage.cost

    @property
    def cached(self) -> bool:
        """Whether DSPy's own cache answered."""
        return bool(self._call.counts.cached_calls)

    @property
    def error(self) -> str | None:
        """The name of the exception that ended the call, if one did."""
        return self._call.error

    @property
    def seconds(self) -> float:
        """How long the call took; 0 if that was not measured."""
        return self._call.seconds

    @property
    def timestamp(self) -> str:
        """When the call began: ISO 8601, in UTC."""
        return datetime.fromtimestamp(self._call.started, UTC).isoformat()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata that the caller passed."""
        return MappingProxyType(self._call.metadata) if isinstance(self._call.metadata, dict) else {}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes of the scopes around the call; of one name, that of the innermost."""
        return MappingProxyType(dict(self._call.attributes))

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON; counts of further kinds are there if they are not 0."""
        call, usage = self._call, self.usage
        found: dict[str, Any] = {name: getattr(self, name) for name in _FIRST}
        found["metadata"] = _plain(call.metadata) if call.metadata else {}
        if call.attributes:
            found["attributes"] = _plain(call.attributes)
        found["scope"] = self.scope
        found["frames"] = [list(frame) for frame in self.frames]
        if call.seconds:
            found["seconds"] = round(call.seconds, 6)
        if call.error is not None:
            found["error"] = call.error
        found["cost"] = None if usage.cost is None else float(usage.cost)
        source = None if usage.cost is None and not self.cached else price_source(call.key)
        if source is not None:
            found["price_source"] = source
        if not call.counts.calls:
            found["calls"] = 0
        if call.prompt is not None and (parts := parts_of(call)):
            found["prompt"] = {"measured_by": call.prompt.measured_by, "parts": list(starmap(_part, parts.items()))}
        if call.key.terms:
            found["terms"] = dict(call.key.terms)
        found.update({name: value for name in _OPTIONAL if (value := getattr(usage, name))})
        if self.cached:
            found["cached"] = True
        if call.key.source == "cache":
            saved = {name: value for name, value in call.counts._asdict().items() if value and name in TOKENS}
            found["saved"] = saved | ({"cost": float(usage.saved_cost)} if source is not None else {})
        return found

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def __repr__(self) -> str:
        return f"<Record {self.scope or self.module!r}, {self._call.key.model}, {self.total_tokens:,} tokens>"


def _part(key: UsageKey, counts: Counts) -> dict[str, Any]:
    marks = (key.part or PromptPart("")).to_dict()
    if counts.calls != 1:  # several demos or messages
        marks["calls"] = counts.calls
    return marks | {field: value for field, value in counts._asdict().items() if value and field in TOKENS}


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON can hold it; anything JSON cannot hold becomes text."""
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(type(value), "__index__"):
        return operator.index(value)  # numpy's integers, too
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < _DEEPEST_METADATA:
        if isinstance(value, Mapping):
            return {str(name): _plain(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(each, depth + 1) for each in value]
    return str(value)
