"""Tokenizers that are at hand without a download: those of tiktoken and litellm, chosen by a model's name.

litellm, which DSPy depends on, comes with the files of these. Nothing is ever fetched: a tokenizer whose file is not there is
left out, and texts are measured by their bytes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import FunctionType
from typing import Any, Final, NamedTuple

from tokenscope._scopes.process import STATE

O200K: Final = "o200k_base"
CL100K: Final = "cl100k_base"
ANTHROPIC: Final = "anthropic"
DEEPSEEK: Final = "deepseek"
_FILES: Final = {ANTHROPIC: "anthropic_tokenizer.json", DEEPSEEK: "deepseek_tokenizer.json"}
_FOLDERS: Final = ("litellm_core_utils/tokenizers", "llms/tokenizers")  # below litellm's; the second before its 1.50
_O200K_MODELS: Final = ("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-oss", "chatgpt-4o", "o1", "o3", "o4")
_CL100K_MODELS: Final = ("gpt-4", "gpt-3.5", "gpt-35", "text-embedding-")
_OLD_CLAUDES: Final = ("claude-1", "claude-2", "claude-v1", "claude-v2", "claude-instant")
_DEEPSEEKS: Final = ("deepseek-chat", "deepseek-reasoner", "deepseek-v3", "deepseek-r1")


class Tokenizer(NamedTuple):
    """A tokenizer that is loaded."""

    name: str
    read: Callable[[str], int]  # returns how many tokens a text has
    slowness: int = 1  # how much longer it takes for a text than tiktoken does, about


_loaded: Final[dict[str, Tokenizer | None]] = {}
_awaited: Final[set[str]] = set()  # those that a thread loads


@lru_cache(maxsize=1_000)
def choose(model: str) -> tuple[str, bool]:
    """Return the name of the tokenizer for a model, and whether it is the model's own: if not, it is the most alike.

    Args:
        model: `provider/model`, as the caller named it.
    """
    name = model.lower().rpartition("/")[2]
    bare = name.removeprefix("ft:")
    if bare.startswith(_O200K_MODELS):
        return O200K, True
    if bare.startswith(_CL100K_MODELS):
        return CL100K, True
    if "claude" in name:
        return ANTHROPIC, any(old in name for old in _OLD_CLAUDES)
    if "deepseek" in name:
        return DEEPSEEK, name.startswith(_DEEPSEEKS) and "distill" not in name
    return O200K, False


def loaded(name: str) -> Tokenizer | None:
    """Return a tokenizer, if it is loaded. If it was never asked for, a thread begins to load it: that takes up to a second."""
    found = _loaded.get(name)
    if found is None and name not in _loaded and name not in _awaited:
        _awaited.add(name)
        # Once it is imported, forks take a lock of its. That must not begin in the midst of one: so not first in the thread.
        import_module("concurrent.futures.thread")
        threading.Thread(target=load, args=(name,), daemon=True, name="tokenscope-tokenizer").start()
    return found


def load(name: str) -> None:
    """Load a tokenizer, unless it is loaded already, or its file is not there. Never raises."""
    _awaited.add(name)
    if name not in _loaded:
        _loaded[name] = STATE.loading(_load, name)  # no fork meanwhile


def forget() -> None:
    """Forget which tokenizers are loaded."""
    _loaded.clear()
    _awaited.clear()


def _load(name: str) -> Tokenizer | None:
    try:
        return _from_json(name) if name in _FILES else _from_tiktoken(name)
    except Exception:  # noqa: BLE001 - not installed, no file, or a version in which this is done in another way
        return None


def _from_json(name: str) -> Tokenizer:
    path = next(path for folder in _folders() if os.path.isfile(path := os.path.join(folder, _FILES[name])))
    encode = import_module("tokenizers").Tokenizer.from_file(path).encode

    def count(text: str) -> int:
        return len(encode(text, add_special_tokens=False))

    return Tokenizer(name, count, slowness=6)


def _from_tiktoken(name: str) -> Tokenizer:
    registry: Any = sys.modules.get("tiktoken.registry")
    encoding = None if registry is None else registry.ENCODINGS.get(name)
    if encoding is None:
        tiktoken, constructors = import_module("tiktoken"), import_module("tiktoken_ext.openai_public")
        # The constructor of tiktoken's own, but with another reader of files: tiktoken's would fetch one that is missing.
        construct = FunctionType(
            getattr(constructors, name).__code__, {**vars(constructors), "load_tiktoken_bpe": _read_ranks}
        )
        encoding = tiktoken.Encoding(**construct())
    encode = encoding.encode_ordinary

    def count(text: str) -> int:
        return len(encode(text))

    return Tokenizer(name, count)


def _read_ranks(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
    """Read the file of a vocabulary that is kept under its address, as tiktoken's reader would if it need not fetch it."""
    from base64 import b64decode

    name = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    for folder in _folders():
        try:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
        except OSError:
            continue
        if expected_hash is None or hashlib.sha256(content).hexdigest() == expected_hash:
            pairs = (line.split() for line in content.splitlines() if line)
            return {b64decode(token): int(rank) for token, rank in pairs}
    raise FileNotFoundError(address)


def _folders() -> Iterator[str]:
    """Yield where files of tokenizers may be."""
    spec = find_spec("litellm")  # which does not import it
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from (os.path.join(place, folder) for folder in _FOLDERS)
    yield from (os.environ[name] for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if os.environ.get(name))
    yield os.path.join(tempfile.gettempdir(), "data-gym-cache")
