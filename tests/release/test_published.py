"""What registries hand out is compared with what was released: the same bytes, all of them, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from release.conftest import cannot
from shell_tool_release import published, versions
from shell_tool_release.errors import BuildError, ConfigurationError, PrerequisiteError, SourceError
from shell_tool_release.handover import write_sums

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    "codex-shell-tool-mcp-npm-1.2.3-alpha.4.tgz",
    "codex-shell-tool-mcp-npm-1.2.3-alpha.4.tgz.cdx.json",
    "codex_shell_tool_mcp-1.2.3a4-py3-none-any.whl",
    "codex_shell_tool_mcp-1.2.3a4.tar.gz",
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The files of a release, and their sums."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(name)
    write_sums(folder)
    return folder


def _integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def _hashes(*names: str) -> set[str]:
    return {hashlib.sha256(name.encode()).hexdigest() for name in names}


def _same(folder: Path, npm: str | None = NAMES[0], index: set[str] | None = None) -> list[str]:
    asked: list[str] = []

    def has(version: str) -> str | None:
        asked.append(version)
        return None if npm is None else _integrity(npm.encode())

    def hashes(version: str) -> set[str] | None:
        asked.append(version)
        return _hashes(*NAMES[2:]) if index is None else index

    found = published.compare(folder, has, hashes, 0)
    assert asked == ["1.2.3-alpha.4", "1.2.3a4"]
    return found


def test_the_same_everywhere(release: Path) -> None:
    assert _same(release) == [f"npm: {NAMES[0]}", *(f"Python index: {name}" for name in NAMES[2:])]


def test_other_bytes_at_npm(release: Path) -> None:
    with pytest.raises(BuildError, match=r"npm has other bytes of codex-shell-tool-mcp@1\.2\.3-alpha\.4: sha512-"):
        _same(release, npm="other")


def test_a_file_that_the_index_lacks_and_one_that_nobody_released(release: Path) -> None:
    with pytest.raises(BuildError, match=rf"other files of 1\.2\.3a4: {NAMES[3]} is not there$"):
        _same(release, index=_hashes(NAMES[2]))
    (implant,) = _hashes("implant")
    with pytest.raises(BuildError, match=rf"other files of 1\.2\.3a4: a file with SHA-256 {implant} is in no release$"):
        _same(release, index=_hashes(*NAMES[2:], "implant"))


def test_what_was_not_published_is_said(release: Path) -> None:
    with pytest.raises(BuildError, match=r"npm has no codex-shell-tool-mcp@1\.2\.3-alpha\.4, after 0 s"):
        _same(release, npm=None)
    with pytest.raises(BuildError, match=r"the Python index has no codex-shell-tool-mcp 1\.2\.3a4, after 0 s"):
        published.compare(release, lambda _: _integrity(NAMES[0].encode()), lambda _: None, 0)


def test_a_registry_that_shows_it_late_is_waited_for(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "PAUSE", 0.01)
    answers = iter([None, None, _integrity(NAMES[0].encode())])
    assert published.compare(release, lambda _: next(answers), lambda _: _hashes(*NAMES[2:]), 60)


def test_the_folder_must_be_what_its_sums_say(release: Path) -> None:
    (release / NAMES[2]).write_text("swapped")
    with pytest.raises(BuildError, match=rf"{NAMES[2]} is not what SHA256SUMS says"):
        _same(release)
    (release / NAMES[0]).unlink()
    write_sums(release)
    with pytest.raises(BuildError, match="holds 0 npm packages, not one"):
        _same(release)


def test_a_form_that_is_not_published_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "codex-shell-tool-mcp-npm-1.2.3-rc.1.tgz").write_text("x")
    write_sums(tmp_path)
    never: list[str] = []
    said = published.compare(tmp_path, never.append, never.append, 0)
    assert (said, never) == (["1.2.3-rc.1 is of a form that is not published"], [])


def _uv(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "uv").write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    (folder / "uv").chmod(0o755)
    monkeypatch.setattr("shell_tool_release.published.sysconfig.get_path", lambda _: str(folder))


def test_the_index_is_asked_by_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in that answers in uv's words."""
    lines = "print('codex-shell-tool-mcp==1.2.3'); [print('    --hash=sha256:' + digit * 64) for digit in '01']"
    _uv(tmp_path, f"assert sys.stdin.read() == 'codex-shell-tool-mcp==1.2.3\\n'; {lines}", monkeypatch)
    assert published.index_hashes("1.2.3") == {"0" * 64, "1" * 64}
    _uv(tmp_path, "sys.exit('Because there is no version of codex-shell-tool-mcp==1.2.3 and')", monkeypatch)
    assert published.index_hashes("1.2.3") is None
    _uv(tmp_path, "sys.exit('Because codex-shell-tool-mcp was not found in the package registry')", monkeypatch)
    assert published.index_hashes("1.2.3") is None
    _uv(tmp_path, "sys.exit('error: dns error')", monkeypatch)
    with pytest.raises(SourceError, match=r"what it has of 1\.2\.3: error: dns error"):
        published.index_hashes("1.2.3")


def test_the_real_uv_says_that_a_version_is_not_there() -> None:
    """In the words that are looked for."""
    try:
        assert published.index_hashes("0.0.0") is None
    except (PrerequisiteError, SourceError) as error:
        cannot(str(error))


@pytest.mark.parametrize("version", ["1.2.3", "1.2.3a4", "0.1.0b1", "2.0.0rc12"])
def test_versions_have_two_forms(version: str) -> None:
    assert versions.python_version(versions.npm_version(version)) == version


def test_a_version_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="neither"):
        versions.python_version("1.2.3-gamma.1")


def test_the_session_says_what_is_not_the_same(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By an npm of ours, as the workflow runs it."""
    (tmp_path / "npm").write_text(f"#!/bin/sh\necho '\"{_integrity(NAMES[0].encode())}\"'\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(published, "index_hashes", lambda _: _hashes(*NAMES[2:]))
    published.main([str(release), "--patience", "0"])
    assert capsys.readouterr().out.startswith(f"npm: {NAMES[0]}\n")
    (tmp_path / "npm").write_text("#!/bin/sh\necho '\"sha512-x\"'\n")
    with pytest.raises(BuildError, match="npm has other bytes"):
        published.main([str(release), "--patience", "0"])
