"""`%load_ext tokenscope` in a real IPython shell, and in a notebook with a real kernel: the tree of a cell or a line."""

from __future__ import annotations

import asyncio
import atexit
import builtins
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import dspy
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient import NotebookClient
from traitlets.config import Config

import tokenscope
from tokenscope.testing import LoopbackProvider

NAMES = """
import asyncio, dspy, tokenscope
ask = dspy.Predict("question -> answer")
"""


@pytest.fixture(scope="module")
def provider():
    """Return a provider for all cells, which keeps a bill by tag."""
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def run(provider, tmp_path, monkeypatch):
    """Return a function that runs a cell in a shell, and returns its printed text, its displays and its error."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    names = dict(vars(builtins))
    config = Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": "nocolor"})
    shell = InteractiveShell.instance(config=config, user_module=ModuleType("cells"))

    def run(cell: str, **options):
        with capture_output() as captured:
            result = shell.run_cell(cell, **options)
        return SimpleNamespace(
            text=captured.stdout,
            shown=[each.data for each in captured.outputs],
            value=result.result,
            error=result.error_before_exec or result.error_in_exec,
        )

    run.shell = shell
    try:
        assert run(NAMES).error is run("%load_ext tokenscope").error is None
        with dspy.context(lm=provider.lm()):
            yield run
        assert tokenscope.current_scope() is None
    finally:
        atexit.unregister(shell.atexit_operations)
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
        for name in set(vars(builtins)) - set(names):
            delattr(builtins, name)


def tokens_in(display: dict[str, str]) -> int:
    """Return the total of a tree, as HTML and text say it."""
    html = int(re.search(r"<b>([\d,]+) tokens</b>", display["text/html"])[1].replace(",", ""))
    assert f"{html:,} token" in display["text/plain"]
    return html


def names_in(display: dict[str, str]) -> list[str]:
    """Return the names of a tree."""
    return re.findall("<bdi>(.*?)</bdi>", display["text/html"])


# -- %%tokens ---------------------------------------------------------------------------------------------------------------


def test_a_cell(run, provider):
    """The cell's last value is shown as ever, and its tree below."""
    done = run("%%tokens\nprint('printed')\nask(question='<<bill one>>').answer.upper()")

    assert done.text.startswith("printed\nOut[")
    assert "ANSWER" in done.text
    (tree,) = done.shown
    assert provider.bill["one"].total_tokens == tokens_in(tree)
    assert ["cell", "Predict(question -&gt; answer)"] == names_in(tree)


def test_the_name_of_the_scope(run):
    """The rest of the line is the scope's name, also in the report of the process."""
    (tree,) = run("%%tokens  first try \nask(question='why?')").shown

    assert "first try" == names_in(tree)[0]
    assert tokens_in(tree) == tokenscope.report().find("first try").usage.total_tokens


def test_a_cell_that_awaits(run, provider):
    """Calls that the cell awaits are counted, those of its tasks too, and the scope is left when the cell ends."""
    done = run(
        "%%tokens\nfirst = await ask.acall(question='<<bill await>>')\n"
        "await asyncio.gather(*(ask.acall(question=f'{n} <<bill await>>') for n in range(3)))\nfirst.answer"
    )

    assert "Out[" in done.text
    assert provider.bill["await"].total_tokens == tokens_in(done.shown[0])
    assert 4 == provider.bill["await"].calls
    assert [] == run("await ask.acall(question='<<bill await>>')").shown


def test_a_cell_that_fails(run, provider):
    """The error is the cell's own, at the line where it stands, and the tree is shown below it."""
    done = run("%%tokens\nask(question='<<bill failing>>')\n1 / 0")

    assert isinstance(done.error, ZeroDivisionError)
    assert "line 3" in done.text
    assert provider.bill["failing"].total_tokens == tokens_in(done.shown[0])


def test_a_cell_that_does_not_compile(run):
    """A cell that Python does not understand has no tree."""
    done = run("%%tokens\n1 +")

    assert (SyntaxError, []) == (type(done.error), done.shown)


@pytest.mark.parametrize("first", ["%%tokens", "%%time"])
def test_with_other_magics(first, run, provider):
    """The magic goes with others, before or after it."""
    second = ({"%%tokens", "%%time"} - {first}).pop()
    done = run(f"{first}\n{second}\nask(question='<<bill {first}>>')")

    assert "Wall time" in done.text
    assert provider.bill[first].total_tokens == tokens_in(done.shown[0])


def test_captured(run):
    """`%%capture` keeps the tree with the other output of the cell."""
    assert [] == run("%%capture kept\n%%tokens\nask(question='why?')").shown

    assert ["cell"] == names_in(run.shell.user_ns["kept"].outputs[-1].data)[:1]


def test_cells_in_a_cell(run, provider):
    """A cell may run others, empty ones too: each with a scope has a tree, when it ends."""
    done = run(
        "%%tokens outer\nask(question='<<bill outer>>')\nshell = get_ipython()\nshell.run_cell('')\n"
        "shell.run_cell('ask(question=\"<<bill outer>>\");')\n"
        "shell.run_cell_magic('tokens', 'inner', 'ask(question=\"<<bill inner>>\");')\nask(question='<<bill outer>>');"
    )

    assert ["inner", "outer"] == [names_in(tree)[0] for tree in done.shown]
    inner, outer = (provider.bill[name].total_tokens for name in ("inner", "outer"))
    assert [inner, outer + inner] == list(map(tokens_in, done.shown))


def test_nothing_counted(run):
    """The tree of a cell without a call has no tokens, also if the cell is empty."""
    assert [0, 0] == [tokens_in(run(cell).shown[0]) for cell in ("%%tokens\n1 + 1", "%%tokens")]


def test_a_silent_cell(run, provider):
    """A silent cell, of which IPython tells nothing, runs, and is not counted."""
    done = run("%%tokens\nask(question='<<bill silent>>')", silent=True)

    assert (None, []) == (done.error, done.shown)
    assert 1 == provider.bill["silent"].calls
    assert [] == run("%tokens 1 + 1", silent=True).shown


def test_a_cancelled_cell(run):
    """What a kernel tells of a cell that was cancelled before it began does no harm."""
    with capture_output() as captured:
        run.shell.events.trigger("post_run_cell", None)

    assert ("", []) == (captured.stdout, captured.outputs)


def test_cancelled_while_it_awaits(run, provider):
    """If a kernel cancels a cell that awaits, the scope is left, and the tree has what was spent."""
    shell = run.shell
    code = "%%tokens\nask(question='<<bill cancelled>>')\nawait began()\nawait asyncio.Event().wait()"

    async def kernel() -> None:
        waiting = asyncio.Event()
        shell.user_ns["began"] = lambda: asyncio.sleep(0, waiting.set())
        task = asyncio.ensure_future(shell.run_cell_async(code, transformed_cell=shell.transform_cell(code)))
        await waiting.wait()
        task.cancel()
        shell.events.trigger("post_run_cell", await task)

    with capture_output() as captured:
        asyncio.run(kernel())

    (tree,) = captured.outputs
    assert provider.bill["cancelled"].total_tokens == tokens_in(tree.data)


def test_loaded_again(run):
    """Loading the extension again changes nothing."""
    assert None is run("%load_ext tokenscope\n%reload_ext tokenscope").error

    assert 1 == len(run("%%tokens\nask(question='why?')").shown)


def test_a_cell_in_the_terminal_is_complete_after_an_empty_line(run):
    """IPython's terminal goes on reading after the magic's line, as with any magic of a cell."""
    assert ("incomplete", "complete") == tuple(
        run.shell.check_complete(cell)[0] for cell in ("%%tokens", "%%tokens\n1\n\n")
    )


def test_help(run):
    """`%%tokens?` says what the magic does, and the magics are listed."""
    assert "show the tree below its output" in run("%%tokens?").text
    assert {"tokens"} <= set(run.shell.magics_manager.lsmagic()["cell"]) & set(
        run.shell.magics_manager.lsmagic()["line"]
    )


# -- %tokens ----------------------------------------------------------------------------------------------------------------


def test_a_line(run, provider):
    """A line has a tree, and its value. The scope is named after the line, in which braces mean what they mean in Python."""
    done = run("answer = %tokens ask(**{'question': '<<bill line>>'}).answer\nanswer.upper()")

    assert "ANSWER" in done.text
    assert provider.bill["line"].total_tokens == tokens_in(done.shown[0])
    assert "ask(**{&#x27;question&#x27;: &#x27;&lt;&lt;bill line&gt;&gt;&#x27;}).answer" == names_in(done.shown[0])[0]


def test_several_lines(run):
    """Several lines of a cell have a tree each, in order, as has a line inside a scope of the cell."""
    done = run("%%tokens\n%tokens ask(question='a')\n%tokens b = ask(question='b')")

    assert ["cell", "ask(question=&#x27;a&#x27;)", "b = ask(question=&#x27;b&#x27;)"] == [
        names_in(tree)[0] for tree in done.shown
    ]
    assert tokens_in(done.shown[0]) == sum(map(tokens_in, done.shown[1:]))
    assert "Prediction" in type(run.shell.user_ns["b"]).__name__


def test_a_line_that_fails(run, provider):
    """A line that fails has a tree, too, and its scope is left."""
    done = run("%tokens (ask(question='<<bill line fails>>'), 1 / 0)")

    assert isinstance(done.error, ZeroDivisionError)
    assert provider.bill["line fails"].total_tokens == tokens_in(done.shown[0])


def test_a_line_that_awaits(run):
    """A line cannot await: the error says what can."""
    done = run("%tokens await ask.acall(question='why?')")

    assert "%tokens cannot await. Put %%tokens into the first line of the cell instead." == str(done.error)
    assert "UsageError" == type(done.error).__name__


def test_without_a_line(run):
    """`%tokens` alone shows everything that was counted."""
    run("ask(question='why?')")

    assert tokenscope.report().total.total_tokens == tokens_in(run("%tokens").shown[0])


# -- loading ----------------------------------------------------------------------------------------------------------------


def test_importing_stays_light():
    """Importing tokenscope loads neither IPython nor the magics. The extension is found without being a public name."""
    code = (
        "import sys, tokenscope\n"
        "print('tokenscope.integrations.ipython' in sys.modules, callable(tokenscope.load_ipython_extension))\n"
        "print('IPython' in sys.modules, 'load_ipython_extension' in dir(tokenscope))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False True\nFalse False\n" == done.stdout


# -- the page, and a real notebook ------------------------------------------------------------------------------------------


def test_the_page(run):
    """The cells of the page about notebooks run in order, without errors, and show trees and tables."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "notebooks.md"
    cells = re.findall("^```text\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    done = {cell: run(cell) for cell in cells}

    assert [] == [(cell, each.error) for cell, each in done.items() if each.error is not None]
    assert 5 == sum("<details" in display["text/html"] for each in done.values() for display in each.shown)
    assert ["Report", "Usage", "Breakdown", "Wastes", "Diff"] == [
        type(each.value).__name__ for each in done.values() if hasattr(each.value, "_repr_html_")
    ]


@pytest.mark.slow
def test_a_notebook(provider, tmp_path, monkeypatch):
    """In a kernel, the tree of a cell is its last output, and equals the bill: blocking, awaiting, in tasks and threads."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    lm = f"dspy.LM('openai/gpt-4o-mini', api_base={provider.url!r}, api_key='x', cache=False, num_retries=0)"
    cells = {
        "": f"{NAMES}dspy.configure(lm={lm})\n%load_ext tokenscope",
        "blocking": "%%tokens blocking\nask(question='<<bill nb blocking>>')",
        "awaiting": "%%tokens awaiting\nawait ask.acall(question='<<bill nb awaiting>>')",
        "tasks": "%%tokens tasks\ntasks = [asyncio.create_task(ask.acall(question=f'{n} <<bill nb tasks>>')) for n in range(4)]\n"
        "await asyncio.gather(*tasks)",
        "outside": "await ask.acall(question='<<bill nb outside>>')",
        "threads": "%%tokens threads\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as pool:\n"
        "    print(len(list(pool.map(lambda n: ask(question=f'{n} <<bill nb threads>>'), range(4)))))",
        "failing": "%%tokens failing\nawait ask.acall(question='<<bill nb failing>>')\nraise KeyError",
        "usage": "tokenscope.report().total",
    }
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells.values()])
    NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
    outputs = {name: cell.outputs for name, cell in zip(cells, notebook.cells, strict=True)}

    for name in ("blocking", "awaiting", "tasks", "threads", "failing"):
        tree = outputs[name][-1]
        assert ("display_data", name) == (tree.output_type, names_in(tree.data)[0]), outputs[name]
        assert provider.bill[f"nb {name}"].total_tokens == tokens_in(tree.data)
    assert ["execute_result", "display_data"] == [each.output_type for each in outputs["awaiting"]]
    assert ["stream", "display_data"] == [each.output_type for each in outputs["threads"]]
    assert ["error", "display_data"] == [each.output_type for each in outputs["failing"]]
    assert ["execute_result"] == [each.output_type for each in outputs["outside"]]
    whole = sum(usage.total_tokens for tag, usage in provider.bill.items() if tag.startswith("nb "))
    assert (
        f'<bdi>total tokens</bdi></td><td style="text-align:right;padding:.2em .6em"><bdi>{whole:,}</bdi>'
        in (outputs["usage"][0].data["text/html"])
    )
