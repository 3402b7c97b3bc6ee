"""``verify``: compares an installed package with the manifest it came with, and names what differs.

The manifest is ``vendor/MANIFEST.json``, below the folder that it describes: the npm package, or this Python package in
``site-packages``. It lists every file but itself. What it says is as good as the manifest: its own SHA-256 stands in
the release's ``SHA256SUMS``, which is attested, and ``--manifest-sha256`` compares with that. A package that was
changed on purpose may hold a changed ``verify``, so in doubt run one from elsewhere and give it the path.

Modes: an installer applies its umask, which is not ours to judge. All files of one package meet the same one, so what
most of them show is taken for it, and a file whose mode is not what that umask makes of the listed one is named.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import marshal
import os
import re
import stat
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from codex_shell_tool_mcp.errors import PackageError, UsageError, on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PROGRAM = "codex-exec-mcp-server verify"

MANIFEST = PurePosixPath("vendor", "MANIFEST.json")
"""Where the manifest lies below the folder it describes."""

FORMAT = 2
"""The form of the manifest that is understood here."""

DIFFERENT = 1
"""Exit status when something differs."""

_PLACES = (
    "",
    "..",
    "node_modules/codex-shell-tool-mcp",
    "lib/node_modules/codex-shell-tool-mcp",
    "package",
    "codex_shell_tool_mcp",
)
"""Where the package is, seen from the path given: itself, above its vendor folder, in a project, a prefix, unpacked."""

_LARGEST_MANIFEST = 16 * 1024 * 1024
"""Bytes; a thousand files are 200 KB."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the manifest says of one file; ``mode`` is 0o755 or 0o644."""

    size: int
    mode: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest: ``sha256`` is that of its own bytes, ``files`` are by their path from the package's folder."""

    sha256: str
    version: str
    files: Mapping[str, Listed]


@dataclass(frozen=True, kw_only=True, order=True)
class Difference:
    """One thing that is not as listed; ``what`` is a clause that follows the path."""

    path: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a check; the package is as it was made if there are no ``differences``.

    ``foreign`` are files that another Python compiled from the package's: only that one can tell what they hold.
    """

    root: Path
    manifest: Manifest
    differences: tuple[Difference, ...]
    foreign: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Found:
    """What is on the disk: regular files by path, and all that is neither file nor folder."""

    files: dict[str, os.stat_result] = field(default_factory=dict)
    folders: dict[str, os.stat_result] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


def find_package(path: Path) -> Path:
    """The package's folder at or near ``path``; PackageError lists where its manifest was looked for."""
    looked = [Path(os.path.normpath(path / place)) for place in _PLACES]
    for folder in looked:
        if (folder / MANIFEST).is_file():
            return folder
    places = "; ".join(str(folder / MANIFEST) for folder in looked)
    raise PackageError(f"no package is at {path}: there is none of {places}; give the folder of an installed package")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; PackageError says what does not hold."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_MANIFEST + 1)
        if len(data) > _LARGEST_MANIFEST:
            raise PackageError(
                f"the manifest {path} has more than {_LARGEST_MANIFEST:,} bytes; install the package again"
            )
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise PackageError(
                f"the manifest {path} has form {document['format']!r}, this program knows {FORMAT}; use the verify of "
                "the package's own version"
            )
        files = {_safe(row["path"]): _listed(row) for row in document["files"]}
        return Manifest(sha256=hashlib.sha256(data).hexdigest(), version=str(document["version"]), files=files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {error}"
        raise PackageError(f"the manifest {path} cannot be used ({text}); install the package again") from error


def _safe(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{path!r} leads out of the package")
    return path


def _listed(row: Mapping[str, object]) -> Listed:
    size, mode, sha256 = row["size"], int(str(row["mode"]), 8), str(row["sha256"])
    if not isinstance(size, int) or mode not in {0o755, 0o644} or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{row['path']!r} is not described by size, mode and SHA-256")
    return Listed(size=size, mode=mode, sha256=sha256)


def check(root: Path) -> Report:
    """Compare everything below ``root`` with the manifest there."""
    manifest = read_manifest(root / MANIFEST)
    found = _walk(root)
    foreign = tuple(sorted(path for path in _compiled(manifest, found) if not _readable(root / path)))
    differences = [
        *(Difference(path=path, what=what) for path, what in found.odd.items()),
        *_contents(root, manifest, found),
        *_modes(manifest, found),
        *_extra(root, manifest, found),
    ]
    return Report(root=root, manifest=manifest, differences=tuple(sorted(differences)), foreign=foreign)


def _walk(root: Path) -> _Found:
    found = _Found(folders={".": root.stat()})
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            found.odd[folder or "."] = f"cannot be read: {error.strerror}"
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                found.folders[path] = status
                waiting.append(path)
            elif stat.S_ISREG(status.st_mode):
                found.files[path] = status
            else:
                found.odd[path] = "is a symbolic link" if entry.is_symlink() else "is no regular file"
    return found


def _contents(root: Path, manifest: Manifest, found: _Found) -> Iterator[Difference]:
    for path, listed in manifest.files.items():
        if path in found.files:
            what = _content(root / path, found.files[path].st_size, listed)
            if what:
                yield Difference(path=path, what=what)
        elif path not in found.odd:
            yield Difference(path=path, what="is missing" if path not in found.folders else "is a folder, not a file")


def _content(path: Path, size: int, listed: Listed) -> str:
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if sha256 == listed.sha256:
        return ""
    sizes = "the same size" if size == listed.size else f"{size} bytes, not {listed.size}"
    return f"has other content ({sizes}): SHA-256 is {sha256}, should be {listed.sha256}"


def _modes(manifest: Manifest, found: _Found) -> Iterator[Difference]:
    """Each file's mode against what the installer's umask makes of the listed one; and what others could change."""
    listed = {**{path: row.mode for path, row in manifest.files.items()}, str(MANIFEST): 0o644}
    modes = {path: stat.S_IMODE(found.files[path].st_mode) for path in listed if path in found.files}
    umask = _umask(listed, modes)
    for path, mode in modes.items():
        wanted = (0o777 if listed[path] == 0o755 else 0o666) & ~umask
        if mode != wanted:
            yield Difference(path=path, what=f"has mode {mode:04o}, should be {wanted:04o}")
        elif mode & stat.S_IWOTH:
            yield Difference(path=path, what=f"has mode {mode:04o}: every user may change it")
    for path, status in found.folders.items():
        mode = stat.S_IMODE(status.st_mode)
        if mode & stat.S_IWOTH:
            yield Difference(path=path, what=f"is a folder with mode {mode:04o}: every user may change what is in it")


def _umask(listed: Mapping[str, int], modes: Mapping[str, int]) -> int:
    """The installer's umask: the bits most files lack. Read and write from all files, execute from the executable."""
    plain = Counter(0o666 & ~mode for mode in modes.values())
    execute = Counter(0o111 & ~mode for path, mode in modes.items() if listed[path] == 0o755)
    # On a tie the usual one: a package of two files says too little.
    chosen = [
        max(votes, key=lambda bits: (votes[bits], bits == 0o022 & mask), default=0)
        for votes, mask in ((plain, 0o666), (execute, 0o111))
    ]
    # What the owner may do is never masked by an installer.
    return (chosen[0] | chosen[1]) & 0o077


def _extra(root: Path, manifest: Manifest, found: _Found) -> Iterator[Difference]:
    compiled = _compiled(manifest, found)
    for path in found.files.keys() - manifest.files.keys() - {str(MANIFEST)}:
        source = compiled.get(path)
        if source is None:
            yield Difference(path=path, what="is not part of the package")
        elif _readable(root / path) and not _compiled_from(root / path, root / source):
            yield Difference(path=path, what=f"is not what {PurePosixPath(source).name} compiles to")


def _compiled(manifest: Manifest, found: _Found) -> dict[str, str]:
    """What an installer or Python compiled from files of the package: its path → theirs."""
    sources = {path: _source_of(path) for path in found.files.keys() - manifest.files.keys()}
    return {path: source for path, source in sources.items() if source is not None and source in manifest.files}


def _source_of(path: str) -> str | None:
    """The file that an installer or Python compiled ``path`` from; ``None`` if it is no such file."""
    try:
        return importlib.util.source_from_cache(path)
    except ValueError:
        return None


def _readable(compiled: Path) -> bool:
    """Whether this Python would run what was compiled there; another one's form is not known to it."""
    try:
        with compiled.open("rb") as stream:
            return stream.read(4) == importlib.util.MAGIC_NUMBER or not _names_another_python(compiled.name)
    except OSError:
        return True


def _names_another_python(name: str) -> bool:
    return f".{sys.implementation.cache_tag}." not in name


def _compiled_from(compiled: Path, source: Path) -> bool:
    """Whether what this Python would run instead of ``source`` is the same code."""
    try:
        data = compiled.read_bytes()
        level = re.search(r"\.opt-([12])\.pyc$", compiled.name)
        wanted = compile(
            source.read_bytes(), str(source), "exec", dont_inherit=True, optimize=int(level[1]) if level else 0
        )
        return bool(marshal.loads(data[16:]) == wanted)  # noqa: S302 - it is compared, never run
    except (OSError, ValueError, TypeError, EOFError, SyntaxError):
        return False


def describe(report: Report) -> str:
    """The report as lines for a reader; names are others' words, and may hold what moves a cursor."""
    files, different = len(report.manifest.files), len(report.differences)
    head = on_one_line(f"{report.root}: version {report.manifest.version}, {files} files")
    lines = [f"{head}, all as they were made"]
    if different:
        lines = [f"{head}, {different} {'difference' if different == 1 else 'differences'}:"]
        lines += [on_one_line(f"  {difference.path} {difference.what}") for difference in report.differences]
        lines += ["Install the package again, and find out what changed it."]
    if report.foreign:
        count = f"{len(report.foreign)} {'file' if len(report.foreign) == 1 else 'files'}"
        lines += [
            f"Not looked at, since another Python compiled and runs them: {count}, {on_one_line(report.foreign[0])}"
        ]
        lines += ["Delete them (they are made again), or run that Python's verify."]
    return "\n".join(lines)


def own_package(*, frozen: bool) -> Path:
    """The package this program is part of."""
    return Path(sys.executable).resolve().parents[3] if frozen else Path(__file__).resolve().parent


def main(arguments: Sequence[str], *, frozen: bool) -> int:
    """``verify [PATH]``: check, print, and return the exit status."""
    import argparse  # noqa: PLC0415 - a start of the server has no time for it

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Compare an installed package with the manifest it came with (vendor/MANIFEST.json) and name what "
        "differs: other content, missing and additional files, changed modes.",
        epilog=f"Exit status: 0 everything is as it was made, {DIFFERENT} something differs, "
        f"{PackageError.exit_code} there is no package or no usable manifest.",
    )
    parser.add_argument("path", nargs="?", type=Path, metavar="PATH", help="an installed package (default: this one)")
    parser.add_argument(
        "--manifest-sha256",
        metavar="HEX",
        help="what the manifest itself must be: its line in the release's SHA256SUMS",
    )
    options = parser.parse_args(arguments)
    anchor = options.manifest_sha256
    if anchor is not None and not _SHA256.fullmatch(anchor):
        raise UsageError(f"--manifest-sha256 {anchor}: expected 64 hexadecimal digits in lower case")
    report = check(find_package(options.path or own_package(frozen=frozen)))
    print(describe(report))
    return _anchored(report.manifest, anchor) or (DIFFERENT if report.differences else 0)


def _anchored(manifest: Manifest, anchor: str | None) -> int:
    if anchor is None:
        print(f"The manifest's own SHA-256 is {manifest.sha256}; the release's SHA256SUMS must say the same.")
        return 0
    if anchor == manifest.sha256:
        print("The manifest is the one named by --manifest-sha256.")
        return 0
    print(f"The manifest is another one: its SHA-256 is {manifest.sha256}, should be {anchor}.")
    return DIFFERENT
