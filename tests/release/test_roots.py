"""Systems of their own, without making one: ``./run roots`` makes them and uses them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shell_tool_release import fresh, roots, verified
from shell_tool_release.errors import BuildError, ConfigurationError, PrerequisiteError, SourceError


def place(tmp_path: Path, **more: object) -> roots.Place:
    """A place whose folders are never used."""
    return roots.Place(root=tmp_path / "a root", shared=tmp_path / "shared", **more)  # type: ignore[arg-type]


def test_what_runs_inside_is_one_word_each(tmp_path: Path) -> None:
    """The command goes through two shells and a chroot; here the last program before it only says what it got."""
    words = place(tmp_path, environ={"HOME": "/work/a home"}).inside(["say", "two words", "$(no)", "'"], "/work/a b")
    script = words[-1]
    mounts, _, command = script.partition(" && chroot ")
    assert mounts.count("mount ") == 6
    assert script.endswith("; exit $?")
    said = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command.removesuffix('; exit $?')}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said[:3] == ["--userspec=1000:1000", "--groups=1000", str(tmp_path / "a root")]
    assert "HOME=/work/a home" in said
    assert said[-5:] == ["/work/a b", "say", "two words", "$(no)", "'"]


def test_the_system_itself_is_read_only(tmp_path: Path) -> None:
    script = place(tmp_path, mounts={tmp_path / "node": roots.NODE}).inside(["true"])[-1]
    assert f"mount -o remount,bind,ro '{tmp_path / 'a root'}' " in script
    assert f"mount -o remount,bind,ro '{tmp_path / 'a root'}'{roots.NODE} " in script


@pytest.mark.parametrize("error", [BuildError, SourceError])
def test_an_archive_that_fails_once_is_asked_again(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    left = [error("no answer"), error("no answer")]

    def make() -> None:
        if left:
            raise left.pop()

    roots._persistently(roots.USED["trixie"], make)
    assert left == []
    assert len(pauses) == 2


def test_one_that_keeps_failing_is_named_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    tried: list[int] = []

    def make() -> None:
        tried.append(1)
        raise BuildError("debootstrap ended with status 1; whole log: /somewhere")

    with pytest.raises(BuildError, match=r"trixie could not be made in 3 attempts; can apt .*whole log: /somewhere"):
        roots._persistently(roots.USED["trixie"], make)
    assert len(tried) == 3


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PrerequisiteError, match="need root"):
        roots.made(roots.USED["bare"], tmp_path / "log")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert roots.needed() == "debootstrap is not here (Debian: apt install debootstrap)"


def test_a_machine_whose_apt_knows_no_debian_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "'http://archive.invalid/ubuntu/dists/noble/InRelease' x 0\n"
    monkeypatch.setattr("subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=said))
    with pytest.raises(ConfigurationError, match="names no Debian archive"):
        roots._mirror()


def test_a_fresh_system_has_what_the_readme_names() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"sudo apt-get install -y {' '.join(fresh.PACKAGES)}\n" in readme
    assert set(fresh.SUITES) < {system.suite for system in roots.USED.values()}


def test_what_was_tried_is_told_of_those_bytes_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CODEX_BUILD_CACHE", str(tmp_path))
    for where in ("one", "another", "one"):
        verified.note("a" * 64, where)
    assert verified.told("a" * 64) == ["another", "one"]
    assert verified.told("b" * 64) == []
    (tmp_path / "verified" / f"{'a' * 64}.json").write_text("{")
    assert verified.told("a" * 64) == []
