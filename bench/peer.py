"""The npm build of the original: fetched by npm by its name, accepted only with the very bytes known here.

API::

    installed_peer(cache) -> Path                       folder of the installation, from the cache where it is there
    install(package, folder)                            npm, offline, no scripts
    integrity(path) -> str                              npm's own form: sha512 and base64
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from shell_tool_release.cache import Key, entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "@openai/codex-shell-tool-mcp"
VERSION = "0.97.0"
INTEGRITY = "sha512-lIIHIqNSK+7fcgGhaIUSgN4g8xbYaIyrrLmnEJhuc7ZFsmbRmd5Lk0BG7fBHl3OHnVYSfn/zjSHBtuBlwMNfTA=="
"""What npm records in a lock file for this version; the registry's word alone is not enough to run something."""

COMMAND = "codex-shell-tool-mcp"
"""Of the original's package and of ours."""


def installed_peer(cache: Path) -> Path:
    """Install the pinned version into the cache, once.

    Raises:
        BenchError: npm is missing or failed, or what it delivered has another hash.
    """
    key = Key.of("npm-installed", format=1, name=NAME, version=VERSION, integrity=INTEGRITY)
    return entry(cache, key, _fetch_and_install).path


def launcher(installation: Path) -> Path:
    """The command npm made, of the original's package or of ours."""
    return installation / "node_modules" / ".bin" / COMMAND


def _fetch_and_install(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as scratch:
        place = Path(scratch)
        _npm(["pack", "--silent", f"{NAME}@{VERSION}"], place, _environ(place))
        delivered = list(place.glob("*.tgz"))
        if len(delivered) != 1:
            raise BenchError(f"npm pack {NAME}@{VERSION} delivered {len(delivered)} packages instead of one")
        check(delivered[0])
        install(delivered[0], folder)


def check(package: Path) -> None:
    """Refuse a package that is not the one known here.

    Raises:
        BenchError: Its hash is another.
    """
    found = integrity(package)
    if found != INTEGRITY:
        raise BenchError(f"npm delivered another {NAME}@{VERSION}: {found}, not {INTEGRITY}; nothing of it was run")


def integrity(path: Path) -> str:
    """The SHA-512 of a file as npm writes it (Subresource Integrity, section 3.1)."""
    with path.open("rb") as stream:
        return "sha512-" + base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()


def install(package: Path, folder: Path) -> None:
    """Let npm unpack a package into ``folder``; it needs no network and runs no script of the package.

    Raises:
        BenchError: npm is missing or failed.
    """
    with tempfile.TemporaryDirectory(prefix="npm-") as scratch:
        command = ["install", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        _npm([*command, str(package)], folder, _environ(Path(scratch)))


def _environ(scratch: Path) -> dict[str, str]:
    """The user's settings, which may name a registry or a proxy, but a cache of its own."""
    return {**os.environ, "npm_config_cache": str(scratch / "npm-cache"), "npm_config_update_notifier": "false"}


def _npm(arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise BenchError("npm is not there; install nodejs and npm (the README's first line on building names them)")
    done = subprocess.run([npm, *arguments], cwd=folder, env=dict(environ), capture_output=True, check=False, text=True)
    if done.returncode:
        raise BenchError(f"npm {' '.join(arguments)} failed (status {done.returncode}):\n{done.stdout}{done.stderr}")
