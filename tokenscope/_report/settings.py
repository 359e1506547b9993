"""`[tool.tokenscope]` in a project's `pyproject.toml`: what the command and the pytest plugin take where nothing else is said.

[tool.tokenscope]
prices = "prices.toml"       # or tables, as in such a file: [tool.tokenscope.prices."ollama/my-llama"]
fail_above = "5%"
format = "markdown"

[tool.tokenscope.baselines]
report = "tokens.json"       # for `tokenscope diff NEW`
tests = "tests/tokens.json"  # for `pytest --tokens`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from tokenscope._report.formats import FORMATS
from tokenscope._usage.custom_prices import PYPROJECT

_KEYS: Final = ("prices", "fail_above", "format", "baselines")
_BASELINES: Final = ("report", "tests")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a project sets. Paths are relative to the folder of its `pyproject.toml`, and absolute here."""

    prices: str | None = None  # a file of prices, or `pyproject.toml` itself
    fail_above: Decimal | None = None  # percent
    format: str | None = None
    report: str | None = None  # the baseline of `tokenscope diff`
    tests: str | None = None  # the baseline of the pytest plugin

    def format_among(self, formats: Iterable[str], default: str) -> str:
        """Return the project's format if it is one of some formats, or else a default."""
        return self.format if self.format is not None and self.format in formats else default


def read_settings(folder: Path) -> Settings:
    """Return what the nearest `pyproject.toml`, in a folder or above it, sets. A ValueError or OSError says what is wrong."""
    path = next((path for each in (folder, *folder.parents) if (path := each / PYPROJECT).is_file()), None)
    if path is None:
        return Settings()
    import tomllib

    try:
        content = tomllib.loads(path.read_text("utf-8-sig"), parse_float=Decimal)
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is no TOML: {error}") from None
    tool = content.get("tool")
    table = tool.get("tokenscope", {}) if isinstance(tool, dict) else {}
    try:
        return _settings(table, path)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: [tool.tokenscope]: {error}") from None


def _settings(table: Any, path: Path) -> Settings:
    _check_table("it", table, _KEYS)
    baselines = _check_table("baselines", table.get("baselines", {}), _BASELINES, "baselines.")
    prices, form = table.get("prices"), table.get("format")
    if isinstance(prices, dict):
        prices = PYPROJECT
    files = {"prices": prices, **{f"baselines.{name}": baselines.get(name) for name in _BASELINES}}
    for name, file in files.items():
        if file is not None and not (isinstance(file, str) and file):
            more = " or a table for each model" if name == "prices" else ""
            raise TypeError(f"{name} must be the path of a file{more}, not {_shown(file)}")
    if form is not None and form not in tuple(FORMATS):
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {_shown(form)}")
    found = [None if file is None else str(path.parent / file) for file in files.values()]
    limit = None if (given := table.get("fail_above")) is None else _percent(given)
    return Settings(found[0], limit, form, *found[1:])


def _check_table(name: str, table: Any, keys: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    if not isinstance(table, dict):
        raise TypeError(f"{name} must be a table, not {_shown(table)}")
    for key in table:
        if key not in keys:
            similar = get_close_matches(key.replace("-", "_"), keys, n=1)
            advice = f"did you mean {prefix}{similar[0]}?" if similar else f"known are {', '.join(keys)}"
            raise ValueError(f"unknown key {prefix + key!r}; {advice}")
    return table


def _percent(value: Any) -> Decimal:
    try:
        number = Decimal(value.strip().removesuffix("%") if isinstance(value, str) else value)
    except (InvalidOperation, TypeError, ValueError):
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or number < 0:
        raise ValueError(f'fail_above must be a percentage of 0 or more, such as 5 or "0.5%", not {_shown(value)}')
    return number


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else repr(value)
