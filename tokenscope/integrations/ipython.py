"""IPython and notebooks: the magics `%%tokens` and `%tokens`, which `%load_ext tokenscope` defines."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tokenscope._scopes.enforcement import report_of
from tokenscope._scopes.process import STATE
from tokenscope._scopes.scope import Scope
from tokenscope._scopes.token_scope import token_scope

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

    from tokenscope._report.report import Report


class RunningCells(threading.local):
    """The cells that run in this thread, as a cell may run others. Each has the scopes to leave and to show when it ends."""

    def __init__(self) -> None:
        self.cells: list[tuple[ExitStack, list[Scope]]] = []

    def begin(self, _info: object) -> None:
        """Note that a cell begins."""
        self.cells.append((ExitStack(), []))

    def end(self, result: ExecutionResult | None) -> None:
        """Leave the scopes of the cell that ends, and show their trees. A cell that was cancelled has no result."""
        info: Any = result and result.info
        if not self.cells or (info and not info.raw_cell.strip()):
            return  # the cell has loaded the extension, or it is empty: IPython has not told that it begins
        open_scopes, scopes = self.cells.pop()
        open_scopes.close()
        for scope in scopes:
            show(scope.report())

    def enter(self, block: token_scope) -> None:
        """Enter a scope until the cell ends. IPython tells neither beginning nor end of a silent cell, which is not counted."""
        if self.cells:
            open_scopes, scopes = self.cells[-1]
            scopes.append(block.__enter__())
            open_scopes.push(block)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Define the magics `%%tokens` and `%tokens`. IPython calls this for `%load_ext tokenscope`."""
    from IPython.core.error import UsageError
    from IPython.core.magic import no_var_expand

    running = RunningCells()

    def tokens(line: str, cell: str | None = None) -> Any:
        """Count the tokens of a cell or a line, and show the tree below its output.

        %%tokens [NAME]     in the first line of a cell: count the cell, in a scope with this name, or else "cell"
        %tokens STATEMENT   count one line; the value of an expression is returned
        %tokens             show everything that was counted until now
        """
        line = line.strip()
        if cell is not None and cell.strip():  # from who calls `run_cell_magic`: else `_split` has taken it away
            shell.run_cell(f"%%tokens {line}\n{cell}")
        elif cell is not None:
            running.enter(token_scope(line or "cell"))
        elif not line:
            show(report_of(STATE.root))
        elif shell.should_run_async(line, transformed_cell=line):
            raise UsageError("%tokens cannot await. Put %%tokens into the first line of the cell instead.")
        else:
            running.enter(block := token_scope(line))
            try:
                return eval(_compiled(line), shell.user_ns)  # noqa: S307 - the user's own code, as in every cell
            finally:
                block.__exit__(None, None, None)
        return None

    register: Any = shell.register_magic_function
    register(no_var_expand(tokens), "line_cell")
    shell.input_transformers_cleanup.append(_split)
    shell.events.register("pre_run_cell", running.begin)
    shell.events.register("post_run_cell", running.end)


def show(report: Report) -> None:
    """Display a tree: as HTML in a notebook, as text in a terminal."""
    from IPython.display import display

    html = report._repr_html_()  # pyright: ignore[reportPrivateUsage]
    display({"text/plain": str(report), "text/html": html}, raw=True)


def _split(lines: list[str]) -> list[str]:
    """Turn `%%tokens` into a statement. So IPython runs the rest as any other cell: it awaits, and shows the last value."""
    from IPython.core.inputtransformer2 import cell_magic

    if not lines or not (found := re.fullmatch(r"%%tokens(?:\s+(.*?))?\s*", lines[0])):
        return lines
    return [f"get_ipython().run_cell_magic('tokens', {found[1] or ''!r}, '\\n')\n", *cell_magic(lines[1:])]


# Keeps IPython's terminal from splitting what is not complete: it waits for the empty line that ends a cell with a magic.
_split.has_side_effects = True  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]


def _compiled(code: str) -> Any:
    try:
        return compile(code, "<%tokens>", "eval")
    except SyntaxError:
        return compile(code, "<%tokens>", "exec")
