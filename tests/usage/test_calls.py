"""Paths of scopes, and the calls that observers receive."""

from __future__ import annotations

from tokenscope import token_scope
from tokenscope._scopes.event_log import observe, unobserve
from tokenscope._usage.calls import MAX_NAMES, ROOT, Call, Frame, ScopePath
from tokenscope._usage.keys import UsageKey
from tokenscope._usage.usage import Counts

A = Frame("scope", "a")
B = Frame("scope", "b")


def test_a_child_is_the_same_object_again():
    """`child` returns the same path object for the same frame."""
    top = ScopePath(None, A)

    assert top.child(B) is top.child(B)
    assert 1 == top.child(B).depth


def test_iterates_from_the_top_down():
    """A path iterates over its frames from the top down, without the root."""
    path = ROOT.child(A).child(B)

    assert [A, B] == list(path)
    assert ("a", "b") == path.names
    assert [] == list(ROOT)
    assert "<ScopePath a/b>" == repr(path)


def test_children_are_bounded():
    """A path keeps at most MAX_NAMES children. Further children are new objects each time."""
    top = ScopePath(None, A)
    for number in range(MAX_NAMES + 5):
        top.child(Frame("scope", str(number)))

    assert MAX_NAMES == len(top.children)
    last = Frame("scope", str(MAX_NAMES + 1))
    assert top.child(last) is not top.child(last)
    assert list(top.child(last)) == list(top.child(last))


def test_observers_get_each_call():
    """An observer receives each counted call with its path, model, counts, time and metadata."""
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
    assert UsageKey("provider/model") == call.key._replace(moment="")
    assert Counts(calls=1, input_tokens=3, output_tokens=4) == call.counts
    assert {"id": 7} == call.metadata
    assert call.started > 1e9
    assert call.error is None
