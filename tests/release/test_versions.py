"""What a tag releases: the tag, the inputs of the workflow and the project have to say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shell_tool_release import versions
from shell_tool_release.errors import ConfigurationError
from shell_tool_release.versions import Decision, decide, npm_version
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("version", "tag", "project", "decision"),
    [
        ("", "v1.2.3", "1.2.3", ("1.2.3", "v1.2.3", "latest")),
        ("1.2.3", "v1.2.3", "1.2.3", ("1.2.3", "v1.2.3", "latest")),
        ("1.2.3", "", "1.2.3", ("1.2.3", "v1.2.3", "latest")),
        ("", "", "1.2.3", ("1.2.3", "v1.2.3", "latest")),
        ("", "v1.2.3-alpha.4", "1.2.3a4", ("1.2.3-alpha.4", "v1.2.3-alpha.4", "alpha")),
        ("1.2.3-alpha.4", "", "1.2.3a4", ("1.2.3-alpha.4", "v1.2.3-alpha.4", "alpha")),
        ("", "v1.2.3-beta.1", "1.2.3b1", ("1.2.3-beta.1", "v1.2.3-beta.1", None)),
        ("", "v1.2.3-rc.1", "1.2.3rc1", ("1.2.3-rc.1", "v1.2.3-rc.1", None)),
    ],
)
def test_decided(version: str, tag: str, project: str, decision: tuple[str, str, str | None]) -> None:
    wanted = Decision(version=decision[0], release_tag=decision[1], npm_tag=decision[2])
    assert decide(version, tag, project) == wanted


@pytest.mark.parametrize(
    ("version", "tag", "project"),
    [
        ("", "v1.2.4", "1.2.3"),
        ("", "v1.2.3-alpha.1", "1.2.3"),
        ("", "v1.2.3", "1.2.3a1"),
        ("", "v1.2.3-beta.1", "1.2.3"),
        ("", "1.2.3", "1.2.3"),
        ("", "V1.2.3", "1.2.3"),
        ("", "vv1.2.3", "1.2.3"),
        ("", "v1.2.3\n", "1.2.3"),
        ("", "v1.2.3\nshould-publish=true", "1.2.3"),
        ("", "v1.2.3a1", "1.2.3a1"),
        ("", "refs/tags/v1.2.3", "1.2.3"),
        ("", "main", "1.2.3"),
        ("1.2.4", "", "1.2.3"),
        ("1.2.4", "v1.2.3", "1.2.3"),
        ("1.2.3", "v1.2.4", "1.2.3"),
        ("1.2.3", "v1.2.3-alpha.1", "1.2.3"),
        ("v1.2.3", "v1.2.3", "1.2.3"),
        ("1.2.3\n", "v1.2.3", "1.2.3"),
        ("1.2.3a1", "v1.2.3a1", "1.2.3a1"),
    ],
)
def test_refused(version: str, tag: str, project: str) -> None:
    with pytest.raises(ConfigurationError, match=r"project is|its tag is"):
        decide(version, tag, project)


@pytest.mark.parametrize("project", ["1.2", "1.2.3.dev0", "1.2.3.post1", "1.2.3-alpha.1", ""])
def test_a_project_of_another_form_is_refused(project: str) -> None:
    with pytest.raises(ConfigurationError, match="neither"):
        decide("", "", project)


def test_outputs_are_one_line_each() -> None:
    said = decide("", "v1.2.3-alpha.4", "1.2.3a4").outputs()
    assert said.splitlines() == [
        "version=1.2.3-alpha.4",
        "release-tag=v1.2.3-alpha.4",
        "npm-tag=alpha",
        "should-publish=true",
        "prerelease=true",
    ]
    said = decide("", "", "1.2.3rc1").outputs()
    assert said.splitlines()[2:] == ["npm-tag=", "should-publish=false", "prerelease=true"]
    assert "prerelease=false" in decide("", "", "1.2.3").outputs()


def test_the_workflow_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = npm_version(find_workspace().version)
    output = tmp_path / "output"
    output.write_text("before=1\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    monkeypatch.setenv("RELEASE_TAG", f"v{own}")
    monkeypatch.setenv("RELEASE_VERSION", "")
    versions.main()
    assert output.read_text().startswith(f"before=1\nversion={own}\nrelease-tag=v{own}\n")
    monkeypatch.setenv("RELEASE_TAG", f"v{own}\nshould-publish=true")
    before = output.read_text()
    with pytest.raises(ConfigurationError):
        versions.main()
    assert output.read_text() == before
