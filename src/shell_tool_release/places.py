"""The places bash's source comes from. Each gives an archive and patches; none decides whether they are right.

API::

    PLACES: Mapping[str, Place]         in the order they are tried: "carried", "gnu", "git", "debian"
    Place(lock, level, scratch, cache) -> Delivery; raises SourceError with the reason

A delivery is a tar archive (any compression) and the patches to apply to it, in order.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tarfile
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

from shell_tool_release import apt
from shell_tool_release.cache import file_sha256
from shell_tool_release.download import CONNECT_SECONDS, check, fetch
from shell_tool_release.errors import SourceError
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shell_tool_release.lock import BashLock, DebianPlace, GitPlace

_PATCHLEVEL = re.compile(r"^#define[ \t]+PATCHLEVEL[ \t]+(\d+)", re.MULTILINE)
_GIT_SECONDS = 900.0  # a full clone of bash is about 100 MB


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """An archive and the patches on top of it; ``strip``: leading folders of the names in the patches."""

    archive: Path
    patches: tuple[bytes, ...]
    strip: int


class Place(Protocol):
    """A place sources come from."""

    def __call__(self, lock: BashLock, *, level: int, scratch: Path, downloads: Path) -> Delivery:
        """Deliver bash at ``level``; verified downloads stay in ``downloads``, the rest goes to ``scratch``."""


def carried(name: str) -> Path:
    """The archive ``name`` (such as ``bash-5.3.15``) in a source archive of this project; SourceError without it."""
    archive = find_workspace().third_party / f"{name}.tar.gz"
    if not archive.is_file():
        message = f"this checkout carries no {archive.name}; a source archive of a release does"
        raise SourceError(message)
    return archive


def from_carried(lock: BashLock, *, level: int, scratch: Path, downloads: Path) -> Delivery:  # noqa: ARG001
    """What a source archive of this project has brought along: the tree itself, patched as upstream patches it."""
    return Delivery(archive=carried(f"bash-{lock.version}.{level}"), patches=(), strip=0)


def from_gnu(lock: BashLock, *, level: int, scratch: Path, downloads: Path) -> Delivery:  # noqa: ARG001
    """The release archive and the official patches over HTTP, each server in turn."""
    reasons: list[str] = []
    for base in lock.gnu.urls:
        try:
            archive = fetch(base + lock.gnu.archive, lock.gnu.sha256, downloads)
            names = sorted(lock.gnu.patches)[:level]
            if len(names) < level:
                message = f"only {len(names)} official patches are locked, {level} are needed"
                raise SourceError(message)
            folder = base + lock.gnu.patch_folder
            patches = tuple(fetch(folder + name, lock.gnu.patches[name], downloads).read_bytes() for name in names)
        except SourceError as error:
            reasons.append(str(error))
        else:
            return Delivery(archive=archive, patches=patches, strip=0)
    raise SourceError("; ".join(reasons))


def from_git(lock: BashLock, *, level: int, scratch: Path, downloads: Path) -> Delivery:  # noqa: ARG001
    """Upstream's git: the locked commit, or the first descendant at ``level``."""
    reasons: list[str] = []
    for number, url in enumerate(lock.git.urls):
        repository = scratch / f"git-{number}"
        try:
            _reachable(url)
            commit = _commit(lock.git, url, level, repository)
            archive = scratch / f"git-{number}.tar"
            _git(repository, "archive", "--format=tar", "--prefix=bash/", f"--output={archive}", commit)
        except SourceError as error:
            reasons.append(f"{url}: {error}")
        else:
            return Delivery(archive=archive, patches=(), strip=0)
    raise SourceError("; ".join(reasons))


def _reachable(url: str) -> None:
    """SourceError unless the host answers soon; git itself would wait for minutes."""
    parts = urlsplit(url)
    if parts.hostname is None or getproxies().get(parts.scheme):
        return  # a local repository, or a proxy that resolves the name for us
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), timeout=CONNECT_SECONDS):
            pass
    except OSError as error:
        message = f"not reachable ({error.strerror or error})"
        raise SourceError(message) from error


def _commit(place: GitPlace, url: str, level: int, repository: Path) -> str:
    _git(None, "init", "--quiet", "--bare", str(repository))
    if level == place.level:
        try:  # some servers give a single commit; others only what a branch names
            _git(repository, "fetch", "--quiet", "--depth=1", url, place.commit)
        except SourceError:
            pass
        else:
            return place.commit
    _git(repository, "fetch", "--quiet", url, f"refs/heads/{place.branch}:refs/heads/{place.branch}")
    if level == place.level:
        return place.commit
    newer = _git(repository, "log", "--reverse", "--format=%H", f"{place.commit}..{place.branch}", "--", "patchlevel.h")
    for commit in newer.split():
        match = _PATCHLEVEL.search(_git(repository, "show", f"{commit}:patchlevel.h"))
        if match and int(match[1]) == level:
            return commit
    message = f"no commit of {place.branch} after {place.commit[:12]} is at patch level {level}"
    raise SourceError(message)


def _git(repository: Path | None, *arguments: str) -> str:
    where = ["-C", str(repository)] if repository else []
    slow = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30"]
    try:
        done = subprocess.run(
            ["git", *slow, *where, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError as error:
        message = "git is not on this machine; install it"
        raise SourceError(message) from error
    except subprocess.TimeoutExpired as error:
        message = f"git {arguments[0]} took more than {_GIT_SECONDS:g} s"
        raise SourceError(message) from error
    if done.returncode != 0:
        message = f"git {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        raise SourceError(message)
    return done.stdout


def from_debian(lock: BashLock, *, level: int, scratch: Path, downloads: Path) -> Delivery:
    """Debian's source package by apt: a locked .orig archive and the numbered official patches."""
    place = lock.debian
    archive, patches = kept(place.archives, downloads), kept(place.patch_archives, downloads)
    if archive is None or patches is None:
        archive, patches = _by_apt(place, scratch, downloads)
    names = [place.patch.format(number=number) for number in range(1, level + 1)]
    return Delivery(archive=archive, patches=_members(patches, names), strip=1)


def kept(locked: Mapping[str, str], downloads: Path) -> Path | None:
    """An earlier download of one of the locked files that is still whole."""
    for name, sha256 in locked.items():
        path = downloads / f"{sha256[:16]}-{name}"
        if path.is_file() and file_sha256(path) == sha256:
            return path
    return None


def _by_apt(place: DebianPlace, scratch: Path, downloads: Path) -> tuple[Path, Path]:
    found = apt.download_source(
        package=place.package, suites=place.suites, wanted=place.archives, scratch=scratch / "apt"
    )
    downloads.mkdir(parents=True, exist_ok=True)
    archive = keep(found.archive, place.archives[found.archive.name], downloads)
    if found.patches is None:
        message = f"no archive of patches beside {found.archive.name}"
        raise SourceError(message)
    locked = place.patch_archives.get(found.patches.name)
    return archive, found.patches if locked is None else keep(found.patches, locked, downloads)


def keep(path: Path, sha256: str, downloads: Path) -> Path:
    """Move a download to where it stays, under its hash once that is checked, else as ``.bad``."""
    arrived = downloads / f"{sha256[:16]}-{path.name}.part"
    shutil.move(path, arrived)
    check(arrived, sha256, f"Debian's {path.name}")
    return arrived.replace(arrived.with_name(arrived.name.removesuffix(".part")))


def _members(archive: Path, names: list[str]) -> tuple[bytes, ...]:
    try:
        with tarfile.open(archive) as tar:
            streams = [tar.extractfile(name) for name in names]
            texts = [stream.read() for stream in streams if stream is not None]
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        message = f"{archive.name} has not all of {names[0]} … {names[-1]}: {error}"
        raise SourceError(message) from error
    return tuple(texts)


PLACES: Mapping[str, Place] = MappingProxyType(
    {"carried": from_carried, "gnu": from_gnu, "git": from_git, "debian": from_debian}
)
