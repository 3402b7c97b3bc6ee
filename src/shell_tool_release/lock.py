"""Reads ``data/sources.lock.toml``: where shell sources come from and what they must be.

API::

    load_lock(path=LOCK_FILE) -> BashLock
    load_zsh_lock(path=LOCK_FILE) -> ZshLock

The file itself says what each field means.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shell_tool_release.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOCK_FILE = Path(__file__).parent / "data" / "sources.lock.toml"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Lock = TypeVar("_Lock")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files below ``path`` that are not part of the source, but for ``exception`` (empty: none)."""

    path: str
    exception: str
    reason: str

    def covers(self, path: str) -> bool:
        """Whether this rule leaves ``path`` out."""
        return path.startswith(self.path) and path != self.exception


@dataclass(frozen=True, kw_only=True)
class GnuPlace:
    """The release archive and official patches on GNU's servers."""

    urls: tuple[str, ...]
    archive: str
    sha256: str
    patch_folder: str
    patches: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class GitPlace:
    """Upstream's git; ``commit`` is at patch level ``level``."""

    urls: tuple[str, ...]
    branch: str
    commit: str
    level: int


@dataclass(frozen=True, kw_only=True)
class DebianPlace:
    """Debian's source package; both mappings are file name → SHA-256."""

    package: str
    suites: tuple[str, ...]
    patch: str
    archives: Mapping[str, str]
    patch_archives: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BashLock:
    """Everything locked about bash's source; ``trees`` is patch level → tree hash."""

    version: str
    level: int
    epoch: int
    trees: Mapping[int, str]
    left_out: tuple[LeftOut, ...]
    gnu: GnuPlace
    git: GitPlace
    debian: DebianPlace

    def tree(self, level: int) -> str:
        """Tree hash of a patch level; ConfigurationError when it is not locked."""
        if level not in self.trees:
            levels = ", ".join(str(known) for known in sorted(self.trees))
            message = f"bash {self.version} at patch level {level} is not locked; locked are {levels}"
            raise ConfigurationError(message)
        return self.trees[level]

    def keeps(self, path: str) -> bool:
        """Whether ``path`` is part of the source."""
        return not any(rule.covers(path) for rule in self.left_out)


@dataclass(frozen=True, kw_only=True)
class ZshLock:
    """Everything locked about zsh's source: one archive, whose bytes are the same in every place."""

    version: str
    epoch: int
    tree: str
    left_out: tuple[LeftOut, ...]
    urls: tuple[str, ...]
    archive: str
    sha256: str
    package: str
    suites: tuple[str, ...]
    package_archive: str

    def keeps(self, path: str) -> bool:
        """Whether ``path`` is part of the source."""
        return not any(rule.covers(path) for rule in self.left_out)


def load_lock(path: Path = LOCK_FILE) -> BashLock:
    """Read what is locked of bash; ConfigurationError names the field that does not hold."""
    return _load(path, "bash", _bash)


def load_zsh_lock(path: Path = LOCK_FILE) -> ZshLock:
    """Read what is locked of zsh; ConfigurationError names the field that does not hold."""
    return _load(path, "zsh", _zsh)


def _load(path: Path, shell: str, read: Callable[[dict[str, Any]], _Lock]) -> _Lock:
    try:
        return read(tomllib.loads(path.read_text(encoding="utf-8"))[shell])
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        message = f"the lock file {path} does not hold: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error


def _bash(table: dict[str, Any]) -> BashLock:
    gnu, git, debian = table["gnu"], table["git"], table["debian"]
    return BashLock(
        version=str(table["version"]),
        level=int(table["level"]),
        epoch=int(table["epoch"]),
        trees={int(level): _hash(value) for level, value in table["tree"].items()},
        left_out=_left_out(table),
        gnu=GnuPlace(
            urls=tuple(gnu["urls"]),
            archive=gnu["archive"],
            sha256=_hash(gnu["sha256"]),
            patch_folder=gnu["patch_folder"],
            patches=_hashes(gnu["patches"]),
        ),
        git=GitPlace(urls=tuple(git["urls"]), branch=git["branch"], commit=git["commit"], level=int(git["level"])),
        debian=DebianPlace(
            package=debian["package"],
            suites=tuple(debian["suites"]),
            patch=debian["patch"],
            archives=_hashes(debian["archives"]),
            patch_archives=_hashes(debian["patch_archives"]),
        ),
    )


def _zsh(table: dict[str, Any]) -> ZshLock:
    return ZshLock(
        version=str(table["version"]),
        epoch=int(table["epoch"]),
        tree=_hash(table["tree"]),
        left_out=_left_out(table),
        urls=tuple(table["urls"]),
        archive=table["archive"],
        sha256=_hash(table["sha256"]),
        package=table["debian"]["package"],
        suites=tuple(table["debian"]["suites"]),
        package_archive=table["debian"]["archive"],
    )


def _left_out(table: dict[str, Any]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(path=row["path"], exception=row["except"], reason=row["reason"]) for row in table["left_out"])


def _hash(value: str) -> str:
    if not _SHA256.fullmatch(value):
        message = f"{value!r} is no SHA-256 in hex"
        raise ValueError(message)
    return value


def _hashes(table: dict[str, str]) -> dict[str, str]:
    return {name: _hash(value) for name, value in table.items()}
