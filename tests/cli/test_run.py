"""`tokenscope run`: any program runs as with Python alone, and its usage is reported."""

from __future__ import annotations

import json
import py_compile
import re
import zipfile

import pytest
from support.programs import (
    ENVIRONMENT,
    HEAD,
    INTERRUPTED,
    NOTHING,
    end,
    expected_status,
    program,
    run,
    signalled,
    spender,
    start,
)

from tokenscope import Report

MIRROR = """
import sys
print(sys.argv, sys.path, __name__, __file__, __package__, __doc__, __cached__, type(__loader__), __spec__ and __spec__.name)
print(sys.modules["__main__"].__dict__ is globals(), __builtins__, sorted(globals()))
"""


def counted(text: str) -> int:
    """Return the tokens in the tree's first line."""
    assert HEAD.match(text), text
    return int(text.partition(" ")[0].replace(",", ""))


def comparable(stderr: str) -> str:
    """Remove addresses, and frames of `python -m` itself, from Python's output."""
    shown = re.sub(r'  File "<frozen runpy>", line \d+, in \w+\n', "", stderr)
    return re.sub(r"0x[0-9a-f]+", "0x", shown)


def both(*arguments, **options):
    """Run a program with Python and with tokenscope, check that the results are the same, and return the second one."""
    alone = run(*arguments, ours=False, **options)
    with_us = run(*arguments, **options)
    assert (expected_status(alone), alone.stdout) == with_us[:2], with_us
    assert comparable(alone.stderr) == comparable(with_us.stderr)
    return with_us


# -- how a program is started -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["it.py", "./it.py", "../there/it.py", "deep/it.py", "link.py", "linked/it.py"])
def test_a_script(path, tmp_path):
    """A script has the same arguments, `sys.path` and module attributes as with Python alone, wherever it lies."""
    here = tmp_path / "there"
    program(here, MIRROR, "it.py")
    program(here, MIRROR, "deep/it.py")
    (here / "link.py").symlink_to("deep/it.py")
    (here / "linked").symlink_to("deep")
    both(path, "--help", "-o", "x", "--", "-m", cwd=here)


@pytest.mark.parametrize("name", ["package", "package.module", "single", "namespace.module"])
def test_a_module(name, tmp_path):
    """`-m` runs modules and packages as Python does, and passes on the arguments after the name."""
    for file in ("package/__init__.py", "package/__main__.py", "package/module.py", "single.py", "namespace/module.py"):
        program(tmp_path, MIRROR if "init" not in file else "import sys; print(sys.argv)", file)
    both("-m", name, "-o", "--live", cwd=tmp_path)


@pytest.mark.parametrize("kind", ["folder", "folder/", "it.zip", "it.pyz"])
def test_a_folder_or_a_zip_file(kind, tmp_path):
    """A folder or zip file with a `__main__.py` runs, and can import the modules in it."""
    code = MIRROR + "import beside; print(beside.__file__)"
    program(tmp_path, code, "folder/__main__.py")
    program(tmp_path, "", "folder/beside.py")
    for name in ("it.zip", "it.pyz"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("__main__.py", code)
            file.writestr("beside.py", "")
    both(kind, "1", cwd=tmp_path, flags=("-B",))


@pytest.mark.parametrize("flags", [("-P",), ("-O",), ("-I",), ("-X", "dev"), ("-W", "error")])
def test_options_of_python(flags, tmp_path):
    """Options given to Python hold for the program, and a safe path stays safe."""
    code = MIRROR + "print(__debug__, sys.flags, sys.warnoptions)"
    program(tmp_path, code, "it.py")
    program(tmp_path, code, "folder/__main__.py")
    both("it.py", cwd=tmp_path, flags=flags)
    both("folder", cwd=tmp_path, flags=("-B", *flags))


@pytest.mark.parametrize("how", ["pytest.ini", "-W", "PYTHONWARNINGS"])
def test_pytest_where_warnings_are_errors(how, tmp_path, monkeypatch):
    """pytest starts and warns of nothing, though tokenscope was imported before it could rewrite assertions."""
    program(tmp_path, "def test_one():\n    assert True", "test_one.py")
    options = {"pytest.ini": "filterwarnings = error\n"}.get(how, "")
    program(tmp_path, f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{options}", "pytest.ini")
    if how == "PYTHONWARNINGS":
        monkeypatch.setitem(ENVIRONMENT, how, "error::pytest.PytestWarning,error::UserWarning")
    flags = ("-W", "error") if how == "-W" else ()
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, cwd=tmp_path)
    assert 0 == done.status, done
    assert b"1 passed in" in done.stdout
    assert b"Warning" not in done.stdout + done.stderr.encode()


def test_compiled_code(tmp_path):
    """A `.pyc` file runs."""
    program(tmp_path, MIRROR, "it.py")
    py_compile.compile(str(tmp_path / "it.py"), str(tmp_path / "it.pyc"))
    both("it.pyc", cwd=tmp_path)


def test_a_script_in_a_pipe():
    """A script in a pipe runs, although a pipe can be read only once."""
    done = run("/dev/stdin", stdin=b"print(__file__)")
    assert (0, b"/dev/stdin\n") == done[:2]


def test_a_double_dash(tmp_path):
    """A `--` before the script is dropped. A `--` after the script is an argument of the script."""
    file = program(tmp_path, "import sys; print(sys.argv[1:])")
    assert b"['--', '-x']\n" == run("--", file, "--", "-x").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nope.py"], 2, r"tokenscope run: can't open file '/.*/nope.py': \[Errno 2\] No such file or directory\n"),
        (
            ["pytest", "-q"],
            2,
            r".*can't open file .*pytest.* directory; to run the module .*: tokenscope run -m pytest\n",
        ),
        (["package.it"], 2, r".*; to run the module of that name, write: tokenscope run -m package.it\n"),
        (["-m", "nope"], 1, r".*: No module named nope\n"),
        (["-m", "package"], 1, r".*: No module named package.__main__; 'package' is a package and cannot be .*\n"),
        (["empty"], 1, r".*: can't find '__main__' module in '.*empty'\n"),
        (["-o", "r.pdf", "it.py"], 2, r"tokenscope run: 'r.pdf': the suffix says the format, and must be one of .*\n"),
        (["-o", "it.py/r.json", "it.py"], 2, r"tokenscope run: cannot write the report to it.py/r.json: Not a dir.*\n"),
        (["-o", "empty.json", "it.py"], 2, r"tokenscope run: cannot write the report to empty.json: .* folder\n"),
        (["-o", "/proc/r.json", "it.py"], 2, r"tokenscope run: cannot write the report to /proc/r.json: .*\n"),
        ([], 2, r"tokenscope run: Missing argument .*\n"),
        (["--nope", "it.py"], 2, r"tokenscope run: No such option.*\n"),
    ],
    ids=str,
)
def test_what_cannot_be_run(arguments, status, message, tmp_path):
    """If a program does not exist or a report cannot be written, one line says so before anything runs."""
    program(tmp_path, "print('it ran')", "it.py")
    program(tmp_path, "", "package/__init__.py")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.json").mkdir()
    done = run(*arguments, cwd=tmp_path)
    assert (status, b"") == done[:2]
    assert re.fullmatch(message, done.stderr + done.told)


# -- what a program does ------------------------------------------------------------------------------------------------

FAIL = "def fail():\n    1 / 0\n"
PROGRAMS = {
    "nothing": "",
    "no newline at the end": "print('half a line', end='')",
    "future": "def f(x: undefined): pass",
    "annotated": "x: int = 1\nprint(__annotations__)",
    "binary": "import sys; sys.stdout.buffer.write(bytes(range(256)))",
    "standard input": "print(input('name? '), input())",
    "exit 3": "import sys; sys.exit(3)",
    "exit 0": "raise SystemExit(0)",
    "exit None": "import sys; sys.exit()",
    "exit text": "import sys; sys.exit('text')",
    "exit 300": "import sys; sys.exit(300)",
    "exit object": "import sys; sys.exit(['a', 1])",
    "hard exit": "import os; os._exit(4)",
    "error": FAIL + "fail()",
    "error in error": FAIL + "try: fail()\nexcept ZeroDivisionError: raise KeyError('x')",
    "error from error": FAIL + "try: fail()\nexcept ZeroDivisionError as e: raise KeyError('x') from e",
    "errors": FAIL + "try: fail()\nexcept Exception as e:\n    e.add_note('n')\n    raise ExceptionGroup('g', [e, OSError()])",
    "end of file": "input()",
    "broken pipe": "raise BrokenPipeError(32, 'Broken pipe')",
    "click's abort": "import click; raise click.Abort",
    "click's errors": "import click; raise click.UsageError('wrong')",
    "click's exit": "import click; raise click.exceptions.Exit(5)",
    "a click program": "import click\n@click.command()\n@click.option('--n')\ndef main(n): raise click.UsageError('no')\nmain()",
    "base exception": "class Odd(BaseException): pass\nraise Odd('x')",
    "generator exit": "raise GeneratorExit",
    "interrupt": "raise KeyboardInterrupt",
    "interrupt of its own": "class Odd(KeyboardInterrupt): pass\nraise Odd",
    "interrupt, torn down": "class D:\n    def __del__(self): print('gone')\nd = D()\nimport atexit; atexit.register(print, 1)\n"
    "raise KeyboardInterrupt",
    "interrupt, and a hook": "import sys; sys.excepthook = lambda *a: print('hook')\nraise KeyboardInterrupt",
    "syntax error": "x = (\n",
    "indentation error": "if 1:\nx",
    "syntax error in eval": "eval('1 +')",
    "latin 1": "# coding: latin-1\nprint(ascii('é'))".encode("latin-1"),
    "byte order mark": b"\xef\xbb\xbfprint(1)",
    "hook": "import sys\nsys.excepthook = lambda kind, e, tb: print(kind, e, tb.tb_frame.f_code.co_name, tb.tb_next)\n1/0",
    "hook that fails": "import sys\ndef hook(*a): [][1]\nsys.excepthook = hook\n1/0",
    "hook that exits": "import sys\nsys.excepthook = lambda *a: sys.exit(7)\n1/0",
    "last error": "import atexit, sys\natexit.register(lambda: print(repr(sys.last_value), sys.last_traceback.tb_lineno))\n1/0",
    "error in a thread": FAIL + "import threading; threading.Thread(target=fail, name='T').start()",
    "error at exit": FAIL + "import atexit; atexit.register(fail)",
    "exit at exit": "import atexit, sys; atexit.register(sys.exit, 9)",
    "torn down": "class D:\n    def __del__(self): print('gone')\nd = D()",
    "logging": "import logging.handlers as h, logging, sys\n"
    "m = h.MemoryHandler(100, target=logging.StreamHandler(sys.stdout)); logging.getLogger().addHandler(m); logging.error('x')",
    "warnings": "import warnings; warnings.warn('old', DeprecationWarning)",
    "asyncio": "import asyncio\nasync def main(): await asyncio.sleep(0); 1/0\nasyncio.run(main())",
    "asyncio's debris": "import asyncio\nasync def main(): asyncio.create_task(asyncio.sleep(9))\nasyncio.run(main())",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "types": "import typing, dataclasses\n@dataclasses.dataclass\nclass A: x: 'A'\nprint(typing.get_type_hints(A))",
    "source": "import inspect\ndef f(): pass\nprint(inspect.getsource(f), inspect.getmodule(f).__file__)",
    "handlers": "import signal; print(signal.getsignal(signal.SIGINT))",
    "tracing": "import sys, threading; print(type(sys.gettrace()), sys.getprofile(), threading.active_count())",
    "no hooks": "import sys; print([getattr(sys, n) is getattr(sys, f'__{n}__') for n in ('excepthook', 'stdout', 'stderr')])",
    "modules": "import sys; print(sorted({'dspy', 'rich', 'logging', 'asyncio', 'genai_prices', 'litellm'} & {*sys.modules}))",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_with_python_alone(name, tmp_path):
    """Output, errors and exit status equal those of Python alone to the byte. Then tokenscope prints one line."""
    done = both(program(tmp_path, PROGRAMS[name]), stdin=b"Ada\nLovelace\n" if "input" in name else b"")
    quiet = name in ("hard exit", "syntax error", "indentation error")
    assert done.told.startswith("" if quiet else NOTHING)
    assert done.told.count("\n") == (0 if quiet else 1)


@pytest.mark.parametrize("name", ["error", "error in error", "interrupt", "exit text"])
def test_modules_as_with_python_alone(name, tmp_path):
    """With `-m`, output, errors and exit status are equal too, except for the frames of runpy that Python shows."""
    program(tmp_path, PROGRAMS[name], "package/__main__.py")
    both("-m", "package", cwd=tmp_path)


@pytest.mark.parametrize("source", [b"# coding: nope", b"x = '\xe9'", b"x = '\0'", b"x = ("], ids=str)
@pytest.mark.parametrize("module", [False, True], ids=["script", "module"])
def test_source_that_is_none(source, module, tmp_path):
    """A program that cannot be compiled leads to a SyntaxError that names the file, without a traceback."""
    file = program(tmp_path, source)
    done = run(*(["-m", "program"] if module else [file]), cwd=tmp_path)
    assert (1, b"", "") == (done.status, done.stdout, done.told)
    assert re.match(r'  File ".*program.py", line|SyntaxError: ', done.stderr)
    assert re.search(r"^SyntaxError: ", done.stderr, re.MULTILINE)


def test_a_package_that_cannot_be_imported(tmp_path):
    """The traceback of a package that fails begins in that package."""
    program(tmp_path, "import missing", "package/__init__.py")
    program(tmp_path, "", "package/__main__.py")
    both("-m", "package", cwd=tmp_path)


def test_recursion(tmp_path):
    """A program can recurse almost as deep as with Python alone."""
    code = "def deep(n):\n    try: return deep(n + 1)\n    except RecursionError: return n\nprint(deep(1))"
    file = program(tmp_path, code)
    alone, with_us = (int(run(file, ours=ours).stdout) for ours in (False, True))
    assert alone - 25 < with_us < alone


POOL = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
class Box:
    def __init__(self, n): self.n = n
def work(box): return Box(box.n + 1)
if __name__ == "__main__":
    spend(7)
    with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as pool:
        print([box.n for box in pool.map(work, [Box(1), Box(2)])], flush=True)
    context = multiprocessing.get_context(sys.argv[1])
    child = context.Process(target=print, args=("child",))
    child.start(); child.join(); print(child.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("module", [False, True], ids=["script", "module"])
def test_processes(method, module, tmp_path):
    """Pools and processes find the program's classes and functions, and only the program's own process reports."""
    file = spender(tmp_path, POOL)
    done = both(*(["-m", "program"] if module else [file]), method, cwd=tmp_path)
    assert b"[2, 3]\nchild\n0\n" == done.stdout
    assert 7 == counted(done.told)
    assert 1 == len(HEAD.findall(done.told))


def test_threads_and_exit_handlers(tmp_path):
    """Calls of threads that outlive the last line are counted, and so are calls of exit handlers."""
    code = """
import atexit, threading, time
atexit.register(spend, 100)
def late():
    last.wait()
    time.sleep(0.3)
    spend(10)
    print("late")
last = threading.Event()
threading.Thread(target=late).start()
spend(1)
print("last line")
last.set()
"""
    done = both(spender(tmp_path, code))
    assert b"last line\nlate\n" == done.stdout
    assert 111 == counted(done.told)


def test_a_program_that_counts_itself(tmp_path):
    """The program's own scopes and reports work, and the tree shows the whole process."""
    code = """
import tokenscope
with tokenscope.token_scope("inner") as scope:
    spend(5)
spend(1)
print(scope.usage.total_tokens, tokenscope.report().total.total_tokens)
"""
    done = run(spender(tmp_path, code))
    assert b"5 6\n" == done.stdout
    assert 6 == counted(done.told)
    assert re.search(r"^inner +1 +5 ", done.told, re.MULTILINE)


DSPY = """
import sys, dspy
from tokenscope.testing import LoopbackProvider
class Agent(dspy.Module):
    def __init__(self):
        self.writer = dspy.ChainOfThought("question -> answer")
    def forward(self, question):
        return self.writer(question=question)
with LoopbackProvider() as provider:
    dspy.configure(lm=provider.lm())
    dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Agent(), {"question": str(n)}) for n in range(4)])
    print(provider.total.calls, provider.total.total_tokens)
    FAIL
"""


def test_findings(tmp_path):
    """What could be saved is written last."""
    code = """
import dspy
from tokenscope.testing import LoopbackProvider
with LoopbackProvider() as provider:
    dspy.configure(lm=provider.lm())
    for n in range(6):
        dspy.Predict("question -> answer")(question=f"<<bill {n}>> <<garble once>>")
"""
    last = run(program(tmp_path, code)).told.splitlines()[-1]
    assert last.startswith("- ")
    assert "were wasted on failed parses: 6 of 12 calls" in last


@pytest.mark.parametrize("fails", [False, True])
def test_dspy(fails, tmp_path):
    """The tokens of a DSPy program equal the provider's bill, even if the program fails."""
    code = DSPY.replace("FAIL", "raise RuntimeError('late')" if fails else "")
    done = run("-o", "r.json", program(tmp_path, code), cwd=tmp_path)
    calls, tokens = map(int, done.stdout.split())
    total = Report.load(tmp_path / "r.json").total
    assert (int(fails), calls, tokens) == (done.status, total.calls, total.total_tokens)
    assert tokens == counted(done.told)
    assert re.search(r"^└─ writer|^Agent +4 ", done.told, re.MULTILINE)
    assert fails == ("RuntimeError: late" in done.stderr)


def test_parts_of_prompts(tmp_path):
    """`--parts` measures prompts, in the program and in programs that it starts, and shows their parts below each predictor."""
    code = "import os; print('switched on:', os.environ['TOKENSCOPE_PROMPT_PARTS'])\n" + DSPY.replace("FAIL", "")
    done = run("--parts", "-o", "r.json", program(tmp_path, code), cwd=tmp_path)
    report = Report.load(tmp_path / "r.json")

    assert "switched on: 1" == done.stdout.decode().splitlines()[0]
    assert report.total.input_tokens == sum(usage.input_tokens for usage in report.by_part().values())
    assert "instructions" in report.by_part()
    assert re.search(r"^ +[a-z:]+ \d+% · .*instructions \d+%|^ +instructions \d+% · ", done.told, re.MULTILINE)
    assert "Parts of input are estimates, measured " in done.told
    assert done.told.endswith("report written to r.json\n")


# -- signals ------------------------------------------------------------------------------------------------------------

WAIT = "import asyncio, sys, threading, time\nspend(3)\nprint('ready', flush=True)\n"
WAITING = {
    "sleep": WAIT + "time.sleep(30)",
    "asyncio": WAIT.replace("print", "async def main():\n  print") + "  await asyncio.sleep(30)\nasyncio.run(main())",
    "thread": WAIT + "threading.Thread(target=time.sleep, args=(1,)).start()\ntime.sleep(30)",
    "loop": WAIT + "while True: pass",
    "a thread that is left": WAIT + "threading.Thread(target=time.sleep, args=(5,)).start()",
    "a pool that is left": "import concurrent.futures as f\n" + WAIT + "f.ThreadPoolExecutor().submit(time.sleep, 5)",
}


@pytest.mark.parametrize("name", WAITING)
def test_ctrl_c(name, tmp_path):
    """Ctrl-C ends a program with Python's traceback and status 130, and leaves a report."""
    file = spender(tmp_path, WAITING[name])
    done = []
    for ours in (False, True):
        process = start(*(["-o", "r.json"] if ours else []), file, ours=ours, cwd=tmp_path)
        signalled(process)
        done.append(end(process))
    assert (expected_status(done[0]), *done[0][1:3]) == done[1][:3]
    assert (0 if "left" in name else INTERRUPTED) == done[1].status
    assert 3 == counted(done[1].told) == Report.load(tmp_path / "r.json").total.total_tokens


def test_json_of_a_pipeline(tmp_path):
    """If a program prints JSON, standard output stays valid JSON."""
    done = run(spender(tmp_path, "import json; spend(1); print(json.dumps({'a': 1}))"))
    assert {"a": 1} == json.loads(done.stdout)
