"""The state of this process: what was counted in it, what waits to be counted, and who is told of it."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from threading import get_ident
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from tokenscope._usage.calls import NO_ATTRIBUTES, ROOT, Call, ScopePath
from tokenscope._usage.prompts import Prompt
from tokenscope._usage.table import UsageTable

if TYPE_CHECKING:
    from tokenscope._usage.keys import UsageKey
    from tokenscope._usage.usage import Counts

DISABLED: Final = os.environ.get("TOKENSCOPE_DISABLED", "") not in ("", "0")
"""Whether TOKENSCOPE_DISABLED is set: scopes can be entered and left, and count nothing."""
KEPT_RECORDS: Final = 10_000
"""How many of the latest calls are kept unless a program says otherwise: as many as DSPy keeps in its history."""
MANY_EVENTS: Final = 256
"""How many events wait in the log before they are counted, unless somebody asks earlier."""
_PATIENCE: Final = 10.0
"""How many seconds a fork waits for threads that read counts, and those for a fork."""

T = TypeVar("T")
PromptReader = Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], Prompt | None]
"""Is given an LM, the arguments of its call, and the scope."""
Observer = Callable[[Call], None]


class Account(Protocol):
    """What is spent of a budget; see `tokenscope._scopes.enforcement`."""

    spent: dict[str, Any]

    def charge(self, spent: dict[str, Any], key: UsageKey, counts: Counts, *, reserved: bool) -> None:
        """Add a call that has ended to what is spent; `reserved` says that it was taken as a call before it began."""
        ...


class Counted(Protocol):
    """A place in which calls are counted: a scope, or the root above all scopes."""

    path: ScopePath
    table: UsageTable | None
    ended: int | None
    is_referenced: bool
    budgets: tuple[Any, ...]
    all_attributes: Mapping[str, Any]

    @property
    def above(self) -> Counted | None:
        """The place around it."""
        ...


class ScopeRoot:
    """Where a chain of scopes begins: the process, or a task that another process has handed over."""

    __slots__ = ("above", "all_attributes", "budgets", "ended", "is_referenced", "path", "table")

    def __init__(self, path: ScopePath) -> None:
        self.path = path
        self.above: Counted | None = None
        self.table: UsageTable | None = UsageTable(path)
        self.ended: int | None = None
        self.is_referenced = True
        self.budgets: tuple[Any, ...] = ()
        self.all_attributes: Mapping[str, Any] = NO_ATTRIBUTES


class Loading:
    """Calls functions that read counts, and so may load code or prices. A fork waits until no other thread is in one.

    A child that is forked while another thread imports a module waits for ever when it imports that module itself. Forks and
    readers wait for each other, but a fork for ten seconds at most.

    Args:
        wait_to_fork: What a fork calls before, so that it waits.
    """

    def __init__(self, wait_to_fork: Callable[[], None]) -> None:
        self._wait_to_fork = wait_to_fork
        self._is_before_logging = False
        self._gate: Any = threading.RLock()  # held by a fork, so that no thread begins to read for the first time
        self._readers: dict[int, Any] = {}  # a lock for each thread that has read: it holds its own, forks hold all
        self._held: dict[int, list[Any]] = {}  # by each thread that forks now

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function with arguments, and return what it returns."""
        reader = self._readers.get(get_ident())
        if reader is None:
            with self._gate: reader = self._begin()  # fmt: skip
        with reader: return function(*arguments)  # fmt: skip

    def _begin(self) -> Any:
        """Return a lock for this thread.

        A fork takes the lock of `logging`, too, which a reader may need. What was registered last is called first: so that forks
        wait for readers before they take that lock, they are asked to once more, after `logging`.
        """
        if not self._is_before_logging and hasattr(os, "register_at_fork"):
            import_module("logging")  # the table of prices imports it, too
            os.register_at_fork(before=self._wait_to_fork)
            self._is_before_logging = True
        return self._readers.setdefault(get_ident(), threading.RLock())

    def wait(self, *also: Any) -> None:
        """Wait, before a fork, until no other thread reads counts, and then for other locks; let none begin to."""
        until = monotonic() + _PATIENCE
        held = self._held.setdefault(get_ident(), [])
        if held:
            return  # asked for a second time
        if self._gate.acquire(timeout=_PATIENCE):
            held.append(self._gate)
        for lock in [*self._readers.values(), *also]:
            if lock.acquire(timeout=max(0.0, until - monotonic())):
                held.append(lock)

    def go_on(self) -> None:
        """Let others read counts again, unless another thread forks, too."""
        for lock in self._held.pop(get_ident(), ()):
            lock.release()

    def begin_in_child(self) -> None:  # pragma: no cover - in children, which nothing measures
        """Forget the threads that are not in the child."""
        self.go_on()
        self._gate = threading.RLock()
        self._held.clear()
        self._readers.clear()


class ProcessState:
    """All state of this process that is no ContextVar and no patch."""

    def __init__(self) -> None:
        self.root: Final = ScopeRoot(ROOT)
        self.lock: Final[Any] = threading.RLock()
        """Guards all tables and budgets. Reentrant: a finaliser or a signal may count while it is taken.

        It is taken in one line, `with lock: return function()`. Of a `with` statement over several lines, an interrupt may come
        when its block has ended, and the lock is still taken.
        """
        self.log: Final[deque[Any]] = deque(maxlen=0 if DISABLED else None)
        """Events that wait to be counted: calls that have ended, and scopes that were left; see `event_log`."""
        self.loading: Final = Loading(self.wait_to_fork)
        self.most_events = MANY_EVENTS
        self.batches: Final[set[Any]] = set()
        """The one that may be committed: since it was begun, nothing else was counted; see `event_log`."""
        self.counting: Final[list[Any]] = []
        """Events that are just being counted."""
        self.notices: Final[deque[tuple[Callable[..., None], tuple[Any, ...]]]] = deque()
        """What is to be told outside of the lock: calls to observers, and warnings."""
        self.open_scopes: Final[dict[Any, None]] = {}
        """Open scopes in which anything was counted: their entries and times are not in any table yet."""
        self.generator_scopes: Final[dict[FrameType, list[Any]]] = {}
        """Scopes that were opened in the body of a generator, by its frame, the innermost last."""
        self.records: deque[Call] = deque(maxlen=KEPT_RECORDS)
        self.observers: tuple[Observer, ...] = ()
        self.splits_prompts = False
        """Whether a program has asked for its prompts by parts."""
        self.read_sent: Callable[[Any, str], Prompt | None] | None = None
        """Measures what a program says it has sent to a model of this name, if it has asked for that."""
        self.read_prompt: PromptReader | None = None
        """Measures the prompt of each LM call, by parts, if a program has asked for that and uses DSPy."""
        self.begin()

    def begin(self) -> None:
        """Give this process a name that no other has, and number its shipments."""
        self.name = os.urandom(8).hex()
        self.shipment_numbers: Iterator[int] = itertools.count()

    def wait_to_fork(self) -> None:
        """Wait until a fork leaves nothing half done; not while this thread holds the lock that readers may wait for."""
        if not self.lock._is_owned():
            self.loading.wait(self.lock)  # calls that are charged to a budget are priced while it is held

    def begin_in_child(self) -> None:  # pragma: no cover - in children, which nothing measures
        """Begin anew in a forked child: what was counted is the parent's, and other threads' locks are not released here."""
        self.loading.begin_in_child()
        if not self.lock._is_owned():  # by this thread, where a signal handler forks while counts change
            self.lock._at_fork_reinit()
        self.log.clear()
        self.batches.clear()
        self.notices.clear()
        self.records.clear()
        self.root.table = UsageTable(ROOT)
        for scope in self.open_scopes:
            scope.table = None
        self.open_scopes.clear()
        self.begin()


STATE: Final = ProcessState()
if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(
        before=STATE.wait_to_fork, after_in_parent=STATE.loading.go_on, after_in_child=STATE.begin_in_child
    )
