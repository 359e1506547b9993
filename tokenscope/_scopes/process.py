"""The state of this process: what was counted in it, what waits to be counted, and who is told of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from threading import get_ident
from time import monotonic, sleep
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from tokenscope._usage.calls import ROOT, Call, ScopePath
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

Observer = Callable[[Call], None]


class Account(Protocol):
    """What is spent of a budget; see `tokenscope._scopes.enforcement`."""

    def charge(self, key: UsageKey, counts: Counts, *, reserved: bool) -> None:
        """Add a call that has ended; `reserved` says that it was taken as a call before it began."""
        ...


class Counted(Protocol):
    """A place in which calls are counted: a scope, or the root above all scopes."""

    path: ScopePath
    table: UsageTable | None
    ended: int | None
    is_referenced: bool
    budgets: tuple[Any, ...]

    @property
    def above(self) -> Counted | None:
        """The place around it."""
        ...


class ScopeRoot:
    """Where a chain of scopes begins: the process, or a task that another process has handed over."""

    __slots__ = ("above", "budgets", "ended", "is_referenced", "path", "table")

    def __init__(self, path: ScopePath) -> None:
        self.path = path
        self.above: Counted | None = None
        self.table: UsageTable | None = UsageTable(path)
        self.ended: int | None = None
        self.is_referenced = True
        self.budgets: tuple[Any, ...] = ()


class Loading:
    """A context manager for reading counts, which may load code or prices. A fork waits until no other thread is in it.

    A child that is forked while another thread imports a module waits for ever when it imports that module itself. There is no
    lock here that could be held with another one. Waiting ends after ten seconds.
    """

    def __init__(self) -> None:
        self._readers: list[int] = []  # idents of threads, one for each time that they are within
        self._forkers: list[int] = []

    def __enter__(self) -> None:
        thread = get_ident()
        self._readers.append(thread)
        until = 0.0
        while any(each != thread for each in tuple(self._forkers)) and self._readers.count(thread) == 1:
            until = until or monotonic() + _PATIENCE
            self.__exit__()
            sleep(0.001)
            self._readers.append(thread)
            if monotonic() > until:
                break

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ValueError):  # a fork has stopped waiting for this one
            self._readers.remove(get_ident())

    def wait(self) -> None:
        """Wait, before a fork, until no other thread reads counts; let none begin to."""
        thread = get_ident()
        self._forkers.append(thread)
        until = monotonic() + _PATIENCE
        while any(each != thread for each in tuple(self._readers)):
            if (
                monotonic() > until
            ):  # perhaps an interrupt has kept one from leaving: the next fork does not wait for it again
                self._readers[:] = [each for each in self._readers if each == thread]
                break
            sleep(0.001)

    def go_on(self) -> None:
        """Let others read counts again, in the parent."""
        with contextlib.suppress(ValueError):  # it has not waited
            self._forkers.remove(get_ident())

    def begin_in_child(self) -> None:  # pragma: no cover - in children, which nothing measures
        """Forget the threads that are not in the child."""
        self._forkers.clear()
        thread = get_ident()
        self._readers[:] = [each for each in self._readers if each == thread]


class ProcessState:
    """All state of this process that is no ContextVar and no patch."""

    def __init__(self) -> None:
        self.root: Final = ScopeRoot(ROOT)
        self.lock: Final[Any] = threading.RLock()
        """Guards all tables and budgets. Reentrant: a finaliser or a signal may count while it is taken."""
        self.log: Final[deque[Any]] = deque(maxlen=0 if DISABLED else None)
        """Events that wait to be counted: calls that have ended, and scopes that were left; see `event_log`."""
        self.loading: Final = Loading()
        self.most_events = MANY_EVENTS
        self.batch: Any = None
        """The calls that are being added up where the log is drained now; see `event_log`."""
        self.notices: Final[deque[tuple[Callable[..., None], tuple[Any, ...]]]] = deque()
        """What is to be told outside of the lock: calls to observers, and warnings."""
        self.open_scopes: Final[dict[Any, None]] = {}
        """Open scopes in which anything was counted: their entries and times are not in any table yet."""
        self.generator_scopes: Final[dict[FrameType, list[Any]]] = {}
        """Scopes that were opened in the body of a generator, by its frame, the innermost last."""
        self.records: deque[Call] = deque(maxlen=KEPT_RECORDS)
        self.observers: tuple[Observer, ...] = ()
        self.begin()

    def begin(self) -> None:
        """Give this process a name that no other has, and number its shipments."""
        self.name = os.urandom(8).hex()
        self.shipment_numbers: Iterator[int] = itertools.count()

    def wait_to_fork(self) -> None:
        """Wait until a fork leaves nothing half done; not while this thread holds the lock that readers may wait for."""
        if not self.lock._is_owned():
            self.loading.wait()

    def begin_in_child(self) -> None:  # pragma: no cover - in children, which nothing measures
        """Begin anew in a forked child: what was counted is the parent's, and other threads' locks are not released here."""
        self.loading.begin_in_child()
        if not self.lock._is_owned():  # by this thread, where a signal handler forks while counts change
            self.lock._at_fork_reinit()
        self.log.clear()
        self.batch = None
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
