"""A code interpreter for tests of DSPy's modules that run code: as DSPy's own, but in this process and without a sandbox."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from dspy.primitives.python_interpreter import PythonInterpreter

if TYPE_CHECKING:
    from collections.abc import Callable


class _Submitted(BaseException):
    """The code has called SUBMIT."""


class HostInterpreter(PythonInterpreter):
    """Executes code in this process. Tools are called in the thread that executes the code."""

    def __init__(self) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: Any = None
        self._names: dict[str, Any] = {}

    def start(self) -> None:
        """Nothing has to be started."""

    def shutdown(self) -> None:
        """Nothing has to be ended."""

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Execute the code, and return what it has printed or submitted."""
        lines: list[str] = []

        def submit(**fields: Any) -> None:
            raise _Submitted(fields)

        self._names.update(variables or {}, **self.tools, SUBMIT=submit, print=lambda *each: lines.append(str(each)))
        try:
            exec(code, self._names)
        except _Submitted as submitted:
            from dspy.primitives.code_interpreter import FinalOutput

            return FinalOutput(submitted.args[0])
        return "\n".join(lines)

    __call__ = execute


def interpreting(module: Any, interpreter: Any = HostInterpreter) -> dict[str, Any]:
    """Return how a class of modules takes an interpreter, which has changed in DSPy 3.4."""
    if "interpreter_factory" in inspect.signature(module.__init__).parameters:
        return {"interpreter_factory": interpreter}
    return {"interpreter": interpreter()}
