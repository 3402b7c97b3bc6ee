"""Locked archives: whatever place they come from, they are the ones that are locked."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from shell_tool_release import apt, archives
from shell_tool_release.archives import Archive, fetched, load_archives, unpack
from shell_tool_release.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@functools.cache  # gzip notes the second
def _packed() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, mode in (("top/file", 0o640), ("top/sub/program", 0o750), ("top/../../outside", 0o644)):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = 2, mode, 1_000_000_000
            tar.addfile(member, io.BytesIO(b"x\n"))
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return out.getvalue()


@pytest.fixture
def archive() -> Archive:
    """An archive whose only URL answers nothing."""
    return Archive(
        name="thing",
        version="1.0",
        license="MIT",
        license_file="LICENSE",
        urls=("http://127.0.0.1:9/thing-1.0.tar.gz",),
        debian="thing",
        suites=("some",),
        epoch=1_000_000_000,
        archives={"thing-1.0.tar.gz": hashlib.sha256(_packed()).hexdigest()},
    )


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """What Debian's archive gives."""

    def gives(data: bytes) -> None:
        def download(
            *, package: str, suites: object, wanted: object, scratch: Path, patches: bool
        ) -> apt.SourcePackage:
            assert not patches, "a mirror without Debian's newest changes is no reason to fail"
            scratch.mkdir()
            path = scratch / "thing-1.0.tar.gz"
            path.write_bytes(data)
            return apt.SourcePackage(archive=path, patches=None, suite="some")

        monkeypatch.setattr(apt, "download_source", download)

    return gives


def test_the_lock_holds() -> None:
    locked = load_archives()
    assert set(locked) == {"cpython", "zlib", "libffi"}
    for archive in locked.values():
        assert {url.rsplit("/", 1)[1] for url in archive.urls} <= set(archive.archives)


def test_a_lock_that_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "lock.toml"
    path.write_text(archives.LOCK_FILE.read_text().replace("93e583f2", "93e583", 1))
    with pytest.raises(ConfigurationError, match=r"Python-3\.13\.5\.tar\.xz: '93e583.*' is no SHA-256"):
        load_archives(path)


def test_from_debian_where_no_url_answers(
    archive: Archive, debian: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian(_packed())
    path = fetched(archive, tmp_path)
    assert path.read_bytes() == _packed()
    monkeypatch.setattr(archives, "_fetch", lambda *_: pytest.fail("it is in the cache"))
    assert fetched(archive, tmp_path) == path


def test_other_bytes_are_refused(archive: Archive, debian: Callable[[bytes], None], tmp_path: Path) -> None:
    debian(b"something else")
    with pytest.raises(SourceError, match=r"from no place:\n(.*\n)?.*127\.0\.0\.1:9.*\n.*refused"):
        fetched(archive, tmp_path)
    assert not [path for path in (tmp_path / "downloads").iterdir() if path.suffix == ".gz"]


def test_a_damaged_copy_is_fetched_again(archive: Archive, debian: Callable[[bytes], None], tmp_path: Path) -> None:
    debian(_packed())
    path = fetched(archive, tmp_path)
    path.write_bytes(b"damaged")
    assert fetched(archive, tmp_path).read_bytes() == _packed()


def test_unpacked_files_only(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(_packed())
    unpack(tmp_path / "a.tar.gz", tmp_path / "in" / "tree")
    found = {
        path.relative_to(tmp_path / "in").as_posix(): path for path in (tmp_path / "in").rglob("*") if path.is_file()
    }
    assert set(found) == {"tree/file", "tree/sub/program"}
    assert [path.stat().st_mode & 0o777 for path in found.values()].count(0o755) == 1
    assert {int(path.stat().st_mtime) for path in found.values()} == {1_000_000_000}


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"no")
    with pytest.raises(SourceError, match=r"a\.tar\.gz cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "tree")
