"""Record: one counted call as scripts read it, an object and a mapping, and its way into JSON."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tokenscope._report.attribution import Attribution
from tokenscope._usage.calls import NO_SCOPE, Call, Frame, ScopePath
from tokenscope._usage.model_usage import ModelUsage
from tokenscope._usage.usage import TOKENS, Usage

_DEEPEST: Final = 20  # levels of metadata
_MORE: Final = (*TOKENS[2:], "saved_tokens")


class Where(NamedTuple):
    """What a path says about the calls made there."""

    module: str
    operation: str
    scope: str
    frames: tuple[Frame, ...]


@lru_cache(maxsize=4_096)
def where(path: ScopePath) -> Where:
    """Tell whose the calls at a path are."""
    place: Attribution | None = None
    operation = ""
    for frame in path:
        place = Attribution(place, frame)
        if frame.kind in ("module", "operation"):
            operation = frame.name if frame.kind == "operation" else ""
    module = (place and (place.module or place.predictor or place.scope)) or NO_SCOPE.name
    return Where(module, operation, "/".join(path.names), tuple(path))


class Record(Mapping[str, Any]):
    """One counted call: `record.module` and `record["module"]` are the same, and `dict(record)` is what JSON holds of it.

    Args:
        call: The call.

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
        """Whose call it was: as in `Report.by_module`."""
        return where(self._call.path).module

    @property
    def operation(self) -> str:
        """The operation of `track_tokens` or `record_tokens` that it was made in; empty where there is none."""
        return where(self._call.path).operation

    @property
    def scope(self) -> str:
        """The path at which it was counted, names joined by `/`, as `Report.find` takes it."""
        return where(self._call.path).scope

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The same path, kind and name of each level."""
        return where(self._call.path).frames

    @property
    def model(self) -> str:
        """The model's name, without the provider."""
        provider, slash, name = self._call.key.model.partition("/")
        return name if slash else provider

    @property
    def provider(self) -> str:
        """Who serves the model: what stands before the first `/` of its whole name; empty where nothing does."""
        provider, slash, _ = self._call.key.model.partition("/")
        return provider if slash else ""

    @property
    def usage(self) -> Usage:
        """What the call spent; its cost is there where the provider told it."""
        return ModelUsage(self._call.key, Usage.from_counts(self._call.counts)).spent

    @property
    def input_tokens(self) -> int:
        """Prompt tokens."""
        return self.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        """Completion tokens."""
        return self.usage.output_tokens

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.usage.total_tokens

    @property
    def cost(self) -> Decimal | None:
        """What the provider said that it cost, in dollars; None where it said nothing."""
        return self._call.counts.cost if self._call.key.source == "provider" else None

    @property
    def cached(self) -> bool:
        """Whether DSPy's own cache answered."""
        return bool(self._call.counts.cached_calls)

    @property
    def error(self) -> str | None:
        """The name of the exception that ended the call."""
        return self._call.error

    @property
    def seconds(self) -> float:
        """How long it took; 0 where nobody measured."""
        return self._call.seconds

    @property
    def timestamp(self) -> str:
        """When it began: ISO 8601, in UTC."""
        return datetime.fromtimestamp(self._call.started, UTC).isoformat()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the caller attached to it."""
        return MappingProxyType(self._call.metadata) if isinstance(self._call.metadata, dict) else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON; counts of further kinds are there where they are not 0."""
        call = self._call
        whole = where(call.path)
        usage = self.usage
        found: dict[str, Any] = {
            "module": whole.module,
            "operation": whole.operation,
            "model": self.model,
            "provider": self.provider,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "timestamp": self.timestamp,
            "metadata": _plain(call.metadata) if call.metadata else {},
            "scope": whole.scope,
            "frames": [list(frame) for frame in whole.frames],
        }
        if call.seconds:
            found["seconds"] = round(call.seconds, 6)
        if call.error is not None:
            found["error"] = call.error
        if self.cost is not None:
            found["cost"] = float(self.cost)
        for name in _MORE:
            if value := getattr(usage, name):
                found[name] = value
        if self.cached:
            found["cached"] = True
        if call.key.source == "cache":
            found["saved"] = {name: value for name, value in call.counts._asdict().items() if value and name in TOKENS}
        return found

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def __repr__(self) -> str:
        return f"<Record {self.scope or self.module!r}, {self._call.key.model}, {self.total_tokens:,} tokens>"


def _plain(value: Any, depth: int = 0) -> Any:
    """Return what JSON can hold of a value; what it cannot hold becomes text."""
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(type(value), "__index__"):
        return operator.index(value)  # numpy's integers, too
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {str(name): _plain(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(each, depth + 1) for each in value]
    return str(value)
