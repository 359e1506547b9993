"""Paths of scopes, and the calls that observers receive."""

from __future__ import annotations

from tokenscope import token_scope
from tokenscope._scopes.event_log import observe, unobserve
from tokenscope._usage.calls import MAX_NAMES, MAX_PATHS, ROOT, Call, Frame, ScopePath
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
    for number in range(7):
        path = path.child(Frame("scope", str(number)))
    assert "<ScopePath b/0/1/2/3/4/5/6>" == repr(path)


def test_children_are_bounded():
    """A path keeps at most MAX_NAMES children. Further children are new objects each time."""
    top = ScopePath(None, A)
    for number in range(MAX_NAMES + 5):
        top.child(Frame("scope", str(number)))

    assert MAX_NAMES == len(top.children)
    last = Frame("scope", str(MAX_NAMES + 1))
    assert top.child(last) is not top.child(last)
    assert list(top.child(last)) == list(top.child(last))


def kept_below(top: ScopePath) -> int:
    """Return how many paths a path keeps, at all levels."""
    paths = [top]
    for path in paths:
        paths.extend(path.children.values())
    return len(paths) - 1


def test_paths_are_bounded_in_all():
    """A tree keeps at most MAX_PATHS paths, however they spread over its levels. Further ones are new objects each time."""
    top = ScopePath(None, A)
    for number in range(MAX_PATHS + 1_000):
        path = top.child(Frame("scope", str(number % 100))).child(Frame("scope", str(number // 100))).child(B)

    assert MAX_PATHS == kept_below(top)
    assert ("99", "509", "b") == path.names
    assert top.child(Frame("scope", "99")) is path.parent.parent
    assert top.child(A) is not top.child(A)


def test_a_new_tree():
    """A path that forgets its children keeps new ones, and the old ones stay valid."""
    top = ScopePath(None, A)
    old = top.child(B)
    for number in range(MAX_PATHS):
        old.child(Frame("scope", str(number % MAX_NAMES))).child(Frame("scope", str(number)))
    top.forget_children()

    assert ["a", "b", "a"] == [each.frame.name for each in (top, old, old.child(A))]
    assert top.child(B) is top.child(B) is not old


def test_equal_frames_are_shared():
    """Paths with equal frames have one object for them."""
    top = ScopePath(None, A)

    assert top.child(Frame("scope", "same")).frame is top.child(A).child(Frame("scope", "same")).frame


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
    assert (0.0, False) == (call.seconds, call.is_embedding)
