"""`tokenscope doctor`: it finds each problem, and reports no false one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import dspy
import pytest
from click.testing import CliRunner

import tokenscope
from tokenscope import record_tokens, set_price
from tokenscope._usage.custom_prices import forget_prices
from tokenscope.cli import main
from tokenscope.cli.doctor.checks import CheckResult, compared, installation
from tokenscope.cli.doctor.models import prices, trial
from tokenscope.cli.doctor.report import as_json, as_text, examine, failed
from tokenscope.integrations.patches import PATCHES

LEFT_OUT = [key for key in os.environ if key.endswith(("_API_KEY", "_API_BASE", "_BASE_URL"))]
CLEAN = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
NATIVE = tuple(map(int, version("dspy").split(".")[:2])) >= (3, 4)


def doctor(*arguments, start=None, folder=None, cwd=None, **environment):
    """Run the command. `start` is Python code that runs first."""
    if start is not None:
        (folder / "sitecustomize.py").write_text(start, "utf-8")
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "tokenscope", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**CLEAN, **environment},
        cwd=cwd,  # Python finds modules there first
        timeout=170,
        check=False,
    )


def doctor_here(*arguments):
    """Run the command in this process, in which litellm is imported already."""
    runner = CliRunner(env=dict.fromkeys(LEFT_OUT))
    done = runner.invoke(main, ["doctor", *arguments], prog_name="tokenscope")
    assert 0 == done.exit_code, done.output
    return done


def lines(done):
    """Return the mark and the text of each printed finding."""
    assert "Traceback" not in done.stderr, done.stderr
    return [tuple(line.split(None, 1)) for line in done.stdout.splitlines() if line.startswith("  ")]


def problems(findings):
    return [finding.text for finding in findings if finding.mark == "problem"]


def notes(findings):
    return [finding.text for finding in findings if finding.mark == "note"]


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.unmeasured
def test_all_is_well():
    """In a sound installation each patch is applied, each engine's call is counted as billed, and the status is 0.

    The calls reach the server on loopback, even if the environment names a proxy.
    """
    proxy = "http://127.0.0.1:9"
    done = doctor(HTTP_PROXY=proxy, http_proxy=proxy, ALL_PROXY=proxy)
    said = lines(done)
    assert 0 == done.returncode, done.stdout
    assert "no problems found" == done.stdout.splitlines()[-1]
    assert ("ok", f"dspy {version('dspy')}, and >=3.0 is needed") in said
    told = dict(text.split(": ", 1) for _, text in said if ": " in text)
    for patch in PATCHES:
        usual = ("applied", "inherited, and patched where it comes from")
        rare = ("not in this version of dspy",) if patch.optional else ()
        if find_spec(patch.module.partition(".")[0]) is None:
            usual, rare = (), ("not installed",)
        assert told[f"{patch.module}.{patch.name}"] in usual + rare
    assert "applied" == told["dspy.clients.base_lm.BaseLM.__call__"]
    calls = [text.partition(":")[0] for mark, text in said if mark == "ok" and text.endswith("and counted as that")]
    assert [*(["DSPy's native engine"] if NATIVE else []), "litellm", "embeddings by litellm"] == calls


@pytest.mark.slow
def test_disabled():
    """TOKENSCOPE_DISABLED is a problem: nothing is counted."""
    done = doctor(TOKENSCOPE_DISABLED="1")
    assert 1 == done.returncode
    assert [("problem", "TOKENSCOPE_DISABLED is set in the environment: nothing is counted")] == [
        line for line in lines(done) if line[0] == "problem"
    ]
    assert "1 problem found" == done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_patch_point_that_is_missing(tmp_path):
    """A function that DSPy lacks is a problem, and is named."""
    done = doctor(start="import dspy.clients.cache as it\ndel it.Cache.get\n", folder=tmp_path)
    assert 1 == done.returncode, done.stderr
    found = [text for mark, text in lines(done) if mark == "problem"]
    assert ["dspy.clients.cache.Cache.get: missing in this version of dspy"] == [
        text.partition(";")[0] for text in found
    ]


# -- another distribution with our import name ------------------------------------------------------------------------------

ANOTHER = "tokenscope 9.9, another project with the same import name"
REINSTALL = "pip install --force-reinstall --no-deps dspy-tokenscope"
UNINSTALL = f"pip uninstall -y tokenscope && {REINSTALL}"


def installed(folder, name, version, files):
    """Install a distribution into a folder, as pip does: its files, and the record of their hashes."""
    folder_of_metadata = f"{name.replace('-', '_')}-{version}.dist-info"
    record = [f"{folder_of_metadata}/RECORD,,", "tokenscope/__pycache__/it.cpython-311.pyc,,"]
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record.append(f"{path},sha256={digest},{len(content)}")
    about = folder / folder_of_metadata
    about.mkdir()
    metadata = {"Metadata-Version": "2.1", "Name": name, "Version": version, "Requires-Python": ">=3.11"}
    (about / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in metadata.items()), "utf-8")
    (about / "RECORD").write_text("\n".join(record), "utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a folder of installed packages that has our files."""
    package = Path(tokenscope.__file__).parent
    files = {f"tokenscope/{file.relative_to(package).as_posix()}": file.read_bytes() for file in package.rglob("*.py")}
    installed(tmp_path, "dspy-tokenscope", "0.1", files)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_our_files_are_all_there(site):
    """If all files are as they were installed, nothing is said."""
    assert [] == list(installation())


def test_another_project_has_replaced_our_files(site):
    """If `pip install tokenscope` has replaced files of ours, the command says so, and what to type."""
    installed(site, "tokenscope", "9.9", {"tokenscope/__init__.py": b"name = 1", "tokenscope/core.py": b""})
    done = doctor("--format", "json", cwd=site)
    replaced = f"installed files were replaced or removed, by {ANOTHER} (tokenscope/__init__.py): {UNINSTALL}"

    assert 1 == done.returncode, done.stderr
    assert replaced == json.loads(done.stdout)["findings"][-1]["text"]


def test_another_project_beside_our_files(site):
    """If ours was installed last, nothing is wrong yet, and a note says what may happen."""
    ours = (site / "tokenscope" / "__init__.py").read_bytes()
    installed(site, "tokenscope", "9.9", {"tokenscope/__init__.py": b"name = 1"})
    (site / "tokenscope" / "__init__.py").write_bytes(ours)

    may = "is another project with the same import name; either may overwrite the other"
    assert [("note", f"tokenscope 9.9 {may}: {UNINSTALL}")] == list(installation())


def test_files_that_are_gone(site):
    """If the other project was uninstalled, it has taken files of ours with it."""
    for name in ("__init__.py", "errors.py"):
        (site / "tokenscope" / name).unlink()
    gone = "tokenscope/__init__.py, tokenscope/errors.py"

    assert [("problem", f"installed files were replaced or removed ({gone}): {REINSTALL}")] == list(installation())


def test_only_another_project_is_installed(tmp_path, monkeypatch):
    """If our files run from a folder, and only the other project is installed, its name is said, and ours."""
    installed(tmp_path, "tokenscope", "9.9", {"tokenscope/__init__.py": b""})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    text = "tokenscope 9.9 is another project with the same import name; this one is installed as dspy-tokenscope"

    assert [("problem", f"{text}: pip uninstall -y tokenscope && pip install dspy-tokenscope")] == list(installation())
    (tmp_path / "tokenscope-9.9.dist-info" / "RECORD").unlink()
    assert [] == list(installation())


def test_without_dspy(tmp_path):
    """If DSPy cannot be imported, one line says so."""
    done = doctor(start="import sys\nsys.modules['dspy'] = None\n", folder=tmp_path)
    assert 1 == done.returncode
    found = [text for mark, text in lines(done) if mark == "problem"]
    assert 1 == len(found)
    assert found[0].startswith("dspy cannot be imported, so there is nothing to count: ModuleNotFoundError: ")


@pytest.mark.slow
def test_a_call_that_is_counted_otherwise_than_billed(tmp_path):
    """A real call finds an LM whose calls bypass the patches."""
    done = doctor(
        start="""
import dspy
def stranger(self, prompt=None, **kwargs):
    import json, urllib.request
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}]}).encode()
    return urllib.request.urlopen(self.kwargs["api_base"] + "/chat/completions", body).read()
dspy.LM.__call__ = stranger
""",
        folder=tmp_path,
    )
    assert 1 == done.returncode
    assert "counted as 0 + 0 tokens" in done.stdout


def test_json_for_machines():
    """JSON holds the same findings, with model names exactly as given."""
    hostile = "x\x1b[31m/\n\u202e'"
    done = doctor_here("openai/gpt-4o-mini", hostile, "--format", "json")
    told = json.loads(done.stdout)
    assert (False, 1, tokenscope.__version__) == (told["failed"], told["format"], told["tokenscope"])
    assert {"about", "mark", "text"} == set(told["findings"][0])
    assert any(hostile in finding["text"] for finding in told["findings"])


def test_names_of_models_are_escaped():
    """A model's name is escaped for the terminal. An unknown price or provider is a note."""
    done = doctor_here("x\x1b[31m/\n\u202e\u2028'", "foo/bar", "openai/gpt-4o-mini")
    assert not set(done.stdout) & {"\x1b", "\u202e", "\u2028"}
    said = lines(done)
    assert ("note", "foo/bar: litellm, which knows no such provider") in said
    assert any(mark == "note" and text.startswith("no price is known of 'foo/bar'") for mark, text in said)
    assert ("ok", "openai/gpt-4o-mini: $0.15 for a million input tokens, $0.60 for output") in said


def test_a_wrong_command_line():
    """An unknown format leads to an error of one line and status 2."""
    done = doctor("--format", "xml")
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))


# -- a program that looks at itself -------------------------------------------------------------------------------------


def test_looking_changes_nothing():
    """Within a program, the checks make no call, import no other package, and leave the environment alone."""
    modules, environment = set(sys.modules), dict(os.environ)
    findings = examine()
    assert [] == [name for name in set(sys.modules) - modules if name.startswith(("dspy.clients.typesafe", "openai."))]
    assert environment == dict(os.environ)
    assert not tokenscope.report()
    assert not tokenscope.get_tracker().records
    assert not [finding for finding in findings if finding.about == "trial"]


def test_where_uninstrumented():
    """If `uninstrument()` was called, that is the only problem in the report."""
    tokenscope.uninstrument()
    try:
        findings = examine()
    finally:
        tokenscope.instrument()
    assert ["tokenscope.uninstrument() was called: what DSPy spends is not counted"] == problems(findings)
    assert failed(findings)


def test_prices_that_are_set(monkeypatch, tmp_path):
    """The checks list how many prices are set, and each name that neither a counted call nor a checked model has."""
    file = tmp_path / "prices.toml"
    file.write_text('[used]\ninput = 1\noutput = 1\n["p/checkd"]\ninput = 1\noutput = 1\n', "utf-8")
    monkeypatch.setenv("TOKENSCOPE_PRICES", str(file))
    forget_prices()
    try:
        set_price("gone", input=1, output=1)
        record_tokens("m", "o", "used", "vllm", 1, 1)
        findings = [(mark, text) for about, mark, text in examine(["openai/checked"]) if about == "prices"]
    finally:
        forget_prices()
    (_, unknown), *about_prices, (_, table) = findings
    assert unknown.startswith("no price is known of 'openai/checked'")
    assert [
        ("ok", f"prices are set for 3 names (TOKENSCOPE_PRICES is {file})"),
        ("note", "A price is set for 'p/checkd', but no call here has that name; did you mean 'openai/checked'?"),
        (
            "note",
            "prices are set for 'gone', but no call has such a name here; name the models of your program to compare them",
        ),
    ] == about_prices
    assert table == dict(prices([]))["ok"]


@pytest.mark.unmeasured
def test_prices_of_a_file_by_the_command(tmp_path):
    """`--prices` checks the names in a file against the models that are named."""
    file = tmp_path / "prices.toml"
    file.write_text("[my-lama]\ninput = 1\noutput = 1\n", "utf-8")
    said = doctor_here("--prices", str(file), "ollama/my-llama").stdout
    assert "A price is set for 'my-lama', but no call here has that name; did you mean 'ollama/my-llama'?" in said
    file.write_text("[my-llama]\ninput = 1\noutput = 4\n", "utf-8")
    said = doctor_here("--prices", str(file), "ollama/my-llama").stdout
    assert "ollama/my-llama: $1.00 for a million input tokens, $4.00 for output" in said
    assert "prices are set for 1 name (TOKENSCOPE_PRICES is " in said
    assert "such a name" not in said


def test_a_patch_that_is_covered(monkeypatch):
    """A note names a patched function that another package has wrapped or replaced."""
    covered = "dspy.evaluate.evaluate.Evaluate.__call__ was wrapped or replaced after tokenscope had patched it"
    assert not [text for text in notes(examine()) if text.startswith(covered)]
    monkeypatch.setattr(dspy.Evaluate, "__call__", lambda self: None)
    findings = examine()
    assert [f"{covered}: calls are counted if it still calls what it wraps"] == [
        text for text in notes(findings) if "wrapped or replaced" in text
    ]
    assert [] == problems(findings)


def test_an_lm_with_a_call_of_its_own():
    """A note names an LM with its own `__call__`, which may not call super()."""

    class Ours(dspy.LM):
        def __call__(self, *args, **kwargs):
            return ["no"]

    assert any("Ours has its own __call__: " in text for text in notes(examine()))
    del Ours


def test_callbacks(monkeypatch):
    """Notes name the callbacks of litellm and of DSPy."""
    import litellm

    monkeypatch.setattr(litellm, "success_callback", ["langfuse"])
    with dspy.context(callbacks=[dspy.utils.callback.BaseCallback()]):
        said = notes(examine())
    assert any(text.startswith("litellm calls back langfuse") for text in said)
    assert any(text.startswith("DSPy calls back dspy.utils.callback.BaseCallback;") for text in said)


@pytest.mark.slow
def test_two_instrumentors():
    """It is a problem if litellm and OpenAI's SDK are both instrumented: both have a span for a call of litellm's engine."""
    theirs = pytest.importorskip("openinference.instrumentation.litellm").LiteLLMInstrumentor()
    also = pytest.importorskip("openinference.instrumentation.openai").OpenAIInstrumentor()
    theirs.instrument()
    also.instrument()
    try:
        (text,) = problems(examine(["bedrock/us.amazon.nova-micro-v1:0"]))
        assert text.startswith("litellm and openai are both instrumented")
        if NATIVE:
            findings = examine(["openai/gpt-4o-mini"])
            assert [] == problems(findings)
            assert any(
                text.startswith("DSPy's native engine uses neither litellm nor the SDKs") for text in notes(findings)
            )
    finally:
        also.uninstrument()
        theirs.uninstrument()


# -- models -------------------------------------------------------------------------------------------------------------


def models(*names):
    return [(finding.mark, finding.text) for finding in examine(names) if finding.about == "models"]


@pytest.mark.unmeasured
@pytest.mark.skipif(not NATIVE, reason="engines are to be chosen from DSPy 3.4 on")
def test_engines(monkeypatch):
    """The engine is the one that DSPy chooses by the model's name, its options and the environment."""
    monkeypatch.delenv("OPENAI_API_BASE", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    name = "openai/gpt-4o-mini"
    native = f"{name}: DSPy's native engine (openai-chat), which uses neither litellm nor the provider's SDK"
    assert [("ok", native)] == models(name) == models(dspy.LM(name))
    assert [("ok", f"{name}: litellm (openai)")] == models(dspy.LM(name, engine="litellm"))
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    assert [("ok", f"{name}: litellm (openai)")] == models(name)


@pytest.mark.skipif(NATIVE, reason="DSPy 3.4 has an engine of its own")
def test_engines_of_older_versions():
    """Before DSPy 3.4 the engine is litellm, even for models whose LM needs more than a name."""
    assert [("ok", "openai/o3: litellm (openai)")] == models("openai/o3")


def test_the_lm_that_is_configured():
    """Without a name, the LM that DSPy is configured with is checked. An LM of another kind is named as such."""

    class Own(dspy.BaseLM):
        pass

    with dspy.context(lm=Own("mine/one")):
        assert [("ok", "mine/one: an LM of its own, test_the_lm_that_is_configured.<locals>.Own")] == [
            (mark, re.sub(r"of its own, .*\.test_", "of its own, test_", text)) for mark, text in models()
        ]


@pytest.mark.skipif(not NATIVE, reason="before DSPy 3.4, LMs are not made to be looked at")
def test_a_name_that_dspy_refuses():
    """A model that dspy.LM refuses is a problem, with the reason."""
    ((mark, text),) = models("openai/")
    assert "problem" == mark
    assert text.startswith("openai/: dspy.LM does not take that: ValueError: ")


# -- texts of findings -------------------------------------------------------------------------------------------------


def test_versions_are_compared():
    """An unsupported version is a problem."""
    assert ("ok", "dspy 3.5.0rc1, and >=3.0 is needed") == compared("dspy", "3.5.0rc1", ">=3.0")
    assert ("problem", "dspy 2.6.27 is not supported: >=3.0 is needed") == compared("dspy", "2.6.27", ">=3.0")


def test_a_trial_that_does_not_add_up():
    """A count that differs from the bill, or a call that fails, is a problem in one line."""
    more = lambda _provider: record_tokens("a", "b", "c", None, input_tokens=1, output_tokens=2)  # noqa: E731
    wrong = trial("it", more)
    said = (
        "it: a call to a server on loopback was billed 0 + 0 tokens in 0 calls, and counted as 1 + 2 tokens in 1 call"
    )
    assert ("problem", said) == wrong
    broken = trial("it", lambda provider: 1 / (provider.total.calls))
    assert ("problem", "it: a call to a server on loopback failed: ZeroDivisionError: division by zero") == broken


def test_text_and_json_say_the_same():
    """Each finding is a line below its topic. Control characters are made visible."""
    findings = [
        CheckResult("versions", "ok", "a"),
        CheckResult("patches", "problem", "b\n\x1b"),
        CheckResult("patches", "note", "c"),
    ]
    assert [
        "versions",
        "  ok       a",
        "patches",
        r"  problem  b\n\x1b",
        "  note     c",
        "1 problem found",
    ] == as_text(findings).splitlines()
    assert [finding._asdict() for finding in findings] == json.loads(as_json(findings))["findings"]
    assert SimpleNamespace(**json.loads(as_json(findings))).failed
