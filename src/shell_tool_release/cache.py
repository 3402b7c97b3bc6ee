"""The user's cache folder: entries named by the hash of everything that went into them.

API::

    cache_root() -> Path                        CODEX_BUILD_CACHE, else the platform's cache folder
    Key.of(kind, **inputs) -> Key               hash of all inputs
    entry(root, key, build) -> Entry            build once (also across processes), then reuse
    inputs(path) -> dict                        all that went into the entry at a path
    seconds(path) -> float | None               how long it took to make it
    holding(root, kind, name, sha256)           the entry that holds a file of these bytes, or None
    Lock(path)                                  context manager; one process at a time
    sweep(root)                                 remove old logs and what killed builds left behind

An entry appears by rename, so it is whole or absent. Its files' hashes are recorded and checked at
each use: a damaged entry is built again, never served.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from shell_tool_release.errors import BuildError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE = "CODEX_BUILD_CACHE"
_FOLDER = "codex-shell-tool-mcp"
_RECORD = "entry.json"
_SCRATCH = ("logs/*.log", "build-*", "fetch-*", "patch-*", "*/fetch-*", "*/" + "?" * 20 + ".????????")
_STALE_SECONDS = 24 * 3600.0  # no build takes nearly as long


def cache_root(environ: Mapping[str, str] | None = None) -> Path:
    """Return the cache folder, made if needed; ConfigurationError when it cannot be written.

    ``CODEX_BUILD_CACHE`` wins; else ``$XDG_CACHE_HOME`` or ``~/.cache`` (XDG base directory specification:
    a relative value is ignored), on macOS ``~/Library/Caches``.
    """
    variables = os.environ if environ is None else environ
    root = _chosen_root(variables)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        message = f"the cache folder {root} cannot be written ({error.strerror}); set {VARIABLE} to a folder that can"
        raise ConfigurationError(message) from error
    return root


def _chosen_root(environ: Mapping[str, str]) -> Path:
    chosen = environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = Path(environ.get("HOME") or Path("~").expanduser())
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / _FOLDER
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else home / ".cache") / _FOLDER


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Key:
    """Name of a cache entry: a kind (a folder) and the hash of all inputs, which are kept for reading."""

    kind: str
    digest: str
    inputs: str

    @classmethod
    def of(cls, kind: str, **inputs: Any) -> Key:
        """Hash ``inputs`` (JSON values) canonically."""
        text = json.dumps(inputs, sort_keys=True, indent=1)
        return cls(kind=kind, digest=hashlib.sha256(text.encode()).hexdigest(), inputs=text)

    @property
    def name(self) -> str:
        """Short name of the entry's folder."""
        return self.digest[:20]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished cache entry."""

    path: Path
    reused: bool


class Lock:
    """Exclusive lock on a file, held by an open descriptor, so that it ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._path.open("ab")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def entry(root: Path, key: Key, build: Callable[[Path], None]) -> Entry:
    """Return the entry of ``key`` below ``root``; when absent or damaged, ``build(folder)`` fills a new one.

    ``build`` gets an empty folder on the same file system; what it raises passes through and leaves no entry.
    """
    folder = root / key.kind
    final = folder / key.name
    if _holds(final, key):  # without the lock: an entry never changes once it is there
        return Entry(path=final, reused=True)
    with Lock(folder / f"{key.name}.lock"):
        if _holds(final, key):
            return Entry(path=final, reused=True)
        shutil.rmtree(final, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{key.name}.", dir=folder))
        try:
            scratch.chmod(0o755)  # mkdtemp makes it private; an entry may be read by all who may read the cache
            started = time.monotonic()
            build(scratch)
            _record(scratch, key, time.monotonic() - started)
            scratch.rename(final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Entry(path=final, reused=False)


def inputs(path: Path) -> dict[str, Any]:
    """Everything that went into the entry in folder ``path``; BuildError when it is no entry."""
    try:
        found: dict[str, Any] = json.loads((path / _RECORD).read_bytes())["inputs"]
    except (OSError, ValueError, KeyError) as error:
        message = f"{path} is no entry of the build cache: {error}; build it again"
        raise BuildError(message) from error
    return found


def _files(folder: Path) -> dict[str, str]:
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _RECORD)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in names}


def seconds(path: Path) -> float | None:
    """Time on the clock that the entry in folder ``path`` took to make; None where nothing says so."""
    try:
        found = json.loads((path / _RECORD).read_bytes()).get("seconds")
    except (OSError, ValueError):
        return None
    return float(found) if isinstance(found, int | float) else None


def holding(root: Path, kind: str, name: str, sha256: str) -> Path | None:
    """Return the entry of that kind whose file ``name`` has these bytes; None where there is none."""
    for record in sorted((root / kind).glob(f"*/{_RECORD}")):
        try:
            files = json.loads(record.read_bytes())["files"]
        except (OSError, ValueError, KeyError):
            continue
        if files.get(name) == sha256:
            return record.parent
    return None


def _record(folder: Path, key: Key, took: float) -> None:
    document = {"digest": key.digest, "inputs": json.loads(key.inputs), "files": _files(folder)}
    document["seconds"] = round(took, 1)
    (folder / _RECORD).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")


def _holds(folder: Path, key: Key) -> bool:
    try:
        document = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(document.get("digest") == key.digest and document.get("files") == _files(folder))


def sweep(root: Path) -> None:
    """Remove logs and working folders of builds that ended, or were killed, more than a day ago."""
    oldest = time.time() - _STALE_SECONDS
    for pattern in _SCRATCH:
        for path in root.glob(pattern):
            if path.stat().st_mtime >= oldest:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
