"""The page about GitHub Actions: its workflow runs, step by step, with real programs and a `gh` that keeps comments in a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tokenscope import Report
from tokenscope.testing import LoopbackProvider

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "github-actions.md").read_text("utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
WORKFLOW = BLOCKS[0]
STEPS = {step["name"]: step for step in [*WORKFLOW["jobs"]["tokens"]["steps"], *BLOCKS[1]] if "name" in step}
PROGRAM = """
import dspy
dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", cache=False, num_retries=0))
for _ in range({}):
    dspy.Predict("question -> answer")(question="Why? <<bill program>>")
"""
GH = r"""
import json, pathlib, shutil, subprocess, sys
state = pathlib.Path(__file__).parent / "github.json"
github = json.loads(state.read_text())
words = sys.argv[1:]
options = {word: words[n + 1] for n, word in enumerate(words[:-1]) if word.startswith("--")}
github["asked"].append(words[:2])
answer = []
if words[:2] == ["run", "list"]:
    answer = [{"databaseId": 7}] if github["artifact"] else []
elif words[:2] == ["run", "download"]:
    assert words[2] == "7" and options["--name"] == "tokens"
    pathlib.Path(options["--dir"]).mkdir()
    shutil.copy(github["artifact"], options["--dir"])
elif "--method" in options:
    body = pathlib.Path(options["--field"].removeprefix("body=@")).read_text("utf-8")
    comment = {"id": 100 + len(github["comments"]), "user": {"login": "github-actions[bot]"}, "body": body}
    if options["--method"] == "PATCH":
        (comment,) = [each for each in github["comments"] if words[3] == f"repos/o/r/issues/comments/{each['id']}"]
        comment["body"] = body
    else:
        assert words[3] == "repos/o/r/issues/5/comments"
        github["comments"].append(comment)
else:
    assert words[1:3] == ["--paginate", "repos/o/r/issues/5/comments"]
    answer = github["comments"]
state.write_text(json.dumps(github))
if "--jq" in options:
    subprocess.run(["jq", "-r", options["--jq"]], input=json.dumps(answer), text=True, check=True)
"""


class Job:
    """A folder in which steps of the workflow run."""

    def __init__(self, folder: Path, github: Path, provider: LoopbackProvider) -> None:
        folder.mkdir()
        self.folder, self.github = folder, github
        self.summary = folder / "summary.md"
        self._environment = {
            **os.environ,
            "PATH": f"{github}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_BASE_REF": "main",
            "GITHUB_REPOSITORY": "o/r",
            "OPENAI_API_KEY": "loopback",
            "OPENAI_BASE_URL": provider.url,
        }

    def step(self, name: str, status: int = 0) -> str:
        """Run a step as GitHub does, and return its log."""
        script = STEPS[name]["run"].replace("${{ github.event.number }}", "5")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (status, True) == (done.returncode, "${{" not in script), done.stderr
        return done.stdout

    def program(self, calls: int) -> Report:
        """Run the step of the program, and return its report."""
        (self.folder / "evaluate.py").write_text(PROGRAM.format(calls), "utf-8")
        self.step("Run the program")
        return Report.load(self.folder / "tokens.json")


@pytest.fixture
def github(tmp_path):
    """Return a folder with the commands `gh` and `tokenscope`, and what GitHub keeps."""
    if not shutil.which("jq") or not shutil.which("bash"):
        pytest.skip("needs bash and jq")
    folder = tmp_path / "github"
    folder.mkdir()
    (folder / "gh.py").write_text(GH, "utf-8")
    for name, arguments in (("gh", f'"{folder / "gh.py"}"'), ("tokenscope", "-m tokenscope")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', "utf-8")
        (folder / name).chmod(0o755)
    keep(folder, artifact=None, comments=[])
    return folder


def keep(folder: Path, **facts: object) -> None:
    """Change what GitHub keeps."""
    file = folder / "github.json"
    before = json.loads(file.read_text("utf-8")) if file.exists() else {"asked": []}
    file.write_text(json.dumps({**before, **facts}), "utf-8")


def kept(folder: Path) -> dict[str, object]:
    """Return what GitHub keeps."""
    return json.loads((folder / "github.json").read_text("utf-8"))


@pytest.mark.slow
def test_the_workflow(github, tmp_path):
    """A push keeps a report. A pull request that spends more fails, and has a summary, warnings and one comment."""
    with LoopbackProvider() as provider:
        push = Job(tmp_path / "push", github, provider)
        spent = push.program(2).total.total_tokens
        assert 0 < spent == provider.total.total_tokens
        request = Job(tmp_path / "request", github, provider)
        request.program(3)

    assert "::notice::There is no report of main to compare with.\n" == request.step(
        "Get the report of the base branch"
    )
    assert not (request.folder / "base").exists()

    other = {"id": 99, "user": {"login": "mallory"}, "body": "<!-- tokenscope --> mine"}
    chat = {"id": 98, "user": {"login": "github-actions[bot]"}, "body": "see <!-- tokenscope -->"}
    keep(github, artifact=str(push.folder / "tokens.json"), comments=[other, chat])
    assert "" == request.step("Get the report of the base branch")
    log = request.step("Compare", status=1)
    assert "::warning title=Token usage::total tokens grew by 50.0%25 (" in log
    assert "::warning title=Predict(question -> answer)::tokens grew by 50.0%25 (" in log
    assert "\n## Token usage: +50.0%\n" in request.summary.read_text("utf-8")

    request.step("Comment")
    comments = kept(github)["comments"]
    assert [other, chat] == comments[:2]
    assert comments[2]["body"].startswith("<!-- tokenscope -->\n## Token usage: +50.0%\n")

    shutil.copy(push.folder / "tokens.json", request.folder)
    request.step("Compare")
    request.step("Comment")
    comments = kept(github)["comments"]
    assert (3, 102) == (len(comments), comments[2]["id"])
    assert comments[2]["body"].startswith("<!-- tokenscope -->\n## Token usage: unchanged\n")


def test_a_lost_artifact(github, tmp_path):
    """If the artifact cannot be downloaded, nothing is compared, and the job goes on."""
    keep(github, artifact=str(tmp_path / "none.json"))
    with LoopbackProvider() as provider:
        log = Job(tmp_path / "request", github, provider).step("Get the report of the base branch")

    assert "::notice::There is no report of main to compare with.\n" == log


@pytest.mark.slow
def test_the_tests_are_measured(github, tmp_path):
    """The step for a test suite writes the report, too."""
    with LoopbackProvider() as provider:
        job = Job(tmp_path / "job", github, provider)
        (job.folder / "tests").mkdir()
        lines = "".join(f"    {line}\n" for line in PROGRAM.format(1).strip().splitlines())
        (job.folder / "tests" / "test_program.py").write_text(f"def test_program():\n{lines}", "utf-8")
        job.step("Run the tests")

        assert 0 < provider.total.total_tokens == Report.load(job.folder / "tokens.json").total.total_tokens


def test_all_steps_are_known():
    """Files have the same names in all steps, and each permission of the table is in the workflow."""
    assert {"tokens.json", "base/tokens.json", "comment.md"} == set(re.findall(r"[\w/]+\.(?:json|md)", str(WORKFLOW)))
    assert dict(re.findall(r"^\| `([\w-]+): (\w+)`", PAGE, re.MULTILINE)) == WORKFLOW["permissions"]
    assert WORKFLOW[True] == {"push": {"branches": ["main"]}, "pull_request": None}  # YAML reads `on` as true
    assert STEPS["Compare"]["run"] in re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)
