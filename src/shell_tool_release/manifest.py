"""The list of everything in a package: path, size, mode and SHA-256 of each file, and what it was built with.

API::

    described(path, data, mode) -> Entry
    document(version, entries, builds) -> bytes      MANIFEST.json: sorted, the same bytes for the same files

``codex-exec-mcp-server verify`` (``codex_shell_tool_mcp/verify.py``) reads it.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

NAME = "MANIFEST.json"

FORMAT = 2
"""The form of the document; ``verify`` knows the same one, which a test checks."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file; ``mode`` is the one it gets in the package, in octal: ``0755`` or ``0644``."""

    path: str
    size: int
    mode: str
    sha256: str


def package_mode(path: Path) -> int:
    """Return the mode of a file in the package: executable or not, whatever the umask was when it was made."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644


def files(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted by their path's bytes; BuildError names a link or another odd thing."""
    found = []
    for path in folder.rglob("*"):
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            found.append(path)
        elif not stat.S_ISDIR(kind):
            message = f"{path} is neither file nor folder; npm would drop it from the package"
            raise BuildError(message)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix().encode())


def described(path: str, data: bytes, mode: int) -> Entry:
    """The entry of a file: ``path`` from the package's folder, ``mode`` 0o755 or 0o644."""
    return Entry(path=path, size=len(data), mode=f"{mode:04o}", sha256=hashlib.sha256(data).hexdigest())


def document(version: str, entries: Iterable[Entry], builds: Mapping[str, object]) -> bytes:
    """Return the manifest of a package; ``builds`` says for each platform in it what it was built with.

    Raises:
        BuildError: A file is listed twice.
    """
    listed = sorted((asdict(entry) for entry in entries), key=lambda row: str(row["path"]).encode())
    paths = [row["path"] for row in listed]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        message = f"the package holds {twice[0]} twice"
        raise BuildError(message)
    content = {"format": FORMAT, "version": version, "builds": builds, "files": listed}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
