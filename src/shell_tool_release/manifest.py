"""The list of everything in ``vendor/``: path, size, mode and SHA-256 of each file, and what it was built with.

API::

    entries(folder) -> list[Entry]
    document(folder, builds) -> bytes      MANIFEST.json: sorted, the same bytes for the same files
"""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from shell_tool_release.cache import file_sha256
from shell_tool_release.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "MANIFEST.json"


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


def entries(folder: Path) -> list[Entry]:
    """One entry a file below ``folder``."""
    return [
        Entry(
            path=path.relative_to(folder).as_posix(),
            size=path.stat().st_size,
            mode=f"{package_mode(path):04o}",
            sha256=file_sha256(path),
        )
        for path in files(folder)
    ]


def document(folder: Path, builds: Mapping[str, object]) -> bytes:
    """Return the manifest of the platforms in ``folder``; ``builds`` says for each what it was built with."""
    listed = [
        asdict(entry) | {"path": f"{name}/{entry.path}"} for name in sorted(builds) for entry in entries(folder / name)
    ]
    content = {"format": 1, "builds": builds, "files": listed}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
