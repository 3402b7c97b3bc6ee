"""The smoke test of a release, run as part of the tests too; and that it fails when the package does not do its job."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from mcp_types import CallToolResult, TextContent

from release.conftest import cannot
from shell_tool_release import smoke
from shell_tool_release.errors import BuildError
from shell_tool_release.workspace import Workspace
from support.built import built

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.npm import Package
    from shell_tool_release.variants import Shell

STEP = smoke.Step(command="c", output="out\n", actions=("deny",), answer="decline")
VALUE: dict[str, Any] = {
    "exit_code": 0,
    "output": "out\n",
    "decisions": [{"action": "deny", "command": "c", "rule": "r"}],
}


@pytest.mark.timeout(900)  # freezing takes half a minute, minutes where six others do it too
def test_a_release_does_its_job(packed: tuple[Workspace, Package], monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("npx") is None:
        cannot("npm and npx are not here")
    place, package = packed
    monkeypatch.setattr(smoke, "STARTS", 1)
    monkeypatch.setattr(smoke, "NPX_STARTS", 1)
    said: list[str] = []
    outcome = smoke.smoke(place, package.path, said.append)
    assert [result.step for result in outcome.results] == [*smoke.job("bash"), *smoke.job("zsh")]
    for shell, text in zip(smoke.SHELLS, said, strict=True):
        assert text.startswith(f"A session of {shell}:\n")
        for step in smoke.job(shell):
            assert f"$ {step.command}" in text
        assert "smoke.rules:3]" in text, "the transcript names the rule that forbade git push"
        assert "asked     Allow agent to run `" in text
    assert outcome.npx_ms[0] > outcome.direct_ms[0] > 10


@pytest.mark.parametrize("shell", smoke.SHELLS)
def test_the_job_covers_every_decision(shell: Shell) -> None:
    job = smoke.job(shell)
    assert {"accept", "decline", None} <= {step.answer for step in job}
    assert {action for step in job for action in step.actions} == {"escalate", "deny"}


def test_the_job_shows_which_shell_does_it() -> None:
    """Neither shell's first step is satisfied with what the other shell prints there."""
    for shell in smoke.SHELLS:
        step = smoke.job(shell)[0]
        command = [getattr(built(), shell), "-c", step.command]
        printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        assert [one for one in smoke.SHELLS if re.fullmatch(smoke.job(one)[0].output, printed)] == [shell]


def test_shells_are_chosen_by_name() -> None:
    assert smoke._shells([]) == ("bash", "zsh")
    assert smoke._shells(["--shell", "zsh"]) == ("zsh",)
    assert smoke._shells(["--shell", "zsh", "--shell", "bash"]) == ("bash", "zsh")
    with pytest.raises(SystemExit):
        smoke._shells(["--shell", "ksh"])


def _called(value: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=json.dumps(value))])


def test_a_good_result_has_no_problems() -> None:
    assert smoke._judge(STEP, _called(VALUE), ("may I?",)).problems == ()


@pytest.mark.parametrize(
    ("change", "asked", "problem"),
    [
        ({"exit_code": 1}, ("may I?",), "exit code 1, not 0"),
        ({"output": "out\nmore"}, ("may I?",), "output"),
        ({"decisions": []}, ("may I?",), "decisions (), not ('deny',)"),
        ({}, (), "asked 0 times"),
        ({}, ("may I?", "and now?"), "asked 2 times"),
    ],
)
def test_each_check_can_fail(change: dict[str, Any], asked: tuple[str, ...], problem: str) -> None:
    problems = smoke._judge(STEP, _called(VALUE | change), asked).problems
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_failed_call_is_a_problem() -> None:
    called = CallToolResult(content=[TextContent(type="text", text="no sandbox")], is_error=True)
    assert smoke._judge(STEP, called, ()).problems == ("the call failed: no sandbox",)


def test_a_step_that_goes_wrong_fails_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = replace(smoke._judge(STEP, _called(VALUE), ("may I?",)), problems=("exit code 1, not 0",))

    async def run_nothing(*_: object) -> tuple[smoke.Result, ...]:
        return (bad,)

    monkeypatch.setattr(smoke, "_install", lambda *_: None)
    monkeypatch.setattr(smoke, "_run_job", run_nothing)
    said: list[str] = []
    wrong = r"does not do its job with {}:\n  c\n    exit code 1, not 0"
    with pytest.raises(BuildError, match=rf"{wrong.format('bash')}\n.* {wrong.format('zsh')}"):
        smoke.smoke(Workspace(root=tmp_path), tmp_path / "package.tgz", said.append)
    assert [text.splitlines()[0] for text in said] == ["A session of bash:", "A session of zsh:"]


def test_what_is_no_package_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.tgz").write_bytes(b"no tarball")
    place = smoke.prepare(tmp_path / "smoke")
    with pytest.raises(BuildError, match=r"npm could not install .*broken\.tgz, which is no package: .*\./run pack"):
        smoke._install(place, tmp_path / "broken.tgz")


def test_a_package_that_npm_refuses_is_an_error(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        cannot("npm is not here")
    path = tmp_path / "for others.tgz"
    with tarfile.open(path, "w:gz") as archive:
        text = json.dumps({"name": "for-others", "version": "1.0.0", "os": ["none"]}).encode()
        member = tarfile.TarInfo("package/package.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    with pytest.raises(
        BuildError, match=r"npm could not install .*for others\.tgz \(status 1\):\n(.*\n)*.*EBADPLATFORM"
    ):
        smoke._install(smoke.prepare(tmp_path / "smoke"), path)


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    place = smoke.prepare(tmp_path / "smoke")
    with pytest.raises(BuildError, match=r"did not answer initialize but said b'hello"):
        smoke.measure_start(["echo", "hello"], place, 1)
