"""The project around the code: workflows, releases, the changelog, and `llms.txt`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import tokenscope

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
DOCS = ROOT / "docs"


def workflow(name: str) -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))


def steps(jobs: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs.values() for step in job.get("steps", ())]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows(file):
    """Each workflow may do as little as possible, ends in time, and uses actions by their major version."""
    content = yaml.safe_load(file.read_text("utf-8"))
    jobs = content["jobs"]

    assert {"name", "permissions", "jobs"} < content.keys()
    assert True in content, "`on` is True in YAML"
    assert set(content["permissions"].values()) <= {"read"}
    for name, job in jobs.items():
        assert "uses" in job or (job["runs-on"] == "ubuntu-24.04" and job["timeout-minutes"] <= 60), name
        assert set(job.get("needs", ())) <= set(jobs)
    for step in steps(jobs):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"])
        else:  # no text of a stranger, such as the title of a pull request, becomes code
            assert "${{" not in step["run"]
            subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


def test_a_pull_request_runs_everything():
    """A pull request runs `.ci/run`, with a newer Python beside 3.11, and can write nothing."""
    content = workflow("ci.yml")
    job = content["jobs"]["run"]

    assert {"push", "pull_request", "workflow_call"} == content[True].keys()
    assert {"contents": "read"} == content["permissions"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    versions = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert "3.11" == versions.split()[-1]


def test_a_release_is_checked_attested_and_published_in_this_order():
    """Only the job that attests may attest, and only what is tested, built and attested is published, without a password."""
    content = workflow("release.yml")
    jobs = content["jobs"]
    writes = {name: {key for key, may in job["permissions"].items() if may == "write"} for name, job in jobs.items()}

    assert {} == content["permissions"]
    assert {"push": {"tags": ["v*"]}} == content[True]
    assert {
        "tests": set(),
        "build": set(),
        "attest": {"attestations", "id-token"},
        "publish": {"id-token"},
        "announce": {"contents"},
    } == writes
    assert [["tests", "build"], ["attest"], ["publish"]] == [
        jobs[name]["needs"] for name in ("attest", "publish", "announce")
    ]
    assert any(step.get("uses", "").startswith("actions/attest-build-provenance@") for step in jobs["attest"]["steps"])
    assert jobs["publish"]["steps"][-1].keys() == {"uses"}, "no password, no token"
    assert "secrets." not in str(content)


@pytest.mark.parametrize(
    ("tag", "heading", "passes"),
    [
        ("v1.2.3", "## 1.2.3 (2031-01-02)", True),
        ("v1.2.4", "## 1.2.3 (2031-01-02)", False),
        ("1.2.3", "## 1.2.3 (2031-01-02)", False),
        ("v1.2.3", "## 1.2.3 (unreleased)", False),
        ("v1.2.3", "## 1.2.2", False),
    ],
)
def test_a_tag_that_is_not_the_version_is_not_released(tag, heading, passes, tmp_path):
    """A release needs a tag that names the version, and a changelog that has it and does not call it unreleased."""
    (tmp_path / "tokenscope").mkdir()
    (tmp_path / "tokenscope" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    check = next(step["run"] for step in steps(workflow("release.yml")["jobs"]) if "tag" in step.get("name", ""))
    environment = {**os.environ, "GITHUB_REF_NAME": tag}

    done = subprocess.run(
        ["bash", "-e", "-c", check], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert passes == (done.returncode == 0), done.stdout


def test_the_changelog_has_each_version():
    """The changelog has a heading for each version, the newest first. A version without a date is the first or unreleased."""
    headings = re.findall(r"^## (\d+)\.(\d+)\.(\d+)(.*)$", CHANGELOG, re.MULTILINE)
    versions = [tuple(map(int, heading[:3])) for heading in headings]

    assert sorted(versions, reverse=True) == versions
    assert {(0, 1, 0), (0, 2, 0)} <= set(versions)
    assert f"## {tokenscope.__version__}" in CHANGELOG


def test_pages_for_contributors():
    """CONTRIBUTING and SECURITY link only to files that exist, and say what they have to."""
    pages = {name: (ROOT / ".github" / f"{name}.md").read_text("utf-8") for name in ("CONTRIBUTING", "SECURITY")}

    for page in pages.values():
        for target in re.findall(r"\]\((?!http)([^)#]+)", page):
            assert (ROOT / ".github" / target).is_file(), target
    assert ".ci/run" in pages["CONTRIBUTING"]
    for said in ("What reports contain", "How files from strangers are treated", "pickle"):
        assert said in pages["SECURITY"]


def test_the_wheel_is_built_checked_and_tested():
    """`.ci/package` checks what it builds; `.ci/run` tests the installed wheel, and core and matrix on the newest Python."""
    package, everything = ((ROOT / ".ci" / name).read_text("utf-8") for name in ("package", "run"))

    for command in ("-m build", "-m twine check --strict", "-m check_wheel_contents"):
        assert command in package
    assert ".ci/package" in everything
    assert re.search(r'newest=\$PWD/\.ci-venv-newer/bin\n *"\$newest/pip" install .* dist/\*\.whl\n', everything)
    tested = r'"\$newest/python" -m pytest [^#]*tests/usage tests/scopes tests/report tests/law/test_matrix\.py'
    assert re.search(tested, everything)
    for script in ("package", "run"):
        subprocess.run(["bash", "-n", str(ROOT / ".ci" / script)], check=True)


@pytest.mark.slow
def test_llms_txt(tmp_path):
    """`llms.txt` has the form of llmstxt.org, lists every page but the indexes, and its links lead to files of the site."""
    pytest.importorskip("sphinx", reason="needs the dependency group docs")
    pytest.importorskip("furo", reason="needs the dependency group docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-D", "html_baseurl=https://docs.example/", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    text = (tmp_path / "llms.txt").read_text("utf-8")
    links = re.findall(r"^- \[(.+?)\]\(https://docs\.example/(.+?)\): (.+)$", text, re.MULTILINE)

    assert re.match(r"# tokenscope\n\n> .+\n\n\w", text)
    assert ["Tutorial", "How-to guides", "Reference", "Optional"] == re.findall("^## (.+)$", text, re.MULTILINE)
    assert text.count("\n- ") == len(links)
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md") if page.stem != "index"}
    assert pages == {target.rpartition(".")[0] for _, target, _ in links}
    for _, target, _ in links:
        assert (tmp_path / target).stat().st_size > 0
    assert "# Budgets\n" in (tmp_path / "how-to" / "budgets.md").read_text("utf-8")
    assert ("Python API", "reference/api.html") in [link[:2] for link in links]


@pytest.mark.slow
def test_the_package_has_what_it_needs(tmp_path):
    """The wheel has the package and its templates and nothing else; the source distribution can build it and run the tests."""
    pytest.importorskip("build", reason="needs the dependency group package")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    wheel, source = next(tmp_path.glob("*.whl")), next(tmp_path.glob("*.tar.gz"))
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    shutil.unpack_archive(source, tmp_path / "source")

    assert {"tokenscope", f"dspy_tokenscope-{tokenscope.__version__}.dist-info"} == set(os.listdir(tmp_path / "wheel"))
    package = {
        file.relative_to(ROOT) for file in (ROOT / "tokenscope").rglob("*") if file.is_file() and file.suffix != ".pyc"
    }
    assert package == {
        file.relative_to(tmp_path / "wheel")
        for file in (tmp_path / "wheel" / "tokenscope").rglob("*")
        if file.is_file()
    }
    [unpacked] = (tmp_path / "source").iterdir()
    for name in ("tests", "docs", ".ci/run", ".github/workflows/release.yml", "README.md", "CHANGELOG.md", "LICENSE"):
        assert (unpacked / name).exists(), name
