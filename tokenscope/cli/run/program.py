"""`tokenscope run`: a program runs as `python` itself would run it. What is told at its end is in `_ending`.

It is run inside this process, below click, which has its own ways with exceptions. So none reaches click but SystemExit: the
others are shown here, as Python shows them, without the frames that are not the program's.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pkgutil
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from types import ModuleType, TracebackType

from tokenscope._scopes.budget import Budget
from tokenscope.cli.run.exit_report import Ending

_BELOW = {__name__, "runpy", "importlib._bootstrap", "importlib._bootstrap_external", "zipimport"}
"""Whose frames lie between Python's start and a program's first line."""
_LAST = "_tokenscope_interrupted"


def run(
    program: Sequence[str],
    *,
    module: bool = False,
    output: str | None = None,
    live: bool = False,
    budget: Budget | None = None,
) -> None:
    """Run a program to its end, and tell on standard error what it spent when the process ends.

    Args:
        program: The path of a script, a folder or a zip file with a `__main__.py`, or the name of a module; then its arguments.
        module: Whether it is a module, as with `python -m`.
        output: The file to write the report to; its suffix says the format.
        live: Show the tree while it grows, where standard error is a terminal.
        budget: How much the program may spend; it ends where that is spent.

    Raises:
        SystemExit: the program raised it, or ended in an exception, which was shown; or it cannot be run.
    """
    name, *arguments = program
    try:
        start = _module if module else _program_at(name)
        ending = Ending(output, live=live, budget=budget)
    except (OSError, ValueError) as error:
        print(f"tokenscope run: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    replaced = sys.modules["__main__"]  # whose code is not at its end yet
    main = sys.modules["__main__"] = ModuleType("__main__")
    vars(main)["__builtins__"] = builtins
    if "__annotations__" in vars(replaced):
        main.__annotations__ = {}
    sys.argv = ["-m" if module else name, *arguments]
    ending.prepare()
    try:
        start(name, main)
        _hold_off_interrupts()
    except BaseException as error:
        if ending.has_stopped(error):
            _hold_off_interrupts()
            raise SystemExit(1) from None
        error.__traceback__ = traceback = _of_program(error.__traceback__)
        ending.began = traceback is not None
        if isinstance(error, SystemExit):
            _hold_off_interrupts()
            raise
        uncaught = error
    else:
        if ending.has_stopped(None):
            raise SystemExit(1)
        return
    _show(uncaught)
    _hold_off_interrupts()
    if type(uncaught) is KeyboardInterrupt and os.name == "posix":
        setattr(sys, _LAST, _DyingOfInterrupt())
        raise SystemExit(128 + signal.SIGINT)
    raise SystemExit(1)


def _program_at(path: str) -> Callable[[str, ModuleType], None]:
    """Return what runs the script, folder or zip file at a path.

    Raises:
        OSError: it cannot be read; in Python's words.
    """
    whole = os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(whole) is not None:
        return _folder
    try:
        with io.open_code(whole) as file:
            content = file.read()
    except OSError as error:
        raise OSError(f"can't open file {whole!r}: [Errno {error.errno}] {error.strerror}") from None

    def script(_: str, main: ModuleType) -> None:
        if not sys.flags.safe_path:
            sys.path[0] = os.path.dirname(os.path.realpath(whole))
        main.__file__ = whole
        vars(main)["__cached__"] = None
        code = pkgutil.read_code(io.BytesIO(content))  # None where it is source
        main.__loader__ = (SourcelessFileLoader if code else SourceFileLoader)("__main__", whole)
        exec(code or compile(content, whole, "exec", dont_inherit=True), vars(main))  # noqa: S102

    return script


def _folder(path: str, _: ModuleType) -> None:
    whole = os.path.join(os.getcwd(), path)
    if sys.flags.safe_path:
        sys.path.insert(0, whole)
    else:
        sys.path[0] = whole
    _run_as_main("__main__", alter_argv=False)


def _module(name: str, _: ModuleType) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()
    _run_as_main(name)


# What `python -m` itself calls. runpy's public functions put the former `__main__` back when the module's last line has run,
# while its threads and exit handlers still need it.
_run_as_main: Callable[..., object] = runpy._run_module_as_main  # type: ignore[attr-defined]
# What is called when the main thread has ended, before others are waited for; concurrent.futures uses it, too.
_at_shutdown: Callable[..., None] = threading._register_atexit  # type: ignore[attr-defined]


def _of_program(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins with the program's first line; None where it did not come so far."""
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in _BELOW:
        traceback = traceback.tb_next
    return traceback


def _show(error: BaseException) -> None:
    """Show an uncaught exception as Python does: by way of `sys.excepthook`, and whatever is wrong with that."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit:
        raise
    except BaseException as failure:  # noqa: BLE001
        failure.__traceback__ = _of_program(failure.__traceback__)
        print("Error in sys.excepthook:", file=sys.stderr)  # noqa: T201
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)  # noqa: T201
        sys.__excepthook__(type(error), error, error.__traceback__)


def _hold_off_interrupts() -> None:
    """Until Python's own end begins, where threads are waited for: in between, Ctrl-C can interrupt nothing but click."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        with contextlib.suppress(RuntimeError):  # the program has shut its threads down itself
            _at_shutdown(signal.signal, signal.SIGINT, handler)
            signal.signal(signal.SIGINT, lambda *_: None)


class _DyingOfInterrupt:
    """Lets the process die of SIGINT when all else is done, as Python does, so that a shell stops its loop, too.

    Python itself does so when everything is torn down. What `sys` holds goes last.
    """

    def __init__(self) -> None:
        self._streams = sys.stdout, sys.stderr
        interpreters = import_module("_signal")  # signal's own function needs more of its module than is left by then
        self._die = interpreters.signal, interpreters.SIG_DFL, os.kill, os.getpid, signal.SIGINT

    def __del__(self) -> None:  # pragma: no cover - what measures has ended
        handle, default, kill, own_process, number = self._die
        try:
            for stream in self._streams:
                stream.flush()
        finally:
            handle(number, default)
            kill(own_process(), number)
