"""Newer releases of CPython and zsh: found in a verified index, locked exactly, and only where our patch fits."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
import tomllib
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import apt, refresh, releases
from shell_tool_release.archives import load_archives
from shell_tool_release.errors import BuildError, PatchError, SourceError
from shell_tool_release.lock import load_zsh_lock
from shell_tool_release.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 1_800_000_000 - 1_800_000_000 % 86400
APT = """#!{python}
import os, pathlib, re, shutil, sys
words, folder = sys.argv[1:], pathlib.Path({folder!r})
private = pathlib.Path(os.environ["APT_CONFIG"]).parent / "parts" / "private.sources"
trusted = private.exists() and "Trusted: yes" in private.read_text()
if words == ["update", "--print-uris"]:
    print("'http://archive.test/debian/dists/sid/InRelease' x 0")
elif words == ["update"]:
    if {signed!r} == "" and not trusted:
        sys.exit("E: The repository is not signed.")
elif "--print-uris" in words:
    for row in (folder / "listed").read_text().splitlines():
        print(row)
else:
    for path in folder.glob("*_*"):
        shutil.copy(path, ".")
    if not list(folder.glob("*_*")):
        sys.exit("E: Failed to fetch: 404 Not Found")
"""


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes apt one of ours: it lists and hands out one archive, from a signed index or another one."""

    def make(name: str, data: bytes, *, sha256: str = "", signed: str = "signed", arrives: bool = True) -> Path:
        folder = tmp_path / "debian"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        row = f"'http://archive.test/{name}' {name} {len(data)} SHA256:{sha256 or hashlib.sha256(data).hexdigest()}"
        (folder / "listed").write_text(f"{row}\n")
        if not arrives:
            (folder / name).unlink()
        program = tmp_path / "bin" / "apt-get"
        program.parent.mkdir(exist_ok=True)
        program.write_text(APT.format(python=sys.executable, folder=str(folder), signed=signed))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return folder / name

    return make


def _archive(top: str, files: dict[str, bytes], mtime: int = DAY + 5000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(f"{top}/{name}")
            header.size, header.mtime = len(data), mtime
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Copies of the lock files, which are changed."""
    found = {}
    for name, path in releases.FILES.items():
        found[name] = tmp_path / "locks" / path.name
        found[name].parent.mkdir(exist_ok=True)
        found[name].write_text(path.read_text())
    monkeypatch.setattr(releases, "FILES", found)
    return found


def test_a_patch_release_of_cpython_is_locked(
    debian: Callable[..., Path], locks: dict[str, Path], tmp_path: Path
) -> None:
    """Version, addresses, names, hashes, date and suite; all else is as it was, comments and other tables included."""
    before, old = locks["cpython"].read_text(), load_archives(locks["cpython"])
    data = _archive("Python-3.13.99", {"LICENSE": b"x"})
    debian("python3.13_3.13.99.orig.tar.xz", data)
    (change,) = refresh.cpython_changes(tmp_path / "dry", apply=False)
    assert locks["cpython"].read_text() == before
    assert refresh.cpython_changes(tmp_path / "real", apply=True) == [change]
    sha256 = hashlib.sha256(data).hexdigest()
    assert (change.before, change.after, change.locked) == (old["cpython"].version, "3.13.99", True)
    assert f"SHA-256 `{sha256}`, in Debian's sid" in change.notes
    new = load_archives(locks["cpython"])
    assert new["cpython"].archives == {"Python-3.13.99.tar.xz": sha256, "python3.13_3.13.99.orig.tar.xz": sha256}
    assert new["cpython"].urls == tuple(url.replace(change.before, "3.13.99") for url in old["cpython"].urls)
    assert (new["cpython"].epoch, new["cpython"].suites) == (DAY, ("sid", *old["cpython"].suites))
    assert {name: new[name] for name in new if name != "cpython"} == {
        name: old[name] for name in old if name != "cpython"
    }
    after = locks["cpython"].read_text()
    assert change.before not in after
    assert len(after.splitlines()) == len(before.splitlines())
    assert refresh.cpython_changes(tmp_path / "again", apply=True) == []


def test_zsh_is_locked_if_our_patch_fits(debian: Callable[..., Path], locks: dict[str, Path], tmp_path: Path) -> None:
    before = tomllib.loads(locks["zsh"].read_text())
    data = _archive("zsh-5.99", {"Src/a.c": b"one\ntwo\n", "Doc/left.out": b"x"})
    debian("zsh_5.99.orig.tar.xz", data)
    checkout = Workspace(root=tmp_path / "checkout")
    checkout.zsh_patch.parent.mkdir(parents=True)
    checkout.zsh_patch.write_text("--- a/Src/a.c\n+++ b/Src/a.c\n@@ -1,2 +1,2 @@\n one\n-three\n+four\n")
    (change,) = refresh.zsh_changes(checkout, tmp_path / "one", apply=True)
    assert not change.locked
    assert "zsh-exec-wrapper.patch does not fit it: Src/a.c: the hunk at line 1 does not apply" in change.notes
    assert tomllib.loads(locks["zsh"].read_text()) == before
    checkout.zsh_patch.write_text("--- a/Src/a.c\n+++ b/Src/a.c\n@@ -1,2 +1,2 @@\n one\n-two\n+four\n")
    (change,) = refresh.zsh_changes(checkout, tmp_path / "two", apply=True)
    assert (change.after, change.locked) == ("5.99", True)
    lock = load_zsh_lock(locks["zsh"])
    row = f"{hashlib.sha256(b'one' + bytes([10]) + b'two' + bytes([10])).hexdigest()}  Src/a.c\n"
    assert lock.tree == hashlib.sha256(row.encode()).hexdigest()
    assert (lock.version, lock.archive, lock.package_archive) == ("5.99", "zsh-5.99.tar.xz", "zsh_5.99.orig.tar.xz")
    assert (lock.sha256, lock.epoch) == (hashlib.sha256(data).hexdigest(), DAY)
    assert all("5.99" in url for url in lock.urls if re.search(r"/5\.", url))
    assert tomllib.loads(locks["zsh"].read_text())["bash"] == before["bash"]


def test_nothing_newer_is_no_change(debian: Callable[..., Path], tmp_path: Path) -> None:
    for version in (load_zsh_lock().version, "5.8.1"):
        debian(f"zsh_{version}.orig.tar.xz", b"never read")
        assert releases.newer("zsh", tmp_path / version) is None
        (tmp_path / "debian" / f"zsh_{version}.orig.tar.xz").unlink()


def test_an_archive_that_debian_has_repacked_is_not_taken(debian: Callable[..., Path], tmp_path: Path) -> None:
    debian("zsh_5.99+dfsg.orig.tar.xz", b"x")
    assert releases.newer("zsh", tmp_path / "scratch") is None


def test_an_index_that_nobody_signed_is_not_believed(debian: Callable[..., Path], tmp_path: Path) -> None:
    """What it lists would be locked. Where a hash is locked already, it may serve: it only says where the file is."""
    data = _archive("zsh-5.99", {"a": b"x"})
    debian("zsh_5.99.orig.tar.xz", data, signed="")
    with pytest.raises(SourceError, match="sid: apt-get update failed: E: The repository is not signed"):
        releases.newer("zsh", tmp_path / "scratch")
    wanted = {"zsh_5.99.orig.tar.xz": hashlib.sha256(data).hexdigest()}
    assert apt.download_source(
        package="zsh", suites=["sid"], wanted=wanted, scratch=tmp_path / "locked", patches=False
    ).archive.is_file()


def test_an_archive_that_does_not_come_or_is_another_is_told(debian: Callable[..., Path], tmp_path: Path) -> None:
    debian("zsh_5.99.orig.tar.xz", b"x", arrives=False)
    with pytest.raises(SourceError, match=r"5\.99 is in Debian's sid, locked is .*; but sid: .*404 Not Found"):
        releases.newer("zsh", tmp_path / "missing")
    debian("zsh_5.99.orig.tar.xz", b"x", sha256="0" * 64)
    with pytest.raises(SourceError, match="is not what Debian's index says"):
        releases.newer("zsh", tmp_path / "other")


def test_a_lock_file_without_the_lines_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tar.xz").write_bytes(_archive("x", {"a": b"x"}))
    release = releases.Release(before="1.0", version="1.1", archive=tmp_path / "a.tar.xz", sha256="0" * 64, suite="sid")
    with pytest.raises(BuildError, match="the table zsh has no line like"):
        releases.relocked("zsh", '[zsh]\nversion = "2"\nsha256 = "1"\nsuites = []\n', release)


def test_versions_are_compared_as_numbers() -> None:
    assert releases.numbers("3.13.10") > releases.numbers("3.13.9")


def test_the_real_patch_fits_the_locked_tree_only(tmp_path: Path, workspace: Workspace) -> None:
    data = _archive("zsh-6", {"Src/exec.c": b"int main;\n"})
    (tmp_path / "zsh_6.orig.tar.xz").write_bytes(data)
    release = releases.Release(
        before="5.9", version="6", archive=tmp_path / "zsh_6.orig.tar.xz", sha256="", suite="sid"
    )
    with pytest.raises(PatchError):
        releases.zsh_tree(release, workspace.zsh_patch, load_zsh_lock(), tmp_path)
