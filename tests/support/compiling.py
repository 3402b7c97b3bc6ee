"""C programs of the tests, compiled at their first use and kept in the cache of builds."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

from shell_tool_release.cache import Key, cache_root, entry, file_sha256
from shell_tool_release.workspace import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def compiled(name: str, command: Sequence[str], sources: Sequence[Path], folders: Sequence[Path] = ()) -> Path:
    """The program ``name``: ``sources`` through ``command``, with the headers of ``folders`` and of the natives.

    Raises:
        subprocess.CalledProcessError: It cannot be compiled; the compiler said why.
    """
    folders = (*folders, find_workspace().native_sources)
    headers = [path for folder in folders for path in sorted(folder.glob("*.h"))]
    files = {f"{path.parent.name}/{path.name}": file_sha256(path) for path in (*sources, *headers)}
    root = cache_root()

    def build(place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            environ = {"ZIG_GLOBAL_CACHE_DIR": str(root / "zig"), "ZIG_LOCAL_CACHE_DIR": scratch}
            includes = [f"-I{folder}" for folder in folders]
            subprocess.run(
                [*command, *includes, "-o", place / name, *sources],
                check=True,
                env={**os.environ, **environ},
            )

    return entry(root, Key.of(name, command=tuple(command), files=files), build).path / name
