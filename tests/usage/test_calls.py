"""Frame, Path, Call: chains of frames that compare and hash at any depth."""

from __future__ import annotations

import pytest

from tokenscope import token_scope
from tokenscope._scopes.recent import observe, unobserve
from tokenscope._usage.calls import MAX_NAMES, ROOT, Call, Frame, Path
from tokenscope._usage.usage import Usage, counts

A = Frame("scope", "a")
B = Frame("scope", "b")


def test_a_child_is_the_same_object_again():
    """Entering a name twice gives one path."""
    top = Path(None, A)

    assert top.child(B) is top.child(B)
    assert 1 == top.child(B).depth


def test_equal_chains_are_equal():
    """Paths built apart are equal where their frames are, and hash alike."""
    one, other = (Path(Path(None, A), B) for _ in range(2))

    assert one == other
    assert hash(one) == hash(other)
    assert one is not other


@pytest.mark.parametrize(
    "other",
    [
        Path(None, A),
        Path(Path(None, B), B),
        Path(Path(None, A), A),
        Path(Path(None, A), Frame("dspy", "b")),
        "a/b",
        None,
    ],
    ids=repr,
)
def test_other_chains_are_not(other):
    """Another depth, name, kind or type is another path."""
    assert Path(Path(None, A), B) != other


def test_equal_hashes_alone_do_not_make_equal_paths():
    """Where hashes collide, the frames decide."""
    one, other = Path(Path(None, A), B), Path(Path(None, B), A)
    other._hash = one._hash
    other.parent._hash = one.parent._hash

    assert one != other


def test_iterates_from_the_top_down():
    """The root itself is no frame of the path."""
    path = ROOT.child(A).child(B)

    assert [A, B] == list(path)
    assert ("a", "b") == path.names
    assert [] == list(ROOT)
    assert "<Path a/b>" == repr(path)


def test_compares_deep_chains_without_recursion():
    """10,000 levels are no problem."""
    one = other = Path(None, A)
    for _ in range(10_000):
        one, other = Path(one, B), Path(other, B)

    assert one == other
    assert 10_000 == one.depth


def test_children_are_bounded():
    """A level remembers so many names; further ones are equal paths, made anew."""
    top = Path(None, A)
    for number in range(MAX_NAMES + 5):
        top.child(Frame("scope", str(number)))

    assert MAX_NAMES == len(top.children)
    last = Frame("scope", str(MAX_NAMES + 1))
    assert top.child(last) == top.child(last)
    assert top.child(last) is not top.child(last)


def test_observers_get_each_call():
    """Who observes is given the call as it was counted: path, model, counts, time and metadata."""
    from tokenscope import record_tokens

    seen: list[Call] = []
    observer = seen.append
    observe(observer)
    try:
        with token_scope("outer"):
            record_tokens("m", "o", "model", "provider", 3, 4, metadata={"id": 7})
    finally:
        unobserve(observer)

    (call,) = seen
    assert ("outer", "m", "o") == call.path.names
    assert ("provider/model", 0) == call.key
    assert counts(Usage(calls=1, input_tokens=3, output_tokens=4)) == call.values
    assert {"id": 7} == call.metadata
    assert call.started > 1e9
    assert call.error is None
