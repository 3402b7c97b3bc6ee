"""The workflows: pinned, without rights they do not need, and without code of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from release.conftest import cannot

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _jobs(path: Path) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return jobs


def _steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in _jobs(path).values() for step in job.get("steps", [])]


def test_there_is_one() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_rights_by_default(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {}
    for job in _jobs(path).values():
        assert set(job["permissions"].values()) <= {"read"}
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"\s*- uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line), line
    for step in _steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_expression_inside_a_script(path: Path) -> None:
    """What GitHub puts in for one is code to the shell; variables of the environment are not."""
    assert [step["run"] for step in _steps(path) if "${{" in step.get("run", "")] == []


def test_ci_runs_lint_and_tests() -> None:
    commands = {name: [step.get("run", "") for step in job["steps"]] for name, job in _jobs(WORKFLOWS[0]).items()}
    assert "./run lint" in commands["lint"]
    assert "bash .ci/run" in commands["tests"]


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "\n./run tests\n" in readme
    assert len(re.findall(r"\./run lint tests publish_check suite$", script, re.MULTILINE)) == 2
    assert "export CODEX_TEST_MUST_WORK=1" in script


@pytest.mark.parametrize("name", ["run", ".ci/run", "packaging/npm/bin/codex-shell-tool-mcp"])
def test_scripts_parse_and_can_be_executed(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].split()[-1].rpartition("/")[2]
    if shutil.which(shell) is None:
        cannot(f"{shell} is not here")
    done = subprocess.run([shell, "-n", path], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
