"""Source archives locked by hash: what the portable Python is built from.

API::

    load_archives() -> dict[str, Archive]           data/python.lock.toml
    fetched(archive, cache) -> Path                 the verified file, from the cache, a URL or Debian's source package
    unpack(path, folder)                            the archive's tree, without its one top folder

None of the places decides whether an archive is right: its SHA-256 does.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from shell_tool_release import apt
from shell_tool_release.cache import Lock, file_sha256
from shell_tool_release.errors import ConfigurationError, ReleaseError, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCK_FILE = Path(__file__).with_name("data") / "python.lock.toml"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One row of the lock file; ``archives`` is name → SHA-256, ``epoch`` seconds since 1970."""

    name: str
    version: str
    license: str
    license_file: str
    urls: tuple[str, ...]
    debian: str
    suites: tuple[str, ...]
    epoch: int
    archives: Mapping[str, str]


def load_archives(path: Path = LOCK_FILE) -> dict[str, Archive]:
    """Read the lock file; ConfigurationError names what does not hold."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _archive(name, table) for name, table in document.items()}
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        message = f"the lock file {path} does not hold: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error


def _archive(name: str, table: dict[str, Any]) -> Archive:
    for archive, sha256 in table["archives"].items():
        if len(bytes.fromhex(sha256)) != 32:
            message = f"{archive}: {sha256!r} is no SHA-256 in hex"
            raise ValueError(message)
    return Archive(
        name=name,
        version=table["version"],
        license=table["license"],
        license_file=table["license_file"],
        urls=tuple(table["urls"]),
        debian=table["debian"],
        suites=tuple(table["suites"]),
        epoch=int(table["epoch"]),
        archives=table["archives"],
    )


def fetched(archive: Archive, cache: Path) -> Path:
    """Return a verified copy of the archive in the cache; SourceError lists every place and why it did not serve."""
    downloads = cache / "downloads"
    with Lock(downloads / f"{archive.name}-{archive.version}.lock"):
        for name, sha256 in archive.archives.items():
            path = downloads / f"{sha256[:16]}-{name}"
            if path.is_file() and file_sha256(path) == sha256:
                return path
        return _fetch(archive, downloads)


def _fetch(archive: Archive, downloads: Path) -> Path:
    reasons: list[str] = []
    for place in (_by_url, _by_apt):
        try:
            return place(archive, downloads)
        except ReleaseError as error:
            reasons.append(f"  {error}")
    listing = "\n".join(reasons)
    message = (
        f"the source of {archive.name} {archive.version} could be had from no place:\n{listing}\n"
        "Make one of them reachable (a proxy: set https_proxy), or copy the cache folder of a machine that has it."
    )
    raise SourceError(message)


def _by_url(archive: Archive, downloads: Path) -> Path:
    from shell_tool_release.download import fetch  # noqa: PLC0415  (requests takes 0.1 s, a warm cache needs none of it)

    reasons = []
    for url in archive.urls:
        try:
            return fetch(url, archive.archives[url.rsplit("/", 1)[1]], downloads)
        except SourceError as error:
            reasons.append(str(error))
    raise SourceError("; ".join(reasons))


def _by_apt(archive: Archive, downloads: Path) -> Path:
    from shell_tool_release.download import check  # noqa: PLC0415  (as above)

    with tempfile.TemporaryDirectory(prefix="fetch-", dir=downloads.parent) as scratch:
        # Without Debian's own changes: nothing here uses them, and a mirror may lack those of the newest revision.
        found = apt.download_source(
            package=archive.debian,
            suites=archive.suites,
            wanted=archive.archives,
            scratch=Path(scratch) / "apt",
            patches=False,
        ).archive
        sha256 = archive.archives[found.name]
        arrived = downloads / f"{sha256[:16]}-{found.name}.part"
        shutil.move(found, arrived)
    check(arrived, sha256, f"Debian's {found.name}")
    return arrived.replace(arrived.with_name(arrived.name.removesuffix(".part")))


def unpack(path: Path, folder: Path, *, exact: bool = False) -> None:
    """Write the archive's files below ``folder``, without the one folder that is around all of them.

    Args:
        path: A tar archive, compressed or not.
        folder: Where to; made if it is not there.
        exact: With their very permissions; else a file is executable or it is not.

    By hand, for older releases of Python 3.11 have no filter of what may be extracted.
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts[1:]
                if member.isreg() and parts and ".." not in parts:
                    _write(tar, member, folder.joinpath(*parts), exact=exact)
    except (tarfile.TarError, OSError, EOFError) as error:
        message = f"{path.name} cannot be unpacked: {error}"
        raise SourceError(message) from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, *, exact: bool) -> None:
    stream = tar.extractfile(member)
    if stream is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            shutil.copyfileobj(stream, out)
        target.chmod(member.mode & 0o777 if exact else 0o755 if member.mode & 0o100 else 0o644)
        os.utime(target, (member.mtime, member.mtime))
