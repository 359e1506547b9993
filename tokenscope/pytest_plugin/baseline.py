"""The baseline file: the tokens that each test spent earlier, as JSON with one line per test, for version control."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tokenscope._report.files import write_whole

_FORMAT: Final = 1
_TESTS: Final = "tokens_by_test"


class Baseline(NamedTuple):
    """The tokens each test spent when the file was written."""

    path: Path
    tokens: Mapping[str, int]

    @classmethod
    def read(cls, path: Path, *, new: bool = False) -> Baseline:
        """Read a baseline file. A `new` one may be missing, and is empty then.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is damaged, or is not a baseline.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise FileNotFoundError(f"there is no folder {str(path.parent)!r}") from None
            if not new:
                raise FileNotFoundError("there is no such file; write it with --tokens-update") from None
            return cls(path, {})
        except OSError as error:
            raise OSError(f"cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the file is damaged: {str(error).splitlines()[0]}") from None
        if not isinstance(content, dict) or _TESTS not in content:
            raise ValueError(f"the file is not a token baseline: {_TESTS!r} is missing")
        if content.get("format") != _FORMAT:
            raise ValueError(f"the file has format {content.get('format')!r}, and this version reads {_FORMAT}")
        tokens = content[_TESTS]
        if not isinstance(tokens, dict):
            raise ValueError(f"the file is damaged: {_TESTS!r} holds no tests")  # noqa: TRY004
        for nodeid, value in tokens.items():
            if type(value) is not int or value < 0:
                raise ValueError(f"the file is damaged: the tokens of {nodeid!r} are {str(value)[:40]!r}")
        return cls(path, tokens)

    def write(self, tokens: Mapping[str, int]) -> None:
        """Write the file, whole or not at all, with these tests' tokens and the entries of all other tests.

        Raises:
            OSError: the file cannot be written.
        """
        content = {"format": _FORMAT, _TESTS: dict(sorted({**self.tokens, **tokens}.items()))}
        write_whole(self.path, json.dumps(content, indent=1) + "\n")
