"""The examples of the README and the documentation run, and print the output that is shown with them."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pytest
from support.browser import missing

import tokenscope
from tokenscope._providers.prompts import meter
from tokenscope.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COMPARISON = DOCS / "examples" / "compare_with_dspy.py"
EXAMPLES = sorted(set((DOCS / "examples").glob("*.py")) - {COMPARISON})
PAGES = sorted(path for path in DOCS.rglob("*.md") if "```python" in path.read_text(encoding="utf-8"))
PYTEST_PAGE = DOCS / "how-to" / "pytest.md"
SLOW_PAGES = {"processes"}  # its programs start processes, each of which imports DSPy
SESSIONS = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW_PAGES else [])
    for page in PAGES
    if page != PYTEST_PAGE
]
SCRIPT_MAKES = ("page-dark.png", "page-light.png", "tree-dark.svg", "tree-light.svg")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXACT = version("dspy") == "3.4.1"  # other versions of DSPy write other prompts, so their numbers are not compared


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language in a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def session(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield each Python block of a page with its line and with its expected output, the text block below it."""
    page = path.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", page, re.MULTILINE | re.DOTALL):
        yield page.count("\n", 0, found.start(1)) + 1, found[1], found[2]


def compared(text: str) -> str:
    """Return a text without times, and without numbers and bars if DSPy has another version."""
    text = re.sub(r"\b\d+(\.\d+)?(µs|ms|s)\b", "(time)", text)
    if not EXACT:
        text = re.sub(r"[\d.,]+|[▏▎▍▌▋▊▉█]+", "#", text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def is_as_shown(shown: str, printed: str) -> bool:
    """Return whether the output is as a page shows it. A line of `…` stands for any number of lines."""
    pattern = [r"(?:.*\n)*?" if line == "…" else re.escape(line) + r"\n" for line in compared(shown).splitlines()]
    return re.fullmatch("".join(pattern), compared(printed) + "\n") is not None


def run(path: Path) -> dict[str, Any]:
    """Run the blocks of a page in order, and return the names that they define."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for line, code, shown in session(path):
        if 'if __name__ == "__main__":' in code:
            printed = run_script(code)
        else:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
            printed = output.getvalue()
        assert shown is None or is_as_shown(shown, printed), f"{path}:{line} prints\n{printed}"
    return namespace


def run_script(code: str) -> str:
    """Run a block as a separate program, and return its output."""
    Path("script.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", SESSIONS)
def test_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of each page run in order, like a session, and print the output shown below them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tokenscope._usage.custom_prices._custom", {})
    monkeypatch.setattr(dspy, "cache", dspy.cache)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    meter.forget()  # what it has learned from other tests makes other estimates
    before = dspy.settings.lm
    with LoopbackProvider() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        monkeypatch.setenv("OPENAI_API_KEY", "loopback")
        dspy.configure(lm=provider.lm())
        try:
            own = run(page).get("provider")
        finally:
            dspy.configure(lm=before)
            tokenscope.instrument(prompt_parts=False)
    if own is not None:
        own.__exit__(None, None, None)


def test_pytest_page(pytester: pytest.Pytester) -> None:
    """The example tests on the page of the pytest plugin pass for a small agent."""
    pytester.makeconftest(
        """
        import dspy, pytest
        from tokenscope.testing import LoopbackProvider

        class Agent(dspy.Module):
            def __init__(self):
                super().__init__()
                self.planner = dspy.Predict("question -> answer")

            def forward(self, question):
                return self.planner(question=question)

        @pytest.fixture
        def agent():
            with LoopbackProvider() as provider, dspy.context(lm=provider.lm()):
                yield Agent()
        """
    )
    tests = blocks(PYTEST_PAGE, "python")
    pytester.makepyfile("\n".join(tests))
    installed = any(each.name == "tokenscope" for each in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", "tokenscope.pytest_plugin")
    pytester.runpytest_subprocess("-p", "no:cacheprovider", *plugin).assert_outcomes(passed=len(tests))


@pytest.mark.slow
def test_comparison() -> None:
    """The tables on the comparison page equal the output of the script that measures them."""
    done = subprocess.run([sys.executable, str(COMPARISON)], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    tables = [table.strip() for table in done.stdout.strip().split("\n\n")]
    assert 2 == len(tables)
    assert all(line.endswith("| 100% |") for line in tables[0].splitlines()[2:]), tables[0]
    if EXACT:
        page = (DOCS / "explanation" / "comparison.md").read_text(encoding="utf-8")
        assert all(table in page for table in tables), "\n\n".join(tables)


def test_reference_is_complete() -> None:
    """The API reference lists every public name."""
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto\w+:: (\w+)", page, re.MULTILINE)
    assert set(tokenscope.__all__) - {"__version__"} <= set(listed)


def test_readme_gives_two_commands() -> None:
    """The README gives exactly two commands for a fresh machine, each on one line."""
    commands = blocks(ROOT / "README.md", "bash")
    assert [command.count("\n") for command in commands] == [1, 1]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)


def test_readme_is_short_and_opens_with_pictures() -> None:
    """The README has less than 200 lines. It begins with pictures in light and dark, each smaller than 150 kB."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.count("\n") < 200
    pictures = re.findall(r'(?:src|srcset)="(.*?)"', page.partition("```")[0])
    assert [*SCRIPT_MAKES] == sorted(Path(each).name for each in pictures)
    assert all(0 < (ROOT / each).stat().st_size < 150_000 for each in pictures)


def test_readme_names_the_package_and_how_long_tests_take() -> None:
    """The README says under which name the package is installed, and how long its tests take."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"installed as **`{PROJECT['name']}`**" in page
    assert re.search(r"about \w+ minutes on two cores", page)


@pytest.mark.slow
def test_pictures(tmp_path: Path) -> None:
    """The script writes each picture that the README shows. The two schemes differ, and no picture needs the network."""
    pytest.importorskip("PIL", reason="needs the package pillow, of the dependency group docs")
    if not shutil.which("chromium"):
        missing("needs chromium")
    done = subprocess.run(
        [sys.executable, str(DOCS / "pictures.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert [*SCRIPT_MAKES] == sorted(made)
    assert all(len(picture) < 150_000 for picture in made.values())
    for name in ("tree-light.svg", "tree-dark.svg"):
        assert b"ResearchAgent" in made[name]
        assert not re.search(rb"(url\(|href=)[\"']?http", made[name])
    assert 4 == len(set(made.values()))


def test_first_example_runs_when_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's first example is a whole program: it needs no key and no configuration, and prints a tree."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    code = blocks(ROOT / "README.md", "python")[0]
    assert "# lm = dspy.LM(" in code
    printed = run_script(code)
    for line in ("answering", "planner", "writer"):
        assert line in printed


def test_readme_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's Python blocks run in order, like a session, and print trees."""
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md", "python")
    namespace: dict[str, Any] = {"__name__": "readme"}
    output = io.StringIO()
    with LoopbackProvider() as provider, dspy.context(lm=provider.lm()), contextlib.redirect_stdout(output):
        for number, block in enumerate(code):
            exec(compile(block, f"README.md, block {number + 1}", "exec"), namespace)
        assert provider.total.calls + namespace["provider"].total.calls + 1 == tokenscope.report().total.calls
    printed = output.getvalue()
    assert len(code) >= 4
    for line in ("answering", "├─ planner", "review_answer", "summarize_page", "ocr"):
        assert line in printed
    assert 2 * namespace["report"].total.calls == namespace["both"].total.calls


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example: Path, tmp_path: Path) -> None:
    """Each script in docs/examples runs by itself and prints a tree."""
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert re.search(r"^scope +calls +input +output +total +share +(cost +)?time$", done.stdout, re.MULTILINE)


def test_examples_for_each_use() -> None:
    """Every main use of the package has an example script, and the README names their folder."""
    names = {example.stem for example in EXAMPLES}
    assert {"decorate_functions", "scope_blocks", "tree_summaries", "asyncio_pipeline"} <= names
    assert {"budgets", "provider_calls", "opentelemetry_both_ways", "processes"} <= names
    assert {"optimization_bill", "waste_report"} <= names
    assert "docs/examples" in (ROOT / "README.md").read_text(encoding="utf-8")
