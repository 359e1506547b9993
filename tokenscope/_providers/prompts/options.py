"""What is sent beside the messages and billed as input: the tools that a model may call, and the schema of its answer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

from tokenscope._providers.prompts.assembly import Stretch
from tokenscope._providers.prompts.messages import as_json
from tokenscope._providers.prompts.meter import Allowance, Meter, key_of

_MOST: Final = 1_000
_measured: Final[dict[Hashable, Stretch]] = {}
"""What is exact, by what tells it from others."""


def measure_options(tools: Any, schema: Any, meter: Meter, allowance: Allowance) -> list[Stretch]:
    """Return the stretches of tools and of a schema (`response_format`), if they are given."""
    found: list[Stretch] = []
    if schema is not None and (stretch := _schema(schema, meter, allowance)) is not None:
        found.append(stretch)
    if tools and isinstance(tools, Sequence):
        found.append(_tools(tools, meter, allowance))
    return found


def _tools(tools: Sequence[Any], meter: Meter, allowance: Allowance) -> Stretch:
    keys = tuple(map(_tool_key, tools))
    place = (meter.name, keys)
    if (found := _measured.get(place)) is not None:
        return found
    allowance.exact = True
    tokens = guessed = 0.0
    for tool in tools:
        text = as_json(tool if isinstance(tool, Mapping) else _as_dict(tool))
        length = meter.measure(text, key_of(text), allowance, "tools")
        tokens += length[0]
        guessed += length[1]
    return _keep(place, Stretch("tools", (hash(keys), len(tools)), tokens, "", 0, len(tools), guessed), allowance)


def _tool_key(tool: Any) -> tuple[Any, ...]:
    """Return what tells a tool from others: its parameters may differ in more, but to see that costs too much."""
    if not isinstance(tool, Mapping):
        return str(getattr(tool, "name", "")), str(getattr(tool, "description", "")), ()
    function = tool.get("function", tool)
    parameters = function.get("parameters") or function.get("input_schema")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return str(function.get("name")), str(function.get("description")), tuple(properties or ())


def _as_dict(tool: Any) -> dict[str, Any]:
    return {name: getattr(tool, name, None) for name in ("name", "description", "parameters")}


def _schema(schema: Any, meter: Meter, allowance: Allowance) -> Stretch | None:
    names: Any
    if isinstance(schema, type):
        names = tuple(getattr(schema, "model_fields", ()))
        name = schema.__qualname__
    elif isinstance(schema, Mapping):
        inner = schema.get("json_schema") or schema.get("schema")
        if not isinstance(inner, Mapping):
            return None
        name = str(inner.get("name"))
        names = tuple((inner.get("schema") or inner).get("properties") or ())
    else:
        return None
    place = (meter.name, allowance.place, name, names)
    if (found := _measured.get(place)) is not None:
        return found
    if isinstance(schema, type):
        make: Any = getattr(schema, "model_json_schema", None)
        if str(getattr(make, "__module__", "")).partition(".")[0] not in ("dspy", "pydantic"):
            return None  # code of the program's own
        inner = make()
    else:
        inner = schema.get("json_schema") or schema
    allowance.exact = True
    text = as_json(inner)
    tokens, guessed = meter.measure(text, key_of(text), allowance, "format")
    return _keep(place, Stretch("format", key_of(text), tokens, guessed=guessed), allowance)


def _keep(place: Hashable, stretch: Stretch, allowance: Allowance) -> Stretch:
    if allowance.exact:
        if len(_measured) >= _MOST:
            _measured.clear()
        _measured[place] = stretch
    return stretch


def forget() -> None:
    """Forget what was measured."""
    _measured.clear()
