"""What travels between the jobs of a release: all of it, unchanged, and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from release.conftest import copy_any
from shell_tool_release import github_release, handover, macho, publish
from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError
from shell_tool_release.handover import bundle, gather, notes, offer, too_new, write_sums
from shell_tool_release.npm import package_path
from shell_tool_release.variants import Target
from shell_tool_release.workspace import Workspace


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    """A platform's folder with a program and a text."""
    folder = tmp_path / "vendor" / "linux-x64"
    (folder / "server").mkdir(parents=True)
    (folder / "server" / "program").write_bytes(b"\x7fELF\0\xff")
    (folder / "server" / "program").chmod(0o700)
    (folder / "build.json").write_text("{}")
    (folder / "build.json").chmod(0o600)
    return folder.parent


def _content(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o7777) for path in files}


def test_what_was_bundled_is_gathered_with_its_modes(vendor: Path, tmp_path: Path) -> None:
    path = bundle(vendor, "linux-x64", tmp_path / "out")
    mask = os.umask(0o077)
    try:
        assert gather(path.parent, tmp_path / "there") == ["linux-x64"]
    finally:
        os.umask(mask)
    assert _content(tmp_path / "there") == {
        "linux-x64/server/program": (b"\x7fELF\0\xff", 0o755),
        "linux-x64/build.json": (b"{}", 0o644),
    }


def test_a_bundle_is_the_same_bytes_whatever_modes_and_times(vendor: Path, tmp_path: Path) -> None:
    first = file_sha256(bundle(vendor, "linux-x64", tmp_path / "one"))
    for path in vendor.rglob("*"):
        os.utime(path, (1, 1))
    (vendor / "linux-x64" / "build.json").chmod(0o664)
    assert file_sha256(bundle(vendor, "linux-x64", tmp_path / "two")) == first


def test_what_was_there_before_is_gone(vendor: Path, tmp_path: Path) -> None:
    bundle(vendor, "linux-x64", tmp_path / "out")
    (vendor / "linux-x64" / "stale").touch()
    gather(tmp_path / "out", vendor)
    assert not (vendor / "linux-x64" / "stale").exists()


def test_a_link_is_not_bundled(vendor: Path, tmp_path: Path) -> None:
    (vendor / "linux-x64" / "link").symlink_to("build.json")
    with pytest.raises(BuildError, match="neither file nor folder"):
        bundle(vendor, "linux-x64", tmp_path / "out")


def _archive(path: Path, *members: tarfile.TarInfo) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = 1 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x"))


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, mode
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("linux-x64/../../outside"),
        _member("/etc/outside"),
        _member("linux-arm64/other"),
        _member("linux-x64"),
        _member("linux-x64//twice"),
        _member("./linux-x64/dot"),
        _member("linux-x64/link", tarfile.SYMTYPE, "/etc/passwd"),
        _member("linux-x64/hard", tarfile.LNKTYPE, "linux-x64/first"),
        _member("linux-x64/fifo", tarfile.FIFOTYPE),
        _member("linux-x64/device", tarfile.CHRTYPE),
        _member("linux-x64/first"),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()}",
)
def test_what_is_no_plain_file_of_the_platform_is_refused_before_anything_is_written(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    _archive(tmp_path / "in" / "linux-x64.tar", _member("linux-x64/first"), member)
    vendor = tmp_path / "vendor"
    (vendor / "linux-x64").mkdir(parents=True)
    (vendor / "linux-x64" / "before").touch()
    with pytest.raises(BuildError, match="no plain file of linux-x64"):
        gather(tmp_path / "in", vendor)
    assert [path.name for path in vendor.rglob("*") if path.is_file()] == ["before"]


def test_a_mode_with_more_than_execution_is_cut(tmp_path: Path) -> None:
    _archive(tmp_path / "in" / "linux-x64.tar", _member("linux-x64/program", mode=0o6777))
    gather(tmp_path / "in", tmp_path / "vendor")
    assert (tmp_path / "vendor" / "linux-x64" / "program").stat().st_mode & 0o7777 == 0o755


def test_a_damaged_or_unknown_archive_or_none_is_an_error(vendor: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"run: \./run handover"):
        gather(tmp_path, vendor)
    path = bundle(vendor, "linux-x64", tmp_path / "out")
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    with pytest.raises(BuildError, match="cannot be unpacked"):
        gather(path.parent, vendor)
    path.write_bytes(whole)
    path.rename(path.with_name("windows-x64.tar"))
    with pytest.raises(BuildError, match=r"windows-x64\.tar is of no known platform"):
        gather(path.parent, vendor)


def test_a_file_where_a_folder_must_be_is_an_error(tmp_path: Path) -> None:
    _archive(tmp_path / "in" / "linux-x64.tar", _member("linux-x64/name"), _member("linux-x64/name/below"))
    with pytest.raises(BuildError, match="cannot be unpacked"):
        gather(tmp_path / "in", tmp_path / "vendor")


def test_a_release_is_not_packed_without_a_platform(vendor: Path, tmp_path: Path) -> None:
    bundle(vendor, "linux-x64", tmp_path / "out")
    with pytest.raises(BuildError, match="the archives of darwin-x64 are missing"):
        gather(tmp_path / "out", vendor, ("linux-x64", "darwin-x64"))


def _mach_o(major: int, minor: int) -> bytes:
    """A library for arm64 that says only on which macOS it runs (LC_BUILD_VERSION)."""
    header = struct.pack("<IIIIIIII", 0xFEEDFACF, 0x0100000C, 0, 6, 1, 24, 0, 0)
    return header + struct.pack("<IIIIII", 0x32, 24, 1, major << 16 | minor << 8, 0, 0)


def test_a_macos_server_for_new_systems_only_is_told(tmp_path: Path) -> None:
    server = tmp_path / "darwin-arm64" / "server" / "_internal"
    server.mkdir(parents=True)
    (server / "Python").write_bytes(_mach_o(11, 0))
    (server / "os.pyc").write_bytes(b"no program")
    assert too_new(tmp_path) == []
    (server / "Python").write_bytes(_mach_o(15, 2))
    (server / "several.so").write_bytes(macho.MAGIC_OF_SEVERAL + bytes(8))
    assert too_new(tmp_path) == [
        "darwin-arm64/server/_internal/Python needs macOS 15.2",
        "darwin-arm64/server/_internal/several.so holds code for several machines",
    ]


def test_a_release_with_such_a_server_is_not_packed(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(workspace, root=tmp_path)
    for platform in get_args(Target):
        server = tmp_path / "made" / platform / "server"
        server.mkdir(parents=True)
        (server / "Python").write_bytes(_mach_o(26, 0) if platform == "darwin-x64" else b"-")
        bundle(tmp_path / "made", platform, other.dist / "platforms")
    monkeypatch.setattr(handover, "find_workspace", lambda: other)
    handover.main(["gather"])
    refused = r"macOS 11.0 and newer, but darwin-x64/server/Python needs macOS 26.0\. Freeze"
    with pytest.raises(BuildError, match=refused):
        handover.main(["gather", "--all"])


def test_sums_are_sha256sums_own(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").write_text("a")
    write_sums(tmp_path)
    assert write_sums(tmp_path).read_text().splitlines() == [
        f"{hashlib.sha256(b'a').hexdigest()}  a",
        f"{hashlib.sha256(b'b').hexdigest()}  b",
    ]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)


def test_the_offer_is_the_package_and_the_scripts_that_publish_it(workspace: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("pyproject.toml", "CHANGELOG.md"):
        copy_any(workspace.root / name, root / name)
    place = Workspace(root=root)
    with pytest.raises(BuildError, match=r"run: \./run pack"):
        offer(place, tmp_path / "scripts")
    package_path(place).parent.mkdir(parents=True)
    package_path(place).write_bytes(b"package")
    values = offer(place, tmp_path / "scripts")
    release = root / "dist" / "release"
    assert values["tarball-sha256"] == hashlib.sha256(b"package").hexdigest()
    assert values["sums-sha256"] == file_sha256(release / "SHA256SUMS")
    for name, module in (("publish", publish), ("github-release", github_release)):
        script = tmp_path / "scripts" / f"{name.replace('-', '_')}.py"
        assert script.read_bytes() == Path(str(module.__file__)).read_bytes()
        assert values[f"{name}-sha256"] == file_sha256(script)
    assert (tmp_path / "scripts" / "notes.md").read_text().strip()
    # What the publishing job checks is what the build job offered.
    files = github_release.checked_files(release, values["sums-sha256"])
    assert set(files) == {values["tarball"], "SHA256SUMS"}


def test_what_else_is_released_is_listed_too(workspace: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    for name in ("python/more.whl", "evidence/more.cdx.json", "evidence/SHA256SUMS", "release/stale", "npm/older.tgz"):
        path = root / "dist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in ("pyproject.toml", "CHANGELOG.md"):
        copy_any(workspace.root / name, root / name)
    place = Workspace(root=root)
    package_path(place).write_bytes(b"package")
    values = offer(place, tmp_path / "scripts")
    files = github_release.checked_files(root / "dist" / "release", values["sums-sha256"])
    assert set(files) == {values["tarball"], "more.whl", "more.cdx.json", "SHA256SUMS"}
    (root / "dist" / "evidence" / "more.whl").write_text("another")
    with pytest.raises(BuildError, match=r"two files of the release have the name more\.whl"):
        offer(place, tmp_path / "scripts")


def test_notes_are_the_versions_section() -> None:
    changelog = "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [1.2.3] - 2026-11-22\n\n- old\n\n## [1.2.2]\n\n- older\n"
    assert notes(changelog, "1.2.3") == "- old\n"
    assert notes(changelog, "1.2.2") == "- older\n"
    assert notes(changelog, "1.3.0-alpha.1") == "- new\n"


def test_what_is_told_goes_to_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    handover._tell({"one": "1", "two": "2"})
    handover._tell({"three": "3"})
    assert (tmp_path / "output").read_text() == "one=1\ntwo=2\nthree=3\n"
