"""`tokenscope run`: runs a program as `python` itself would run it. `exit_report` reports what the program spent.

The program runs inside this process, below click, which handles some exceptions in its own way. So only SystemExit reaches
click. Other exceptions are shown here, as Python shows them, without the frames that do not belong to the program.
"""

from __future__ import annotations

import builtins
import io
import os
import pkgutil
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder, SourceFileLoader, SourcelessFileLoader
from types import ModuleType, TracebackType

from tokenscope._scopes.budget import Budget
from tokenscope.cli.console import CommandError
from tokenscope.cli.run.exit_report import ExitReport

_BELOW = {__name__, "runpy", "importlib._bootstrap", "importlib._bootstrap_external", "zipimport"}
"""The modules whose frames lie between Python's start and a program's first line."""


def run(
    program: Sequence[str], *, module: bool, output: str | None, live: bool, parts: bool, budget: Budget | None
) -> None:
    """Run a program to its end, and report on standard error what it spent when the process ends.

    The program is the path of a script, a folder or a zip file with a `__main__.py`, or the name of a module; then its arguments.

    Raises:
        SystemExit: the program raised it, or raised another exception, which was shown.
        CommandError: the program cannot be read, or the report cannot be written.
    """
    name, *arguments = program
    try:
        start = _module if module else _program_at(name)
        exit_report = ExitReport(output, live=live, parts=parts, budget=budget)
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from None
    replaced = sys.modules["__main__"]  # kept: its last line has not run yet
    main = sys.modules["__main__"] = ModuleType("__main__")
    vars(main)["__builtins__"] = builtins
    if "__annotations__" in vars(replaced):
        main.__annotations__ = {}
    sys.argv = ["-m" if module else name, *arguments]
    exit_report.register()
    try:
        _run_to_its_end(start, name, main, exit_report)
    finally:
        _ignore_interrupts_until_shutdown()


def _run_to_its_end(start: Callable[[str, ModuleType], None], name: str, main: ModuleType, report: ExitReport) -> None:
    try:
        start(name, main)
        _ignore_interrupts_until_shutdown()  # one that comes in this moment is the program's, too
    except BaseException as error:
        if report.ended_by_budget(error):
            raise SystemExit(1) from None
        error.__traceback__ = traceback = _of_program(error.__traceback__)
        report.began = traceback is not None
        if isinstance(error, SystemExit):
            raise
        uncaught = error  # shown below: in here it would be the context of what a program's excepthook raises
    else:
        if report.ended_by_budget(None):
            raise SystemExit(1)
        return
    _show(uncaught)
    raise SystemExit(128 + signal.SIGINT if type(uncaught) is KeyboardInterrupt else 1)


def _program_at(path: str) -> Callable[[str, ModuleType], None]:
    """Return a function that runs the script, folder or zip file at a path, or raise an OSError in Python's words."""
    whole = os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(whole) is not None:
        return _folder
    try:
        with io.open_code(whole) as file:
            content = file.read()
    except OSError as error:
        hint = ""
        if path.replace(".", "").isidentifier() and PathFinder.find_spec(
            path.partition(".")[0], [os.getcwd(), *sys.path]
        ):
            hint = f"; to run the module of that name, write: tokenscope run -m {path}"
        raise OSError(f"can't open file {whole!r}: [Errno {error.errno}] {error.strerror}{hint}") from None

    def script(_: str, main: ModuleType) -> None:
        if not sys.flags.safe_path:
            sys.path[0] = os.path.dirname(os.path.realpath(whole))
        main.__file__ = whole
        vars(main)["__cached__"] = None
        code = pkgutil.read_code(io.BytesIO(content))  # None if it is source
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


# `python -m` itself calls this. runpy's public functions restore the former `__main__` after the module's last line, while
# the module's threads and exit handlers still need it.
_run_as_main: Callable[..., object] = runpy._run_module_as_main  # type: ignore[attr-defined]  # noqa: SLF001
# Registers a function to call when the main thread has ended, before threads are joined. concurrent.futures uses it, too.
_at_shutdown: Callable[..., None] = threading._register_atexit  # type: ignore[attr-defined]  # noqa: SLF001


def _of_program(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback from the program's first line on; None if the program did not start."""
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in _BELOW:
        traceback = traceback.tb_next
    return traceback


def _show(error: BaseException) -> None:
    """Show an uncaught exception as Python does: with `sys.excepthook`, and with Python's own hook if that fails."""
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


def _ignore_interrupts_until_shutdown() -> None:
    """Ignore Ctrl-C until Python waits for the program's threads: in between it could only interrupt click."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: None)
        try:
            _at_shutdown(signal.signal, signal.SIGINT, signal.default_int_handler)
        except RuntimeError:  # the program has shut its threads down itself
            signal.signal(signal.SIGINT, signal.default_int_handler)
