"""Newer releases of what is built from one archive, CPython and zsh: found in Debian's index, and locked.

API::

    newer(name, scratch) -> Release | None             a release newer than the locked one; SourceError
    relocked(name, text, release, tree) -> str         the lock file with it; BuildError
    zsh_tree(release, patch, lock, scratch) -> str     hash of zsh's tree, if our patch fits it exactly; PatchError

The index is one that this machine's keyring verifies. Debian's archive of both is upstream's own, byte for byte; one
that Debian has repacked has another name, and is not taken.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import tarfile
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shell_tool_release import apt, patching
from shell_tool_release.errors import BuildError, SourceError
from shell_tool_release.lock import LOCK_FILE
from shell_tool_release.sources import read_archive, tree_digest

if TYPE_CHECKING:
    from pathlib import Path

    from shell_tool_release.lock import ZshLock

FILES = {"cpython": LOCK_FILE.with_name("python.lock.toml"), "zsh": LOCK_FILE}
"""Name → the file whose table of that name locks it."""

_UNSTABLE = "sid"
_ARCHIVE = re.compile(r"[a-z0-9.]+_(\d+(?:\.\d+)*)\.orig\.tar\.(?:xz|gz)")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that is not locked yet; ``before`` is the locked one, ``suite`` where Debian has it."""

    before: str
    version: str
    archive: Path
    sha256: str
    suite: str

    @property
    def epoch(self) -> int:
        """Midnight before the youngest file of the archive was made, in seconds since 1970."""
        with tarfile.open(self.archive) as archive:
            youngest = max(int(member.mtime) for member in archive)
        return youngest - youngest % 86400


def newer(name: str, scratch: Path) -> Release | None:
    """Look for a release after the one that is locked in table ``name``.

    Raises:
        SourceError: The index could not be read, or what it lists did not come or is not what it says.
    """
    table = tomllib.loads(FILES[name].read_text(encoding="utf-8"))[name]
    debian: Any = table["debian"]
    package, suites = (debian, table["suites"]) if isinstance(debian, str) else (debian["package"], debian["suites"])
    suites = [_UNSTABLE, *suites]
    listed = apt.newest_source(package=package, suites=suites, scratch=scratch / "list", download=False)
    version = max((match[1] for file in listed.listed if (match := _ARCHIVE.fullmatch(file))), key=numbers, default="0")
    if numbers(version) <= numbers(table["version"]):
        return None
    try:
        found = apt.newest_source(package=package, suites=[listed.suite], scratch=scratch / "fetch", download=True)
    except SourceError as error:
        raise SourceError(
            f"{version} is in Debian's {listed.suite}, locked is {table['version']}; but {error}"
        ) from error
    path = next(path for path in found.files if (match := _ARCHIVE.fullmatch(path.name)) and match[1] == version)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != listed.listed[path.name]:
        raise SourceError(f"{path.name} is not what Debian's index says: its SHA-256 is {sha256}")
    return Release(before=table["version"], version=version, archive=path, sha256=sha256, suite=found.suite)


def numbers(version: str) -> tuple[int, ...]:
    """A version as what can be compared."""
    return tuple(map(int, re.findall(r"\d+", version)))


def zsh_tree(release: Release, patch: Path, lock: ZshLock, scratch: Path) -> str:
    """Return the hash of the release's tree; PatchError when our patch does not fit it."""
    tree = scratch / "tree"
    for path, text in sorted(read_archive(release.archive).items()):
        if lock.keeps(path):
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(text)
    digest = tree_digest(tree)
    patching.apply(patching.parse(patch.read_bytes(), strip=1), tree)
    return digest


def relocked(name: str, text: str, release: Release, tree: str = "") -> str:
    """Return the lock file with ``release`` in table ``name``; nothing else of it changes.

    Raises:
        BuildError: The file has not the lines that change.
    """
    start = text.index(f"[{name}]\n")
    # The table and those below it (``[zsh.debian]``), up to the next one.
    following = re.search(rf"^\[+(?!\[|{name}\b)", text[start:], re.MULTILINE)
    end = start + following.start() if following else len(text)
    table = tomllib.loads(text)[name]
    day = datetime.datetime.fromtimestamp(release.epoch, datetime.UTC).date()
    edits = [
        (rf"(?<![\d.]){re.escape(release.before)}(?!\.?\d)", release.version),
        (r"^epoch = \d+( +#) \d{4}-\d\d-\d\d", rf"epoch = {release.epoch}\1 {day}"),
        *((sha256, release.sha256) for sha256 in _hashes(table)),
        *([(table["tree"], tree)] if tree else []),
    ]
    if release.suite not in _suites(table):
        edits.append((r"^suites = \[", f'suites = ["{release.suite}", '))
    part = text[start:end]
    for pattern, new in edits:
        part, count = re.subn(pattern, new, part, flags=re.MULTILINE)
        if count == 0:
            raise BuildError(f"{FILES[name].name}: the table {name} has no line like {pattern}")
    return text[:start] + part + text[end:]


def _hashes(table: dict[str, Any]) -> set[str]:
    """Of the release's archive: one, whatever place it comes from."""
    return set(table["archives"].values()) if "archives" in table else {table["sha256"]}


def _suites(table: dict[str, Any]) -> list[str]:
    found: list[str] = table["suites"] if "suites" in table else table["debian"]["suites"]
    return found
